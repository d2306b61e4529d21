"""Lines on stdout and stderr that never hold anything up, whoever reads them or does not."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TextIO

# Characters. What has room for anything has room for so many of any kind: for PIPE_BUF bytes.
PIECE = 1000


def write(stream: TextIO | None, text: str, end: str = "\n") -> bool:
    """Print a line, unless its reader has read nothing for long; whether it still has a reader.

    Bytes go on moving while nobody reads what we tell of them.
    """
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)] or [""]
    pieces[-1] += end
    try:
        for piece in pieces:
            if stream is None or not can_write(stream):
                break
            print(piece, end="", file=stream, flush=True)
    except OSError:
        if stream is not None:
            # What is still buffered must not fail at the exit.
            with contextlib.suppress(OSError):
                abandon(stream.fileno())
        return False
    return True


def can_write(stream: TextIO) -> bool:
    """Whether a few lines can be written now: many callers read none once the port is open."""
    if sys.platform == "win32":
        return True  # there is no way to ask
    import select

    try:
        return bool(select.select((), (stream,), (), 0)[1])
    except (ValueError, OSError):
        return True  # it has no descriptor, and no reader to wait for


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
