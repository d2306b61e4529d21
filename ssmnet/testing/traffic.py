"""What passes through a simulated tunnel: plans of it, and who sends and compares the bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from .transcript import Transcript

# What all transfers send is cut out of this, each from another place.
CONTENT = Random(0).randbytes(4 * 1024 * 1024)


@dataclass(frozen=True)
class Pause:
    """After so many bytes, nothing is read for so many seconds."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a transfer does.

    It starts ``start`` seconds after the beginning. Its ends write ``piece`` bytes at a time, with
    ``gap`` seconds in between. The client gives it up after it has got ``abort_after`` bytes.
    """

    start: float
    up: int
    down: int
    piece: int = 4096
    gap: float = 0.0
    client_ends: bool = True
    client_pause: Pause | None = None
    destination_pause: Pause | None = None
    abort_after: int | None = None


class Source:
    """Sends ``data`` in pieces by ``write``, which says whether more may follow at once.

    ``finished()`` is called when all has been written.
    """

    def __init__(
        self,
        data: bytes,
        plan: Plan,
        write: Callable[[bytes], bool],
        finished: Callable[[], None],
    ) -> None:
        self._data = data
        self._piece = plan.piece
        self._gap = plan.gap
        self._write = write
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.sent = 0

    @property
    def done(self) -> bool:
        """Whether all has been written."""
        return self.sent == len(self._data)

    def go_on(self) -> None:
        """Write what may be written."""
        while not self.done and self._timer is None:
            piece = self._data[self.sent : self.sent + self._piece]
            self.sent += len(piece)
            if self._gap and not self.done:
                self._timer = self._loop.call_later(self._gap, self._after_gap)
            if not self._write(piece):
                break
        if self.done:
            self._finished()

    def stop(self) -> None:
        """Write no more."""
        self.sent = len(self._data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after_gap(self) -> None:
        self._timer = None
        self.go_on()


class Sink:
    """Compares what comes with what should come."""

    def __init__(self, data: bytes, name: str, transcript: Transcript) -> None:
        self._data = data
        self._name = name
        self._transcript = transcript
        self.size = 0

    @property
    def done(self) -> bool:
        """Whether all has come."""
        return self.size == len(self._data)

    def take(self, data: bytes) -> None:
        """The next bytes."""
        start, self.size = self.size, self.size + len(data)
        if self._data[start : self.size] != data:
            self._transcript.fail(f"{self._name}: wrong bytes from byte {start} on")
