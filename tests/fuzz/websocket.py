"""The WebSocket's parser against any bytes in any pieces, in memory.

tests/fuzz/test_websocket_fuzz.py does the same over real connections, some thousand times slower.
What must come of the bytes is told by a second reading, by the words of RFC 6455.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import struct
from dataclasses import dataclass, field
from typing import Any, cast

import aiohttp

from ssmnet.websocket import MAX_MESSAGE_SIZE, WebSocket
from tests.fuzz.program import Program, chunk, pieces
from tests.io.raw_gateway import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Recorder,
    close_frame,
    frame,
    unmask,
)
from tests.protocol import vectors

SUBJECTS = (WebSocket,)
TOKENS = (
    frame(b""),
    frame(b"ping", PING),
    frame(b"pong", PONG),
    frame(b"begin", BINARY, final=False),
    frame(b"text", TEXT, final=False),
    frame(b"more", CONTINUATION, final=False),
    frame(b"end", CONTINUATION),
    frame(b"medium", length=126),
    frame(b"long", length=127),
    close_frame(1000, "Bye"),
    struct.pack(">BBQ", 0x82, 127, MAX_MESSAGE_SIZE),
    struct.pack(">BBQ", 0x82, 127, MAX_MESSAGE_SIZE + 1),
)
# How much more of a bad frame may have to come before it is refused.
SIZES = (0, 1, 125, 126, 127, 65535, 65536, MAX_MESSAGE_SIZE, MAX_MESSAGE_SIZE + 1)


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        assert not self.closed, "written to a closed transport"
        self.written += data

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Upgraded(asyncio.Protocol):
    """aiohttp's part of an upgraded connection: response, connection, protocol and session."""

    def __init__(self, early: bytes) -> None:
        self.transport = Transport()
        self.protocol = self.connection = self
        self._early = early

    def set_parser(self, parser: Any, _: object) -> None:
        """As aiohttp does, give the new parser what came behind the response."""
        if self._early:
            parser.feed_data(self._early)

    def close(self) -> Any:
        return asyncio.sleep(0)


class Response(Upgraded):
    def close(self) -> None:
        pass


def websocket_over(early: bytes, handler: Recorder) -> tuple[WebSocket, Transport]:
    """A WebSocket on no network. The only place that knows how one is made."""
    response = Response(early)
    session = cast(aiohttp.ClientSession, Upgraded(b""))
    websocket = WebSocket(session, cast(aiohttp.ClientResponse, response), handler)
    return websocket, response.transport


class Handler(Recorder):
    """``quits_after`` so many messages, in the middle of a burst: by ``abort`` if that is odd."""

    websocket: WebSocket

    def __init__(self, quits_after: int) -> None:
        super().__init__()
        self.bursts = 0
        self._quits_after = quits_after

    def messages_received(self, messages: list[bytes]) -> None:
        assert messages
        for message in messages:
            assert isinstance(message, bytes)
            self._note(message)
            if len(self.messages) == self._quits_after:
                if self._quits_after % 2:
                    self.websocket.abort()
                else:
                    self.websocket.close()
                return
        self.bursts += 1
        if self.bursts % 2:
            self.websocket.pause_reading()
        else:
            self.websocket.resume_reading()


@dataclass
class Reading:
    """What the bytes mean. ``lost``: None where that hangs on a bad frame which is not whole."""

    messages: list[bytes] = field(default_factory=list)
    pongs: list[bytes] = field(default_factory=list)
    closed: bytes | None = None
    lost: bool | None = False


def read(data: bytes) -> Reading:
    """The frames in ``data``, one after the other."""
    reading = Reading()
    fragments: list[bytes] | None = None
    kind = size = 0
    while len(data) >= 2 and not reading.lost:
        first, length = data[0], data[1]
        opcode, final, start = first & 15, first >= 0x80, 2
        bad = bool(length & 0x80 or first & 0x70 or opcode in (3, 4, 5, 6, 7) or opcode > PONG)
        bad |= opcode >= CLOSE and not final
        bad |= opcode == CONTINUATION and fragments is None
        bad |= opcode in (TEXT, BINARY) and fragments is not None
        if length & 0x7F > 125:
            start = 4 if length & 0x7F == 126 else 10
            if len(data) < start:
                reading.lost = None if bad else False
                return reading
            length = int.from_bytes(data[2:start])
        bad |= opcode >= CLOSE and length > 125
        whole = len(data) >= start + length
        if bad or length > MAX_MESSAGE_SIZE:
            reading.lost = True if whole or not bad else None
            return reading
        if not whole:
            return reading
        payload, data = data[start : start + length], data[start + length :]
        if opcode == PING:
            reading.pongs.append(payload)
        elif opcode == CLOSE:
            reading.closed, reading.lost = payload, True
        elif opcode < CLOSE:
            if fragments is None:
                if final and opcode == BINARY:
                    reading.messages.append(payload)
                    continue
                fragments, kind, size = [], opcode, 0
            fragments.append(payload)
            size += len(payload) + 64
            if size > MAX_MESSAGE_SIZE:
                reading.lost = True
            elif final:
                if kind == BINARY:
                    reading.messages.append(b"".join(fragments))
                fragments = None
    return reading


def wire_of(program: Program) -> bytes:
    """The far end's bytes: frames that are right in some ways, and what is left of the program."""
    wire = bytearray()
    frames = program.byte() % 32
    while frames and program.goes_on():
        frames -= 1
        first, form = program.byte(), program.byte()
        if form < 8:
            # Rarely: as large as it gets.
            size = SIZES[program.byte() % len(SIZES)]
            made = frame(bytes(size) if first & 0x40 else b"", length=127 if size > 65535 else 126)
            made = made if first & 0x40 else made[:2] + struct.pack(">H", size & 0xFFFF)
            wire += bytes((first & 0x8F,)) + made[1:]
        else:
            made = frame(program.chunk(), length=(0, 0, 126, 127)[form % 4])
            wire += bytes((first if form > 240 else first & 0x8F,)) + made[1:]
    return bytes(wire) + program.rest()


async def outcome(wire: bytes, cuts: list[bytes], early: bytes, quits_after: int) -> Handler:
    """Feed the pieces to a WebSocket and hold it to its promises."""
    handler = Handler(quits_after)
    websocket, transport = websocket_over(early, handler)
    handler.websocket = websocket
    if early and len(wire) % 2:
        await asyncio.sleep(0)
    for piece in cuts:
        websocket.data_received(piece)
    await asyncio.sleep(0)
    check(handler, transport, wire, quits_after)
    seen = (len(handler.log), len(transport.written))
    if transport.closed:
        websocket.data_received(frame(b"more"))
        websocket.pause_writing()
        websocket.resume_writing()
        websocket.pause_reading()
        websocket.resume_reading()
        websocket.write([b"more"])
        websocket.close()
    websocket.abort()
    websocket.connection_lost(None)
    await websocket.wait_closed()
    assert (len(handler.log), len(transport.written)) == seen, "told, or said, after the end"
    return handler


def check(handler: Handler, transport: Transport, wire: bytes, quits_after: int) -> None:
    reading = read(wire)
    said = frames_of(bytes(transport.written))
    pongs = [payload for opcode, payload in said if opcode == PONG]
    if quits_after and len(reading.messages) >= quits_after:
        assert handler.messages == reading.messages[:quits_after]
        assert quits_after % 2 or said[-1] == (CLOSE, struct.pack(">H", 1000))
        assert pongs == reading.pongs[: len(pongs)]
        assert handler.lost is None
        return
    assert handler.messages == reading.messages
    assert pongs == reading.pongs
    assert reading.lost is None or reading.lost == (handler.lost is not None)
    assert transport.closed == (handler.lost is not None)
    if reading.closed is not None:
        assert said[-1:] == [(CLOSE, reading.closed[:2])]
        assert "with code" in str(handler.lost)
    assert handler.lost is None or handler.log[-1] == f"lost: {handler.lost}"
    assert len(said) == len(pongs) + (reading.closed is not None)


def frames_of(written: bytes) -> list[tuple[int, bytes]]:
    """The client's frames, which are all short: opcode and payload."""
    frames = []
    while written:
        first, second = written[0], written[1]
        assert first & 0x70 == 0
        assert first & 0x80, "fragmented"
        assert second & 0x80, "not masked"
        size = second & 0x7F
        assert size <= 125
        frames.append((first & 15, unmask(written[2:6], written[6 : 6 + size])))
        assert len(written) >= 6 + size
        written = written[6 + size :]
    return frames


async def both(data: bytes) -> None:
    program = Program(data)
    key, quits_after = program.byte(), program.byte() % 8
    early = program.byte() % 64 if key & 1 else 0
    wire = wire_of(program)
    whole = await outcome(wire, [wire], b"", quits_after)
    cuts = pieces(wire[early:], key)
    split = await outcome(wire, cuts, wire[:early], quits_after)
    assert split.log == whole.log, "cut, it reads otherwise"
    assert split.bursts <= len(cuts) + 1


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """One for all inputs: a new one costs more than an input."""
    loop = asyncio.new_event_loop()
    atexit.register(loop.close)
    return loop


def fuzz(data: bytes) -> None:
    event_loop().run_until_complete(both(data))


def seeds() -> list[bytes]:
    """Recorded messages in frames, and what else a gateway may say."""
    recorded = [line.data for line in vectors.read("shell") if line.way == "agent->gateway"]
    messages = b"".join(frame(data, length=126) for data in recorded[:3])
    plain = [b"".join(TOKENS[:3]), b"".join(TOKENS[3:7:3]), messages, *TOKENS, close_frame(1001)]
    plain.append(TOKENS[3] + TOKENS[1] + TOKENS[5] + TOKENS[6] + TOKENS[9])
    plain.append(TOKENS[4] + TOKENS[6] + TOKENS[0])
    as_rest = [bytes((key, 0, key, 0)) + wire for key, wire in enumerate(plain)]
    as_frames = [
        bytes((1, 0, 9, 3, 0x82, 20)) + chunk(b"one") + b"\x89\x14" + chunk(b"two"),
        bytes((2, 1, 0, 2, 0x82, 21)) + chunk(b"first") + b"\x82\x14" + chunk(b"second"),
        *(bytes((3, 0, 0, 2, 0xC2, 0, size, 0x82, 20, 1, 65)) for size in range(len(SIZES))),
        *(bytes((3, 0, 0, 2, 0x82, 0, size, 0x82, 20, 1, 65)) for size in range(len(SIZES))),
    ]
    return as_rest + as_frames
