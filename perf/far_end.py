"""A far end in a process of its own, faster than any client: what is measured is the client.

    python -m perf.far_end CA_FILE

It prints the ports it listens on, for ``ws`` and for ``wss``, writes the certificate of its
authority to CA_FILE, and ends when its standard input does. Everything is answered in one write
for each read from the socket, in frames of its own making; but on the ports ``aiohttp ws`` and
``aiohttp wss`` a server of aiohttp sends each message back. The path says what a WebSocket is:

``/raw``, ``/mux``
    a session, which ends in streams that take orders: see far_agent.py.
``/bare``
    messages that nobody looks into, for calibration; a text says what to do until the next one.
    ``A n`` answers each message with one of n bytes; ``S n m`` sends n messages of m bytes, each
    message that comes being the answer to one; ``E`` sends each message back.
"""

import asyncio
import json
import signal
import ssl
import sys
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha1
from pathlib import Path
from struct import Struct
from typing import Protocol, cast

import trustme
import uvloop
from aiohttp import WSMsgType, web
from aiohttp._websocket.helpers import websocket_mask

from perf.far_agent import WINDOW, Agent

HOST = "127.0.0.1"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_LENGTH_16 = Struct(">BBH")
_LENGTH_64 = Struct(">BBQ")
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x81, 0x82, 0x88, 0x89, 0x8A


class Side(Protocol):
    """What a WebSocket leads to."""

    ended: bool

    def receive_text(self, text: bytearray) -> None:
        """A text message."""

    def receive(self, data: bytearray) -> None:
        """A binary message."""

    def take(self) -> Sequence[bytes | bytearray]:
        """What to send after a burst."""


class Bare:
    """Messages without a meaning."""

    ended = False

    def __init__(self) -> None:
        self._received = 0
        self._in_flight = 0
        self._left = 0
        self._message = b""
        self._out: list[bytes | bytearray] = []
        self._echoes = False

    def receive_text(self, text: bytearray) -> None:
        """What to do from now on."""
        letter, *numbers = text.decode().split()
        self._echoes = letter == "E"
        self._in_flight = 0
        if letter == "A":
            self._left = 0
            self._message = bytes(int(numbers[0]))
        elif letter == "S":
            self._left = int(numbers[0])
            self._message = bytes(int(numbers[1]))

    def receive(self, data: bytearray) -> None:
        """Count, or echo."""
        if self._echoes:
            self._out.append(data)
        elif self._in_flight:
            self._in_flight -= 1
        else:
            self._out.append(self._message)

    def take(self) -> Sequence[bytes | bytearray]:
        """Answers, or what the window allows of what is to be sent."""
        if self._left:
            size = min(self._left, WINDOW - self._in_flight)
            self._in_flight += size
            self._left -= size
            return [self._message] * size
        out, self._out = self._out, []
        return out


class Connection(asyncio.Protocol):
    """One WebSocket, from its HTTP request on."""

    def __init__(self) -> None:
        self._side: Side | None = None
        self._early = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._early:
            data = self._early + data
        if self._side is None:
            head, end, data = data.partition(b"\r\n\r\n")
            if not end:
                self._early = head
                return
            self._side = self._upgrade(head)
        used = self._receive_frames(data, self._side)
        self._early = data[used:]
        parts: list[bytes | bytearray] = []
        for message in self._side.take():
            parts += _header(_BINARY, len(message)), message
        self._transport.write(b"".join(parts))
        if self._side.ended:
            self._transport.close()

    def pause_writing(self) -> None:
        """The window bounds what is buffered."""

    def _upgrade(self, head: bytes) -> Side:
        request, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): text.strip() for name, _, text in (n.partition(":") for n in lines)
        }
        key = headers["sec-websocket-key"].encode()
        accept = b64encode(sha1(key + _GUID).digest())
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        kind = request.split()[1].strip("/")
        return Bare() if kind == "bare" else Agent(kind)

    def _receive_frames(self, data: bytes, side: Side) -> int:
        """Whole, masked frames; how many bytes they have."""
        position, end = 0, len(data)
        while end - position >= 6:
            size, start = data[position + 1] & 0x7F, position + 6
            if size == 126:
                size, start = int.from_bytes(data[position + 2 : position + 4]), position + 8
            elif size == 127:
                size, start = int.from_bytes(data[position + 2 : position + 10]), position + 14
            if start + size > end:
                break
            payload = bytearray(data[start : start + size])
            websocket_mask(data[start - 4 : start], payload)
            if data[position] == _BINARY:
                side.receive(payload)
            else:
                self._receive_other(data[position], payload, side)
            position = start + size
        return position

    def _receive_other(self, first: int, payload: bytearray, side: Side) -> None:
        if first == _TEXT:
            side.receive_text(payload)
        elif first == _PING:
            self._transport.write(_header(_PONG, len(payload)) + payload)
        elif first == _CLOSE:
            self._transport.write(_header(_CLOSE, len(payload)) + payload)
            self._transport.close()
        else:
            raise ValueError("a frame that is not expected")


def _header(first: int, size: int) -> bytes:
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return _LENGTH_16.pack(first, 126, size)
    return _LENGTH_64.pack(first, 127, size)


def tls(ca_file: Path) -> ssl.SSLContext:
    """A server's context, whose authority is written to ``ca_file``."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(str(ca_file))
    return context


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    websocket = web.WebSocketResponse(compress=False)
    await websocket.prepare(request)
    async for message in websocket:
        if message.type is WSMsgType.BINARY:
            await websocket.send_bytes(message.data)
    return websocket


async def serve(ca_file: Path) -> None:
    loop = asyncio.get_running_loop()
    failed = asyncio.Event()

    def fail(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        loop.default_exception_handler(context)
        failed.set()

    loop.set_exception_handler(fail)
    aiohttp_server = web.Server(echo)
    ports = {}
    for scheme, context in (("ws", None), ("wss", tls(ca_file))):
        for name, factory in ((scheme, Connection), (f"aiohttp {scheme}", aiohttp_server)):
            server = await loop.create_server(factory, HOST, 0, ssl=context)
            ports[name] = server.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    waiting = [asyncio.create_task(reader.read()), asyncio.create_task(failed.wait())]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    if failed.is_set():
        # Whoever measures must not wait for an answer that will not come.
        sys.exit("the far end failed")


if __name__ == "__main__":
    # Ctrl-C is for who has started this.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    uvloop.run(serve(Path(sys.argv[1])))
