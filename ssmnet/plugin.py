"""The ``session-manager-plugin`` command line, as the AWS CLI and other programs start it.

::

    session-manager-plugin <response> <region> StartSession <profile> <request> <endpoint>

``response`` is what StartSession answered, as JSON, or the name of an environment variable that
holds it. Programs parse what is printed, so the lines are those of the reference client.

The AWS CLI runs ``--version`` before every session and waits for it: what is slow to import is
imported where it is used.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from .errors import REFUSED, Error, ListenError, RemoteProtocolError, SessionClosed, UsageError
from .output import write
from .signals import hold_signals, ignore_signals, take_signals

if TYPE_CHECKING:
    import asyncio

    from .aws import Client
    from .events import Event
    from .forward import Listener
    from .protocol.events import SessionReady
    from .session import Session

RESPONSE_VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"

# Seconds. A caller that has the credentials to itself leaves us none to resume with.
RESUME_TIMEOUT = 600.0

_INSTALLED = (
    "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n"
)
_UNKNOWN = "\nUnknown operation {}. \nUse session-manager-plugin --version to check the version.\n"
_ACCEPTED = "\nConnection accepted for session [{}]"
_ACCEPTED_BASIC = "Connection accepted for session {}."
_REFUSED = "\nConnection to destination port failed, check SSM Agent logs."
_EXITING = "\n\nExiting session with sessionId: {}.\n"


class _Call(NamedTuple):
    """What we were called with: a session that has been started, and where to resume it."""

    session_id: str
    token_value: str
    stream_url: str
    region: str
    profile: str
    endpoint_url: str


def main() -> None:
    """The entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", newline="\n")
    arguments = sys.argv[1:]
    if not arguments:
        _say(_INSTALLED)
    elif arguments == ["--version"]:
        from .protocol.version import CLIENT_VERSION

        _say(CLIENT_VERSION)
    elif len(arguments) < 3:
        # A response that stands alone is not shown: it holds a token.
        _say(_UNKNOWN.format("{...}" if "{" in arguments[0] else arguments[0]))
    elif arguments[2] != "StartSession":
        _say("Invalid Operation")
    elif not _start_session(arguments) and arguments[0].startswith(RESPONSE_VARIABLE):
        # Other callers have the token in our arguments, and print them when we say that we failed.
        sys.exit(1)


def _start_session(arguments: list[str]) -> bool:
    """Carry the session until it ends; whether it could be started."""
    # Until the event loop takes them: a session that is just being opened is not to be left behind.
    hold_signals()
    try:
        call = _read_call(arguments)
        _say(f"\nStarting session with SessionId: {call.session_id}")
        # Here, because run() is the end of the imports.
        from . import aws, forward, session  # noqa: F401
        from .runner import run

        run(lambda stop: _run(call, stop))
    except Error as error:
        _say(f"Cannot perform start session: {error}")
        return False
    except Exception as error:
        # A fault of ours or of the machine. What others put into their errors may be secret.
        if os.environ.get("SSMNET_DEBUG"):
            from .status import tell_traceback

            tell_traceback(error)
        _say(f"Cannot perform start session: {type(error).__name__}; SSMNET_DEBUG=1 shows more")
        return False
    return True


def _read_call(arguments: list[str]) -> _Call:
    """Read the arguments, of which old callers pass only three. Raises UsageError."""
    import msgspec

    # The request (the fifth) is not read: all that a port session needs comes from the agent.
    text, region, _, profile, _, endpoint_url = (*arguments, "", "", "")[:6]
    if text.startswith(RESPONSE_VARIABLE):
        response = os.environ.pop(text, None)
        if response is None:
            raise UsageError(f"there is no environment variable {text}")
        text = response
    try:
        fields = msgspec.json.decode(os.fsencode(text), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"the response of StartSession can't be read: {error}") from None
    return _Call(
        _field(fields, "SessionId"),
        _field(fields, "TokenValue"),
        _field(fields, "StreamUrl"),
        region,
        profile,
        endpoint_url,
    )


def _field(response: dict[str, object], name: str) -> str:
    value = response.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"the response of StartSession has no {name}")
    return value


async def _run(call: _Call, stop: asyncio.Event) -> None:
    """Forward until the session ends or ``stop`` is set. Raises Error when it can't be done."""
    import asyncio

    from .parent import watch_parent

    forwarding = asyncio.ensure_future(_forward(call))
    stopping = asyncio.ensure_future(stop.wait())
    take_signals(stop)
    watch_parent(stop.set)
    try:
        await asyncio.wait((forwarding, stopping), return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            _say("Terminate signal received, exiting.")
            forwarding.cancel()
            with contextlib.suppress(asyncio.CancelledError, Error):
                await forwarding
            _say(_EXITING.format(call.session_id))
        else:
            stopping.cancel()
            _say(_last_words(call.session_id, forwarding.result()))
    finally:
        ignore_signals()


async def _forward(call: _Call) -> SessionClosed:
    """Open the session and forward until it ends. Raises Error, with nothing left behind."""
    from .aws import Client, StartedSession
    from .session import Session

    client = Client(
        profile=call.profile, region=call.region or None, endpoint_url=call.endpoint_url
    )
    stream_url = await _trusted_url(client, call)
    grant = StartedSession(call.session_id, call.token_value, stream_url)
    session = Session(client, grant, resume_timeout=RESUME_TIMEOUT)
    try:
        ready = await session.open()
        return await _forward_port(session, ready)
    except SessionClosed as error:
        return error
    finally:
        await session.close()


async def _trusted_url(client: Client, call: _Call) -> str:
    try:
        return client.stream_url(call.stream_url)
    except RemoteProtocolError:
        with contextlib.suppress(Error):
            await client.terminate_session(call.session_id)
        raise


async def _forward_port(session: Session, ready: SessionReady) -> SessionClosed:
    """Listen for connections to a port session until it ends."""
    from .forward import Listener

    if ready.customer_message:
        _say(ready.customer_message)
    properties = ready.properties
    if properties.get("type") != "LocalPortForwarding":
        raise UsageError(
            f"this {ready.session_type} session has no local port, which is not supported yet"
        )
    listener = Listener(
        session.create_stream,
        properties.get("portNumber", ""),
        lambda event: _tell(event, session),
    )
    try:
        await _listen(listener, properties, session)
        ended = await session.wait_ended()
    finally:
        listener.close()
        await listener.wait_closed(0)
    if not isinstance(ended, SessionClosed):
        raise ended
    return ended


async def _listen(listener: Listener, properties: dict[str, str], session: Session) -> None:
    """Listen where the session's document says, and say so."""
    if properties.get("localConnectionType") == "unix":
        path = properties.get("localUnixSocket", "")
        if not path or "\0" in path:
            raise UsageError("localUnixSocket is not the path of a socket")
        await listener.listen_unix(path)
        opened = f"Unix socket {path} opened for sessionId {session.session_id}."
    else:
        await _listen_on_localhost(listener, _local_port(properties.get("localPortNumber") or "0"))
        opened = f"Port {listener.port} opened for sessionId {session.session_id}."
    _say(f"{opened}\nWaiting for connections..." if session.multiplexed else opened)


async def _listen_on_localhost(listener: Listener, port: int) -> None:
    try:
        await listener.listen_tcp(port=port)
    except ListenError:
        # The reference takes the first address of localhost alone, so that is enough.
        await listener.listen_tcp(("127.0.0.1",), port)


def _local_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"localPortNumber {text[:20]!r} is not a port: a number from 0 to 65535")
    return int(text)


def _tell(event: Event, session: Session) -> None:
    """Say what the reference client says of connections: not much."""
    from .events import Connected, Disconnected

    if isinstance(event, Connected) and event.connection == 1:
        accepted = _ACCEPTED if session.multiplexed else _ACCEPTED_BASIC
        _say(accepted.format(session.session_id))
    elif isinstance(event, Disconnected) and event.error == REFUSED:
        _say(_REFUSED)


def _last_words(session_id: str, ended: SessionClosed) -> str:
    from .session import TIMED_OUT

    if ended.output:
        return f"\n\nSessionId: {session_id} : {ended.output}\n"
    if ended.reason == TIMED_OUT:
        return f"Session: {session_id} timed out."
    return _EXITING.format(session_id)


def _say(text: str) -> None:
    """Print for the caller. The forward goes on when it is gone, or does not read."""
    write(sys.stdout, text)


if __name__ == "__main__":
    main()
