"""Reads and writes descriptors of any kind on POSIX: never waiting, and never changing them.

Standard input and output belong to whoever started us, too. ``O_NONBLOCK`` is a property of the
open file description that all of them share: set, it makes a shell's ``cat`` or our own next
``print`` fail, and it stays when we are killed. The loops' pipe transports set it, and so does
uvloop's ``add_reader``. Here it is set on descriptions of our own only:

- a pipe, FIFO or terminal is opened again (Linux: through /proc), not to wait;
- a socket can't be, but can be told call by call not to wait;
- what epoll refuses (regular files, /dev/null and the like) never waits for long: it is read and
  written in chunks, between which the loop goes on;
- what is left, as a pipe or terminal of another user (sudo, su), is read when it is ready, and
  written in pieces while there is room. A terminal may have less room than a piece needs: writing
  then waits for the terminal, as ssh does.

See watch.py for how readiness is found without the loops' help.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import stat
import sys
from collections.abc import Callable
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE

if sys.platform != "win32":
    from .watch import Watch

assert sys.platform != "win32"  # noqa: S101 - for the type checker; see console.py

# What a pipe usually holds; and little enough for the loop's other work in between.
CHUNK = 64 * 1024
# No more than this is written without waiting wherever there is room at all.
PIECE = select.PIPE_BUF
# The controlling end of a pseudo-terminal on Linux: opening that again makes another one.
_PTMX = os.makedev(5, 2)


class Input:
    """Gives ``received`` what it reads, and then ``ended`` None or what went wrong, once.

    It reads nothing before ``resume``.
    """

    def __init__(
        self,
        descriptor: int,
        received: Callable[[bytes], None],
        ended: Callable[[OSError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = received
        self._ended = ended
        self._handle: asyncio.Handle | None = None
        self._watching = False
        self._file = _Description(descriptor, os.O_RDONLY)
        self._watch = _watch(self._file, EVENT_READ)

    def resume(self) -> None:
        """Read on."""
        if self._handle is not None or self._watching:
            return
        if self._watch is not None and self._file.waits:
            self._wait()
        else:
            # As far as it goes before waiting: a FIFO whose writers were gone when it was opened
            # here has an end, but no event that tells of it.
            self._handle = self._loop.call_soon(self._read)

    def pause(self) -> None:
        """Read nothing until ``resume``."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._watch is not None and self._watching:
            self._watch.stop()
            self._watching = False

    def close(self) -> None:
        """Read nothing any more."""
        self.pause()
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        self._file.close()

    def _wait(self) -> None:
        if self._watch is not None and not self._watching:
            self._watch.start(self._read)
            self._watching = True

    def _read(self) -> None:
        self._handle = None
        try:
            data = self._file.read(CHUNK)
        except BlockingIOError:
            self._wait()
        except OSError as error:
            # nohup gives a standard input that can't be read. A terminal that is gone has no more.
            no_more = error.errno == errno.EBADF or (error.errno == errno.EIO and self._watch)
            self.close()
            self._ended(None if no_more else error)
        else:
            if not data:
                self.close()
                self._ended(None)
                return
            if not self._watching:
                self._handle = self._loop.call_soon(self._read)
            self._received(data)


class Output:
    """Writes what can be written at once, and keeps the rest until it can.

    ``relieved`` is called when less is left, ``lost`` once with what went wrong: BrokenPipeError
    as soon as the reader is gone, even when there is nothing to write.
    """

    def __init__(
        self, descriptor: int, relieved: Callable[[], None], lost: Callable[[OSError], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._relieved = relieved
        self._lost = lost
        self._closed = False
        self._buffer = bytearray()
        self._handle: asyncio.Handle | None = None
        self._file = _Description(descriptor, os.O_WRONLY)
        self._watch = _watch(self._file, 0)
        if self._watch is not None:
            self._watch.start(self._look)

    @property
    def size(self) -> int:
        """How many bytes are left to be written."""
        return len(self._buffer)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it, now or later."""
        if self._closed:
            return
        if self._buffer:
            self._buffer += data
            return
        written = self._send(data)
        if not self._closed:
            self._buffer += memoryview(data)[written:]
            self._go_on()

    def close(self) -> None:
        """Drop what is left, and write nothing any more."""
        self._closed = True
        self._buffer.clear()
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._watch is not None:
            self._watch.stop()
            self._watch.close()
            self._watch = None
        self._file.close()

    def _go_on(self) -> None:
        if self._watch is not None:
            self._watch.expect(EVENT_WRITE if self._buffer else 0)
        elif self._buffer:
            self._handle = self._loop.call_soon(self._flush)

    def _look(self) -> None:
        if self._watch is not None and self._watch.look().gone:
            self._lose(BrokenPipeError(errno.EPIPE, "nobody reads the output any more"))
        elif self._buffer:
            self._flush()

    def _flush(self) -> None:
        self._handle = None
        written = self._send(bytes(memoryview(self._buffer)[:CHUNK]))
        if self._closed:
            return
        del self._buffer[:written]
        self._go_on()
        if written:
            self._relieved()

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        """Write what goes without waiting: how much that was."""
        try:
            if self._watch is None:
                return self._file.write(memoryview(data)[:CHUNK])
            if self._file.waits:
                return self._send_pieces(self._watch, memoryview(data)[:CHUNK])
            return self._file.write(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            self._lose(error)
            return 0

    def _send_pieces(self, watch: Watch, data: memoryview) -> int:
        """Write as long as there is room."""
        watch.expect(EVENT_WRITE)
        sent = 0
        while sent < len(data) and watch.look().ready:
            sent += self._file.write(data[sent : sent + PIECE])
        return sent

    def _lose(self, error: OSError) -> None:
        self._lost(error)
        self.close()


class _Description:
    """An open file that is read or written without waiting, where there is a way.

    ``waits`` is whether there is none.
    """

    def __init__(self, descriptor: int, access: int) -> None:
        mode = os.fstat(descriptor).st_mode
        self.is_regular = stat.S_ISREG(mode)
        self.number = descriptor
        self.waits = os.get_blocking(descriptor)
        self._own = _open_again(descriptor, access)
        self._socket: socket.socket | None = None
        self.read: Callable[[int], bytes]
        self.write: Callable[[bytes | bytearray | memoryview], int]
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(descriptor))
            self.read = partial(_receive, self._socket)
            self.write = partial(_send, self._socket)
            self.waits = False
            return
        if self._own is not None:
            self.number = self._own
            self.waits = False
        self.read = partial(os.read, self.number)
        self.write = partial(os.write, self.number)

    def close(self) -> None:
        """Close what is our own."""
        if self._socket is not None:
            self._socket.close()
        if self._own is not None:
            os.close(self._own)
            self._own = None


def _receive(sock: socket.socket, size: int) -> bytes:
    return sock.recv(size, socket.MSG_DONTWAIT)


def _send(sock: socket.socket, data: bytes | bytearray | memoryview) -> int:
    return sock.send(data, socket.MSG_DONTWAIT)


def _open_again(descriptor: int, access: int) -> int | None:
    """Open the same pipe or terminal once more, for ourselves, not to wait; None where we can't."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE not in (access, os.O_RDWR):
        return None  # a pipe's other end isn't what was meant
    try:
        status = os.fstat(descriptor)
        if stat.S_ISFIFO(status.st_mode) and sys.platform == "linux":
            path = f"/proc/self/fd/{descriptor}"
        elif os.isatty(descriptor) and status.st_rdev != _PTMX:
            linux = sys.platform == "linux"
            path = f"/proc/self/fd/{descriptor}" if linux else os.ttyname(descriptor)
        else:
            return None
        return os.open(path, access | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None  # another user's, or there is no /proc


def _watch(file: _Description, events: int) -> Watch | None:
    """Watch it; None for what is always ready, as a regular file."""
    if file.is_regular:
        return None
    try:
        return Watch(file.number, events)
    except OSError:
        return None
