"""How fast the agent reads what it sends."""

from __future__ import annotations

# The agent sleeps 1 ms after each message of output. With what the sleep is late and the message
# costs, the fastest agent seen needs so long for each, in seconds: 0.95 MB/s.
PACE = 0.00108
# So late may a timer be without the agent being slower for it, in seconds.
MAX_LATENESS = 0.05


class Pace:
    """A message each ``interval`` seconds on the average, for a late timer is made up for."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        # When the next message may go.
        self.due = 0.0
        self._waited = False

    def allows(self, now: float) -> bool:
        """Whether a message may go now, which it then does."""
        if now < self.due:
            self._waited = True
            return False
        begun = max(self.due, now - MAX_LATENESS) if self._waited else now
        self.due = begun + self._interval
        return True

    def rest(self) -> None:
        """There is nothing to send: no time is lost by that, nor won."""
        self._waited = False
