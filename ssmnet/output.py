"""Lines on stdout and stderr that never hold anything up, whoever reads them or does not."""

from __future__ import annotations

import os
import sys
from typing import TextIO


def write(stream: TextIO | None, text: str) -> bool:
    """Print a line, unless its reader has read nothing for long; whether it still has a reader.

    Bytes go on moving while nobody reads what we tell of them.
    """
    if stream is None:
        return True
    try:
        if _can_write(stream):
            print(text, file=stream, flush=True)
    except OSError:
        # What is still buffered must not fail at the exit.
        abandon(stream.fileno())
        return False
    return True


def _can_write(stream: TextIO) -> bool:
    """Whether a few lines can be written now: many callers read none once the port is open."""
    if sys.platform == "win32":
        return True  # there is no way to ask
    import select

    return bool(select.select((), (stream,), (), 0)[1])


def abandon(descriptor: int) -> None:
    """Send what goes there nowhere from now on: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
