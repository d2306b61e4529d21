"""WebSocket: binary messages over a connection that aiohttp has made.

aiohttp opens the connection (TLS, proxies, name look-up) and the upgrade's request and response
are its work too. The bytes after it are ours: aiohttp writes each message by itself and hands each
one over through a future, where we join a burst of messages into one write and hand one over by one
call. Measured, that is several times cheaper; see perf/README.md.

The handler of a WebSocket gets the messages that one read from the socket brought all at once, in
``messages_received``.
"""

from __future__ import annotations

import asyncio
import logging
from random import getrandbits
from struct import Struct
from typing import Any

import aiohttp

from .errors import ConnectError, one_line
from .message_socket import Handler

try:
    from aiohttp._websocket.helpers import websocket_mask
except ImportError:  # moved: slower, and the same bytes

    def websocket_mask(mask: bytes, data: bytearray) -> None:
        """XOR ``data`` with the repeated ``mask``, in place."""
        size = len(data)
        key = int.from_bytes((mask * (size // 4 + 1))[:size])
        data[:] = (int.from_bytes(data) ^ key).to_bytes(size)


logger = logging.getLogger("ssmnet.websocket")

# An AgentMessage has little over a kilobyte; nothing that we could use is larger than this.
MAX_MESSAGE_SIZE = 1024 * 1024
# How long a close may take to write what is still buffered.
CLOSE_TIMEOUT = 5.0

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_FIN = 0x80
_MASKED = 0x80
# First byte, length and mask.
_HEADER_7 = Struct(">BBI")
_HEADER_16 = Struct(">BBHI")
_HEADER_64 = Struct(">BBQI")
_UINT16 = Struct(">H")
# Most of what comes is binary, whole, and of a length that takes two bytes.
_HEAD = Struct(">HH")
_WHOLE = _FIN | _BINARY
_MESSAGE = _WHOLE << 8 | 126


class _WebSocketEnd(Exception):
    """The far end has closed the WebSocket."""


class _RuleBroken(_WebSocketEnd):
    """The far end has broken its rules."""


class _EarlyBytes:
    """Collects what came in the same segment as the response to the upgrade."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        """The end is seen by connection_lost."""


class WebSocket(asyncio.Protocol):
    """An open WebSocket. Made by ``connect``.

    ``heard`` is set whenever something comes, if only a pong; whoever wants to know clears it.
    """

    def __init__(
        self,
        http: aiohttp.ClientSession,
        response: aiohttp.ClientResponse,
        handler: Handler,
    ) -> None:
        connection = response.connection
        if connection is None or connection.transport is None or connection.protocol is None:
            response.close()
            raise ConnectError("the gateway closed the connection at once")
        self._http = http
        self._response = response
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._closed: asyncio.Future[asyncio.Task[None]] = self._loop.create_future()
        self._closing = False
        self._parts: list[bytes] = []  # of a frame that has not come whole
        self._parts_size = 0
        self._needed = 0
        self._fragments: list[bytes] | None = None
        self._abort_timer: asyncio.TimerHandle | None = None
        self._aiohttp_protocol: asyncio.Protocol = connection.protocol
        early = _EarlyBytes()
        connection.protocol.set_parser(early, None)
        self._transport: asyncio.Transport = connection.transport
        self._transport.set_protocol(self)
        self.heard = True
        self.reading_paused = False
        if early.data:
            # uvloop may read the socket before it makes this call: the order is kept by _parts.
            self._parts.append(early.data)
            self._parts_size = len(early.data)
            self._loop.call_soon(self.data_received, b"")

    def write(self, messages: list[bytes]) -> None:
        """Send binary messages in one write."""
        if self._closing:
            return
        parts: list[bytes | bytearray] = []
        for message in messages:
            if 126 <= len(message) < 65536:
                # As in _frame, which takes longer to call than this takes.
                key = getrandbits(32)
                masked = bytearray(message)
                websocket_mask(key.to_bytes(4), masked)
                parts += _HEADER_16.pack(_WHOLE, _MASKED | 126, len(message), key), masked
            else:
                parts += _frame(_BINARY, message)
        self._transport.write(b"".join(parts))

    def write_text(self, text: str) -> None:
        """Send one text message."""
        self._write_frame(_TEXT, text.encode())

    def ping(self) -> None:
        """Ask the far end for a sign of life."""
        self._write_frame(_PING, b"")

    @property
    def write_buffer_size(self) -> int:
        """How many bytes wait to be written."""
        return self._transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Stop reading; the far end is slowed by that, and not taken for dead meanwhile."""
        if not self.reading_paused and not self._closing:
            self.reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.reading_paused and not self._closing:
            self.reading_paused = False
            self._transport.resume_reading()

    def close(self) -> None:
        """Close after what was written; the handler hears no more."""
        if not self._closing:
            self._write_frame(_CLOSE, _UINT16.pack(1000))
            self._end()

    def abort(self) -> None:
        """Drop the connection at once; the handler hears no more."""
        self._closing = True
        if not self._closed.done():
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone; after ``close`` or ``abort``, or its loss."""
        await (await asyncio.shield(self._closed))

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As of an asyncio transport: ``peername``, ``socket``, ``ssl_object``..."""
        return self._transport.get_extra_info(name, default)

    # The transport calls these.

    def data_received(self, data: bytes) -> None:
        """Hand over the messages that are whole, and keep the rest."""
        if self._closing:
            return
        self.heard = True
        if self._parts:
            self._parts.append(data)
            self._parts_size += len(data)
            if self._parts_size < self._needed:
                return
            data = b"".join(self._parts)
            self._parts.clear()
        messages: list[bytes] = []
        end: _WebSocketEnd | None = None
        try:
            used = self._receive_frames(data, messages)
            if used < len(data):
                self._parts.append(data[used:])
                self._parts_size = len(data) - used
        except _WebSocketEnd as seen:
            end = seen
        if messages:
            self._handler.messages_received(messages)
        # What came before the end counts: often it says why.
        if end is not None:
            self._fail(str(end), broken=isinstance(end, _RuleBroken))

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        if not self._closing:
            self._handler.pause_writing()

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""
        if not self._closing:
            self._handler.resume_writing()

    def eof_received(self) -> bool:
        """The far end will send nothing more: close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        # aiohttp's connector waits for its own protocol to hear of it.
        self._aiohttp_protocol.connection_lost(exc)
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._response.close()
        self._closed.set_result(self._loop.create_task(self._http.close()))
        if not self._closing:
            self._closing = True
            self._handler.connection_lost(one_line(exc) if exc else "connection closed")

    def _receive_frames(self, data: bytes, messages: list[bytes]) -> int:
        """Add the messages in ``data`` to ``messages``; how many of its bytes are used up."""
        position, end = 0, len(data)
        unpack = _HEAD.unpack_from
        while end - position >= _HEAD.size:
            head, length = unpack(data, position)
            stop = position + _HEAD.size + length
            if head == _MESSAGE and stop <= end and self._fragments is None:
                messages.append(data[position + _HEAD.size : stop])
                position = stop
            elif size := self._receive_frame(data, position, messages):
                position += size
            else:
                return position
        # Of the shortest frames two fit in what is left.
        while end - position >= 2:
            if not (size := self._receive_frame(data, position, messages)):
                return position
            position += size
        self._needed = 2
        return position

    def _receive_frame(self, data: bytes, position: int, messages: list[bytes]) -> int:
        """Take one frame of any kind; how many bytes it has, 0 where they have not all come."""
        first, length = data[position], data[position + 1]
        start = position + 2
        if length >= 126:
            if length > 127:
                raise _RuleBroken("the gateway sent a masked frame")
            start += 2 if length == 126 else 8
            if start > len(data):
                self._needed = start - position
                return 0
            length = int.from_bytes(data[position + 2 : start])
            if length > MAX_MESSAGE_SIZE:
                raise _RuleBroken("the gateway sent a message that is too large")
        stop = start + length
        if stop > len(data):
            self._needed = stop - position
            return 0
        payload = data[start:stop]
        if first == _WHOLE and self._fragments is None:
            messages.append(payload)
        else:
            self._receive_other(first, payload, messages)
        return stop - position

    def _receive_other(self, first: int, payload: bytes, messages: list[bytes]) -> None:
        """A frame that is not a whole binary message."""
        opcode, final = first & 0x0F, bool(first & _FIN)
        if first & 0x70:
            raise _RuleBroken("the gateway sent a frame with reserved bits")
        if opcode >= _CLOSE:
            if not final or len(payload) > 125:
                raise _RuleBroken("the gateway sent a fragmented or long control frame")
            self._receive_control(opcode, payload)
        elif opcode > _BINARY or (opcode == _CONTINUATION) == (self._fragments is None):
            raise _RuleBroken("the gateway sent a frame out of its turn")
        else:
            self._receive_fragment(opcode, payload, final, messages)

    def _receive_fragment(
        self, opcode: int, payload: bytes, final: bool, messages: list[bytes]
    ) -> None:
        if self._fragments is None:
            self._fragments, self._fragments_size = [], 0
            self._fragments_are_text = opcode == _TEXT
        self._fragments.append(payload)
        # Each one counts for more than its bytes: empty ones must not go on for ever.
        self._fragments_size += len(payload) + 64
        if self._fragments_size > MAX_MESSAGE_SIZE:
            raise _RuleBroken("the gateway sent a message that is too large")
        if final:
            message = b"".join(self._fragments)
            self._fragments = None
            # The gateway has nothing to say in text.
            if not self._fragments_are_text:
                messages.append(message)

    def _receive_control(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._write_frame(_PONG, payload)
        if opcode == _CLOSE:
            code = _UINT16.unpack_from(payload)[0] if len(payload) >= 2 else 1005
            text = payload[2:].decode("utf-8", "replace")
            self._write_frame(_CLOSE, payload[:2])
            raise _WebSocketEnd(
                f"the gateway closed the WebSocket with code {code} {text}".rstrip()
            )
        if opcode > _PONG:
            raise _RuleBroken("the gateway sent a frame of an unknown kind")

    def _write_frame(self, opcode: int, payload: bytes) -> None:
        if not self._closing:
            self._transport.write(b"".join(_frame(opcode, payload)))

    def _fail(self, reason: str, *, broken: bool = False) -> None:
        """Give the connection up and tell the handler."""
        if not self._closing:
            self._end()
            self._handler.connection_lost(reason, broken=broken)

    def _end(self) -> None:
        """Take in nothing more, and close when what was written is out."""
        self._closing = True
        self._parts.clear()
        self._abort_timer = self._loop.call_later(CLOSE_TIMEOUT, self._transport.abort)
        self._transport.close()


def _frame(opcode: int, payload: bytes) -> tuple[bytes, bytearray]:
    """A masked frame in two pieces."""
    size = len(payload)
    key = getrandbits(32)
    masked = bytearray(payload)
    websocket_mask(key.to_bytes(4), masked)
    if 126 <= size < 65536:
        return _HEADER_16.pack(_FIN | opcode, _MASKED | 126, size, key), masked
    if size < 126:
        return _HEADER_7.pack(_FIN | opcode, _MASKED | size, key), masked
    return _HEADER_64.pack(_FIN | opcode, _MASKED | 127, size, key), masked
