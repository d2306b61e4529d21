"""Bytes waiting to be sent, in the pieces they came in."""

from __future__ import annotations

from collections import deque

Buffer = bytes | memoryview


class ByteQueue:
    """First in, first out. ``len()`` counts bytes."""

    __slots__ = ("_pieces", "_size")

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: Buffer) -> None:
        """Add ``data``, which must not change afterwards."""
        self._pieces.append(memoryview(data))
        self._size += len(data)

    def take(self, size: int) -> Buffer:
        """At most ``size`` bytes from the front, across pieces as a stream socket reads."""
        taken: list[memoryview] = []
        room = size
        while room and self._pieces:
            piece = self._pieces.popleft()
            if len(piece) > room:
                self._pieces.appendleft(piece[room:])
                piece = piece[:room]
            taken.append(piece)
            room -= len(piece)
        self._size -= size - room
        return taken[0] if len(taken) == 1 else b"".join(taken)
