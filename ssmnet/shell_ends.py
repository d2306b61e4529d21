"""The two ends that a Shell joins: standard input and output here, the session's stream there."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from .errors import Error
from .stdio import Stdio, open_stdio
from .terminal import is_terminal

# How much is kept for a program that reads slowly, in bytes, before the remote has to wait. Once
# that has ended, its side waits for nobody. A terminal gets no such store: who has pressed ^C wants
# to see no more of what came before.
READ_AHEAD = 64 * 1024 * 1024


class Front(Protocol):
    """Who joins the ends, and is told what becomes of them; see shell.Shell."""

    def connected(self, far: Far) -> None:
        """A stream of the session's is open, so that what is typed can be sent."""

    def heard(self, far: Far, near: Near, data: bytes) -> None:
        """The remote says this."""

    def disconnected(self, error: Exception | None) -> None:
        """There is no stream any more. None says that all has come."""

    def typed(self, data: bytes) -> None:
        """This was typed, or piped."""

    def input_ended(self) -> None:
        """Nothing more will be typed."""

    def output_lost(self, error: Exception) -> None:
        """Nobody reads what the remote says, or it can't be written."""


class Near(asyncio.Protocol):
    """Standard input and output, or standard error alone."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._stdio: Stdio | None = None
        self._input_closed = False
        self.source: asyncio.Transport | None = None
        """Where what is written comes from."""
        self.lost = asyncio.Event()
        """That there is nobody to write to, or nothing left to be written."""
        self.lost.set()

    @property
    def unread(self) -> int:
        """How many bytes its reader has not taken."""
        return 0 if self._stdio is None else self._stdio.get_write_buffer_size()

    def open(self, source: int | None, sink: int) -> None:
        """Take these descriptors. Nothing is read before ``resume_reading``. Raises Error."""
        try:
            self._stdio = open_stdio(self, source, sink)
        except OSError as error:
            raise Error(f"standard input or output can't be used: {error.strerror}") from error
        if not is_terminal(sink):
            self._stdio.set_write_buffer_limits(READ_AHEAD)
        self.lost.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Nothing is read yet."""
        cast(Stdio, transport).pause_reading()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._front.typed(data)

    def eof_received(self) -> bool:
        """The output goes on."""
        self._front.input_ended()
        return True

    def pause_writing(self) -> None:
        """The reader is slow."""
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        """The reader takes more again."""
        if self.source is not None:
            self.source.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The reader is gone, or has all."""
        self._stdio = None
        self.lost.set()
        if exc is not None:
            self._front.output_lost(exc)

    def write(self, data: bytes) -> None:
        """Write it."""
        if self._stdio is not None:
            self._stdio.write(data)

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if self._stdio is not None:
            self._stdio.pause_reading()

    def resume_reading(self) -> None:
        """Read."""
        if self._stdio is not None and not self._input_closed:
            self._stdio.resume_reading()

    def close_input(self) -> None:
        """Read nothing any more: what is typed from now on is for others."""
        self._input_closed = True
        self.pause_reading()

    def close(self) -> None:
        """End when all has been read."""
        if self._stdio is not None:
            self._stdio.close()

    def abort(self) -> None:
        """End now."""
        if self._stdio is not None:
            self._stdio.abort()


class Far(asyncio.Protocol):
    """The session's stream, or that of its standard error; ``near`` gets what comes."""

    def __init__(self, front: Front, near: Near) -> None:
        self._front = front
        self._near = near
        self.transport: asyncio.Transport | None = None
        self.at_line_start = True
        """Whether what was written last ended a line."""

    @property
    def interruptions(self) -> int:
        """A number that is another one after each interruption of the session."""
        return 0 if self.transport is None else int(self.transport.get_extra_info("interruptions"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The session has a stream for us."""
        self.transport = self._near.source = cast(asyncio.Transport, transport)
        self._front.connected(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._front.heard(self, self._near, data)

    def pause_writing(self) -> None:
        """The session takes no more for now."""
        self._near.pause_reading()

    def resume_writing(self) -> None:
        """The session takes more again."""
        self._near.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The session is over, or something went wrong here."""
        self._front.disconnected(exc)

    def write(self, data: bytes) -> None:
        """Send it."""
        if self.transport is not None:
            self.at_line_start = data[-1:] in b"\r\n"
            self.transport.write(data)
