"""The gateway's end of one WebSocket: bursts joined into one write, and backpressure both ways."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from struct import Struct

from aiohttp import WSMsgType, web

# Unsent bytes beyond this make the other side stop, until they are all gone.
WRITE_LIMIT = 256 * 1024
# A peer gets this long to answer a close frame, in seconds.
CLOSE_TIMEOUT = 2.0

_END = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)
_BINARY = 0x82
_LENGTH16 = Struct(">BBH")
_LENGTH64 = Struct(">BBQ")
_SHORT = 126


class WebSocketSide:
    """One side of a session that is connected by WebSocket.

    ``flow(full)`` is told when what we send piles up and when it no longer does.
    """

    def __init__(
        self, ws: web.WebSocketResponse, transport: asyncio.Transport, flow: Callable[[bool], None]
    ) -> None:
        self._ws = ws
        self._transport = transport
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._draining: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def send(self, data: bytes) -> None:
        """Send a binary message with all others of this turn of the loop."""
        if not self._frames:
            self._loop.call_soon(self._flush)
        self._frames.append(_frame_header(len(data)))
        self._frames.append(data)

    def block(self, blocked: bool) -> None:
        """Stop reading, or go on: the other side takes nothing."""
        if blocked:
            self._may_read.clear()
        else:
            self._may_read.set()

    async def run(self, receive: Callable[[bytes], None]) -> None:
        """Pass each binary message to ``receive`` until the WebSocket ends."""
        while True:
            message = await self._ws.receive()
            if message.type is WSMsgType.BINARY:
                receive(message.data)
            elif message.type in _END:
                return
            if not self._may_read.is_set():
                await self._may_read.wait()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is left and a close frame."""
        self._flush()
        self._may_read.set()
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(code, reason))

    def abort(self) -> None:
        """Cut the connection."""
        self._may_read.set()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait for what close() began, and let go of the rest."""
        if self._closing is not None:
            await self._closing
        if self._draining is not None:
            self._draining.cancel()

    async def _close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._ws.close(code=code, message=reason.encode())
        except TimeoutError:
            self._transport.abort()

    def _flush(self) -> None:
        if not self._frames:
            return
        frames, self._frames = self._frames, []
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(frames))
        if self._transport.get_write_buffer_size() > WRITE_LIMIT and self._draining is None:
            self._flow(True)
            self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        """A ping waits until the transport takes more: aiohttp has no other public way to wait."""
        with suppress(ConnectionError):
            await self._ws.ping()
        self._draining = None
        self._flow(False)


def _frame_header(size: int) -> bytes:
    if size < _SHORT:
        return bytes((_BINARY, size))
    if size < 1 << 16:
        return _LENGTH16.pack(_BINARY, 126, size)
    return _LENGTH64.pack(_BINARY, 127, size)
