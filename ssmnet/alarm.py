"""Alarm: one timer for whatever is due next."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls ``ring`` when the time that it is set to has come, by the event loop's clock.

    Due times mostly move on, so a later one does not set it anew: it rings early, and whoever has
    set it finds out then what is due next.
    """

    def __init__(self, ring: Callable[[], object]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        # What it was set to last, in seconds.
        self.due = 0.0

    def set(self, due: float | None) -> None:
        """Have it ring at ``due`` or before; None is never."""
        if due is None:
            return
        if self._timer is not None:
            if self.due <= due:
                return
            self._timer.cancel()
        self.due = due
        self._timer = self._loop.call_at(due, self._fire)

    def cancel(self) -> None:
        """Not ring, unless it is set again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._ring()
