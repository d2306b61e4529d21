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

from ..errors import LocalProtocolError, RemoteProtocolError
from .buffer import Buffer
from .events import ChannelEnded, DataKeyNeeded, Event, ExitCode, SessionReady
from .handshake import Handshake
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
from .opening import HANDSHAKE_TIMEOUT, Opening
from .port import BasicPort, PortStream
from .shell import ShellPort, decode_exit_code, encode_size
from .smux import KEEP_ALIVE_INTERVAL, Multiplexer, MuxStream
from .stream import StreamReceiver, StreamSender
from .version import CLIENT_VERSION

# The size of a terminal that there is none of, as the reference client has it.
DEFAULT_SIZE = (300, 100)

# What goes out in one piece: enough to make one write of many messages, little enough that the
# WebSocket can say in between that it has had enough.
BURST = 256

# Looked up for each message: an enum's member is slow to get at, and to compare.
_OUTPUT_STREAM_DATA = MessageType.OUTPUT_STREAM_DATA.value
_OUTPUT = PayloadType.OUTPUT.value
_SESSION_DATA = (_OUTPUT, PayloadType.STDERR.value, PayloadType.EXIT_CODE.value)


class DataChannel:
    """One session with an agent. Times are in seconds, on any clock that does not go back.

    ``client_id`` is a UUID, ``seed`` 16 random bytes, and ``nonce`` gives 12 for each message that
    is encrypted, never the same; ``wall_clock`` gives milliseconds since the epoch. ``shell`` says
    that the session may begin without a handshake, as shells do. ``port`` is there once it has
    begun: what streams are opened in, be it a port's, a shell's or a command's. While ``writable``
    is false, only acknowledgements and control messages are sent. ``keep_alive`` has something sent
    that changes nothing whenever nothing was for so many seconds: a NOP frame on a multiplexed
    port, the terminal's size again on a shell.
    """

    def __init__(
        self,
        *,
        client_id: str,
        seed: bytes,
        nonce: Callable[[], bytes],
        wall_clock: Callable[[], int],
        shell: bool = False,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        keep_alive: float | None = None,
    ) -> None:
        self._client_id = client_id
        self._wall_clock = wall_clock
        self._keep_alive = keep_alive
        self._gap_since: float | None = None
        self._size = DEFAULT_SIZE
        self._size_due: float | None = None
        self._message_ids = message_ids(seed)
        self._sender = StreamSender(MessageType.INPUT_STREAM_DATA, self._message_ids)
        self._receiver = StreamReceiver(self._process)
        self._to_acknowledge: list[AgentMessage] = []
        self._control: list[tuple[PayloadType, bytes]] = []
        self._opened = False
        self._paused = False
        self._events: list[Event] = []
        self._ended: ChannelEnded | None = None
        self._opening = Opening(
            send=self._send_control,
            probe=self._send_probe,
            needs=self._needs,
            begun=self._begin,
            nonce=nonce,
            shell=shell,
            timeout=handshake_timeout,
        )
        self.writable = True
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
        self._opening.connected(now)
        self._opened = True
        self._paused = False
        first = OpenDataChannel("1.0", request_id, token, self._client_id, CLIENT_VERSION)
        return msgspec.json.encode(first).decode()

    def interrupted(self) -> None:
        """The WebSocket is lost."""
        self._opening.interrupted()

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
        if not self._opening.flowing:
            self._opening.burst_ended(self.acknowledged, now)
        if not self._receiver.has_gap:
            self._gap_since = None
        elif self._gap_since is None:
            self._gap_since = now
        if isinstance(self.port, BasicPort) and self._sender.idle and not self._receiver.has_gap:
            # What closes a gap is still the old connection's.
            self.port.disconnected()

    def events(self) -> list[Event]:
        """What has happened since the last call; call again until there is nothing more.

        The session's end comes last: what has come before it may have waited for a stream.
        """
        events, self._events = self._events, []
        if not events and self._ended is not None:
            events, self._ended = [self._ended], None
        return events

    def end(self) -> None:
        """The session is over, and nothing more is told. Streams that have got all end in order."""
        self._events.clear()
        self._ended = None
        if self.closed and isinstance(self.port, BasicPort) and not self._receiver.has_gap:
            self.port.ended()

    def open_stream(self) -> MuxStream | PortStream | None:
        """A new stream of the session; None where it has one and can't have two."""
        if self.port is None:
            raise LocalProtocolError("the session has not begun yet")
        stream = self.port.open_stream()
        if (message := self._receiver.drain()) is not None:
            self._to_acknowledge.append(message)
        return stream

    def open_error_stream(self) -> PortStream:
        """The stream of a command's standard error; call this before ``open_stream``."""
        if not isinstance(self.port, ShellPort):
            raise LocalProtocolError("only shells and commands have standard error")
        return self.port.open_error_stream()

    def data_key_received(self, data_key: bytes, encrypted: bytes) -> None:
        """The answer to DataKeyNeeded: what KMS has made, in plain and encrypted.

        Raises HandshakeError for a key of another size.
        """
        self._opening.data_key_received(data_key, encrypted)

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
            if self.port is not None and self._opening.flowing:
                self._send_data(out, self.port, created_date, now)
        return out

    def set_size(self, columns: int, rows: int, now: float) -> None:
        """Have a shell told the size of its terminal, in characters, as soon as it can be."""
        changed, self._size = (columns, rows) != self._size, (columns, rows)
        if changed and self._opening.flowing and isinstance(self.port, ShellPort):
            self._send_size(now)

    def terminate(self) -> bool:
        """Have ``data_to_send`` ask the agent to end the session.

        False where it would not understand: only the TerminateSession call ends shells, commands
        and the sessions of old agents.
        """
        if not self.ready or self.closed or not self.handshake.knows_terminate_flag:
            return False
        self._control.append((PayloadType.FLAG, encode_flag(Flag.TERMINATE_SESSION)))
        return True

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        due = self._sender.get_timer()
        opening = None if self._opening.flowing else self._opening.get_timer()
        for timer in (opening, self._port_timer(), self._size_due):
            if timer is not None and (due is None or timer < due):
                due = timer
        return due

    def handle_timer(self, now: float) -> None:
        """Time has passed; ``data_to_send`` may have something now. Raises HandshakeError."""
        if not self._opening.flowing:
            self._opening.handle_timer(now)
            if self._opening.flowing and isinstance(self.port, ShellPort):
                self._send_size(now)
        if self._size_due is not None and now >= self._size_due:
            self._send_size(now)
        self._sender.handle_timer(now)

    def reading_resumed(self, now: float) -> None:
        """We did not read for a while, so missing acknowledgements mean nothing.

        Nothing says that reading has stopped: the driver keeps its timer back meanwhile.
        """
        self._sender.postpone(now)

    @property
    def handshake(self) -> Handshake:
        """What the agent has announced."""
        return self._opening.handshake

    @property
    def ready(self) -> bool:
        """Whether the session has begun."""
        return self.port is not None

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
        size = PayloadType.SIZE, encode_size(*self._size)
        if self._control and self._control[-1][0] == PayloadType.SIZE:
            self._control[-1] = size  # nobody has seen the one before
        else:
            self._control.append(size)
        if self._keep_alive is not None:
            self._size_due = now + self._keep_alive

    def _send_probe(self) -> int:
        number = self._sender.next_number + len(self._control)
        self._send_control(PayloadType.SIZE, encode_size(*self._size))
        return number

    def _send_control(self, payload_type: PayloadType, payload: bytes) -> None:
        self._control.append((payload_type, payload))

    def _needs(self, needed: DataKeyNeeded) -> None:
        self._events.append(needed)

    def _port_timer(self) -> float | None:
        """When the port wants to send; no use while it can't."""
        due = None if self.port is None else self.port.get_timer()
        if due is None or not (self._opening.flowing and self.writable and self._sender.may_send):
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
            if (encryption := self._opening.encryption) is not None:
                payloads = [encryption.encrypt(payload) for payload in payloads]
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
            if not self.closed:
                self._ended = ChannelEnded(output)
            if self.port is None and not output:
                # A command that had nothing to say has ended before it was found to be one.
                self._opening.output_came()
            self.closed = True

    def _process(self, message: AgentMessage) -> bool:
        """Take the next message of the agent's stream, unless there is nobody to take it yet."""
        if message.payload_type in _SESSION_DATA:
            port = self.port
            if port is None or not port.ready:
                if port is None:
                    self._opening.output_came()
                return False
            payload = message.payload
            if (encryption := self._opening.encryption) is not None:
                payload = encryption.decrypt(payload)
            if message.payload_type == _OUTPUT:
                port.receive(payload)
            else:
                self._receive_command_data(message.payload_type, payload)
        elif message.payload_type == PayloadType.FLAG:
            self._receive_flag(message)
        elif not self._opening.receive(message.payload_type, message.payload):
            # Well-formed, in its turn and of no use to us: refusing it would stop all else.
            self.invalid_messages += 1
        return True

    def _receive_command_data(self, payload_type: int, payload: Buffer) -> None:
        if not isinstance(self.port, ShellPort):
            self.invalid_messages += 1
        elif payload_type == PayloadType.STDERR:
            self.port.receive_error(payload)
        else:
            self.port.receive_exit_code(payload)
            try:
                self._events.append(ExitCode(decode_exit_code(payload)))
            except RemoteProtocolError:
                self.invalid_messages += 1

    def _receive_flag(self, message: AgentMessage) -> None:
        try:
            flag = decode_flag(message.payload)
        except RemoteProtocolError:
            self.invalid_messages += 1
            return
        if flag == Flag.CONNECT_TO_PORT_ERROR and self.port and self.handshake.is_port:
            self.port.connect_failed()

    def _begin(self) -> None:
        handshake = self.handshake
        if handshake.multiplexes:
            self.port = Multiplexer(keep_alive=self._keep_alive_interval())
        elif handshake.is_port:
            self.port = BasicPort(reusable=handshake.is_port_forward)
        else:
            self.port = ShellPort()
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
