"""The agent's end of one session, without IO: messages and destination's bytes in, the same out.

It is written from the real agent's habits and shares nothing with the client but the codec, so
that two wrongs cannot agree. The driver calls ``receive`` for each binary message and tells what
became of connections; after that (or a burst of that) it asks for ``data_to_send`` and ``events``,
in this order, and arms one timer with ``get_timer``. While ``blocked`` it should feed no input:
what comes all the same waits in memory, as in a socket's buffer.

Session kinds: multiplexed ports, basic mode, the raw stream. A further kind is a class with the
methods of ``port.Port`` and a branch in ``_make_kind``.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

from ..errors import RemoteProtocolError
from ..protocol.message import (
    PAYLOAD_SIZE,
    AgentMessage,
    Flag,
    MessageType,
    PayloadType,
    acknowledge,
    decode_flag,
    decode_json,
    parse,
)
from ..protocol.message import AcknowledgedNumber as Acknowledged
from . import handshake
from .byte_queue import Buffer
from .documents import LOCAL_PORT_FORWARDING, SessionRequest
from .events import Ended, Event
from .handshake import Handshake
from .port import SETUP_TIME, Port
from .port_basic import BasicPort, RawPort
from .port_mux import MuxPort
from .receiver import Arrival, Receiver
from .sender import IdealSender, Sender

# What the agent sleeps after each message of output, in seconds.
PACE = 0.001
# How long an ended session waits for its last acknowledgements, in seconds.
LINGER = 2.0


class Agent:
    """One session at the agent.

    ``wall_clock`` gives milliseconds since the epoch, ``message_id`` ids as they go over the wire.
    ``pace`` sleeps 1 ms after each message of output as the real agent does. ``ideal`` switches the
    real agent's vices off. ``setup_time`` is how long input is dropped after the handshake.
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
    ) -> None:
        self.invalid = 0
        self.not_ready = 0
        self.ended = False
        self.inbox_size = 0
        self._request = request
        self._session_id = session_id
        self._wall_clock = wall_clock
        self._message_id = message_id
        self._agent_version = agent_version
        self._pace = PACE if pace else 0.0
        self._ideal = ideal
        self._setup_time = 0.0 if ideal else setup_time
        self._sender: Sender | IdealSender = IdealSender() if ideal else Sender()
        self._receiver = Receiver()
        self._handshake = Handshake(agent_version, request.session_type, request.properties)
        self._kind: Port | None = None
        self._number = 0
        self._paused = False
        self._output_blocked = False
        self._next_output = 0.0
        self._out: list[bytes] = []
        self._events: list[Event] = []
        # Input that has come and may not be looked at, and the message that is being written.
        self._inbox: deque[Buffer] = deque()
        self._held: tuple[AgentMessage, bool] | None = None
        self._ending: tuple[str, float] | None = None
        self._now = 0.0

    # What the driver asks.

    @property
    def blocked(self) -> bool:
        """Whether input waits: the far side takes nothing, or our own output is stuck."""
        return self._held is not None or self._output_blocked

    @property
    def paused(self) -> bool:
        """Whether the gateway said that the client is away."""
        return self._paused

    @property
    def unacknowledged(self) -> int:
        """How many messages wait for an acknowledgement."""
        return len(self._sender)

    @property
    def resent(self) -> int:
        """How many messages were sent again."""
        return self._sender.resent

    def data_to_send(self, now: float) -> list[bytes]:
        """The messages that go out now, in order."""
        self._now = now
        if self._kind is not None:
            self._kind.flush()
            self._take_output(self._kind)
        self._finish()
        out, self._out = self._out, []
        return out

    def events(self) -> list[Event]:
        """What the driver is to do, in order; do it before data_to_send's messages go out."""
        events, self._events = self._events, []
        return events

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        if self.ended:
            return None
        timers = [None if self._paused else self._sender.get_timer()]
        if self._ending is not None:
            timers.append(self._ending[1])
        elif self._kind is None:
            if self._handshake.started_at:
                timers.append(self._handshake.started_at + handshake.TIMEOUT)
        else:
            timers.append(self._kind.get_timer())
            if self._pace and self._kind.has_output and self._may_send():
                timers.append(self._next_output)
        return min((timer for timer in timers if timer is not None), default=None)

    def stop(self) -> None:
        """The gateway has ended the session: what has come is written, and that is all."""
        if self._kind is not None:
            self._kind.stop()
        self.ended = True

    # What the driver tells.

    def start(self, now: float) -> None:
        """The channel to the gateway is open."""
        self._now = now
        self._sender.start(now)
        self._send_control(
            MessageType.AGENT_SESSION_STATE,
            {"SchemaVersion": 1, "SessionState": "Connected", "SessionId": self._session_id},
        )
        self._send(PayloadType.HANDSHAKE_REQUEST, self._handshake.request(now))

    def receive(self, data: Buffer, now: float) -> None:
        """One binary message from the gateway, which must not change afterwards."""
        self._now = now
        if self.blocked:
            self._inbox.append(data)
            self.inbox_size += len(data)
        else:
            self._receive(data)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        if not self._paused:
            self._out += self._sender.handle_timer(now)
        if self._kind is not None:
            self._kind.handle_timer(now)
        elif self._handshake.started_at and now >= self._handshake.started_at + handshake.TIMEOUT:
            self._end("Handshake timed out.")
        self._finish()

    def set_output_blocked(self, blocked: bool, now: float) -> None:
        """Nothing can be sent to the gateway just now, or it can again."""
        self._now = now
        self._output_blocked = blocked
        self._go_on()

    def resolved(self, addresses: tuple[str, ...], now: float) -> None:
        """A Resolve has found something."""
        self._now = now
        if self._kind is not None and self._ending is None:
            self._kind.resolved(addresses, now)

    def resolve_failed(self, reason: str, now: float) -> None:
        """A Resolve has found nothing."""
        self._now = now
        if self._kind is not None and self._ending is None:
            self._kind.resolve_failed(reason)

    def dialled(self, connection: int, now: float) -> None:
        """A Dial has come about."""
        self._now = now
        if self._kind is not None:
            self._kind.dialled(connection)
            self._go_on()

    def dial_failed(self, connection: int, reason: str, now: float) -> None:
        """A Dial has failed."""
        self._now = now
        if self._kind is not None:
            self._kind.dial_error = reason
            self._kind.dial_failed(connection)
            self._go_on()

    def received(self, connection: int, data: bytes, now: float) -> None:
        """A destination sent ``data``."""
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

    def _receive(self, data: Buffer) -> None:
        if self.ended:
            return
        try:
            message = parse(data)
            self._dispatch(message)
        except RemoteProtocolError:
            self.invalid += 1

    def _dispatch(self, message: AgentMessage) -> None:
        kind = message.message_type
        if kind == MessageType.INPUT_STREAM_DATA:
            self._unpause()
            self._receive_stream_data(message)
        elif kind == MessageType.ACKNOWLEDGE:
            self._unpause()
            acknowledged = decode_json(message.payload, Acknowledged)
            number = acknowledged.acknowledged_message_sequence_number
            self._sender.acknowledge(number, self._now)
        elif kind == MessageType.START_PUBLICATION:
            self._unpause()
        elif kind == MessageType.PAUSE_PUBLICATION:
            self._paused = True
        elif kind == MessageType.CHANNEL_CLOSED:
            self._end("")
        else:
            self.invalid += 1

    def _unpause(self) -> None:
        if self._paused:
            self._paused = False
            self._sender.unpaused(self._now)

    def _receive_stream_data(self, message: AgentMessage) -> None:
        arrival = self._receiver.place(message)
        if arrival is Arrival.EXPECTED:
            self._process(message)
            if self._handshake.answered and self._kind is None and self._ending is None:
                self._complete_handshake()
        elif arrival is not Arrival.REFUSED:
            self._acknowledge(message)

    def _process(self, message: AgentMessage, acknowledged: bool = False) -> None:
        """Process the expected message and those that came early, until one has to wait."""
        following: AgentMessage | None = message
        while following is not None:
            if not self._deliver(following):
                self.not_ready += 1
                return
            if self._kind is not None and self._kind.blocked:
                self._held = (following, acknowledged)
                return
            following = self._processed(following, acknowledged)
            acknowledged = True

    def _processed(self, message: AgentMessage, acknowledged: bool) -> AgentMessage | None:
        if not acknowledged:
            self._acknowledge(message)
        return self._receiver.advance()

    def _deliver(self, message: AgentMessage) -> bool:
        """Hand one in-order message on; False when nobody is ready for it."""
        if message.payload_type == PayloadType.HANDSHAKE_RESPONSE:
            self._receive_handshake_response(message.payload)
            return True
        if not self._handshake.complete:
            return True
        if self._kind is None or not self._kind.ready:
            return False
        if not self._is_unknown_flag(message):
            self._kind.receive(message.payload_type, message.payload)
        return True

    def _is_unknown_flag(self, message: AgentMessage) -> bool:
        """An agent too old for TerminateSession does nothing about it."""
        if message.payload_type != PayloadType.FLAG:
            return False
        knows = handshake.version(self._agent_version) > handshake.version(
            handshake.TERMINATE_FLAG_AFTER_AGENT
        )
        return len(message.payload) != 4 or (
            decode_flag(message.payload) == Flag.TERMINATE_SESSION and not knows
        )

    def _receive_handshake_response(self, payload: Buffer) -> None:
        if self._handshake.answered:
            return
        refusal = self._handshake.receive_response(payload)
        if refusal is not None:
            self._end(refusal)

    def _complete_handshake(self) -> None:
        self._send(PayloadType.HANDSHAKE_COMPLETE, self._handshake.completion(self._now))
        self._kind = self._make_kind()
        self._kind.start(self._now)

    def _make_kind(self) -> Port:
        properties, client = self._request.properties, self._handshake.client_version
        if properties.get("type") != LOCAL_PORT_FORWARDING:
            return self._make_port(RawPort)
        if not handshake.multiplexes(self._agent_version, client):
            return self._make_port(BasicPort)
        return MuxPort(
            properties,
            send=self._send,
            emit=self._emit,
            end=self._end,
            setup_time=self._setup_time,
            ideal=self._ideal,
            keep_alive=handshake.keeps_alive(self._agent_version, client),
        )

    def _make_port(self, kind: type[RawPort]) -> Port:
        return kind(
            self._request.properties,
            send=self._send,
            emit=self._emit,
            end=self._end,
            setup_time=self._setup_time,
        )

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _go_on(self) -> None:
        """Whatever has changed may be what input was waiting for."""
        if self._held is not None and (self._kind is None or not self._kind.blocked):
            (message, acknowledged), self._held = self._held, None
            following = self._processed(message, acknowledged)
            if following is not None:
                self._process(following, acknowledged=True)
        while self._inbox and not self.blocked:
            data = self._inbox.popleft()
            self.inbox_size -= len(data)
            self._receive(data)

    # Output.

    def _may_send(self) -> bool:
        return not (self._paused or self._output_blocked) and self._sender.has_room

    def _take_output(self, kind: Port) -> None:
        while kind.has_output and self._ending is None and self._may_send():
            if self._pace:
                if self._now < self._next_output:
                    return
                self._next_output = self._now + self._pace
            self._send(PayloadType.OUTPUT, kind.take(PAYLOAD_SIZE))

    def _send(self, payload_type: PayloadType, payload: Buffer) -> None:
        """Number a stream data message, list it, and send it unless the client is away."""
        number = self._number
        self._number += 1
        data = AgentMessage(
            MessageType.OUTPUT_STREAM_DATA,
            payload,
            number,
            payload_type,
            # The agent marks its first message, and no other.
            0 if number else 1,
            self._message_id(),
            self._wall_clock(),
        ).serialize()
        self._sender.add(number, data, self._now)
        if not self._paused:
            self._out.append(data)

    def _send_control(self, message_type: MessageType, content: object) -> None:
        self._out.append(
            AgentMessage(
                message_type,
                json.dumps(content, separators=(",", ":")).encode(),
                flags=3,
                message_id=self._message_id(),
                created_date=self._wall_clock(),
            ).serialize()
        )

    def _acknowledge(self, message: AgentMessage) -> None:
        self._out.append(acknowledge(message, self._message_id(), self._wall_clock()))

    # The end.

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
        if not len(self._sender) or self._now >= deadline:
            self.ended = True
            self._events.append(Ended(output))
