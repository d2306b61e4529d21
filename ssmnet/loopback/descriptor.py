"""A process's terminal, pipe or file, with the face of a destination."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from . import child
from .destination import Owner

_READ_SIZE = 65536


class Descriptor:
    """A terminal or pipe that does not block. Nothing is read before resume_reading().

    Whatever can't be written at once makes it unwritable until it is. When it ends it closes itself
    and its owner is told that the connection is lost.
    """

    def __init__(self, connection: int, descriptor: int, owner: Owner) -> None:
        self._connection = connection
        self._descriptor = descriptor
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._closed = False
        self._ending = False
        self._unwritten = bytearray()

    def resume_reading(self) -> None:
        """Read."""
        if not self._reading and not self._closed:
            self._reading = True
            self._loop.add_reader(self._descriptor, self._readable)
            if self._ending:
                self._loop.call_soon(self._readable)

    def pause_reading(self) -> None:
        """Stop reading."""
        if self._reading and not self._closed:
            self._reading = False
            self._loop.remove_reader(self._descriptor)

    def expect_end(self) -> None:
        """Take it for ended as soon as nothing is left to be read."""
        self._ending = True
        if self._reading:
            self._loop.call_soon(self._readable)

    def write(self, data: bytes) -> None:
        """Write ``data``."""
        if self._closed:
            return
        was_full = bool(self._unwritten)
        self._unwritten += data
        if was_full:
            return
        self._write()
        if self._unwritten:
            self._loop.add_writer(self._descriptor, self._writable)
            self._owner.set_writable(self._connection, False)

    def write_eof(self) -> None:
        """Nobody asks that of a terminal."""

    def set_size(self, columns: int, rows: int) -> None:
        """Give the terminal its size."""
        if not self._closed:
            with suppress(OSError):
                child.set_size(self._descriptor, columns, rows)

    def close(self, timeout: float) -> None:  # noqa: ARG002
        """Close at once."""
        if self._closed:
            return
        self.pause_reading()
        self._loop.remove_writer(self._descriptor)
        self._closed = True
        os.close(self._descriptor)

    def _readable(self) -> None:
        if not self._reading or self._closed:
            return
        try:
            data = os.read(self._descriptor, _READ_SIZE)
        except BlockingIOError:
            if not self._ending:
                return
            data = b""
        except OSError:
            # So a terminal ends that no process has open any more.
            data = b""
        if data:
            self._owner.received(self._connection, data)
            if self._ending:
                self._loop.call_soon(self._readable)
        else:
            self.close(0.0)
            self._owner.connection_lost(self._connection, self)

    def _writable(self) -> None:
        self._write()
        if not self._unwritten:
            self._loop.remove_writer(self._descriptor)
            self._owner.set_writable(self._connection, True)

    def _write(self) -> None:
        try:
            written = os.write(self._descriptor, self._unwritten)
        except BlockingIOError:
            return
        except OSError:
            # Nobody is there to read; the end of reading tells.
            written = len(self._unwritten)
        del self._unwritten[:written]


class OutputFile:
    """The file that a process has written to, to be read from its beginning."""

    def __init__(self, connection: int, descriptor: int, owner: Owner) -> None:
        self._connection = connection
        self._descriptor = descriptor
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reading: asyncio.Handle | None = None
        self._complete = False
        self._closed = False
        self._position = 0

    def resume_reading(self) -> None:
        """Read, if the process has ended."""
        if self._complete and self._reading is None and not self._closed:
            self._reading = self._loop.call_soon(self._read)

    def pause_reading(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def expect_end(self) -> None:
        """The process has ended."""
        self._complete = True
        self.resume_reading()

    def write(self, data: bytes) -> None:
        """Nothing can be written."""

    def write_eof(self) -> None:
        """Nothing can be written."""

    def close(self, timeout: float) -> None:  # noqa: ARG002
        """Close at once."""
        if not self._closed:
            self.pause_reading()
            self._closed = True
            os.close(self._descriptor)

    def _read(self) -> None:
        data = child.read_at(self._descriptor, _READ_SIZE, self._position)
        self._position += len(data)
        if data:
            self._reading = self._loop.call_soon(self._read)
            self._owner.received(self._connection, data)
        else:
            self.close(0.0)
            self._owner.connection_lost(self._connection, self)
