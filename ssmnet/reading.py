"""Whether a session reads: not while somebody can take no more of what it would read.

There is one byte stream from the agent for all streams of a session, so one slow reader stops them
all; how long that has lasted tells whether new connections had better go elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Protocol

from .errors import StreamStalled

logger = logging.getLogger("ssmnet.reading")

# What was held for long, and is not any more, may soon be again: it counts for so long after it.
RECENT = 2.0


class Reader(Protocol):
    """Who takes what was read, in time or not."""

    unread_size: int  # bytes

    def fail(self, error: Exception) -> None:
        """It is given up."""


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
        self._holders: set[object] = set()
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

    def hold(self, holder: object) -> None:
        """Close it until ``holder`` allows it again."""
        if holder in self._holders:
            return
        now = self._clock()
        if not self._holders and now - self._open_since >= self._open_since - self._held_since:
            self._held_since = now
        self._holders.add(holder)
        self._pause()

    def allow(self, holder: object) -> None:
        """``holder`` can take more."""
        if holder in self._holders:
            self._holders.discard(holder)
            if not self._holders:
                self._open_since = self._clock()
                self._resume()

    def forget(self, holder: object) -> None:
        """``holder`` is gone, and what would be read with it."""
        self._holders.discard(holder)


class SlowReaders:
    """What is kept for readers that do not take it: beyond ``limit`` bytes it holds the gate.

    One that has taken nothing for ``patience`` seconds, while the gate was held, is given up with
    StreamStalled.
    """

    def __init__(
        self,
        gate: ReadingGate,
        clock: Callable[[], float],
        *,
        limit: int,
        patience: float,
    ) -> None:
        self._gate = gate
        self._clock = clock
        self.limit = limit
        self.patience = patience
        self._loop = asyncio.get_running_loop()
        self.total = 0
        self._since: dict[Reader, float] = {}  # then they have taken nothing
        self._holding = False
        self._held_since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def changed(self, reader: Reader, change: int) -> None:
        """So many bytes more are kept for ``reader``, or fewer."""
        self.total += change
        if not reader.unread_size:
            self._since.pop(reader, None)
        elif change < 0 or reader not in self._since:
            self._since[reader] = self._clock()
        if self.total > self.limit and not self._holding:
            self._holding = True
            self._held_since = self._clock()
            self._gate.hold(self)
            self._set_timer()
        elif self.total <= self.limit // 2 and self._holding:
            self._holding = False
            self._gate.allow(self)
            self.close()

    def close(self) -> None:
        """Give nobody up any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if math.isinf(self.patience):
            return
        since = max(self._held_since, min(self._since.values()))
        delay = since + self.patience - self._clock()
        self._timer = self._loop.call_later(delay, self._give_up_overdue)

    def _give_up_overdue(self) -> None:
        self._timer = None
        now = self._clock()
        error = StreamStalled(f"it was not read for {self.patience:g} s and held up its session")
        for reader, since in tuple(self._since.items()):
            if now >= max(since, self._held_since) + self.patience:
                logger.info("a stream is reset: %s", error)
                reader.fail(error)
        if self._holding:
            self._set_timer()
