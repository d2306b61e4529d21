"""Every error that ssmnet raises.

::

    Error
     +-- ProtocolError
     |    +-- LocalProtocolError      we were asked to do what the protocol forbids
     |    +-- RemoteProtocolError     the far end sent what the protocol forbids
     +-- HandshakeError               the session could not be set up
     +-- ConnectError                 nobody to talk to
     |    +-- DestinationRefused      the target could not reach host and port
     |    +-- DestinationNotFound     the target knows no host of that name
     |    +-- DestinationForbidden    the target, or a rule of ours, allows no connection to it
     |    +-- TargetNotConnected      the target's agent is offline, or the id is wrong
     |    +-- AccessDenied            IAM says no
     |    +-- CredentialsError        no credentials, or they have expired
     |    +-- ServiceError            AWS answered otherwise, or not at all
     +-- SessionClosed                a session that was up has ended
     +-- StreamStalled                a stream was reset: nobody read it, and it held up the others
     +-- ListenError                  a local port or socket can't be had
     +-- UsageError                   what the user gave makes no sense

ConnectError, SessionClosed and StreamStalled are ConnectionErrors too, and so OSErrors: libraries
that bear a lost connection bear them. DestinationRefused is a ConnectionRefusedError.

The text of an error is one line that says what happened and, where it can be known, what to do.
No error ever carries a token, a key or a payload.
"""

__all__ = [
    "AccessDenied",
    "ConnectError",
    "CredentialsError",
    "DestinationForbidden",
    "DestinationNotFound",
    "DestinationRefused",
    "Error",
    "HandshakeError",
    "ListenError",
    "LocalProtocolError",
    "ProtocolError",
    "RemoteProtocolError",
    "ServiceError",
    "SessionClosed",
    "StreamStalled",
    "TargetNotConnected",
    "UsageError",
]


class Error(Exception):
    """Base of all errors raised by ssmnet."""


class ProtocolError(Error):
    """The Session Manager protocol was broken."""


class LocalProtocolError(ProtocolError):
    """We were asked to do what the protocol forbids; a bug in the caller."""


class RemoteProtocolError(ProtocolError):
    """The far end sent what the protocol forbids."""


class HandshakeError(Error):
    """The session could not be set up with the agent."""


class ConnectError(Error, ConnectionError):
    """Nobody to talk to."""


# What the agent tells of a refusal; the event of a connection's end carries it as text.
REFUSED = "the target could not connect to the destination"


class DestinationRefused(ConnectError, ConnectionRefusedError):
    """The target could not connect to the destination's host and port."""


class DestinationNotFound(ConnectError):
    """The target knows no host of the destination's name."""


class DestinationForbidden(ConnectError):
    """The target, or a rule of ours, does not allow connections to the destination."""


class TargetNotConnected(ConnectError):
    """The target's agent is offline, or there is no such target here."""


class AccessDenied(ConnectError):
    """IAM does not allow the call."""


class CredentialsError(ConnectError):
    """There are no credentials, or they have expired."""


class ServiceError(ConnectError):
    """AWS could not be reached, or answered with an error that has no class of its own."""


class SessionClosed(Error, ConnectionError):
    """A session that was up has ended.

    ``reason`` is ours, ``output`` is the far end's own text (may be empty), and ``resumable`` says
    whether the session itself may still be alive behind a lost WebSocket.
    """

    def __init__(self, reason: str, *, output: str = "", resumable: bool = False) -> None:
        super().__init__(f"{reason}: {output}" if output else reason)
        self.reason = reason
        self.output = output
        self.resumable = resumable


class StreamStalled(Error, ConnectionError):
    """A stream was not read for so long, and held up its session, that it was reset."""


class ListenError(Error):
    """A local port or socket can't be listened on."""


class UsageError(Error):
    """What the user gave makes no sense; the command line exits with 2."""


def one_line(error: BaseException) -> str:
    """Return the text of an error that is not ours, or else its name, as one line."""
    return " ".join(str(error).split()) or type(error).__name__
