"""Events for those who ask for them: a callback, and any number of async iterators."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Self
from weakref import WeakSet

from .events import Dropped, Event

# How many events an iterator keeps for a reader that is slow.
MAX_KEPT = 1000


class EventStream:
    """An async iterator of what happens from now on. It ends when its source is closed.

    Of more than ``limit`` events that nobody has read the oldest are dropped, which is told by a
    Dropped event in their place.
    """

    def __init__(self, limit: int = MAX_KEPT) -> None:
        self._kept: deque[Event] = deque()
        self._limit = limit
        self._dropped = 0
        self._changed = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._kept:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            return Dropped(dropped)
        return self._kept.popleft()

    def _add(self, event: Event) -> None:
        """Keep one more."""
        if len(self._kept) >= self._limit:
            self._kept.popleft()
            self._dropped += 1
        self._kept.append(event)
        self._changed.set()

    def _close(self) -> None:
        """There will be no more."""
        self._closed = True
        self._changed.set()


class Announcer:
    """Tells ``on_event``, and the streams that were made of it.

    A callback that fails is told to the event loop's exception handler; nothing else suffers.
    """

    def __init__(self, on_event: Callable[[Event], object] | None) -> None:
        self._on_event = on_event
        self._streams: WeakSet[EventStream] = WeakSet()  # nobody need close one
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def subscribe(self) -> EventStream:
        """One more stream."""
        stream = EventStream()
        if self._closed:
            stream._close()
        else:
            self._streams.add(stream)
        return stream

    def tell(self, event: Event) -> None:
        """Tell all."""
        for stream in self._streams:
            stream._add(event)
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:
            self._loop.call_exception_handler(
                {"message": "a callback for ssmnet's events failed", "exception": error}
            )

    def close(self) -> None:
        """End the streams."""
        self._closed = True
        for stream in self._streams:
            stream._close()
        self._streams.clear()
