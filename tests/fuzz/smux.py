"""The multiplexer against any bytes of the agent, between anything that its streams' owners do.

An input is a program. It runs once with the agent's bytes as they come and once with them in small
pieces: everything that is to be seen must be the same. A plain reading of the byte stream says what
each stream has to get; the independent decoder reads what goes out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from ssmnet.errors import LocalProtocolError, RemoteProtocolError
from ssmnet.protocol import smux
from ssmnet.protocol.smux import Multiplexer, MuxStream
from tests import wire
from tests.fuzz.program import Program, chunk, pieces
from tests.protocol import vectors

SUBJECTS = (smux,)
TOKENS = tuple(
    chunk(wire.frame(command, stream, data))
    for stream in (3, 5)
    for command, data in ((wire.FIN, b""), (wire.PSH, b"data"), (wire.NOP, b""))
)
MAX_STREAMS = 40
MAX_OPENING = 3


@dataclass
class Far:
    """The agent's byte stream, read in the plainest way: all of it, after each piece."""

    rest: bytes = b""
    broken: bool = False
    expected: dict[int, bytearray] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def receive(self, data: bytes, opened: set[int], deaf: set[int]) -> None:
        """``opened`` may get data, ``deaf`` no longer take any."""
        self.rest += data
        while len(self.rest) >= 8 and not self.broken:
            version, command, length, stream = struct.unpack_from("<BBHI", self.rest)
            if version != 1 or command > 3 or (length and command != wire.PSH):
                self.broken = True
                return
            body = self.rest[8 : 8 + length]
            heard = stream in opened and stream not in self.ended
            if command == wire.PSH:
                if heard and stream not in deaf:
                    self.expected.setdefault(stream, bytearray()).extend(body)
                if len(body) < length:
                    # What is missing is a shorter frame, of nobody if nobody heard its beginning.
                    left = length - len(body), stream if heard else 0
                    self.rest = struct.pack("<BBHI", 1, wire.PSH, *left)
                    return
            elif command == wire.FIN and heard:
                self.ended.add(stream)
            self.rest = self.rest[8 + length :]


class Run:
    """One run of a program; ``seen`` is all that an owner or the agent could notice."""

    def __init__(self, data: bytes, *, cut: bool) -> None:
        self.seen: list[object] = []
        self._program = Program(data)
        self._cut = cut
        keep_alive = 5.0 if self._program.byte() & 1 else None
        self._mux = Multiplexer(max_opening=MAX_OPENING, opening_time=1.0, keep_alive=keep_alive)
        self._now = 0.0
        self._streams: list[MuxStream] = []
        self._got: dict[int, bytearray] = {}
        self._written: dict[int, bytearray] = {}
        self._closed: set[int] = set()
        self._aborted: set[int] = set()
        self._broken = False
        self._out = wire.Frames()
        self._far = Far()

    def run(self) -> None:
        while self._program.goes_on() and not self._broken:
            self.STEPS[self._program.byte() % len(self.STEPS)](self)
            self._look()
        if not self._broken:
            self._finish()

    def _receive(self) -> None:
        self._feed(self._program.chunk())

    def _receive_frame(self) -> None:
        command, stream, data = self._program.byte() % 5, self._program.byte(), b""
        if self._streams:
            stream = self._streams[stream % len(self._streams)].id
        if command == wire.PSH:
            data = self._program.chunk()
        self._feed(wire.frame(command, stream, data))

    def _feed(self, data: bytes) -> None:
        opened = {stream.id for stream in self._streams if stream.id in self._out_opened()}
        self._far.receive(data, opened, self._closed)
        try:
            for piece in pieces(data, self._program.byte()) if self._cut else (data,):
                self._mux.receive(piece)
        except RemoteProtocolError:
            self._broken = True
        if not self._cut:
            self._program.byte()
        assert self._broken == self._far.broken

    def _out_opened(self) -> set[int]:
        return {stream for command, stream, _ in self._out.frames if command == wire.SYN}

    def _connect_failed(self) -> None:
        self._mux.connect_failed()

    def _open(self) -> None:
        if len(self._streams) < MAX_STREAMS:
            stream = self._mux.open_stream()
            assert stream.id == 3 + 2 * len(self._streams)
            self._streams.append(stream)

    def _stream(self) -> MuxStream | None:
        place = self._program.byte()
        return self._streams[place % len(self._streams)] if self._streams else None

    def _write(self) -> None:
        stream, data = self._stream(), self._program.chunk()
        if stream is None:
            return
        try:
            stream.write(data)
        except LocalProtocolError:
            assert stream.id in self._closed
        else:
            assert stream.id not in self._closed
            self._written.setdefault(stream.id, bytearray()).extend(data)

    def _close(self) -> None:
        if stream := self._stream():
            self._closed.add(stream.id)
            stream.close()

    def _abort(self) -> None:
        if stream := self._stream():
            self._closed.add(stream.id)
            self._aborted.add(stream.id)
            stream.abort()
            assert not stream.unsent

    def _set_low_water(self) -> None:
        if stream := self._stream():
            stream.low_water = self._program.byte()

    def _take(self) -> None:
        self._take_bytes(self.SIZES[self._program.byte() % len(self.SIZES)])

    def _take_bytes(self, size: int) -> bytes:
        idle = self._mux.idle
        taken = self._mux.take(size, self._now)
        assert len(taken) <= size
        assert not idle or len(taken) <= smux.HEADER.size, "more than a keep-alive of nothing"
        self._out.feed(taken)
        assert not self._out.rest, "what is taken ends within a frame"
        self.seen.append(taken)
        return taken

    def _wait(self) -> None:
        self._now += self._program.byte() / 16

    def _look(self) -> None:
        """Read what came, as a driver does after each burst."""
        for stream in self._mux.touched():
            data = stream.take_received()
            assert not (data and stream.id in self._closed), "nobody is there to read it"
            self._got.setdefault(stream.id, bytearray()).extend(data)
            self.seen.append((stream.id, data, stream.closed_by_peer, stream.refused))
        self.seen.append([(stream.id, stream.unsent) for stream in self._mux.relieved()])
        self.seen.append((len(self._mux), self._mux.idle, self._mux.get_timer(), self._broken))
        assert len(self._mux._partial_header) < smux.HEADER.size
        assert len(self._mux._unanswered) <= MAX_OPENING
        assert len(self._mux) <= len(self._streams)
        for stream in self._streams:
            if stream.id not in self._closed:
                got = self._got.get(stream.id, b"")
                assert got == self._far.expected.get(stream.id, b""), "not what the agent sent"
                assert stream.closed_by_peer == (stream.id in self._far.ended)
            assert not stream.refused or stream.closed_by_peer

    def _finish(self) -> None:
        """With time and room everything that was written goes out, in order."""
        for _ in range(20 * MAX_STREAMS):
            self._now += 1.0
            if not self._take_bytes(70_000) and self._mux.idle:
                break
        assert self._mux.idle
        for stream in self._streams:
            self._check_out(stream)

    def _check_out(self, stream: MuxStream) -> None:
        commands = [command for command, number, _ in self._out.frames if number == stream.id]
        written = bytes(self._written.get(stream.id, b""))
        sent = self._out.data(stream.id)
        assert commands[:1] in ([], [wire.SYN])
        assert commands.count(wire.SYN) == len(commands[:1])
        assert wire.FIN not in commands[:-1]
        assert written.startswith(sent)
        assert not stream.unsent
        if stream.id in self._far.ended or stream.id in self._aborted:
            return
        assert sent == written
        assert (commands[-1] == wire.FIN) == (stream.id in self._closed)

    SIZES = (8, 9, 16, 17, 24, 40, 100, 1024, 1024)
    STEPS = (
        _receive,
        _receive,
        _receive_frame,
        _receive_frame,
        _receive_frame,
        _connect_failed,
        _open,
        _write,
        _close,
        _abort,
        _set_low_water,
        _take,
        _take,
        _wait,
    )


def fuzz(data: bytes) -> None:
    whole, cut = Run(data, cut=False), Run(data, cut=True)
    whole.run()
    cut.run()
    if cut.seen != whole.seen:
        for one, other in zip(whole.seen, cut.seen, strict=True):
            assert one == other, "cut, it reads otherwise"


def seeds() -> list[bytes]:
    """What recorded agents sent to two streams, and a few lives of streams."""
    opening = bytes((0, 6, 6, 11, 7))
    found = []
    for name in vectors.NAMES:
        if name.startswith("port_"):
            data = b"".join(
                line.data[120:]
                for line in vectors.read(name)
                if line.way == "agent->gateway" and line.data and line.data[115] == wire.OUTPUT
            )
            found += [opening + bytes((0,)) + chunk(data[:size]) + b"\7" for size in (40, 2500)]
    lives = (
        # open, write, take, the agent's data, its FIN
        (1, 6, 7, 0, 5, *b"hello", 11, 7, 2, 2, 0, 4, *b"back", 9, 2, 1, 0, 3),
        # more openings than may be unanswered, time, one withdrawn
        (1, 6, 6, 6, 6, 6, 11, 7, 13, 40, 11, 7, 9, 4, 11, 7),
        # refused
        (0, 6, 11, 7, 5, 2, 1, 0, 1),
        # low water and turns
        (
            0,
            6,
            6,
            7,
            0,
            100,
            *bytes(100),
            7,
            1,
            60,
            *bytes(60),
            10,
            0,
            50,
            11,
            5,
            11,
            5,
            8,
            0,
            8,
            1,
        ),
    )
    return sorted({*found, *(bytes(life) for life in lives)})
