"""What the round trip tells of a path: how long it is when empty, and what queues on it now.

The smallest round trip seen is that of the empty path, until the path changes; what is above it is
time spent in queues. A busy sender never sees the path empty, so it has to make room from time to
time and measure again; see congestion.py.

All times are in seconds.
"""

from __future__ import annotations

# Queueing that says something: this much, or this share of the empty path's round trip, or half of
# how much that varies by itself, as it does over radio.
NOTABLE = 0.0008
NOTABLE_SHARE = 0.125
JITTER_SHARE = 0.5
# That is aimed at; or at this share, up to so much: schedulers hold things up for milliseconds, and
# a slow bottleneck that has run dry meanwhile stands idle.
TARGET_SHARE = 0.25
TARGET = 0.01
# How long a measurement is believed, and the first sample of all, which can't tell the jitter.
LIFETIME = 10.0
FIRST_LIFETIME = 1.0
# A clock may be too coarse to see anything pass.
SHORTEST = 1e-6

_INFINITY = float("inf")


class EmptyPath:
    """The round trip ``round_trip`` while nothing queues.

    ``notable`` is the least queueing time that says something, ``target`` the one to aim at.
    """

    __slots__ = ("_until", "notable", "round_trip", "target")

    def __init__(self) -> None:
        self.round_trip = _INFINITY
        self.notable = self.target = _INFINITY
        self._until = -_INFINITY

    def queueing(self, round_trip: float, now: float) -> float:
        """How much of ``round_trip`` was spent in queues."""
        round_trip = max(round_trip, SHORTEST)
        if round_trip < self.round_trip:
            if self.round_trip == _INFINITY:
                self.measured(round_trip, round_trip, now)
                self._until = now + FIRST_LIFETIME
            self.round_trip = round_trip
        return round_trip - self.round_trip

    def is_old(self, now: float) -> bool:
        """Whether it should be measured again."""
        return now >= self._until

    def measured(self, shortest: float, longest: float, now: float) -> None:
        """The path was empty, and the round trips were between these."""
        self.round_trip = shortest
        jitter = longest - shortest
        self.notable = max(NOTABLE, shortest * NOTABLE_SHARE, jitter * JITTER_SHARE)
        self.target = max(self.notable, min(shortest * TARGET_SHARE, TARGET))
        self._until = now + LIFETIME


class Round:
    """The ``shortest`` and ``longest`` of all samples in one round trip."""

    __slots__ = ("_counts_from", "_ends_with", "longest", "shortest")

    def __init__(self) -> None:
        self.begin(-_INFINITY)

    def begin(self, now: float, *, settling: bool = False) -> None:
        """Forget the last round. ``settling`` counts only messages that are sent from now on."""
        self._counts_from = now if settling else -_INFINITY
        self._ends_with = _INFINITY if settling else now
        self.shortest = _INFINITY
        self.longest = 0.0

    def sample(self, round_trip: float, now: float) -> bool:
        """Take a sample in; whether it is the last of the round."""
        sent_at = now - round_trip
        if sent_at < self._counts_from:
            return False
        self._ends_with = min(self._ends_with, now)
        round_trip = max(round_trip, SHORTEST)
        self.shortest = min(self.shortest, round_trip)
        self.longest = max(self.longest, round_trip)
        return sent_at >= self._ends_with
