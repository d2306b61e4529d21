"""Whether the program that started this one still runs, for one that makes no sense without it."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import Callable
from functools import partial


def watch_parent(gone: Callable[[], None]) -> None:
    """Have the running loop call ``gone`` when the parent process has ended.

    Never where that can't be watched, nor where this process was detached on purpose: by nohup, or
    into a session of its own.
    """
    if sys.platform == "win32" or _is_detached():
        return
    parent = os.getppid()
    try:
        descriptor, close = open_process(parent)
    except OSError:
        return
    loop = asyncio.get_running_loop()

    def on_end() -> None:
        loop.remove_reader(descriptor)
        close()
        gone()

    loop.add_reader(descriptor, on_end)
    if os.getppid() != parent:
        # It ended before we looked, and the descriptor may be of another.
        on_end()


def _is_detached() -> bool:
    if sys.platform == "win32":
        return False
    return os.getsid(0) == os.getpid() or signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def open_process(pid: int) -> tuple[int, Callable[[], None]]:
    """A descriptor that becomes readable when the process ends, and its end. Raises OSError."""
    if sys.platform == "linux":
        descriptor = os.pidfd_open(pid)
        return descriptor, partial(os.close, descriptor)
    if sys.platform == "darwin":
        queue = select.kqueue()
        flags, end = select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
        queue.control([select.kevent(pid, select.KQ_FILTER_PROC, flags, end)], 0)
        return queue.fileno(), queue.close
    raise OSError("no way to watch a process here")
