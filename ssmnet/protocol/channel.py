"""DataChannel: one session's protocol state; the one object that the IO layer drives.

The driver's cycle::

    text = channel.open(token, request_id, now)    after each connect
    channel.receive_message(data)                  for each message of a burst
    channel.burst_ended(now)                       after the last of them
    channel.events()                               what happened
    channel.port.touched(), .relieved()            the streams with news
    channel.data_to_send(now)                      whenever something may have to go out
    channel.get_timer(), channel.handle_timer(now)

What the far end sends that is invalid or unknown is counted, neither processed nor acknowledged,
and survived. RemoteProtocolError and HandshakeError come out of ``receive_message`` only where the
session can't go on.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from .buffer import Buffer
from .events import ChannelEnded, Event, SessionReady
from .handshake import Handshake, SessionType
from .message import (
    PAYLOAD_SIZE,
    AcknowledgedNumber,
    AgentMessage,
    ChannelClosed,
    Flag,
    MessageType,
    OpenDataChannel,
    PayloadType,
    acknowledge,
    acknowledged_number,
    decode_flag,
    decode_json,
    encode_flag,
    message_ids,
    parse,
)
from .port import BasicPort, PortStream
from .smux import KEEP_ALIVE_INTERVAL, Multiplexer, MuxStream
from .stream import StreamReceiver, StreamSender
from .version import CLIENT_VERSION

# The agent waits 15 s for our answer; one that has not begun by then will not.
HANDSHAKE_TIMEOUT = 20.0

# The agent says that the handshake is complete a moment before it is, and until then acknowledges
# data and throws it away.
SETTLING_TIME = 0.01

# What goes out in one piece: enough to make one write of many messages, little enough that the
# WebSocket can say in between that it has had enough.
BURST = 256

# Looked up for each message: an enum's member is slow to get at, and to compare.
_OUTPUT_STREAM_DATA = MessageType.OUTPUT_STREAM_DATA.value
_OUTPUT = PayloadType.OUTPUT.value


class DataChannel:
    """One session with an agent. Times are in seconds, on any clock that does not go back.

    ``client_id`` is a UUID, ``seed`` 16 random bytes, and ``wall_clock`` gives milliseconds since
    the epoch. ``port`` is there once the handshake has announced a port session. While ``writable``
    is false, only acknowledgements and control messages are sent. ``keep_alive`` has something sent
    that changes nothing whenever nothing was for so many seconds: a NOP frame on a multiplexed
    port, the terminal's size again on a shell.
    """

    def __init__(
        self,
        *,
        client_id: str,
        seed: bytes,
        wall_clock: Callable[[], int],
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        keep_alive: float | None = None,
    ) -> None:
        self._client_id = client_id
        self._wall_clock = wall_clock
        self._handshake_timeout = handshake_timeout
        self._keep_alive = keep_alive
        self._gap_since: float | None = None
        self._size = b""
        self._size_due: float | None = None
        self._message_ids = message_ids(seed)
        self._sender = StreamSender(MessageType.INPUT_STREAM_DATA, self._message_ids)
        self._receiver = StreamReceiver(self._process)
        self._handshake_deadline: float | None = None
        self._to_acknowledge: list[AgentMessage] = []
        self._control: list[tuple[PayloadType, bytes]] = []
        self._settling_until: float | None = None
        self._flowing = False
        self._opened = False
        self._paused = False
        self._events: list[Event] = []
        self.handshake = Handshake()
        self.writable = True
        self.ready = False
        self.closed = False
        self.port: Multiplexer | BasicPort | None = None
        self.invalid_messages = 0

    def open(self, token: str, request_id: str, now: float) -> str:
        """The text to send first on each new connection of the session.

        On a second connection the session carries on: what has not been acknowledged goes out
        again, beginning with a small window.
        """
        if self._opened:
            self._sender.restart(now)
        else:
            # One for all connections: a gateway that closes each of them ends the session, too.
            self._handshake_deadline = now + self._handshake_timeout
        self._opened = True
        self._paused = False
        first = OpenDataChannel("1.0", request_id, token, self._client_id, CLIENT_VERSION)
        return msgspec.json.encode(first).decode()

    def receive_message(self, data: Buffer) -> None:
        """Take in one binary message, which must not change afterwards."""
        number = acknowledged_number(data)
        if number is not None:
            self._paused = False
            self._sender.acknowledge(number)
            return
        try:
            message = parse(data)
        except RemoteProtocolError:
            self.invalid_messages += 1
            return
        if message.message_type == _OUTPUT_STREAM_DATA:
            self._paused = False
            if self._receiver.receive(message):
                self._to_acknowledge.append(message)
            return
        match message.message_type:
            case MessageType.ACKNOWLEDGE:
                self._receive_acknowledge(message)
            case MessageType.CHANNEL_CLOSED:
                self._receive_channel_closed(message)
            case MessageType.PAUSE_PUBLICATION:
                self._paused = True
            case MessageType.START_PUBLICATION:
                self._paused = False
            case _:
                self.invalid_messages += 1

    def burst_ended(self, now: float) -> None:
        """Draw the conclusions from the messages received together."""
        self._sender.settle(now)
        if not self._receiver.has_gap:
            self._gap_since = None
        elif self._gap_since is None:
            self._gap_since = now
        if self.ready and not self._flowing and self._settling_until is None:
            self._settling_until = now + SETTLING_TIME
        if isinstance(self.port, BasicPort) and self._sender.idle and not self._receiver.has_gap:
            # What closes a gap is still the old connection's.
            self.port.disconnected()

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    def open_stream(self) -> MuxStream | PortStream | None:
        """A new stream of the session's port; None where it has one and can't have two."""
        if self.port is None or not self.ready:
            raise LocalProtocolError("there is no port session to open a stream in")
        stream = self.port.open_stream()
        self._receiver.drain()
        return stream

    def data_to_send(self, now: float) -> list[bytes]:
        """Messages to send now, in order; call again when there were BURST of them, or more."""
        created_date = self._wall_clock()
        ids = self._message_ids
        out = [acknowledge(message, next(ids), created_date) for message in self._to_acknowledge]
        self._to_acknowledge.clear()
        for payload_type, payload in self._control:
            out.append(self._sender.send(payload_type, payload, created_date, now))
        self._control.clear()
        if self.writable:
            while len(out) < BURST and (wire := self._sender.resend(now)) is not None:
                out.append(wire)
            if self.port is not None and self._flowing:
                self._send_data(out, self.port, created_date, now)
        return out

    def set_size(self, columns: int, rows: int, now: float) -> None:
        """Have ``data_to_send`` tell a shell the size of its terminal, in characters."""
        self._size = msgspec.json.encode({"cols": columns, "rows": rows})
        self._send_size(now)

    def terminate(self) -> bool:
        """Have ``data_to_send`` ask the agent to end the session.

        False where the agent would not understand: then only the TerminateSession call ends it.
        """
        if not self.ready or self.closed or not self.handshake.knows_terminate_flag:
            return False
        self._control.append((PayloadType.FLAG, encode_flag(Flag.TERMINATE_SESSION)))
        return True

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        due = self._sender.get_timer()
        handshake = self._handshake_deadline, self._settling_until
        for timer in (*handshake, self._port_timer(), self._size_due):
            if timer is not None and (due is None or timer < due):
                due = timer
        return due

    def handle_timer(self, now: float) -> None:
        """Time has passed; ``data_to_send`` may have something now. Raises HandshakeError."""
        if self._handshake_deadline is not None and now >= self._handshake_deadline:
            waited = self._handshake_timeout
            raise HandshakeError(f"the agent did not begin the session within {waited:g} s")
        if self._settling_until is not None and now >= self._settling_until:
            self._settling_until = None
            self._flowing = True
        if self._size_due is not None and now >= self._size_due:
            self._send_size(now)
        self._sender.handle_timer(now)

    def reading_resumed(self, now: float) -> None:
        """We did not read for a while, so missing acknowledgements mean nothing.

        Nothing says that reading has stopped: the driver keeps its timer back meanwhile.
        """
        self._sender.postpone(now)

    @property
    def has_room(self) -> bool:
        """Whether a stream that is opened now can send something at once."""
        return self.ready and self.writable and self._sender.has_room

    @property
    def idle(self) -> bool:
        """Whether all that was written has been sent and acknowledged."""
        return self._sender.idle and (self.port is None or self.port.idle)

    @property
    def delivered(self) -> bool:
        """Whether all that was written to streams that are closed has reached its destination.

        An acknowledgement says that it has reached the agent, which may hold megabytes.
        """
        return self.idle and (self.port is None or not self.port.closing)

    @property
    def sent(self) -> int:
        """How many messages have been sent."""
        return self._sender.next_number

    @property
    def received(self) -> int:
        """How many messages of the agent's have been taken, in order."""
        return self._receiver.expected

    @property
    def acknowledged(self) -> int:
        """How many of them, from the first on, are known to have arrived."""
        return self._sender.acknowledged_below

    @property
    def round_trip_time(self) -> float | None:
        """The smoothed time from a message to its acknowledgement; None before the first."""
        return self._sender.round_trip_time.smoothed

    @property
    def retransmissions(self) -> int:
        """How many messages went out again."""
        return self._sender.retransmissions

    @property
    def has_gap(self) -> bool:
        """Whether something that has come waits for what was sent before it."""
        return self._receiver.has_gap

    def stalled_for(self, now: float) -> float:
        """How long nothing has got through.

        The agent has acknowledged nothing though something is in flight; or something is missing of
        what it has sent, which it repairs one message after the other.
        """
        unacknowledged = 0.0 if self._sender.idle else now - self._sender.progress_at
        return max(unacknowledged, 0.0 if self._gap_since is None else now - self._gap_since)

    def _send_size(self, now: float) -> None:
        self._control.append((PayloadType.SIZE, self._size))
        if self._keep_alive is not None:
            self._size_due = now + self._keep_alive

    def _port_timer(self) -> float | None:
        """When the port wants to send; no use while it can't."""
        due = None if self.port is None else self.port.get_timer()
        if due is None or not self._flowing or not self.writable or not self._sender.may_send:
            return None
        return None if self._paused and not self._sender.idle else due

    def _send_data(
        self, out: list[bytes], port: Multiplexer | BasicPort, created_date: int, now: float
    ) -> None:
        sender = self._sender
        while len(out) < BURST:
            size = min(sender.room(), BURST - len(out)) * PAYLOAD_SIZE
            urgent = not size and sender.has_reserve
            if urgent:
                size = port.urgent
            if not size:
                break
            if self._paused:
                if not sender.idle:
                    return
                # The agent is away. One message in flight finds out when it is back.
                size = PAYLOAD_SIZE
            data = port.take(size, now, urgent=urgent)
            payloads = [
                data[start : start + PAYLOAD_SIZE] for start in range(0, len(data), PAYLOAD_SIZE)
            ]
            out += sender.send_all(_OUTPUT, payloads, created_date, now)
            if not data or port.idle:
                break
        if isinstance(port, BasicPort) and port.take_disconnect():
            flag = encode_flag(Flag.DISCONNECT_TO_PORT)
            out.append(sender.send(PayloadType.FLAG, flag, created_date, now))

    def _receive_acknowledge(self, message: AgentMessage) -> None:
        """One that is not written as all ends do."""
        self._paused = False
        try:
            acknowledged = decode_json(message.payload, AcknowledgedNumber)
        except RemoteProtocolError:
            self.invalid_messages += 1
        else:
            self._sender.acknowledge(acknowledged.acknowledged_message_sequence_number)

    def _receive_channel_closed(self, message: AgentMessage) -> None:
        try:
            output = decode_json(message.payload, ChannelClosed).output or ""
        except RemoteProtocolError:
            self.invalid_messages += 1
        else:
            self.closed = True
            self._events.append(ChannelEnded(output))

    def _process(self, message: AgentMessage) -> bool:
        """Take the next message of the agent's stream, unless there is nobody to take it yet."""
        if message.payload_type == _OUTPUT:
            if self.port is None or not self.ready or not self.port.ready:
                return False
            self.port.receive(message.payload)
            return True
        match message.payload_type:
            case PayloadType.HANDSHAKE_REQUEST if not self.ready:
                response = self.handshake.receive_request(message.payload)
                self._control.append((PayloadType.HANDSHAKE_RESPONSE, response))
            case PayloadType.HANDSHAKE_COMPLETE if not self.ready:
                self.handshake.receive_complete(message.payload)
                self._begin()
            case PayloadType.FLAG:
                self._receive_flag(message)
            case _:
                # Well-formed, in its turn and of no use to us: refusing it would stop all else.
                self.invalid_messages += 1
        return True

    def _receive_flag(self, message: AgentMessage) -> None:
        try:
            flag = decode_flag(message.payload)
        except RemoteProtocolError:
            self.invalid_messages += 1
            return
        if flag == Flag.CONNECT_TO_PORT_ERROR and self.port is not None:
            self.port.connect_failed()

    def _begin(self) -> None:
        handshake = self.handshake
        self.ready = True
        self._handshake_deadline = None
        if handshake.multiplexes:
            self.port = Multiplexer(keep_alive=self._keep_alive_interval())
        elif handshake.session_type == SessionType.PORT:
            self.port = BasicPort(reusable=handshake.is_port_forward)
        self._events.append(
            SessionReady(
                handshake.session_type,
                handshake.properties,
                handshake.agent_version,
                handshake.customer_message,
            )
        )

    def _keep_alive_interval(self) -> float | None:
        wanted = self._keep_alive
        if not self.handshake.needs_keep_alive:
            return wanted
        return KEEP_ALIVE_INTERVAL if wanted is None else min(wanted, KEEP_ALIVE_INTERVAL)
