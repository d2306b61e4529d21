"""How long to wait for an acknowledgement: round-trip time, its variance, and back-off.

The smoothing is TCP's (RFC 6298), with the reference ends' margin above the estimate.
"""

from __future__ import annotations

INITIAL_TIMEOUT = 0.2
# The agent acknowledges after it has written to the destination: a margin for its scheduling, and
# for what a long path has to vary.
MIN_MARGIN = 0.01
MARGIN_SHARE = 0.5
# A backed-off timeout ends here: a far end that is back is found within this time.
MAX_TIMEOUT = 5.0


class RoundTripTime:
    """The estimate for one sender. All times are in seconds.

    Feed it only samples of messages that were sent once (Karn's rule): an acknowledgement does not
    tell which transmission it answers.
    """

    __slots__ = ("_back_off", "_timeout", "latest", "smoothed", "variance")

    def __init__(self) -> None:
        self.smoothed: float | None = None
        self.variance = 0.0
        self.latest = 0.0
        self._timeout = INITIAL_TIMEOUT
        self._back_off = 1

    @property
    def timeout(self) -> float:
        """After this long without an acknowledgement a message counts as lost."""
        return min(self._timeout * self._back_off, MAX_TIMEOUT)

    def update(self, sample: float) -> None:
        """A message that was sent once has been acknowledged after ``sample`` seconds."""
        self.latest = sample
        if self.smoothed is None:
            self.smoothed = sample
            self.variance = sample / 2
        else:
            self.variance += (abs(self.smoothed - sample) - self.variance) / 4
            self.smoothed += (sample - self.smoothed) / 8
        margin = max(MIN_MARGIN, 4 * self.variance, MARGIN_SHARE * self.smoothed)
        self._timeout = self.smoothed + margin
        self._back_off = 1

    def back_off(self) -> None:
        """The timeout has passed: wait twice as long next time, until there is a sample."""
        if self.timeout < MAX_TIMEOUT:
            self._back_off *= 2
