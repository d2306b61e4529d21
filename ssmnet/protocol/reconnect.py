"""When a connection counts as lost, when to try again, when another session is due.

Decisions only: whoever asks has the clock, the network and AWS. Times are in seconds; ``now`` is of
a clock that does not go back, ``wall`` of the one on the wall, which runs on while a machine
sleeps. ``random`` gives numbers from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

# Of tries to resume, which cost AWS little, and to start a session, which it throttles.
FIRST_DELAY = 0.1
MAX_DELAY = 5.0
MAX_START_DELAY = 15.0

# A far end that has been silent for one interval is asked, and given up after two more.
PING_INTERVAL = 8.0
SILENT_INTERVALS = 3
# An interval that took so much longer than it should: the machine has slept.
SLEPT = 10.0
# What was connected before is most likely gone then: this much is left to answer.
PATIENCE_AFTER_SLEEP = 3.0

# A connection that lasts for so long works, if only nobody had anything to say.
WORKING_TIME = 10.0

# A first session that the far end gives up with a reason so soon would be followed by others like
# it: a host that is forbidden, or has no address.
SHORT_LIFE = 5.0

# So long without an acknowledgement, or without our reading, and so many round trips: new
# connections had better not wait for it.
STALL_TIME = 2.0
STALL_ROUND_TRIPS = 4
# A destination that is down refuses in every session: another one is tried after this many
# refusals in a row, and after ever longer times.
MAX_REFUSALS = 3
FIRST_REPLACEMENT_DELAY = 10.0
MAX_REPLACEMENT_DELAY = 600.0


class BackOff:
    """Delays that double up to ``maximum`` (seconds), each with up to half of it taken off.

    Many clients that lost the same gateway should not come back together.
    """

    def __init__(
        self,
        random: Callable[[], float],
        *,
        first: float = FIRST_DELAY,
        maximum: float = MAX_DELAY,
    ) -> None:
        self._random = random
        self._first = self._next = first
        self._maximum = maximum

    def next_delay(self) -> float:
        """How long to wait before the next try."""
        delay = self._next
        self._next = min(delay * 2, self._maximum)
        return delay * (1 - self._random() / 2)

    def reset(self) -> None:
        """It has worked: the next delay is the first again."""
        self._next = self._first


class Verdict(Enum):
    """What Liveness says of a connection."""

    ALIVE = "something has come"
    ASK = "send a ping"
    LOST = "it is as good as closed"


class Liveness:
    """Whether there is still somebody at the other end of a connection.

    ``check`` it when it is ``due``.
    """

    def __init__(self, now: float, wall: float, *, interval: float = PING_INTERVAL) -> None:
        self._interval = interval
        self._silent = 0
        self._begin(now, wall, interval)

    def check(self, heard: bool, now: float, wall: float) -> Verdict:
        """Say what to do; ``heard`` is whether anything has come since the last check.

        After a sleep there is little patience: the far end has long forgotten us, and nothing says
        so.
        """
        elapsed = max(now - self._checked_at, wall - self._checked_at_wall)
        slept = elapsed > self.due - self._checked_at + SLEPT
        self._silent = 0 if heard else self._silent + 1
        if slept:
            self._silent = SILENT_INTERVALS - 1
        self._begin(now, wall, PATIENCE_AFTER_SLEEP if slept else self._interval)
        if self._silent >= SILENT_INTERVALS:
            return Verdict.LOST
        return Verdict.ASK if self._silent else Verdict.ALIVE

    def postpone(self, now: float, wall: float) -> None:
        """Nothing was read for a while, so silence meant nothing."""
        self._silent = 0
        self._begin(now, wall, self._interval)

    def _begin(self, now: float, wall: float, interval: float) -> None:
        self._checked_at = now
        self._checked_at_wall = wall
        self.due = now + interval


class Resumption:
    """The tries to resume a session, from the loss of a connection until one works.

    ``timeout`` bounds how long that may take in all; None for no bound.
    """

    def __init__(self, random: Callable[[], float], *, timeout: float | None = None) -> None:
        self._back_off = BackOff(random)
        self._timeout = timeout
        self._since: float | None = None
        self._connected_at = float("inf")
        self._cause = ""

    def connected(self, now: float) -> None:
        """There is a connection again, or the first."""
        self._connected_at = now

    def settled(self) -> None:
        """It seems to work."""
        self._cause = ""

    def lost(self, *, heard: bool, now: float) -> float | None:
        """A connection is lost: how long to wait before the next try; None to give up.

        Not at all, unless no message was ``heard`` on it and it was soon gone: then it was no
        better than a try that failed.
        """
        if heard or self._since is None or now >= self._connected_at + WORKING_TIME:
            self._since = now
            self._back_off.reset()
            return 0.0
        return self.failed(now)

    def failed(self, now: float) -> float | None:
        """A try has failed: how long to wait before the next; None to give up."""
        if self._timeout is not None and self.lasted(now) >= self._timeout:
            return None
        return self._back_off.next_delay()

    def lasted(self, now: float) -> float:
        """How long there has been no connection that worked."""
        return 0.0 if self._since is None else now - self._since

    def is_news(self, cause: str) -> bool:
        """Whether ``cause`` is another than the last, in a row of tries that are many."""
        known, self._cause = self._cause, cause
        return cause != known


class Unfit(Enum):
    """Why a session that lives gets no new connections."""

    STALLED = "nothing gets through it"
    REFUSED = "its destination refuses one connection after the other"
    OLD = "it has reached its maximum age"


class Restarts:
    """Whether and when a session that is over is followed by another.

    ``limit`` bounds how many may follow the first; None for no bound.
    """

    def __init__(self, random: Callable[[], float], *, limit: int | None = None) -> None:
        self._left = float("inf") if limit is None else limit
        self._worked = False  # one of the sessions so far
        self._back_off = BackOff(random, maximum=MAX_START_DELAY)
        self._replacements = BackOff(
            random, first=FIRST_REPLACEMENT_DELAY, maximum=MAX_REPLACEMENT_DELAY
        )
        self._refused_until = float("-inf")

    def after(self, lived: float, *, for_a_reason: bool) -> float | None:
        """The last session is over: how long to wait before the next starts; None for no next.

        ``for_a_reason`` says that the far end has named one.
        """
        self.lasted(lived)
        if self._left <= 0 or (for_a_reason and not self._worked):
            return None
        if lived < SHORT_LIFE:
            return self._back_off.next_delay()
        self._back_off.reset()
        return 0.0

    def lasted(self, lived: float) -> None:
        """A session is over, and there may be others."""
        self._worked = self._worked or lived >= SHORT_LIFE

    def failed(self) -> float:
        """A start has failed: how long to wait before the next try."""
        return self._back_off.next_delay()

    def started(self) -> None:
        """Another session has been started."""
        self._left -= 1

    def may_replace(self, now: float, *, refused: bool) -> bool:
        """Whether a session that lives may get a successor, because it refuses or else."""
        return self._left > 0 and not (refused and now < self._refused_until)

    def replaced(self, now: float, *, refused: bool) -> None:
        """A session that lives gets a successor."""
        if refused:
            if now > self._refused_until + MAX_REPLACEMENT_DELAY:
                self._replacements.reset()
            self._refused_until = now + self._replacements.next_delay()


def is_stalled(stalled_for: float, round_trip_time: float | None) -> bool:
    """Whether nothing has got through for too long to wait for it."""
    return stalled_for > max(STALL_TIME, STALL_ROUND_TRIPS * (round_trip_time or 0.0))
