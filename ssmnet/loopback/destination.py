"""One TCP connection of the agent to a destination."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

# Beyond this many unsent bytes a destination counts as one that does not read.
WRITE_LIMIT = 65536


class Connection(Protocol):
    """What can be asked of a destination, and of a process's streams."""

    def write(self, data: bytes) -> None:
        """Write ``data``."""

    def write_eof(self) -> None:
        """End our sending direction."""

    def pause_reading(self) -> None:
        """Stop reading."""

    def resume_reading(self) -> None:
        """Read again."""

    def close(self, timeout: float) -> None:
        """Close after what was written has gone, but no later than in ``timeout`` seconds."""


class Owner(Protocol):
    """Who is told what becomes of a connection."""

    def received(self, connection: int, data: bytes) -> None:
        """The destination sent ``data``."""

    def connection_ended(self, connection: int) -> None:
        """The destination ended its sending direction."""

    def connection_lost(self, connection: int, destination: Connection) -> None:
        """The connection is gone."""

    def set_writable(self, connection: int, writable: bool) -> None:
        """The write buffer has become full, or has room again."""


class Destination(asyncio.Protocol):
    """Passes everything to its owner; after close() nothing but the loss."""

    __slots__ = ("_connection", "_early", "_early_end", "_owner", "_transport")

    def __init__(self, connection: int, owner: Owner) -> None:
        self._connection = connection
        self._owner = owner
        # What came before the owner knows of us: uvloop reads once, paused or not.
        self._early: list[bytes] | None = []
        self._early_end = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_LIMIT)
        # Nothing may come before the owner knows that the connection is there.
        self._transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        """Called by the loop."""
        if self._early is not None:
            self._early.append(data)
            self._pause_again()
        elif not self.is_closing():
            self._owner.received(self._connection, data)

    def eof_received(self) -> bool:
        """Called by the loop. What an end means is for the owner to say, so stay open."""
        if self._early is not None:
            self._early_end = True
        elif not self.is_closing():
            self._owner.connection_ended(self._connection)
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop."""
        self._owner.connection_lost(self._connection, self)

    def pause_writing(self) -> None:
        """Called by the loop."""
        self._owner.set_writable(self._connection, False)

    def resume_writing(self) -> None:
        """Called by the loop."""
        self._owner.set_writable(self._connection, True)

    def is_closing(self) -> bool:
        """Whether close() was called, or the connection is lost."""
        return self._transport is None or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write ``data``."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def write_eof(self) -> None:
        """End our sending direction."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write_eof()

    def pause_reading(self) -> None:
        """Stop reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again, for the first time when the owner knows of us."""
        early, self._early = self._early, None
        if self.is_closing():
            return
        if early:
            self._owner.received(self._connection, b"".join(early))
        if self._early_end:
            self._early_end = False
            self._owner.connection_ended(self._connection)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, timeout: float) -> None:
        """Close after what was written has gone, but no later than in ``timeout`` seconds."""
        if self._transport is None:
            return
        if timeout and not self._transport.is_closing():
            self._transport.close()
            if self._transport.get_write_buffer_size():
                asyncio.get_running_loop().call_later(timeout, self._transport.abort)
        elif not timeout:
            self._transport.abort()

    def _pause_again(self) -> None:
        # A pause that did not work is not repeated without a resume before.
        if self._transport is not None:
            self._transport.resume_reading()
            self._transport.pause_reading()
