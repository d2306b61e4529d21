"""A gateway that polices: a rate, a bounded queue, and the end for who sends more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Literal

import msgspec

from ..testing.link import Path
from .impairment import Line, check

QUEUE = 256 * 1024
MAX_RATE = 1e9
MAX_QUEUE = 64 * 1024 * 1024
# What the client of an ended session is told.
OVERFLOW = "The session has sent more than the gateway takes."


class Policing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the gateway takes of the messages on each WebSocket. Raises ValueError.

    ``rate`` in bytes/s is when they are passed on; None is at once. ``queue`` bytes may wait for
    that; one more ends the session.
    """

    rate: float | None = None
    queue: int = QUEUE
    direction: Literal["both", "to_agent", "to_client"] = "to_agent"

    def __post_init__(self) -> None:
        if self.rate is not None and not 1 <= self.rate <= MAX_RATE:
            raise ValueError(f"rate is {self.rate}, not from 1 to {MAX_RATE:g}")
        check("queue", self.queue, MAX_QUEUE)
        if self.direction not in ("both", "to_agent", "to_client"):
            raise ValueError(f"direction is {self.direction!r}")


class Policer:
    """What the gateway takes of one direction of a session, in front of its ``line``.

    ``overflow()`` is called for a message that finds the queue full.
    """

    def __init__(self, line: Line, overflow: Callable[[], None]) -> None:
        self._line = line
        self._overflow = overflow
        self._loop = asyncio.get_running_loop()
        self._path: Path | None = None
        self._timer: asyncio.TimerHandle | None = None

    def police(self, rate: float | None, queue: int) -> None:
        """From now on pass so many bytes a second, with so many waiting; None passes all."""
        if rate is None:
            self._pass_all()
            self._path = None
        elif self._path is None:
            self._path = Path(0.0, rate=rate, queue=queue)
        else:
            self._path.set_rate(rate, self._loop.time())
            self._path.queue = queue
            self._disarm()
            self._arm()

    def send(self, data: bytes) -> None:
        """A message that has come."""
        path = self._path
        if path is None:
            self._line.send(data)
            return
        overflowed = path.overflowed
        path.send(data, self._loop.time())
        if path.overflowed != overflowed:
            self._overflow()
        else:
            self._arm()

    def flush(self) -> None:
        """What waits arrives at once, and so does what is on its way."""
        self._pass_all()
        self._line.flush()

    def cut(self) -> None:
        """What waits is lost, and so is what is on its way."""
        self._disarm()
        if self._path is not None:
            self._path.cut()
        self._line.cut()

    def _pass_all(self) -> None:
        self._disarm()
        if self._path is not None:
            for data in self._path.arrived(inf):
                self._line.send(data)

    def _arm(self) -> None:
        """One timer, for the first of those that wait."""
        due = None if self._path is None else self._path.next_event()
        if due is not None and self._timer is None:
            self._timer = self._loop.call_at(due, self._pass_on)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pass_on(self) -> None:
        self._timer = None
        if self._path is not None:
            for data in self._path.arrived(self._loop.time()):
                self._line.send(data)
        self._arm()
