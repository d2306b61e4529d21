"""The far end of a WebSocket byte by byte, and a handler that writes down what it is told.

Nothing here comes from ssmnet: frames are made and read by the words of RFC 6455.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from ssmnet.upgrade import connect
from ssmnet.websocket import WebSocket

TIMEOUT = 10.0
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def frame(payload: bytes, opcode: int = BINARY, *, final: bool = True, length: int = 0) -> bytes:
    """An unmasked frame. ``length`` 126 or 127 asks for the long forms of the length."""
    size = len(payload)
    form = length or (size if size < 126 else 126 if size < 65536 else 127)
    head = bytes((opcode | (0x80 if final else 0), form))
    if form == 126:
        head += struct.pack(">H", size)
    elif form == 127:
        head += struct.pack(">Q", size)
    return head + payload


def close_frame(code: int, reason: str = "") -> bytes:
    return frame(struct.pack(">H", code) + reason.encode(), CLOSE)


def unmask(mask: bytes, masked: bytes) -> bytes:
    return bytes(byte ^ mask[index % 4] for index, byte in enumerate(masked))


def head_of(request: bytes) -> dict[str, str]:
    """Header fields by lower-case name; the request line under the empty name."""
    lines = request.decode("latin-1").split("\r\n")
    fields = {"": lines[0]}
    for line in filter(None, lines[1:]):
        name, _, value = line.partition(":")
        fields[name.lower()] = value.strip()
    return fields


def switching_protocols(request: dict[str, str]) -> bytes:
    key = request["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


@dataclass
class RawPeer:
    """The server's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    request: dict[str, str] = field(default_factory=dict)

    def send(self, *data: bytes) -> None:
        """In one write, and so mostly in one segment."""
        self.writer.write(b"".join(data))

    async def frame(self) -> tuple[int, bytes]:
        """The next frame of the client: opcode and payload. It must be final and masked."""
        async with asyncio.timeout(TIMEOUT):
            first, second = await self.reader.readexactly(2)
            assert first & 0xF0 == 0x80, "fragmented, or with reserved bits"
            assert second & 0x80, "a client's frame must be masked"
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", await self.reader.readexactly(2))
                assert size > 125
            elif size == 127:
                (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
                assert size > 65535
            mask = await self.reader.readexactly(4)
            masked = await self.reader.readexactly(size)
        if size < 4096:
            return first & 0x0F, unmask(mask, masked)
        key = int.from_bytes((mask * (size // 4 + 1))[:size])
        return first & 0x0F, (int.from_bytes(masked) ^ key).to_bytes(size)

    async def rest(self) -> bytes:
        """Everything until the client's end, or nothing after a reset."""
        async with asyncio.timeout(TIMEOUT):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class RawGateway:
    """Accepts connections and answers upgrades when asked to, one after the other."""

    def __init__(self) -> None:
        self.url = ""
        self.port = 0
        self.connections: asyncio.Queue[RawPeer] = asyncio.Queue()
        self.peers: list[RawPeer] = []

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = RawPeer(reader, writer)
        self.peers.append(peer)
        self.connections.put_nowait(peer)

    def drop(self) -> None:
        """Cut all connections."""
        for peer in self.peers:
            peer.writer.transport.abort()

    async def accept(
        self, answer: Callable[[dict[str, str]], bytes] = switching_protocols, early: bytes = b""
    ) -> RawPeer:
        """Take the next connection, and answer its upgrade; ``early`` follows at once."""
        async with asyncio.timeout(TIMEOUT):
            peer = await self.connections.get()
            peer.request = head_of(await peer.reader.readuntil(b"\r\n\r\n"))
        peer.send(answer(peer.request), early)
        return peer


@asynccontextmanager
async def raw_gateway(
    *,
    host: str = "127.0.0.1",
    name: str = "",
    tls: ssl.SSLContext | None = None,
    receive_buffer: int = 0,
) -> AsyncIterator[RawGateway]:
    """``receive_buffer`` makes the system take only so much for a server that does not read."""
    gateway = RawGateway()
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.bind((host, 0))
    server = await asyncio.start_server(gateway.connected, sock=sock, ssl=tls, limit=4096)
    gateway.port = sock.getsockname()[1]
    gateway.url = f"{'wss' if tls else 'ws'}://{name or host}:{gateway.port}/v1/data-channel/s?a=b"
    try:
        yield gateway
    finally:
        server.close()
        gateway.drop()


class Recorder:
    """A handler that writes down what it is told, messages as bytes."""

    def __init__(self) -> None:
        self.log: list[bytes | str] = []
        self._changed = asyncio.Event()

    def messages_received(self, messages: list[bytes]) -> None:
        for message in messages:
            self._note(message)
        self._note("burst ended")

    def pause_writing(self) -> None:
        self._note("pause writing")

    def resume_writing(self) -> None:
        self._note("resume writing")

    def connection_lost(self, reason: str, *, broken: bool = False) -> None:
        self._note(f"lost: {reason}")

    @property
    def messages(self) -> list[bytes]:
        return [entry for entry in self.log if isinstance(entry, bytes)]

    @property
    def lost(self) -> str | None:
        """Why the connection was lost; None while it was not."""
        reasons = [
            entry for entry in self.log if isinstance(entry, str) and entry.startswith("lost: ")
        ]
        assert len(reasons) <= 1, self.log
        return reasons[0].removeprefix("lost: ") if reasons else None

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_lost(self) -> str:
        await self.until(lambda: self.lost is not None)
        return self.lost or ""

    def _note(self, entry: bytes | str) -> None:
        self.log.append(entry)
        self._changed.set()


@asynccontextmanager
async def joined(
    gateway: RawGateway,
    recorder: Recorder | None = None,
    *,
    early: bytes = b"",
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[tuple[WebSocket, RawPeer, Recorder]]:
    """A WebSocket, its far end and its handler."""
    recorder = recorder or Recorder()
    opening = connect(gateway.url, recorder, ssl_context=ssl_context)
    websocket, peer = await asyncio.gather(opening, gateway.accept(early=early))
    try:
        yield websocket, peer, recorder
    finally:
        websocket.abort()
        async with asyncio.timeout(TIMEOUT):
            await websocket.wait_closed()
