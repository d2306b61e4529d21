"""Lines on stdout and stderr that never hold anything up, whoever reads them or does not."""

from __future__ import annotations

import atexit
import contextlib
import os
import stat
import sys
import time
from typing import TextIO
from weakref import WeakKeyDictionary, WeakSet

# Characters. A pipe that has room for anything has room for so many of any kind: for PIPE_BUF
# bytes.
PIECE = 1000
# Bytes kept for a terminal. A text that was begun is kept whole.
MAX_WAITING = 100_000
# Seconds, where it reads and where it does not. Nothing else tells when there is room: select calls
# a terminal writable that has room for one character, but no write puts the two there that end a
# line.
AGAIN_SOON, AGAIN_AFTER = 0.01, 0.2
LAST_WAIT = 1.0  # s, for a terminal at the exit

# What terminals have had no room for yet.
_waiting: WeakKeyDictionary[TextIO, bytes] = WeakKeyDictionary()
_tried_again: WeakSet[TextIO] = WeakSet()


def write(stream: TextIO | None, text: str, end: str = "\n") -> bool:
    """Print a line, unless its reader has read nothing for long; whether it still has a reader.

    Bytes go on moving while nobody reads what we tell of them. What a terminal has no room for is
    written later.
    """
    if stream is None:
        return True
    try:
        if _is_terminal(stream):
            _write_to_terminal(stream, text + end)
        else:
            _write_pieces(stream, text, end)
    except OSError:
        _abandon(stream)
        return False
    return True


def is_waiting(stream: TextIO) -> bool:
    """Whether a terminal has had no room yet for all that was written."""
    return stream in _waiting


def can_write(stream: TextIO) -> bool:
    """Whether a few lines can be written now: many callers read none once the port is open."""
    return _is_writable(stream, 0)


def is_pipe(stream: TextIO) -> bool:
    """Whether a program reads what is written there, on a system where a loop can watch that."""
    try:
        return sys.platform != "win32" and stat.S_ISFIFO(os.fstat(stream.fileno()).st_mode)
    except OSError:
        return False


def abandon(descriptor: int) -> None:
    """Send what goes there nowhere from now on: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _abandon(stream: TextIO) -> None:
    # What is still buffered must not fail at the exit.
    with contextlib.suppress(OSError, ValueError):
        abandon(stream.fileno())


def _is_writable(stream: TextIO, timeout: float) -> bool:
    if sys.platform == "win32":
        return True  # there is no way to ask
    import select

    try:
        return bool(select.select((), (stream,), (), timeout)[1])
    except (ValueError, OSError):
        return True  # it has no descriptor, and no reader to wait for


def _write_pieces(stream: TextIO, text: str, end: str) -> None:
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)] or [""]
    pieces[-1] += end
    for piece in pieces:
        if not can_write(stream):
            break
        print(piece, end="", file=stream, flush=True)


def _is_terminal(stream: TextIO) -> bool:
    try:
        # The console of Windows is never full.
        return sys.platform != "win32" and os.isatty(stream.fileno())
    except (OSError, ValueError):
        return False


def _write_to_terminal(stream: TextIO, text: str) -> None:
    before = _waiting.get(stream, b"")
    if len(before) > MAX_WAITING:
        return
    _waiting[stream] = before + text.encode(stream.encoding or "utf-8", "replace")
    _write_waiting(stream)
    if is_waiting(stream) and stream not in _tried_again:
        _try_again_later(stream, AGAIN_SOON)


def _write_waiting(stream: TextIO) -> None:
    """Write what there is room for."""
    rest = _waiting.pop(stream, b"")
    while rest and (written := _write_some(stream, rest)):
        rest = rest[written:]
    if rest:
        _waiting[stream] = rest


def _write_some(stream: TextIO, data: bytes) -> int:
    """Write to a terminal what it takes now; how many bytes."""
    own = _open_anew(stream)
    if own is None:
        # It may hold us up, after all: it may have room for less.
        return os.write(stream.fileno(), data[:PIECE]) if can_write(stream) else 0
    try:
        return os.write(own, data)
    except BlockingIOError:
        return 0
    finally:
        os.close(own)


def _open_anew(stream: TextIO) -> int | None:
    """Another descriptor of a terminal: the flags of ours are also those of our caller's.

    None where that is not allowed, as after sudo, or where the terminal has no name here.
    """
    if sys.platform == "win32":
        return None
    try:
        name = os.ttyname(stream.fileno())
        return os.open(name, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:
        return None


def _try_again_later(stream: TextIO, delay: float) -> None:
    from asyncio import get_running_loop  # here, because not all that tell need it

    with contextlib.suppress(RuntimeError):  # without a loop, at the exit
        get_running_loop().call_later(delay, _try_again, stream)
        _tried_again.add(stream)


def _try_again(stream: TextIO) -> None:
    _tried_again.discard(stream)
    before = _waiting.get(stream)
    try:
        _write_waiting(stream)
    except (OSError, ValueError):
        _abandon(stream)
    if is_waiting(stream):
        _try_again_later(stream, AGAIN_AFTER if _waiting[stream] == before else AGAIN_SOON)


@atexit.register
def _write_the_last() -> None:
    deadline = time.monotonic() + LAST_WAIT
    for stream in list(_waiting):
        with contextlib.suppress(OSError, ValueError):
            while is_waiting(stream) and (left := deadline - time.monotonic()) > 0:
                if _is_writable(stream, left):
                    _write_waiting(stream)
