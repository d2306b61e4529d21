"""A bad network without IO: what becomes of messages that are sent at a given time.

A Path is one direction. It reads no clock: ``now`` is a number of seconds, of virtual time or of a
real clock, and who drives it asks for ``next_event`` and calls ``arrived`` then. A Fate decides
over each message, so that a seed gives the same run again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from random import Random

# Of the n-th message sent, and the time: the extra delays of its copies. None is a loss, two are a
# duplicate.
Fate = Callable[[int, float], tuple[float, ...]]


def unharmed(n: int, now: float) -> tuple[float, ...]:
    """Every message arrives once and in order."""
    return (0.0,)


def losing(numbers: Container[int]) -> Fate:
    """The messages of these numbers, counted in the order of sending, never arrive."""
    return lambda n, now: () if n in numbers else (0.0,)


def losing_between(start: float, end: float) -> Fate:
    """Nothing that is sent in this time arrives."""
    return lambda n, now: () if start <= now < end else (0.0,)


def harmful(seed: int, *, loss: float, duplication: float, spread: float, end: float) -> Fate:
    """Loss, duplication and reordering of these shares and this width, until ``end``."""
    random = Random(seed)

    def fate(n: int, now: float) -> tuple[float, ...]:
        if now >= end:
            return (0.0,)
        if random.random() < loss:
            return ()
        copies = 2 if random.random() < duplication else 1
        return tuple(random.random() * spread for _ in range(copies))

    return fate


class Path:
    """One direction: a bottleneck of ``rate`` (bytes/s) with a queue, then a constant ``delay``.

    Without a rate there is no bottleneck. ``queued`` and ``under_way`` are the bytes in the queue
    and those on their way in all, ``peak`` is the most that ever was in the queue, ``lost`` counts
    what ``fate`` or a full queue dropped, ``overflowed`` only the second. Messages stay in order,
    as over TCP, whatever extra delay ``fate`` gives them, unless the path is ``reordering``.
    """

    def __init__(
        self,
        delay: float,
        *,
        rate: float | None = None,
        queue: float = float("inf"),
        fate: Fate = unharmed,
        reordering: bool = False,
    ) -> None:
        self.delay = delay
        self.rate = rate
        self.queue = queue
        self.fate = fate
        self.queued = 0
        self.under_way = 0
        self.peak = 0
        self.lost = 0
        self.overflowed = 0
        self.stopped = False
        self._reordering = reordering
        self._latest = 0.0
        self._sent = count()
        self._order = count()
        self._queue: deque[tuple[bytes, tuple[float, ...]]] = deque()
        self._head_leaves = 0.0
        self._flying: list[tuple[float, int, bytes]] = []

    def send(self, data: bytes, now: float, *, sure: bool = False) -> None:
        """Put one message on its way; ``sure`` ones are not left to ``fate`` or a full queue."""
        copies = (0.0,) if sure else self.fate(next(self._sent), now)
        overflows = self.queued + len(data) > self.queue and not sure
        if not copies or overflows:
            self.lost += 1
            self.overflowed += overflows
            return
        self.under_way += len(data) * len(copies)
        if self.rate is None:
            self._fly(data, now, copies)
            return
        if not self._queue:
            self._head_leaves = now + len(data) / self.rate
        self._queue.append((data, copies))
        self.queued += len(data)
        self.peak = max(self.peak, self.queued)

    def next_event(self) -> float | None:
        """When something leaves the queue or arrives."""
        if self.stopped:
            return None
        times = [self._head_leaves] if self._queue else []
        if self._flying:
            times.append(self._flying[0][0])
        return min(times, default=None)

    def arrived(self, now: float) -> list[bytes]:
        """What has arrived by ``now``."""
        if self.stopped:
            return []
        while self._queue and self._head_leaves <= now:
            data, copies = self._queue.popleft()
            self.queued -= len(data)
            self._fly(data, self._head_leaves, copies)
            if self._queue and self.rate is not None:
                self._head_leaves += len(self._queue[0][0]) / self.rate
        here = []
        while self._flying and self._flying[0][0] <= now:
            here.append(heappop(self._flying)[2])
        self.under_way -= sum(map(len, here))
        return here

    def set_rate(self, rate: float, now: float) -> None:
        """Change the rate of a path that has one; what leaves the queue just now does, too."""
        if self._queue and self.rate is not None and self._head_leaves > now:
            self._head_leaves = now + (self._head_leaves - now) * self.rate / rate
        self.rate = rate

    def stop(self) -> None:
        """Hold everything, as TCP does while it repairs a loss of its own."""
        self.stopped = True

    def go_on(self, now: float) -> None:
        """What was held arrives at once."""
        self.stopped = False
        self._head_leaves = max(self._head_leaves, now)

    def cut(self) -> None:
        """What is on its way is lost."""
        self._queue.clear()
        self._flying.clear()
        self.queued = self.under_way = 0

    def _fly(self, data: bytes, now: float, copies: tuple[float, ...]) -> None:
        for extra in copies:
            arrival = now + self.delay + extra
            if not self._reordering:
                arrival = self._latest = max(self._latest, arrival)
            heappush(self._flying, (arrival, next(self._order), data))


@dataclass(frozen=True)
class Network:
    """How the way between two ends is, all the time, in either direction.

    ``delay`` is one way, ``rate`` in bytes per second, ``spread`` how much later than that a
    message may come, ``reordering`` whether it may overtake others then. Seconds and shares of 1.
    ``buffer`` is how many bytes the operating systems and the gateway take before they stop a
    sender, ``corruption`` how many messages arrive with a byte changed.
    """

    delay: float
    rate: float | None = None
    loss: float = 0.0
    duplication: float = 0.0
    spread: float = 0.0
    reordering: bool = False
    buffer: int = 256 * 1024
    corruption: float = 0.0

    def path(self, random: Random) -> Path:
        """One direction of a new connection."""
        fate = harmful(
            random.getrandbits(32),
            loss=self.loss,
            duplication=self.duplication,
            spread=self.spread,
            end=float("inf"),
        )
        return Path(self.delay, rate=self.rate, fate=fate, reordering=self.reordering)
