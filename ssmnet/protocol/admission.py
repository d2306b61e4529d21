"""Who may have a session, who waits for one, who has to give way; which destinations have failed.

Decisions only, for a Dialer: whoever asks has the clock and the sessions. Times are in seconds,
``now`` of a clock that does not go back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)

# A program that tries every port there is must not fill the memory.
MAX_FAILURES = 1000


class Admission(Generic[T]):
    """At most ``places`` have a place at once, and of those at most ``starts`` are starting.

    Whoever waits is admitted in the order of asking. Where there is no place, whoever is idle has
    to give way: the one that has not been used for longest. ``beside`` may be set to how many
    places are taken otherwise.
    """

    def __init__(self, *, places: int, starts: int) -> None:
        self._places = places
        self._starts = starts
        self._waiting: dict[T, None] = {}  # the first to come first
        self._starting: set[T] = set()
        self._using: set[T] = set()
        self._idle: dict[T, None] = {}  # the least recently used first
        self._leaving: set[T] = set()
        self.beside = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether all places are taken."""
        taken = len(self._using) + len(self._idle) + len(self._leaving)
        return taken + self.beside >= self._places

    def ask(self, one: T) -> None:
        """Wait for a place."""
        self._waiting[one] = None

    def admit(self) -> T | None:
        """Who has a place from now on, and starts; None for nobody."""
        if not self._waiting or self.is_full or len(self._starting) >= self._starts:
            return None
        one = next(iter(self._waiting))
        del self._waiting[one]
        self._using.add(one)
        self._starting.add(one)
        return one

    def evict(self) -> T | None:
        """Who is to leave for those that wait; None for nobody. ``left`` is to follow."""
        if not self.is_full or len(self._leaving) >= len(self._waiting) or not self._idle:
            return None
        one = next(iter(self._idle))
        self.leave(one)
        return one

    def started(self, one: T) -> None:
        """It has started, or has failed to: another may start."""
        self._starting.discard(one)

    def use(self, one: T) -> None:
        """It is used."""
        if one in self._idle:
            del self._idle[one]
            self._using.add(one)

    def rest(self, one: T) -> None:
        """It is not used from now on."""
        if one in self._using:
            self._using.remove(one)
            self._idle[one] = None

    def leave(self, one: T) -> None:
        """It gives its place up, if it has one, and has it until it has ``left``."""
        self._waiting.pop(one, None)
        if one in self._using or one in self._idle:
            self._using.discard(one)
            self._idle.pop(one, None)
            self._leaving.add(one)

    def left(self, one: T) -> None:
        """It needs its place no longer."""
        self._starting.discard(one)
        self._leaving.discard(one)


class Failures(Generic[T]):
    """Why some destinations could not be reached, for as long as that is worth remembering."""

    def __init__(self, limit: int = MAX_FAILURES) -> None:
        self._limit = limit
        self._known: OrderedDict[T, tuple[float, Exception]] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept, some of which may be too old."""
        return len(self._known)

    def remember(self, one: T, error: Exception, until: float) -> None:
        """It has failed, and is not worth another try ``until`` then."""
        self._known[one] = until, error
        self._known.move_to_end(one)
        if len(self._known) > self._limit:
            self._known.popitem(last=False)

    def recall(self, one: T, now: float) -> Exception | None:
        """Why it is not worth a try now; None if it is. A new error each time."""
        until, error = self._known.get(one, (now, None))
        if error is None:
            return None
        if now >= until:
            del self._known[one]
            return None
        return type(error)(*error.args)

    def forget(self, one: T) -> None:
        """It has been reached."""
        self._known.pop(one, None)
