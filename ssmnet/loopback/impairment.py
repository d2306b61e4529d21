"""A bad network between the client and the agent of a session, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf
from typing import Literal

import msgspec

from ..alarm import Alarm
from ..testing.link import Path, harmful

# More bytes than this on their way make the sender wait: a source that is faster than the delay
# would fill the memory.
HELD_LIMIT = 16 * 1024 * 1024
MAX_SECONDS = 86400.0


class Impairment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens to each message between client and agent. Raises ValueError.

    ``delay`` in seconds and up to ``jitter`` more; messages stay in order, as over TCP, unless
    ``reorder``. ``loss`` and ``duplicate`` are shares of 1. All is drawn from ``seed``, anew for
    each session and ``direction``. It ends after ``seconds``; None is never.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    direction: Literal["both", "to_agent", "to_client"] = "both"
    seconds: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("delay", "jitter"):
            check(name, getattr(self, name), MAX_SECONDS)
        for name in ("loss", "duplicate"):
            check(name, getattr(self, name), 1.0)
        if self.seconds is not None:
            check("seconds", self.seconds, MAX_SECONDS)
        if self.direction not in ("both", "to_agent", "to_client"):
            raise ValueError(f"direction is {self.direction!r}")

    def path(self, direction: str) -> Path | None:
        """The path of a session's one ``direction``; None when that is not impaired."""
        harmless = not (self.delay or self.jitter or self.loss or self.duplicate)
        if harmless or self.direction not in ("both", direction):
            return None
        # Two neighbouring seeds a session, so that the directions do not share a fate.
        fate = harmful(
            2 * self.seed + (direction == "to_agent"),
            loss=self.loss,
            duplication=self.duplicate,
            spread=self.jitter,
            end=inf,
        )
        return Path(self.delay, fate=fate, reordering=self.reorder)


def check(name: str, value: float, most: float) -> None:
    """Raise ValueError unless ``value`` is a number from 0 to ``most``."""
    if not 0 <= value <= most:
        raise ValueError(f"{name} is {value}, not from 0 to {most:g}")


class Line:
    """One direction of a session. ``deliver(data)`` passes a message on.

    ``full`` says that the sender should wait, and ``flow()`` is called whenever that changes.
    """

    def __init__(self, deliver: Callable[[bytes], None], flow: Callable[[], None]) -> None:
        self.full = False
        self._deliver = deliver
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._path: Path | None = None
        self._alarm = Alarm(self._arrive)

    def impair(self, path: Path | None) -> None:
        """From now on messages take ``path``; None heals. What is on its way arrives at once."""
        self.flush()
        self._path = path

    def send(self, data: bytes) -> None:
        """A message to be delivered."""
        if self._path is None:
            self._deliver(data)
            return
        self._path.send(data, self._loop.time())
        self._arrive()

    def flush(self) -> None:
        """What is on its way arrives at once."""
        if self._path is not None:
            for data in self._path.arrived(inf):
                self._deliver(data)
            self.cut()

    def cut(self) -> None:
        """What is on its way is lost."""
        self._alarm.cancel()
        if self._path is not None:
            self._path.cut()
        self._tell_flow()

    def _arrive(self) -> None:
        """Deliver what is due, and keep one timer for the rest."""
        path = self._path
        if path is None:
            return
        for data in path.arrived(self._loop.time()):
            self._deliver(data)
        self._tell_flow()
        self._alarm.set(path.next_event())

    def _tell_flow(self) -> None:
        full = self._path is not None and self._path.under_way > HELD_LIMIT
        if full is not self.full:
            self.full = full
            self._flow()
