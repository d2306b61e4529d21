"""smux version 1: many byte streams over the one byte stream of a port session.

A frame is ``u8 version = 1 | u8 command | u16 length | u32 stream id`` (little-endian) and then
``length`` bytes. Frames and the messages that carry them do not align.

Out is pulled: streams queue what their owners write, and ``Multiplexer.take`` gives them turns of
one payload each, so that a keystroke never waits behind another stream's megabytes; one that had
nothing to send before has the first. A stream that is alone has all of what may be sent now in one
frame: nobody could have come in between. In is cut through: what has come of a PSH frame is handed
on before the frame is complete.

The agent joins every stream to a TCP connection of its own and closes *both* directions of that
when it sees our FIN, so a stream has no half-close: FIN means that we are done with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import IntEnum
from struct import Struct

from ..errors import LocalProtocolError, RemoteProtocolError
from .buffer import Buffer, SendBuffer

HEADER = Struct("<BBHI")
VERSION = 1
# What the agent's library cuts its own frames at.
MAX_FRAME_SIZE = 32 * 1024
# A turn of a stream that is not alone, in bytes: what goes into one message.
TURN = 1024

# The agent answers no SYN. It dials one after the other and queues 1,024 SYNs at the most; one
# more blocks the whole session. So this many may be unanswered, each for so many seconds: a
# connection that stays silent longer was most likely opened all the same.
MAX_OPENING = 256
OPENING_TIME = 1.0

# Agents up to 3.1.1511.0 close a session after 30 s without a frame.
KEEP_ALIVE_INTERVAL = 10.0


class Command(IntEnum):
    """What a frame does."""

    SYN = 0
    FIN = 1
    PSH = 2
    NOP = 3


_PSH = Command.PSH.value  # looked up for each frame, an enum's member is slow


def frame(command: Command, stream_id: int, data: Buffer = b"") -> bytes:
    """One frame as it goes over the wire; at most 65,535 bytes of data."""
    return b"".join((HEADER.pack(VERSION, command, len(data), stream_id), data))


class MuxStream:
    """One byte stream. Made by Multiplexer.open_stream.

    Once ``low_water`` is set, the stream is among ``Multiplexer.relieved()`` when ``unsent`` has
    come down to it. ``closed_by_peer`` says that nothing more comes, ``refused`` that nothing ever
    could.
    """

    __slots__ = (
        "_answered",
        "_buffer",
        "_closing",
        "_multiplexer",
        "_opened",
        "_received",
        "_waiting",
        "closed_by_peer",
        "id",
        "low_water",
        "refused",
    )

    def __init__(self, multiplexer: Multiplexer, stream_id: int) -> None:
        self._multiplexer = multiplexer
        # Only while something is in it: most streams are idle, and there may be ten thousand.
        self._buffer: SendBuffer | None = None
        self._received: list[Buffer] | None = None
        self._waiting = True  # for a turn, or to be opened
        self._opened = False
        self._answered = False
        self._closing = False
        self.id = stream_id
        self.low_water: int | None = None
        self.closed_by_peer = False
        self.refused = False

    @property
    def unsent(self) -> int:
        """The bytes that were written and not yet taken."""
        return 0 if self._buffer is None else self._buffer.size

    def write(self, data: Buffer) -> None:
        """Queue ``data``. It is dropped when the agent has closed the stream: nobody reads it."""
        if self._closing:
            raise LocalProtocolError("a closed stream takes no data")
        if data and not self.closed_by_peer:
            if self._buffer is None:
                self._buffer = SendBuffer()
            self._buffer.append(data)
            self._wait_for_turn()

    def close(self) -> None:
        """Send FIN after all that was written. What still comes is dropped."""
        if not self._closing:
            self._closing = True
            self._received = None
            self._wait_for_turn()

    def abort(self) -> None:
        """Drop what is queued and send FIN, or nothing where SYN has not been sent."""
        self._buffer = None
        if not self._opened and not self.closed_by_peer:
            self._multiplexer._withdraw(self)
            self.closed_by_peer = True
        self.close()

    def take_received(self) -> bytes:
        """All that has come since the last call."""
        received, self._received = self._received, None
        return b"".join(received) if received else b""

    def _wait_for_turn(self) -> None:
        if not self._waiting and not self.closed_by_peer:
            self._waiting = True
            self._multiplexer._beginners.append(self)

    def _receive(self, data: Buffer) -> None:
        if self._closing:
            return
        if self._received is None:
            self._received = []
        self._received.append(data)
        self._multiplexer._touched[self] = None

    def _receive_end(self, refused: bool) -> None:
        self._buffer = None
        self.closed_by_peer = True
        self.refused = refused

    def _open(self) -> bytes:
        """The SYN frame. Data and FIN take turns with those of other streams."""
        self._opened = True
        self._waiting = False
        if self.unsent or self._closing:
            self._wait_for_turn()
        return HEADER.pack(VERSION, Command.SYN, 0, self.id)

    def _take_turn(self, room: int) -> list[Buffer]:
        """Frames of at most ``room`` bytes, which is more than one header's size."""
        self._waiting = False
        parts: list[Buffer] = []
        if self.closed_by_peer:
            return parts
        if self._buffer is not None:
            size = min(self._buffer.size, room - HEADER.size, MAX_FRAME_SIZE)
            parts.append(HEADER.pack(VERSION, _PSH, size, self.id))
            parts += self._buffer.take(size)
            room -= HEADER.size + size
            if not self._buffer.size:
                self._buffer = None
        if self._closing and self._buffer is None and room >= HEADER.size:
            parts.append(HEADER.pack(VERSION, Command.FIN, 0, self.id))
        else:
            self._waiting = self._closing or self._buffer is not None
        return parts


class Multiplexer:
    """The client's end of a multiplexed port session.

    ``refusals`` counts the connections that the destination has refused since it last said
    anything.
    """

    ready = True  # to take what the agent sends, at any time

    def __init__(
        self,
        *,
        max_opening: int = MAX_OPENING,
        opening_time: float = OPENING_TIME,
        keep_alive: float | None = None,
    ) -> None:
        self._max_opening = max_opening
        self._opening_time = opening_time
        self._keep_alive = keep_alive
        self._next_keep_alive: float | None = None
        # The library that the agent uses gives a client odd numbers and adds 2 before the first.
        self._last_id = 1
        self._streams: dict[int, MuxStream] = {}
        self._to_open: deque[MuxStream] = deque()
        self._turns: deque[MuxStream] = deque()
        self._beginners: deque[MuxStream] = deque()  # who had nothing to send before
        self._unanswered: dict[int, float] = {}
        self.refusals = 0
        self._untold_refusals = 0
        self._partial_header = b""
        self._current: MuxStream | None = None
        self._remaining = 0
        self._touched: dict[MuxStream, None] = {}
        self._relieved: list[MuxStream] = []

    def __len__(self) -> int:
        """How many streams the agent has not closed."""
        return len(self._streams)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take."""
        if self._beginners or self._to_open:
            return False
        return not any(stream._buffer is not None or stream._closing for stream in self._turns)

    @property
    def urgent(self) -> int:
        """How many bytes there are of streams that may open now, and of one that begins to send."""
        opening = min(len(self._to_open), self._max_opening - len(self._unanswered))
        size = HEADER.size * opening
        if self._beginners:
            size += 2 * HEADER.size + self._beginners[0].unsent
        return min(TURN, size)

    @property
    def closing(self) -> bool:
        """Whether a stream that we have closed waits for the agent to be done with it.

        The agent answers our FIN with its own when it has written everything to the destination.
        """
        return any(stream._closing for stream in self._streams.values())

    def open_stream(self) -> MuxStream:
        """A new stream. Its SYN goes out by ``take``; nothing ever confirms it."""
        self._last_id += 2
        stream = MuxStream(self, self._last_id)
        self._streams[stream.id] = stream
        self._to_open.append(stream)
        return stream

    def take(self, size: int, now: float, *, urgent: bool = False) -> bytes:
        """Frames to send, at most ``size`` bytes; empty when there is nothing to send.

        ``urgent`` leaves out those who have had their turn; see the property.
        """
        parts: list[Buffer] = []
        due = self._next_keep_alive
        if due is not None and now >= due and size >= HEADER.size:
            parts.append(HEADER.pack(VERSION, Command.NOP, 0, 0))
        room = size - HEADER.size * len(parts)
        while self._to_open and room >= HEADER.size and self._may_open(now):
            stream = self._to_open.popleft()
            self._unanswered[stream.id] = now
            parts.append(stream._open())
            room -= HEADER.size
        while (self._beginners or (self._turns and not urgent)) and room > HEADER.size:
            taken = self._take_turn(room)
            room -= sum(map(len, taken))
            parts += taken
        if self._keep_alive is not None and (parts or self._next_keep_alive is None):
            self._next_keep_alive = now + self._keep_alive
        return b"".join(parts)

    def get_timer(self) -> float | None:
        """When ``take`` is due though nothing was written meanwhile."""
        due = self._next_keep_alive
        if self._to_open and len(self._unanswered) >= self._max_opening:
            opens = next(iter(self._unanswered.values())) + self._opening_time
            due = opens if due is None else min(due, opens)
        return due

    def receive(self, data: Buffer) -> None:
        """Take in any piece of the agent's byte stream; ``data`` must not change afterwards.

        Raises RemoteProtocolError for what is no frame; the session can't go on after that.
        """
        position, end = 0, len(data)
        while position < end:
            if self._remaining:
                piece = data[position : position + self._remaining]
                if self._current is not None:
                    self._current._receive(piece)
                self._remaining -= len(piece)
                position += len(piece)
            elif self._partial_header or end - position < HEADER.size:
                size = min(HEADER.size - len(self._partial_header), end - position)
                self._partial_header += data[position : position + size]
                position += size
                if len(self._partial_header) == HEADER.size:
                    header, self._partial_header = self._partial_header, b""
                    self._receive_header(*HEADER.unpack(header))
            else:
                self._receive_header(*HEADER.unpack_from(data, position))
                position += HEADER.size

    def connect_failed(self) -> None:
        """The agent could not connect a stream: the next one that ends before its first byte."""
        self._untold_refusals += 1

    def touched(self) -> Iterable[MuxStream]:
        """The streams that got data or their end since the last call."""
        if not self._touched:
            return ()
        touched, self._touched = self._touched, {}
        return touched

    def relieved(self) -> Iterable[MuxStream]:
        """The streams whose queue has come down to ``low_water`` since the last call."""
        if not self._relieved:
            return ()
        relieved, self._relieved = self._relieved, []
        return relieved

    def _take_turn(self, room: int) -> list[Buffer]:
        """Who begins to send comes first, and then waits for the others' turns as they do.

        One that has nothing more to send waits for one more turn, or it could begin again at once
        (as in RFC 8290).
        """
        stream = (self._beginners or self._turns).popleft()
        alone = not self._beginners and not self._turns
        taken = stream._take_turn(room if alone else min(room, TURN))
        if stream._waiting or (taken and self._turns and not stream._closing):
            stream._waiting = True
            self._turns.append(stream)
        if stream.low_water is not None and stream.unsent <= stream.low_water:
            stream.low_water = None
            self._relieved.append(stream)
        return taken

    def _may_open(self, now: float) -> bool:
        if len(self._unanswered) < self._max_opening:
            return True
        oldest, since = next(iter(self._unanswered.items()))
        if now < since + self._opening_time:
            return False
        del self._unanswered[oldest]
        return True

    def _withdraw(self, stream: MuxStream) -> None:
        """Forget a stream that the agent has not heard of."""
        del self._streams[stream.id]
        self._to_open.remove(stream)

    def _receive_header(self, version: int, command: int, length: int, stream_id: int) -> None:
        if version != VERSION:
            raise RemoteProtocolError(f"the agent sent a smux frame of version {version}")
        stream = self._streams.get(stream_id)
        if stream is not None and not stream._opened:
            stream = None
        if command == _PSH:
            self._remaining = length
            self._current = stream
            if length and stream is not None:
                self.refusals = 0
                if not stream._answered:
                    stream._answered = True
                    self._answered(stream)
        elif length or command > Command.NOP:
            raise RemoteProtocolError(f"the agent sent a malformed smux frame, command {command}")
        elif command == Command.FIN and stream is not None:
            self._receive_fin(stream)

    def _receive_fin(self, stream: MuxStream) -> None:
        refused = not stream._answered and self._untold_refusals > 0
        if refused:
            self._untold_refusals -= 1
            self.refusals += 1
        self._answered(stream)
        del self._streams[stream.id]
        stream._receive_end(refused)
        self._touched[stream] = None

    def _answered(self, stream: MuxStream) -> None:
        """The agent dials in order: what was opened before this stream has been dialled too."""
        while self._unanswered:
            oldest = next(iter(self._unanswered))
            if oldest > stream.id:
                return
            del self._unanswered[oldest]
