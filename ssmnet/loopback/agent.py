"""The agent's end of one session, without IO: messages and destinations' bytes in, the same out.

It is written from the real agent's habits and shares nothing with the client but the codec, so
that two wrongs cannot agree. The driver calls ``receive`` for each binary message and tells what
became of connections; after that (or a burst of that) it asks for ``data_to_send`` and ``events``,
in this order, and arms one timer with ``get_timer``. While ``blocked`` it should feed no input:
what comes all the same waits in memory, as in a socket's buffer.

What the session is beyond that, a port or a shell for instance, is a ``kind.Kind``.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import RemoteProtocolError
from ..protocol.message import PAYLOAD_SIZE, AgentMessage, Flag, PayloadType, decode_flag
from . import handshake
from .agent_channel import AgentChannel, Delivery
from .byte_queue import Buffer
from .documents import PORT, SessionRequest
from .encryption import Encryption
from .events import Ended, Event
from .handshake import Handshake
from .kind import Kind
from .kinds import KindMaker
from .pace import PACE, Pace
from .port import SETUP_TIME, Port
from .program import Program

# How long an ended session waits for its last acknowledgements, in seconds.
LINGER = 2.0
# The real agent waits for a shell's first output for 1 s, and as long before it says what failed.
FIRST_OUTPUT_DELAY = 0.01


class Agent:
    """One session at the agent.

    ``wall_clock`` gives milliseconds since the epoch, ``message_id`` ids as they go over the wire.
    ``pace`` sends a message of output each PACE seconds, as the real agent does: on the average,
    too, for a timer that is late is made up for. ``ideal`` switches the real agent's vices off.
    ``setup_time`` is how long input is dropped after the handshake, ``first_output_delay`` how long
    a shell's first output is held back; in seconds. With ``encryption`` shells and commands are
    encrypted; ports never are.
    """

    def __init__(
        self,
        request: SessionRequest,
        *,
        session_id: str,
        wall_clock: Callable[[], int],
        message_id: Callable[[], bytes],
        agent_version: str = "3.3.0.0",
        pace: bool = False,
        ideal: bool = False,
        setup_time: float = SETUP_TIME,
        first_output_delay: float = FIRST_OUTPUT_DELAY,
        encryption: Encryption | None = None,
    ) -> None:
        self.ended = False
        self._request = request
        self._session_id = session_id
        self._agent_version = agent_version
        self._pace = Pace(PACE) if pace else None
        self._channel = AgentChannel(
            deliver=self._deliver,
            closed=lambda: self._end(""),
            wall_clock=wall_clock,
            message_id=message_id,
            ideal=ideal,
        )
        self._encryption = encryption if request.session_type != PORT else None
        self._handshake = Handshake(
            agent_version, request.session_type, request.properties, self._encryption
        )
        self._make_kind = KindMaker(
            agent_version,
            send=self._send,
            emit=self._emit,
            end=self._end,
            is_away=lambda: self._channel.paused,
            setup_time=0.0 if ideal else setup_time,
            first_output_delay=0.0 if ideal else first_output_delay,
            ideal=ideal,
        )
        self._kind: Kind | None = None
        self._events: list[Event] = []
        self._ending: tuple[str, float] | None = None
        self._now = 0.0

    # What the driver asks.

    @property
    def blocked(self) -> bool:
        """Whether input waits: the far side takes nothing, or our own output is stuck."""
        return self._channel.blocked

    @property
    def inbox_size(self) -> int:
        """How many bytes of input wait."""
        return self._channel.inbox_size

    @property
    def paused(self) -> bool:
        """Whether the gateway said that the client is away."""
        return self._channel.paused

    @property
    def unacknowledged(self) -> int:
        """How many messages wait for an acknowledgement."""
        return len(self._channel.sender)

    @property
    def resent(self) -> int:
        """How many messages were sent again."""
        return self._channel.sender.resent

    @property
    def invalid(self) -> int:
        """How many messages were none, and dropped."""
        return self._channel.invalid

    @property
    def not_ready(self) -> int:
        """How many messages of input were dropped because nobody was ready for them."""
        return self._channel.not_ready

    def data_to_send(self, now: float) -> list[bytes]:
        """The messages that go out now, in order."""
        self._now = now
        if self._kind is not None:
            self._kind.flush()
            self._take_output(self._kind)
        self._finish()
        return self._channel.take_messages()

    def events(self) -> list[Event]:
        """What the driver is to do, in order; do it before data_to_send's messages go out."""
        events, self._events = self._events, []
        return events

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        if self.ended:
            return None
        timers = [self._channel.get_timer()]
        if self._ending is not None:
            timers.append(self._ending[1])
        elif self._kind is not None:
            timers.append(self._kind.get_timer())
            if self._pace and self._kind.paced and self._may_take(self._kind):
                timers.append(self._pace.due)
        elif self._handshake.deadline is not None:
            timers.append(self._handshake.deadline)
        return min((timer for timer in timers if timer is not None), default=None)

    # What the driver tells.

    def start(self, now: float) -> None:
        """The channel to the gateway is open."""
        self._now = now
        self._channel.sender.start(now)
        self._channel.send_state(self._session_id, "Connected")
        if self._handshake.needed:
            self._send(PayloadType.HANDSHAKE_REQUEST, self._handshake.request(now))
        else:
            self._handshake.skip()
            self._begin()

    def stop(self) -> None:
        """The gateway has ended the session: what has come is written, and that is all."""
        if self._kind is not None:
            self._kind.stop()
        self.ended = True

    def receive(self, data: Buffer, now: float) -> None:
        """One binary message from the gateway, which must not change afterwards."""
        self._now = now
        if not self.ended:
            self._channel.receive(data, now)
            if self._kind is None:
                self._complete_handshake()

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        self._channel.handle_timer(now)
        if self._kind is not None:
            self._kind.handle_timer(now)
        elif self._handshake.deadline is not None and now >= self._handshake.deadline:
            self._end(self._handshake.timeout_text)
        self._finish()

    def set_output_blocked(self, blocked: bool, now: float) -> None:
        """Nothing can be sent to the gateway just now, or it can again."""
        self._now = now
        self._channel.output_blocked = blocked
        self._go_on()

    def resolved(self, addresses: tuple[str, ...], now: float) -> None:
        """A Resolve has found something."""
        self._now = now
        if isinstance(self._kind, Port) and self._ending is None:
            self._kind.resolved(addresses, now)

    def resolve_failed(self, reason: str, now: float) -> None:
        """A Resolve has found nothing."""
        self._now = now
        if isinstance(self._kind, Port) and self._ending is None:
            self._kind.resolve_failed(reason)

    def dialled(self, connection: int, now: float) -> None:
        """A Dial has come about."""
        self._now = now
        if isinstance(self._kind, Port):
            self._kind.dialled(connection)
            self._go_on()

    def dial_failed(self, connection: int, reason: str, now: float) -> None:
        """A Dial has failed."""
        self._now = now
        if isinstance(self._kind, Port):
            self._kind.dial_error = reason
            self._kind.dial_failed(connection)
            self._go_on()

    def spawned(self, now: float) -> None:
        """A Spawn has come about."""
        self._now = now
        if isinstance(self._kind, Program):
            self._kind.spawned(now)
            self._go_on()

    def spawn_failed(self, reason: str, now: float) -> None:
        """A Spawn has failed."""
        self._now = now
        if isinstance(self._kind, Program):
            self._kind.spawn_failed(reason, now)
            self._go_on()

    def exited(self, code: int, now: float) -> None:
        """The process has ended; the code is -1 if a signal did that."""
        self._now = now
        if isinstance(self._kind, Program):
            self._kind.exited(code)
            self._go_on()

    def received(self, connection: int, data: bytes, now: float) -> None:
        """A destination or process sent ``data``."""
        self._now = now
        if self._kind is not None:
            self._kind.received(connection, data)

    def connection_ended(self, connection: int, now: float) -> None:
        """A destination ended its sending direction."""
        self._now = now
        if self._kind is not None:
            self._kind.ended(connection)
            self._go_on()

    def connection_lost(self, connection: int, now: float) -> None:
        """A connection is gone, both directions."""
        self._now = now
        if self._kind is not None:
            self._kind.lost(connection)
            self._go_on()

    def set_writable(self, connection: int, writable: bool, now: float) -> None:
        """A connection's write buffer has become full, or has room again."""
        self._now = now
        if self._kind is not None:
            self._kind.set_writable(connection, writable)
            self._go_on()

    # Input.

    def _deliver(self, message: AgentMessage) -> Delivery:
        """One message of input, in order."""
        payload = message.payload
        if self._encryption is not None:
            payload = self._encryption.decrypt(message.payload_type, payload)
        if message.payload_type == PayloadType.HANDSHAKE_RESPONSE:
            self._receive_handshake_response(payload)
            return Delivery.DONE
        if message.payload_type == PayloadType.ENC_CHALLENGE_RESPONSE:
            self._refuse(self._handshake.receive_challenge(payload))
            return Delivery.DONE
        if not self._handshake.complete:
            # The real agent loses what comes too early.
            return Delivery.DONE
        kind = self._kind
        if kind is None or not kind.ready:
            return Delivery.NOT_READY
        if not self._is_unknown_flag(message):
            kind.receive(message.payload_type, payload)
        return Delivery.WAITING if kind.blocked else Delivery.DONE

    def _is_unknown_flag(self, message: AgentMessage) -> bool:
        """What no agent knows, and TerminateSession where the agent is too old for it."""
        if message.payload_type != PayloadType.FLAG:
            return False
        try:
            flag = decode_flag(message.payload)
        except RemoteProtocolError:
            return True
        return flag == Flag.TERMINATE_SESSION and not handshake.knows_terminate(self._agent_version)

    def _receive_handshake_response(self, payload: Buffer) -> None:
        if not self._handshake.answered:
            self._refuse(self._handshake.receive_response(payload))

    def _refuse(self, refusal: str | None) -> None:
        if refusal is not None:
            self._end(refusal)

    def _complete_handshake(self) -> None:
        """Once what the client answered is acknowledged."""
        if self._kind is not None or self._ending is not None:
            return
        message = self._handshake.next_message(self._now)
        if message is not None:
            self._send(*message)
        if self._handshake.complete:
            self._begin()

    def _begin(self) -> None:
        self._kind = self._make_kind(self._request, self._handshake.client_version)
        if self._kind is not None:
            self._kind.start(self._now)

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _go_on(self) -> None:
        """Whatever has changed may be what input was waiting for."""
        self._channel.go_on(self._now, written=self._kind is None or not self._kind.blocked)
        self._complete_handshake()

    # Output, and the end.

    def _take_output(self, kind: Kind) -> None:
        pace = self._pace if kind.paced else None
        while self._ending is None and self._may_take(kind):
            if pace is not None and not pace.allows(self._now):
                return
            payload_type, payload = kind.take_message(PAYLOAD_SIZE)
            if payload:
                self._send(payload_type, payload)
        if pace is not None:
            pace.rest()

    def _may_take(self, kind: Kind) -> bool:
        away = self._channel.paused and not self._channel.output_blocked and not kind.heeds_pause
        return kind.has_output and (self._channel.may_send or away)

    def _send(self, payload_type: PayloadType, payload: Buffer) -> None:
        if self._encryption is not None:
            payload = self._encryption.encrypt(payload_type, payload)
        self._channel.send(payload_type, payload, self._now)

    def _end(self, output: str) -> None:
        if self._ending is None and not self.ended:
            self._ending = (output, self._now + LINGER)

    def _finish(self) -> None:
        """Close what is open at once, and the session when its last words are acknowledged."""
        if self._ending is None or self.ended:
            return
        output, deadline = self._ending
        if self._kind is not None:
            self._kind.stop()
        if not self.unacknowledged or self._now >= deadline:
            self.ended = True
            if self._kind is not None and self._kind.announces_end:
                self._channel.send_state(self._session_id, "Terminating")
            self._events.append(Ended(output))
