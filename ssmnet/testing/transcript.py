"""What happened in a simulation, line by line, and what should not have happened."""

from __future__ import annotations

import asyncio
import re
from hashlib import sha256

_NUMBER = re.compile(rb'"AcknowledgedMessageSequenceNumber":\s*(-?\d+)')
_TYPES = {
    kind.ljust(32): kind.decode()
    for kind in (
        b"input_stream_data",
        b"output_stream_data",
        b"acknowledge",
        b"channel_closed",
        b"start_publication",
        b"pause_publication",
    )
}
HEADER_LENGTH = b"\x00\x00\x00\x74"
ACKNOWLEDGE = "acknowledge"
INPUT = "input_stream_data"
OUTPUT = "output_stream_data"


class Violation(Exception):
    """Something happened that must never happen."""


class Transcript:
    """The messages and events of one run, and the first violation among them.

    Callbacks have nobody to raise to: they ``fail``, and whoever runs the simulation waits for
    ``failed``, which is done then.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._entries: list[tuple[float, str, str, int, int]] = []
        self.failed: asyncio.Future[Violation] = self._loop.create_future()

    def message(self, direction: str, kind: str, number: int, size: int) -> None:
        """A message of ``size`` bytes was sent, lost or delivered: that is the ``direction``."""
        self._entries.append((self._loop.time(), direction, kind, number, size))

    def event(self, text: str) -> None:
        """Anything else."""
        self._entries.append((self._loop.time(), "*", text, -1, -1))

    def fail(self, text: str) -> None:
        """That should not have happened."""
        self.event(f"VIOLATION: {text}")
        if not self.failed.done():
            self.failed.set_result(Violation(text))

    def require(self, holds: bool, text: str) -> None:
        """``fail`` unless it ``holds``."""
        if not holds:
            self.fail(text)

    def __len__(self) -> int:
        return len(self._entries)

    def lines(self, last: int | None = None) -> list[str]:
        """The lines to read, or the ``last`` of them."""
        entries = (
            self._entries if last is None else self._entries[len(self) - min(last, len(self)) :]
        )
        return [
            f"{time:12.6f} {direction} {kind}" + (f" {number}, {size} bytes" if size >= 0 else "")
            for time, direction, kind, number, size in entries
        ]


def kind_and_number(data: bytes) -> tuple[str, int]:
    """What a message is, and its own number or the one it acknowledges.

    Read without the codec of the client, so that a fault of that can't hide here.
    """
    if data[:4] != HEADER_LENGTH:
        return data[:4].decode("latin-1"), 0
    kind = _TYPES.get(data[4:36], "?")
    if kind == ACKNOWLEDGE:
        found = _NUMBER.search(data, 120)
        return kind, int(found[1]) if found else -1
    return kind, int.from_bytes(data[48:56])


def is_intact(data: bytes) -> bool:
    """Whether a message is as it was sent: its payload fits its digest."""
    return (
        data[:4] != HEADER_LENGTH or sha256(data[120:]).digest() == data[80:112] or len(data) == 120
    )
