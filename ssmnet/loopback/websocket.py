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
_CLOSE = 0x88
_LENGTH16 = Struct(">BBH")
_LENGTH64 = Struct(">BBQ")
_SHORT = 126


class WebSocketSide:
    """One side of a session that is connected by WebSocket.

    ``flow(full)`` is told when what we send piles up and when it no longer does. ``ws`` must leave
    pings and closes to us, for they may have to wait.
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
        self._ended = asyncio.Event()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._blocked = False
        self._ending = False
        self._deadline: asyncio.TimerHandle | None = None
        # While the link is held: the end of that, and what close() was told meanwhile.
        self._hold: asyncio.TimerHandle | None = None
        self._held_close: tuple[int, str] | None = None
        transport.set_write_buffer_limits(high=WRITE_LIMIT)

    def send(self, data: bytes) -> None:
        """Send a binary message with all others of this turn of the loop."""
        if not self._frames and self._hold is None:
            self._loop.call_soon(self._flush)
        self._frames.append(_frame_header(len(data)))
        self._frames.append(data)

    def block(self, blocked: bool) -> None:
        """Stop reading, or go on: the other side takes nothing."""
        self._blocked = blocked
        self._set_gate()

    def hold(self, seconds: float) -> None:
        """Let nothing pass for so long, not even a pong or a close, as a half-dead link does."""
        if self._ending:
            return
        if self._hold is not None:
            self._hold.cancel()
        self._hold = self._loop.call_later(seconds, self._release)
        self._set_gate()
        self._flow(True)

    async def run(self, receive: Callable[[bytes], None]) -> None:
        """Pass each binary message to ``receive`` until the WebSocket ends."""
        try:
            await self._receive(receive)
            if self._ending:
                self._transport.close()
            else:
                await self._ws.close(drain=False)
        finally:
            self._ended.set()
            if self._deadline is not None:
                self._deadline.cancel()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Send what is left and a close frame."""
        if self._hold is not None:
            self._held_close = self._held_close or (code, reason)
            return
        if self._ending or self._ended.is_set():
            return
        self._flush()
        self._ending = True
        self._set_gate()
        # Not aiohttp's close(): while another task receives, that does not wait for the answer.
        if not self._transport.is_closing():
            self._transport.write(_close_frame(code, reason))
        self._deadline = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)

    def abort(self) -> None:
        """Cut the connection."""
        if self._hold is not None:
            self._hold.cancel()
        self._ending = True
        self._set_gate()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait for what close() or abort() began, and let go of the rest."""
        if self._hold is not None:
            self.abort()
        await self._ended.wait()
        if self._draining is not None:
            self._draining.cancel()

    async def _receive(self, receive: Callable[[bytes], None]) -> None:
        while (message := await self._ws.receive()).type not in _END:
            await self._may_read.wait()
            if message.type is WSMsgType.BINARY:
                receive(message.data)
            elif message.type is WSMsgType.PING:
                with suppress(ConnectionError):
                    await self._ws.pong(message.data)
        await self._may_read.wait()

    def _set_gate(self) -> None:
        if self._ending or not (self._blocked or self._hold is not None):
            self._may_read.set()
        else:
            self._may_read.clear()

    def _release(self) -> None:
        """The link is whole again: what was held passes."""
        self._hold = None
        self._set_gate()
        self._flush()
        if self._draining is None:
            self._flow(False)
        if self._held_close is not None:
            self.close(*self._held_close)

    def _flush(self) -> None:
        if not self._frames or self._hold is not None:
            return
        frames, self._frames = self._frames, []
        if self._ending or self._transport.is_closing():
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
        if self._hold is None:
            self._flow(False)


def _close_frame(code: int, reason: str) -> bytes:
    content = code.to_bytes(2) + reason.encode()
    return bytes((_CLOSE, len(content))) + content


def _frame_header(size: int) -> bytes:
    if size < _SHORT:
        return bytes((_BINARY, size))
    if size < 1 << 16:
        return _LENGTH16.pack(_BINARY, 126, size)
    return _LENGTH64.pack(_BINARY, 127, size)
