"""StreamTransport: one byte stream of a session as an asyncio transport.

Writes go into the stream's own queue, from where the session takes them as its window allows. A
protocol that writes faster is paused, and only this one: streams do not slow each other.

A stream has no half-close (see protocol/smux.py), so ``can_write_eof`` is False.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .errors import REFUSED, DestinationRefused, LocalProtocolError
from .protocol.port import PortStream
from .protocol.smux import MuxStream

HIGH_WATER = 64 * 1024
LOW_WATER = HIGH_WATER // 4


class Session(Protocol):
    """What a transport needs of its session; see session.Session."""

    @property
    def session_id(self) -> str:
        """AWS's name for the session."""

    @property
    def sent(self) -> int:
        """How many messages have been sent."""

    @property
    def acknowledged(self) -> int:
        """How many of them, from the first on, are known to have arrived."""

    @property
    def is_undisturbed(self) -> bool:
        """Whether what the agent sends now gets through at once."""

    @property
    def interruptions(self) -> int:
        """How many WebSockets there have been."""

    def flush(self) -> None:
        """Send what may be sent."""

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """As the event loop's."""

    def unread_changed(self, transport: StreamTransport, change: int) -> None:
        """So many bytes more are kept for a protocol that is paused, or fewer."""

    def stream_closed(
        self, transport: StreamTransport, stream: MuxStream | PortStream | None
    ) -> None:
        """A transport has closed its stream, or will not need one any more."""


class StreamTransport(asyncio.Transport):
    """Made by Session.create_stream; ``connection_made`` is called once the stream is open.

    ``sent`` and ``received`` count its bytes. ``on_lost`` may be set, and is called after its
    protocol's ``connection_lost``, as that.
    """

    __slots__ = (
        "_closing",
        "_high_water",
        "_last_message",
        "_low_water",
        "_protocol",
        "_protocol_paused",
        "_reading_paused",
        "_session",
        "_stream",
        "_unread",
        "on_lost",
        "received",
        "sent",
        "unread_size",
    )

    def __init__(self, session: Session, protocol: asyncio.Protocol) -> None:
        # Not the base's __init__: it makes a dict, which ten thousand idle connections do not need.
        self._session = session
        self._protocol = protocol
        self._stream: MuxStream | PortStream | None = None
        self._closing = False
        self._last_message: int | None = None  # of those that carry what was written
        self._protocol_paused = False
        self._reading_paused = False
        self._unread: deque[bytes] | None = None
        self.unread_size = 0
        self.sent = 0
        self.received = 0
        self.on_lost: Callable[[Exception | None], None] | None = None
        self._high_water = HIGH_WATER
        self._low_water = LOW_WATER

    # The write side.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue ``data`` for the destination."""
        stream = self._stream
        if stream is None:
            raise LocalProtocolError("the stream is not open yet")
        if self._closing or not data:
            return
        self._last_message = None
        # memoryview refuses what is no buffer; bytes alone would make five NULs of the number 5.
        data = data if isinstance(data, bytes) else bytes(memoryview(data))
        self.sent += len(data)
        stream.write(data)
        self._session.flush()
        self._pause_protocol(stream)

    def can_write_eof(self) -> bool:
        """False: the agent would close both directions."""
        return False

    def write_eof(self) -> None:
        """Not possible."""
        raise NotImplementedError("a stream of a session can't be closed in one direction")

    def get_write_buffer_size(self) -> int:
        """How many bytes have not been sent; of what was sent, see ``acknowledged`` below."""
        return 0 if self._stream is None else self._stream.unsent

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """The (low, high) marks in bytes."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, as for any asyncio transport."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high}) must be >= low ({low}) and both >= 0")
        self._high_water = high
        self._low_water = low
        if self._stream is not None:
            self._pause_protocol(self._stream)

    # The read side.

    def pause_reading(self) -> None:
        """Hand nothing over; what comes is kept, up to a limit of the session's."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Hand over what has come meanwhile, soon, and go on."""
        if self._reading_paused:
            self._reading_paused = False
            if self._unread or (self._stream is not None and self._stream.closed_by_peer):
                self._session.call_soon(self.deliver)

    def is_reading(self) -> bool:
        """Whether data is handed over as it comes."""
        return not self._reading_paused and not self._closing

    # Ends.

    def close(self) -> None:
        """Close after what was written has been sent."""
        self._close(None)

    def abort(self) -> None:
        """Close at once and drop what was written."""
        self._abort(None)

    def is_closing(self) -> bool:
        """Whether the transport is closing or closed."""
        return self._closing

    def get_protocol(self) -> asyncio.Protocol:
        """The protocol that gets the data."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change the protocol."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("a stream needs an asyncio.Protocol")
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the stream.

        ``session_id``; ``acknowledged``, whether all that was sent has arrived, and an answer would
        get through; ``interruptions``, a number that is another after each; ``exclusive``, whether
        the session's next stream has to wait for the end of this one.
        """
        if name == "exclusive":
            return isinstance(self._stream, PortStream) and self._stream.exclusive
        if name == "session_id":
            return self._session.session_id
        if name == "interruptions":
            return self._session.interruptions
        if name == "acknowledged":
            return self._has_arrived()
        return default

    # The session calls these.

    def open(self, stream: MuxStream | PortStream) -> None:
        """The session has a stream for us."""
        self._stream = stream
        self._call(self._protocol.connection_made, self)

    def deliver(self) -> None:
        """The stream has data or its end for us."""
        stream = self._stream
        if self._closing or stream is None:
            return
        data = stream.take_received()
        self.received += len(data)
        if self._reading_paused or self._unread:
            self._keep(data)
            self._hand_over()
        elif data:
            self._call(self._protocol.data_received, data)
        if stream.closed_by_peer and not self._closing and not self._reading_paused:
            refused = DestinationRefused(REFUSED)
            self._close(refused if stream.refused else None)

    def relieve(self) -> None:
        """The stream's queue has room again."""
        if self._protocol_paused:
            self._protocol_paused = False
            self._call(self._protocol.resume_writing)

    def fail(self, error: Exception) -> None:
        """Close at once, for the session's sake."""
        self._abort(error)

    def lose(self, error: Exception) -> None:
        """The session is over; what has come is handed over first, since there is no later."""
        self._reading_paused = False
        self.deliver()
        while self._reading_paused and not self._closing:
            # It paused again, with more to come.
            self._reading_paused = False
            self.deliver()
        if not self._closing:
            self._closing = True
            self._session.call_soon(self._end, error)

    def _has_arrived(self) -> bool:
        """Whether all that was written is known to have arrived, whatever other streams do."""
        if self._stream is None or self._stream.unsent:
            return False
        if self._last_message is None:
            self._last_message = self._session.sent
        return self._session.is_undisturbed and self._session.acknowledged >= self._last_message

    def _call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call the protocol; one that fails loses its stream, and the session goes on."""
        try:
            callback(*args)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {
                    "message": "a stream's protocol failed",
                    "exception": error,
                    "protocol": self._protocol,
                    "transport": self,
                }
            )
            self._abort(error)

    def _pause_protocol(self, stream: MuxStream | PortStream) -> None:
        if not self._protocol_paused and stream.unsent > self._high_water:
            self._protocol_paused = True
            stream.low_water = self._low_water
            self._call(self._protocol.pause_writing)

    def _keep(self, data: bytes) -> None:
        if data:
            if self._unread is None:
                self._unread = deque()
            self._unread.append(data)
            self._count_unread(len(data))

    def _hand_over(self) -> None:
        """Hand over what was kept, piece by piece: the protocol may pause again."""
        while self._unread and not self._reading_paused and not self._closing:
            data = self._unread.popleft()
            self._count_unread(-len(data))
            self._call(self._protocol.data_received, data)

    def _count_unread(self, change: int) -> None:
        if change:
            self.unread_size += change
            self._session.unread_changed(self, change)

    def _abort(self, error: Exception | None) -> None:
        if self._stream is not None:
            self._stream.abort()
        self._close(error)

    def _close(self, error: Exception | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._unread = None
        self._count_unread(-self.unread_size)
        if self._stream is not None:
            self._stream.close()
        self._session.stream_closed(self, self._stream)
        self._session.call_soon(self._end, error)

    def _end(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if self.on_lost is not None:
                self.on_lost(error)
