"""Opening: how a session begins, until data may flow.

Most sessions begin with a handshake. Plain shells and interactive commands have none: their output
just starts, and so does ours. One that is silent is found out by a Size message, which its agent
acknowledges; but so does an agent that is about to begin a handshake, and then does so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import HandshakeError
from .buffer import Buffer
from .events import DataKeyNeeded
from .handshake import Handshake
from .message import PayloadType

if TYPE_CHECKING:
    from .encryption import Encryption

# The agent waits 15 s for our answer; one that has not begun by then will not.
HANDSHAKE_TIMEOUT = 20.0
# The agent says that the handshake is complete a moment before it is, and until then acknowledges
# data and throws it away.
SETTLING_TIME = 0.01
# When a session has said nothing for so long, it is asked whether it is a shell; and it is one when
# there is still no handshake so long after the answer.
PROBE_AFTER = 2.0
ASSUME_SHELL_AFTER = 0.5


class Opening:
    """The beginning of one session. Times are in seconds.

    ``send`` sends a message, ``probe`` a Size message of which it returns the number; ``needs`` is
    told of a DataKeyNeeded, and ``begun`` when it is known what kind of session this is. ``shell``
    says that it may be one. ``nonce`` is for Encryption.
    """

    def __init__(
        self,
        *,
        send: Callable[[PayloadType, bytes], None],
        probe: Callable[[], int],
        needs: Callable[[DataKeyNeeded], None],
        begun: Callable[[], None],
        nonce: Callable[[], bytes],
        shell: bool,
        timeout: float,
    ) -> None:
        self._send = send
        self._send_probe = probe
        self._needs = needs
        self._begun = begun
        self._nonce = nonce
        self._may_be_shell = shell
        self._timeout = timeout
        self._deadline: float | None = None
        self._probe_due: float | None = None
        self._probe: int | None = None
        self._shell_due: float | None = None
        self._settled_due: float | None = None
        self._ready = False
        self._challenged = False
        self._assumed = False  # without a word of it, to be a shell
        self.handshake = Handshake()
        self.encryption: Encryption | None = None
        self.flowing = False
        """Whether the agent takes data."""

    def connected(self, now: float) -> None:
        """A WebSocket is open. There is one deadline for all of them: a gateway that closes each
        ends the session, too."""
        if self._ready:
            return
        if self._deadline is None:
            self._deadline = now + self._timeout
        if self._may_be_shell and not self.handshake.requested:
            self._probe_due = now + PROBE_AFTER

    def interrupted(self) -> None:
        """The WebSocket is lost. What was to come over it says nothing by its absence."""
        self._stop_probing()

    def receive(self, payload_type: int, payload: Buffer) -> bool:
        """Take a message of the handshake; False for one that is none, or not of use now.

        Raises HandshakeError.
        """
        if self._ready:
            if self._assumed and payload_type == PayloadType.HANDSHAKE_REQUEST:
                # What was typed meanwhile may have gone out in clear.
                raise HandshakeError("the agent began its handshake too late: try again")
            return False
        match payload_type:
            case PayloadType.HANDSHAKE_REQUEST if not self.handshake.requested:
                self._receive_request(payload)
            case PayloadType.ENC_CHALLENGE_REQUEST if self.encryption is not None:
                if self._challenged:
                    # Each answer turns what the agent encrypts into what it takes from us.
                    raise HandshakeError("the agent repeats its encryption challenge")
                self._send(PayloadType.ENC_CHALLENGE_RESPONSE, self.encryption.answer(payload))
                self._challenged = True
            case PayloadType.HANDSHAKE_COMPLETE:
                self.handshake.receive_complete(payload)
                if self.handshake.kms_key_id and not self._challenged:
                    raise HandshakeError("the agent asked for encryption and did not begin it")
                self._begin()
            case _:
                return False
        return True

    def data_key_received(self, data_key: bytes, encrypted: bytes) -> None:
        """The answer to DataKeyNeeded. Raises HandshakeError for a key of another size."""
        # Here, because few sessions need it, and it takes long to import.
        from .encryption import Encryption

        self.encryption = Encryption(data_key, self._nonce)
        self._send(PayloadType.HANDSHAKE_RESPONSE, self.handshake.response(encrypted))

    def output_came(self) -> None:
        """The session's output has begun, which means a shell where there was no handshake."""
        if self._may_be_shell and not self.handshake.requested:
            self._begin_shell()

    def burst_ended(self, acknowledged: int, now: float) -> None:
        """All our messages below ``acknowledged`` have arrived."""
        if self._probe is not None and acknowledged > self._probe:
            self._probe, self._shell_due = None, now + ASSUME_SHELL_AFTER
        if self._ready and not self.flowing and self._settled_due is None:
            self._settled_due = now + (SETTLING_TIME if self.handshake.requested else 0.0)

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        timers = (self._deadline, self._probe_due, self._shell_due, self._settled_due)
        return min((timer for timer in timers if timer is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Time has passed. Raises HandshakeError when there is no session by the deadline."""
        if self._deadline is not None and now >= self._deadline:
            raise HandshakeError(self._lateness())
        if self._probe_due is not None and now >= self._probe_due:
            self._probe_due = None
            self._probe = self._send_probe()
        if self._shell_due is not None and now >= self._shell_due:
            self._assumed = True
            self._begin_shell()
            self.flowing = True
        if self._settled_due is not None and now >= self._settled_due:
            self._settled_due = None
            self.flowing = True

    def _receive_request(self, payload: Buffer) -> None:
        self._stop_probing()
        handshake = self.handshake
        handshake.receive_request(payload)
        if handshake.kms_key_id:
            self._needs(DataKeyNeeded(handshake.kms_key_id, handshake.challenge))
        else:
            self._send(PayloadType.HANDSHAKE_RESPONSE, handshake.response())

    def _lateness(self) -> str:
        if self.handshake.kms_key_id and self.encryption is None:
            return f"KMS gave no data key within {self._timeout:g} s"
        return f"the agent did not begin the session within {self._timeout:g} s"

    def _begin_shell(self) -> None:
        self._stop_probing()
        self.handshake.assume_shell()
        self._begin()

    def _begin(self) -> None:
        self._deadline = None
        self._ready = True
        self._begun()

    def _stop_probing(self) -> None:
        self._probe_due = self._probe = self._shell_due = None
