"""The multiplexed port session: smux streams, each joined to a TCP connection of its own.

The real agent's habits are the default: it dials one destination after the other, its streams share
one receive budget, and the end of either side closes both directions of a connection. ``ideal``
dials at once, lets each stream have a budget of its own, and keeps half-closed connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from ..errors import RemoteProtocolError
from ..protocol.message import Flag, PayloadType, encode_flag
from .byte_queue import Buffer
from .events import Close, Dial, Event, PauseReading, ResumeReading, Write, WriteEof
from .port import OUTPUT_LIMIT, SETUP_TIME, Port
from .smux_server import SmuxServer

RECEIVE_BUDGET = 4 * 1024 * 1024
IDEAL_STREAM_BUDGET = 16 * 1024 * 1024
ACCEPT_BACKLOG = 1024
IDEAL_DIALS = 64

KEEP_ALIVE_INTERVAL = 10.0
KEEP_ALIVE_TIMEOUT = 30.0


class _Stream:
    __slots__ = ("charged", "fin", "input", "open", "queued", "sent_fin", "writable")

    def __init__(self) -> None:
        self.input: list[memoryview] = []
        self.queued = 0
        # Bytes that count against the budget: what waits for a destination that takes nothing.
        self.charged = 0
        self.open = False
        self.writable = False
        self.fin = False
        self.sent_fin = False


class MuxPort(Port):
    """AWS-StartPortForwardingSession and its kin, with clients and agents that know smux."""

    def __init__(
        self,
        properties: Mapping[str, str],
        *,
        send: Callable[[PayloadType, bytes], None],
        emit: Callable[[Event], None],
        end: Callable[[str], None],
        setup_time: float = SETUP_TIME,
        ideal: bool = False,
        keep_alive: bool = False,
    ) -> None:
        super().__init__(properties, send=send, emit=emit, end=end, setup_time=setup_time)
        self._ideal = ideal
        self._smux = SmuxServer(
            opened=self._stream_opened,
            received=self._stream_received,
            ended=self._stream_ended,
            may_parse=self._may_parse,
        )
        self._streams: dict[int, _Stream] = {}
        self._to_dial: deque[int] = deque()
        self._dialling = 0
        self._charged = 0
        self._touched: dict[int, None] = {}
        self._paused: dict[int, None] = {}
        self._keep_alive = keep_alive
        self._next_keep_alive: float | None = None
        self._frames_seen = 0
        self._heard_at = 0.0

    @property
    def blocked(self) -> bool:
        """Whether the last input has not been written to the far side yet."""
        return self._smux.blocked

    @property
    def has_output(self) -> bool:
        """Whether take() would give something."""
        return len(self._smux.output) > 0

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def take(self, size: int) -> Buffer:
        """At most ``size`` bytes of output."""
        data = self._smux.output.take(size)
        if self._paused and len(self._smux.output) <= OUTPUT_LIMIT // 2:
            for connection in self._paused:
                self._emit(ResumeReading(connection))
            self._paused.clear()
        return data

    def flush(self) -> None:
        """Emit what has been gathered for connections; called at the end of a burst."""
        if self._touched:
            touched, self._touched = self._touched, {}
            for number in touched:
                self._flush_stream(number)

    def stop(self) -> None:
        """The session ends: close what is open."""
        self.flush()
        for number, stream in self._streams.items():
            if stream.open:
                self._emit(Close(number))
        self._streams.clear()
        self._to_dial.clear()
        self.ready = False

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return super().get_timer() if self._next_keep_alive is None else self._next_keep_alive

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        super().handle_timer(now)
        if self._next_keep_alive is not None and now >= self._next_keep_alive:
            self._keep_alive_due(now)

    def dialled(self, connection: int) -> None:
        """A Dial has come about."""
        self._dialling -= 1
        stream = self._streams.get(connection)
        if stream is None:
            self._emit(Close(connection))
        else:
            stream.open = True
            self.set_writable(connection, True)
        self._dial_next()

    def dial_failed(self, connection: int) -> None:
        """A Dial has failed: a flag that names no stream, then the stream's end."""
        self._dialling -= 1
        if connection in self._streams:
            self._send(PayloadType.FLAG, encode_flag(Flag.CONNECT_TO_PORT_ERROR))
            self._smux.close(connection)
            self._forget(connection)
        self._dial_next()

    def received(self, connection: int, data: bytes) -> None:
        """The destination sent ``data``."""
        stream = self._streams.get(connection)
        if stream is None or stream.sent_fin:
            return
        self._smux.send(connection, data)
        if len(self._smux.output) > OUTPUT_LIMIT and connection not in self._paused:
            self._paused[connection] = None
            self._emit(PauseReading(connection))

    def ended(self, connection: int) -> None:
        """The destination ended its sending direction: the real agent closes both."""
        stream = self._streams.get(connection)
        if stream is None:
            return
        if self._ideal and not stream.fin:
            stream.sent_fin = True
            self._smux.close(connection)
        else:
            self.lost(connection)

    def lost(self, connection: int) -> None:
        """The connection is gone, both directions."""
        stream = self._streams.get(connection)
        if stream is None:
            return
        if not stream.sent_fin:
            self._smux.close(connection)
        self._emit(Close(connection))
        self._forget(connection)

    def set_writable(self, connection: int, writable: bool) -> None:
        """The connection's write buffer has become full, or has room again."""
        stream = self._streams.get(connection)
        if stream is None:
            return
        stream.writable = writable
        if writable:
            self._flush_stream(connection)
            self._resume()
        else:
            self._charge(stream, stream.queued)

    def _initialize(self, now: float) -> None:
        self.ready = True
        if self._keep_alive:
            self._heard_at = now
            self._next_keep_alive = now + KEEP_ALIVE_INTERVAL

    def _receive_output(self, payload: Buffer) -> None:
        try:
            self._smux.receive(payload)
        except RemoteProtocolError:
            # The library closes its session, and the agent ends the whole of it without a word.
            self._end("")

    def _stream_opened(self, number: int) -> None:
        if number not in self._streams:
            self._streams[number] = _Stream()
            self._to_dial.append(number)
            self._dial_next()

    def _stream_received(self, number: int, pieces: list[memoryview]) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.fin:
            return
        size = sum(map(len, pieces))
        stream.input += pieces
        stream.queued += size
        if stream.writable:
            self._touched[number] = None
        else:
            self._charge(stream, stream.charged + size)

    def _stream_ended(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            stream.fin = True
            self._touched[number] = None

    def _may_parse(self) -> bool:
        if len(self._to_dial) > ACCEPT_BACKLOG:
            return False
        if not self._ideal:
            return self._charged < RECEIVE_BUDGET
        # smux version 1 has no other way to slow one stream than to stop them all.
        return self._charged < IDEAL_STREAM_BUDGET or all(
            stream.charged < IDEAL_STREAM_BUDGET for stream in self._streams.values()
        )

    def _dial_next(self) -> None:
        limit = IDEAL_DIALS if self._ideal else 1
        while self._to_dial and self._dialling < limit:
            number = self._to_dial.popleft()
            self._dialling += 1
            self._emit(Dial(number, self.addresses, self.port))
        self._resume()

    def _flush_stream(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is None or not stream.open or not stream.writable:
            return
        if stream.input:
            pieces, stream.input = stream.input, []
            stream.queued = 0
            self._charge(stream, 0)
            self._emit(Write(number, b"".join(pieces)))
        if stream.fin:
            self._finish_stream(number, stream)

    def _finish_stream(self, number: int, stream: _Stream) -> None:
        """All that the client sent has been written, and it sends no more."""
        if self._ideal and not stream.sent_fin:
            self._emit(WriteEof(number))
            return
        self._emit(Close(number))
        if not stream.sent_fin:
            self._smux.close(number)
        self._forget(number)

    def _charge(self, stream: _Stream, charged: int) -> None:
        self._charged += charged - stream.charged
        stream.charged = charged

    def _forget(self, number: int) -> None:
        stream = self._streams.pop(number)
        self._paused.pop(number, None)
        self._charge(stream, 0)
        self._resume()

    def _resume(self) -> None:
        try:
            self._smux.resume()
        except RemoteProtocolError:
            self._end("")

    def _keep_alive_due(self, now: float) -> None:
        if self._smux.frames != self._frames_seen:
            self._frames_seen = self._smux.frames
            self._heard_at = now
        if now - self._heard_at >= KEEP_ALIVE_TIMEOUT:
            self._next_keep_alive = None
            self._end("")
        else:
            self._smux.keep_alive()
            self._next_keep_alive = now + KEEP_ALIVE_INTERVAL
