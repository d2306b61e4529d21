"""SendBuffer: what a stream's owner has written and nobody has taken yet."""

from __future__ import annotations

from collections import deque

Buffer = bytes | memoryview


class SendBuffer:
    """Bytes in order, given out in pieces of any size without a copy. It has no limit of its own:
    who writes looks at ``size``."""

    __slots__ = ("_chunks", "size")

    def __init__(self) -> None:
        # Made when needed and dropped when empty: a deque weighs more than all else of a stream,
        # and most connections are idle.
        self._chunks: deque[memoryview] | None = None
        self.size = 0

    def append(self, data: Buffer) -> None:
        """Add ``data``, which must not change afterwards."""
        if data:
            if self._chunks is None:
                self._chunks = deque()
            self._chunks.append(memoryview(data))
            self.size += len(data)

    def take(self, size: int) -> list[memoryview]:
        """The oldest ``size`` bytes, or all there are."""
        chunks, self._chunks = self._chunks, None
        taken: list[memoryview] = []
        if chunks is None:
            return taken
        self.size -= (size := min(size, self.size))
        while size:
            chunk = chunks.popleft()
            if len(chunk) > size:
                chunks.appendleft(chunk[size:])
                chunk = chunk[:size]
            taken.append(chunk)
            size -= len(chunk)
        if chunks:
            self._chunks = chunks
        return taken

    def clear(self) -> None:
        """Drop everything."""
        self._chunks = None
        self.size = 0
