"""Whether a session reads: not while somebody can take no more of what it would read.

There is one byte stream from the agent for all streams of a session, so one slow reader stops them
all; how long that has lasted tells whether new connections had better go elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# What was held for long, and is not any more, may soon be again: it counts for so long after it.
RECENT = 2.0


class ReadingGate:
    """Open until somebody holds it. Times are in seconds of ``clock``.

    ``pause()`` and ``resume()`` are called when it closes and opens.
    """

    def __init__(
        self, clock: Callable[[], float], pause: Callable[[], None], resume: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._resume = resume
        self._loop = asyncio.get_running_loop()
        self._holders: dict[object, asyncio.TimerHandle | None] = {}
        self._held_since = self._open_since = 0.0

    @property
    def is_open(self) -> bool:
        """Whether nobody holds it."""
        return not self._holders

    def held_only_by(self, holder: object) -> bool:
        """Whether ``holder`` is the only one."""
        return len(self._holders) == 1 and holder in self._holders

    @property
    def held_for(self) -> float:
        """For how long it has been held, on and off; and for a while after that, had been.

        A reader that is slow holds it again and again, and lets it go for a moment in between. That
        is one hold, as long as the moments are shorter than it.
        """
        now = self._clock()
        if self._holders:
            return now - self._held_since
        held, is_open = self._open_since - self._held_since, now - self._open_since
        return held if is_open < min(held, RECENT) else 0.0

    def hold(
        self,
        holder: object,
        *,
        timeout: float | None = None,
        give_up: Callable[[], None] | None = None,
    ) -> None:
        """Close it until ``holder`` allows it again; ``give_up()`` if it has not in ``timeout``."""
        if holder in self._holders:
            return
        now = self._clock()
        if not self._holders and now - self._open_since >= self._open_since - self._held_since:
            self._held_since = now
        timer = None
        if timeout is not None and give_up is not None:
            timer = self._loop.call_later(timeout, give_up)
        self._holders[holder] = timer
        self._pause()

    def allow(self, holder: object) -> None:
        """``holder`` can take more."""
        if self._drop(holder) and not self._holders:
            self._open_since = self._clock()
            self._resume()

    def forget(self, holder: object) -> None:
        """``holder`` is gone, and what would be read with it."""
        self._drop(holder)

    def close(self) -> None:
        """Nothing will be read any more."""
        for holder in tuple(self._holders):
            self._drop(holder)

    def _drop(self, holder: object) -> bool:
        if holder not in self._holders:
            return False
        timer = self._holders.pop(holder)
        if timer is not None:
            timer.cancel()
        return True
