"""An asyncio event loop in virtual time: an hour's sleep takes as long as what happens in it.

``run(main())`` is like ``asyncio.run``. Nothing waits: with nothing to do, the loop's clock is
moved to the next timer. The same program gives the same run again, whatever the machine does
beside it.

There is no outside world in virtual time: no sockets, no signals, no other threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from selectors import SelectorKey, SelectSelector
from typing import Any, TypeVar

T = TypeVar("T")

# So many turns of the loop at one moment are a program that goes round in circles.
MAX_TURNS = 100_000


class Deadlock(Exception):
    """No timer is set and nothing can run: whatever is waited for will never come."""


class Livelock(Exception):
    """Something runs again and again, and time does not pass."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose ``time`` starts at 0 and passes only while nothing can run.

    Raises Deadlock where another loop would wait for ever, and Livelock after ``max_turns`` turns
    at one moment.
    """

    def __init__(self, *, max_turns: int = MAX_TURNS) -> None:
        self._virtual = _VirtualTime(max_turns)
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds since the loop was made."""
        return self._virtual.now

    def timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set, for a look at what was left behind."""
        scheduled: list[asyncio.TimerHandle] = getattr(self, "_scheduled")  # noqa: B009
        return [timer for timer in scheduled if not timer.cancelled()]


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` in virtual time and return what it returns. Raises Deadlock and Livelock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class _VirtualTime(SelectSelector):
    """Where a loop waits for sockets or its next timer: nothing ever comes, and time moves on."""

    def __init__(self, max_turns: int) -> None:
        super().__init__()
        self.now = 0.0
        self._max_turns = max_turns
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Wait: None is for ever, 0 says that something can run now."""
        if timeout is None:
            raise Deadlock(f"nothing will ever happen after {self.now:.3f} s")
        if timeout > 0:
            self.now += timeout
            self._turns = 0
        else:
            self._turns += 1
            if self._turns > self._max_turns:
                self._turns = 0  # whoever tidies up needs some
                raise Livelock(f"no end of what happens at {self.now:.3f} s")
        return []
