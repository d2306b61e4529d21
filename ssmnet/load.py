"""Load: what the sessions of a pool carry, and how many there should be for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from .protocol.load import LOOK_INTERVAL, Traffic, Width
from .session import Session


class Load:
    """Looks at the sessions that were added, but only while they carry something.

    Of those that are ``fit`` for a new connection, the first of which is the newest, there should
    be no more than ``most``. ``widen`` is called when there are too few, ``narrow`` with those that
    have been too many for a while and have no connections.
    """

    def __init__(
        self,
        most: int,
        *,
        fit: Callable[[], list[Session]],
        waiting: Callable[[], int],
        widen: Callable[[int], None],
        narrow: Callable[[list[Session]], None],
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self.most = most
        self._fit = fit
        self._waiting = waiting
        self._widen = widen
        self._narrow = narrow
        self._clock = clock
        self._width = Width(most, random.random)
        self._loop = asyncio.get_running_loop()
        self._traffic: dict[Session, Traffic] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # by the loop's clock
        self._closed = False

    def add(self, session: Session) -> None:
        """There is another session."""
        self._traffic[session] = Traffic(session.messages, self._clock())
        self.changed()

    def remove(self, session: Session) -> None:
        """There is one less."""
        del self._traffic[session]
        self.changed()

    def of(self, session: Session) -> float:
        """What a new connection should have least of."""
        return self._traffic[session].load(session.streams)

    @property
    def may_widen(self) -> bool:
        """Whether another session may be started now."""
        return 0 < len(self._fit()) < self.most and self._width.start_at <= self._clock()

    def dialled(self) -> None:
        """A connection comes."""
        if self._timer is None:
            self._look()
        self.changed()

    def changed(self) -> None:
        """There may be more to do, or less: look at it soon."""
        self._look_in(0.0)

    def widened(self, failed: bool) -> None:
        """A session that was started for the load is there, or is not."""
        if failed:
            self._width.failed(self._clock())
        else:
            self._width.started()
        self.changed()

    def lasted(self, lived: float) -> None:
        """A session is over, after so many seconds."""
        self._width.lasted(lived, self._clock())

    def close(self) -> None:
        """Look at nothing any more."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def _look_in(self, delay: float) -> None:
        if self.most == 1 or self._closed:
            return
        due = self._loop.time() + delay
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(delay, self._adapt)

    def _look(self) -> None:
        now = self._clock()
        for session, traffic in self._traffic.items():
            traffic.look(session.messages, now)

    def _adapt(self) -> None:
        """Have a session started or closed. Looks again only while there is a reason to."""
        self._timer = None
        self._look()
        now = self._clock()
        fit = self._fit()
        used = [(self._traffic[one], one.streams) for one in fit]
        wanted = self._width.wanted(used, self._waiting())
        surplus_ends = self._width.surplus_ends(len(fit), wanted, now)
        start_at = self._width.start_at if 0 < len(fit) < wanted else None
        if surplus_ends is not None and surplus_ends <= now:
            unused = [session for session in reversed(fit) if not session.streams]
            self._narrow(unused[: len(fit) - wanted])
        elif start_at is not None and start_at <= now:
            self._widen(wanted - len(fit))
        if any(traffic.moves or traffic.is_busy for traffic in self._traffic.values()):
            self._look_in(LOOK_INTERVAL)
        for due in (surplus_ends, start_at):
            if due is not None and due > now:
                self._look_in(due - now)
