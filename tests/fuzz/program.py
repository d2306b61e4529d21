"""Bytes read as a program: what to do next, and with what.

Any bytes are one, so whatever makes and mutates bytes also makes and mutates sequences of steps.
"""

from __future__ import annotations

MAX_STEPS = 120


class Program:
    """``byte`` and ``chunk`` say what a step needs; zero and nothing after the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0
        self._steps = 0

    def goes_on(self) -> bool:
        """Whether there is another step."""
        self._steps += 1
        return self._position < len(self._data) and self._steps <= MAX_STEPS

    def byte(self) -> int:
        self._position += 1
        return self._data[self._position - 1] if self._position <= len(self._data) else 0

    def chunk(self) -> bytes:
        """Some bytes; a length of two bytes with its highest bit set asks for that many."""
        length = self.byte()
        if length & 0x80:
            length = (length & 0x7F) << 8 | self.byte()
        start, self._position = self._position, self._position + length
        return self._data[start : self._position]

    def rest(self) -> bytes:
        start, self._position = self._position, len(self._data)
        return self._data[start:]


def chunk(data: bytes) -> bytes:
    """What ``Program.chunk`` reads as ``data``."""
    if len(data) < 0x80:
        return bytes((len(data),)) + data
    return (0x8000 | len(data)).to_bytes(2) + data


def pieces(data: bytes, key: int) -> list[bytes]:
    """``data`` in pieces, whose sizes follow from ``key``."""
    cut: list[bytes] = []
    start = 0
    most = max(400, len(data) // 16)
    while start < len(data):
        key = (key * 1103515245 + 12345) & 0x7FFFFFFF
        size = 1 + (key >> 16) % (12 if key & 0x8000 else most)
        cut.append(data[start : start + size])
        start += size
    return cut
