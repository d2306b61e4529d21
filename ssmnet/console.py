"""The Windows console's modes, and its standard input and output, each by a thread.

The loop's pipes there can't be consoles or files, and nothing can be watched: a thread that reads
and one that writes are the only way. They show the same face as descriptor.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

assert sys.platform == "win32"  # noqa: S101 - for the type checker

CHUNK = 64 * 1024

# Names, values and meaning: SetConsoleMode in Microsoft's documentation.
_STD_INPUT_HANDLE, _STD_OUTPUT_HANDLE = -10, -11
_PROCESSED_INPUT, _LINE_INPUT, _ECHO_INPUT, _VIRTUAL_TERMINAL_INPUT = 1, 2, 4, 0x200
_PROCESSED_OUTPUT, _VIRTUAL_TERMINAL_PROCESSING, _NO_AUTO_RETURN = 1, 4, 8
_UTF_8 = 65001


class Modes(NamedTuple):
    """What ``enter_raw`` changes; None where there is no console."""

    input: int | None
    output: int | None
    input_code_page: int
    output_code_page: int


def enter_raw() -> Modes:
    """Have keys given as a terminal gives them, and output taken as one; return what was before."""
    kernel = ctypes.windll.kernel32
    before = Modes(
        _get_mode(_STD_INPUT_HANDLE),
        _get_mode(_STD_OUTPUT_HANDLE),
        kernel.GetConsoleCP(),
        kernel.GetConsoleOutputCP(),
    )
    if before.input is not None:
        cooked = _PROCESSED_INPUT | _LINE_INPUT | _ECHO_INPUT
        _set_mode(_STD_INPUT_HANDLE, before.input & ~cooked | _VIRTUAL_TERMINAL_INPUT)
    if before.output is not None:
        terminal = _PROCESSED_OUTPUT | _VIRTUAL_TERMINAL_PROCESSING | _NO_AUTO_RETURN
        _set_mode(_STD_OUTPUT_HANDLE, before.output | terminal)
    kernel.SetConsoleCP(_UTF_8)
    kernel.SetConsoleOutputCP(_UTF_8)
    return before


def restore(before: Modes) -> None:
    """Undo ``enter_raw``. A console that is gone is no error."""
    kernel = ctypes.windll.kernel32
    if before.input is not None:
        _set_mode(_STD_INPUT_HANDLE, before.input)
    if before.output is not None:
        _set_mode(_STD_OUTPUT_HANDLE, before.output)
    kernel.SetConsoleCP(before.input_code_page)
    kernel.SetConsoleOutputCP(before.output_code_page)


def _handle(number: int) -> Any:
    get = ctypes.windll.kernel32.GetStdHandle
    get.restype = ctypes.c_void_p
    return ctypes.c_void_p(get(number))


def _get_mode(number: int) -> int | None:
    mode = ctypes.c_uint32()
    found = ctypes.windll.kernel32.GetConsoleMode(_handle(number), ctypes.byref(mode))
    return mode.value if found else None


def _set_mode(number: int, mode: int) -> None:
    ctypes.windll.kernel32.SetConsoleMode(_handle(number), mode)


class Input:
    """Gives ``received`` what it reads, and then ``ended`` None or what went wrong, once.

    It reads nothing before ``resume``; one chunk more may be read, and kept, after ``pause``.
    """

    def __init__(
        self,
        descriptor: int,
        received: Callable[[bytes], None],
        ended: Callable[[OSError | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._received = received
        self._ended = ended
        self._reading = self._asked = False
        self._read: bytes | OSError | None = None
        self._turn = threading.Semaphore(0)
        # One that waits for a key must not hold up the process's end.
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self) -> None:
        """Read on."""
        self._reading = True
        if self._read is not None:
            self._loop.call_soon(self._hand_over)
        elif not self._asked:
            self._asked = True
            self._turn.release()

    def pause(self) -> None:
        """Hand over nothing until ``resume``."""
        self._reading = False

    def close(self) -> None:
        """Hand over nothing any more."""
        self.pause()

    def _run(self) -> None:
        read: bytes | OSError = b"-"
        while read and isinstance(read, bytes):
            self._turn.acquire()
            try:
                read = os.read(self._descriptor, CHUNK)
            except OSError as error:
                read = error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._came, read)

    def _came(self, read: bytes | OSError) -> None:
        self._asked = False
        self._read = read
        self._hand_over()

    def _hand_over(self) -> None:
        if not self._reading or self._read is None:
            return
        read, self._read = self._read, None
        if isinstance(read, OSError):
            self._ended(read)
        elif not read:
            self._ended(None)
        else:
            self.resume()
            self._received(read)


class Output:
    """Writes in order, and keeps what has not been written yet.

    ``relieved`` is called when less is left, ``lost`` once with what went wrong. That a reader is
    gone is found when the next bytes are written.
    """

    def __init__(
        self, descriptor: int, relieved: Callable[[], None], lost: Callable[[OSError], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._relieved = relieved
        self._lost = lost
        self._closed = False
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.size = 0
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it, soon."""
        if not self._closed:
            self.size += len(data)
            self._queue.put(bytes(data))

    def close(self) -> None:
        """Drop what is left, and write nothing any more."""
        self._closed = True
        self.size = 0
        self._queue.put(None)

    def _run(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            while (data := self._queue.get()) is not None and not self._closed:
                view = memoryview(data)
                try:
                    while view and not self._closed:
                        view = view[os.write(self._descriptor, view[:CHUNK]) :]
                except OSError as error:
                    self._loop.call_soon_threadsafe(self._fail, error)
                    return
                self._loop.call_soon_threadsafe(self._written, len(data))

    def _written(self, count: int) -> None:
        if not self._closed:
            self.size -= count
            self._relieved()

    def _fail(self, error: OSError) -> None:
        if not self._closed:
            self._lost(error)
            self.close()
