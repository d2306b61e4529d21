"""How much each session of a pool carries, and how many sessions there should be for that.

Decisions only: whoever asks has the clock and the sessions. Load is counted in messages, which is
what the agent's pace is about: it sends no more than some 900 a second, of whatever size, and what
waits for its turn there makes everything else in that session wait.

Times are in seconds, ``now`` of a clock that does not go back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import expm1

from .reconnect import SHORT_LIFE, BackOff

# The rate is a mean of about so long.
MEMORY = 2.0
# From here on others in the session begin to feel it: a tenth of what an agent can send.
BUSY_RATE = 100.0
# An open stream counts for a little, since it may carry more at any time.
STREAM_RATE = 1.0
# While messages come and go, the load is looked at so often.
LOOK_INTERVAL = 0.5
# How long there are more sessions than the load asks for before one that is not used is closed.
IDLE_TIME = 60.0
# A start that fails was most likely one too many: AWS throttles them, and counts sessions.
FIRST_START_DELAY = 2.0
MAX_START_DELAY = 120.0


class Traffic:
    """Messages of one session, both ways; ``rate`` is how many a second there were of late."""

    __slots__ = ("_at", "_messages", "moves", "rate")

    def __init__(self, messages: int, now: float) -> None:
        self._messages = messages
        self._at = now
        self.rate = 0.0
        # Whether there were any between the last two looks.
        self.moves = False

    def look(self, messages: int, now: float) -> None:
        """There have been so many messages until now."""
        elapsed = max(0.0, now - self._at)
        fresh = -expm1(-elapsed / MEMORY)  # the share of the memory that is of this interval
        count = messages - self._messages
        mean = count * fresh / elapsed if elapsed else count / MEMORY
        self.rate += mean - self.rate * fresh
        self.moves = count > 0
        self._messages = messages
        self._at = now

    @property
    def is_busy(self) -> bool:
        """Whether others in the session feel it."""
        return self.rate >= BUSY_RATE

    def load(self, streams: int) -> float:
        """What a new connection should have least of, with so many open streams."""
        return self.rate + STREAM_RATE * streams if streams else 0.0


class Width:
    """How many sessions there should be: from one up to ``most``."""

    def __init__(self, most: int, random: Callable[[], float]) -> None:
        self.most = most
        self._starts = BackOff(random, first=FIRST_START_DELAY, maximum=MAX_START_DELAY)
        self.start_at = float("-inf")  # not before
        self._surplus_since: float | None = None

    def wanted(self, sessions: Iterable[tuple[Traffic, int]], waiting: int = 0) -> int:
        """For sessions with so many open streams each: those in use, and one to spare.

        So the next connection finds at once one in which it waits for nobody, and nobody for it.
        Where several streams share a busy session, each may be what keeps it busy. Connections that
        are ``waiting`` need one each.
        """
        used = sum(streams if traffic.is_busy else 1 for traffic, streams in sessions if streams)
        return min(used + waiting + 1, self.most)

    def failed(self, now: float) -> None:
        """A start has failed."""
        self.start_at = now + self._starts.next_delay()

    def lasted(self, lived: float, now: float) -> None:
        """A session is over that was not closed: another would not live for long, either."""
        if lived < SHORT_LIFE:
            self.failed(now)

    def started(self) -> None:
        """A start has worked."""
        self._starts.reset()

    def surplus_ends(self, sessions: int, wanted: int, now: float) -> float | None:
        """When those that are more than ``wanted`` have been so for too long; None: they are not.

        It is told of each change in either number.
        """
        if sessions <= wanted:
            self._surplus_since = None
            return None
        if self._surplus_since is None:
            self._surplus_since = now
        return self._surplus_since + IDLE_TIME
