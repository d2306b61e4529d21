"""Tells a loop when a shared descriptor is ready, or has lost its other end, on POSIX.

The loops' own ``add_reader`` won't do: uvloop's sets ``O_NONBLOCK`` for everyone who shares the
descriptor, and neither loop can wait for a lost end alone, while there is nothing to write. So an
epoll (elsewhere: a kqueue) stands between, and the loop watches that: it leaves the flags of what
is in it alone.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE
from typing import NamedTuple

assert sys.platform != "win32"  # noqa: S101 - for the type checker


class State(NamedTuple):
    """Whether what is expected is ready, and whether the other end is gone."""

    ready: bool
    gone: bool


class Watch:
    """Calls back when a descriptor is ready for what is expected, or its other end is gone.

    Raises OSError for what can't be watched: a regular file, /dev/null.
    """

    def __init__(self, descriptor: int, events: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._events = events
        if sys.platform == "linux":
            self._queue = select.epoll()
        else:
            self._queue = select.kqueue()
        try:
            self._register(new=True)
        except OSError:
            self._queue.close()
            raise

    def start(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` from now on, as long as the state is such."""
        self._loop.add_reader(self._queue.fileno(), callback)

    def stop(self) -> None:
        """Call no more, until ``start``."""
        self._loop.remove_reader(self._queue.fileno())

    def close(self) -> None:
        """Let go of the descriptor, after ``stop``."""
        self._queue.close()

    def expect(self, events: int) -> None:
        """Wait for EVENT_READ or EVENT_WRITE, or with 0 for the loss of the other end alone."""
        if events != self._events:
            self._events = events
            self._register(new=False)

    if sys.platform == "linux":

        def _register(self, new: bool) -> None:
            mask = {0: 0, EVENT_READ: select.EPOLLIN, EVENT_WRITE: select.EPOLLOUT}[self._events]
            if new:
                self._queue.register(self._descriptor, mask)
            else:
                self._queue.modify(self._descriptor, mask)

        def look(self) -> State:
            """Return how it is now."""
            mask = sum(mask for _, mask in self._queue.poll(0))  # there is one at most
            ready = mask & (select.EPOLLIN | select.EPOLLOUT)
            return State(bool(ready), bool(mask & (select.EPOLLERR | select.EPOLLHUP)))

    else:

        def _register(self, new: bool) -> None:
            kind = select.KQ_FILTER_READ if self._events == EVENT_READ else select.KQ_FILTER_WRITE
            # Room for writing is not waited for with 0: it is told once, and not again and again.
            flags = select.KQ_EV_ADD | (0 if self._events else select.KQ_EV_CLEAR)
            changes = [select.kevent(self._descriptor, kind, flags)]
            if not new:
                changes.insert(0, select.kevent(self._descriptor, kind, select.KQ_EV_DELETE))
            self._queue.control(changes, 0)

        def look(self) -> State:
            """Return how it is now."""
            found = self._queue.control(None, 1, 0)
            return State(bool(found), any(one.flags & select.KQ_EV_EOF for one in found))
