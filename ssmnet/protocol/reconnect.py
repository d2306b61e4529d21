"""When to try again, after a connection was lost or could not be made."""

from __future__ import annotations

from collections.abc import Callable

FIRST_DELAY = 0.1
MAX_DELAY = 15.0


class BackOff:
    """Delays that double up to ``maximum`` (seconds), each with up to half of it taken off.

    ``random`` gives numbers from 0 to 1: many clients that lost the same gateway should not come
    back together.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        first: float = FIRST_DELAY,
        maximum: float = MAX_DELAY,
    ) -> None:
        self._random = random
        self._next = first
        self._maximum = maximum

    def next_delay(self) -> float:
        """How long to wait before the next try."""
        delay = self._next
        self._next = min(delay * 2, self._maximum)
        return delay * (1 - self._random() / 2)
