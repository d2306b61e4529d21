"""Starting: what can be awaited, or entered with ``async with``, as asyncpg's and aiohttp's are."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar


class Closable(Protocol):
    """What ``async with`` ends."""

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


T = TypeVar("T", bound=Closable)


class Starting(Generic[T]):
    """``await`` it for the thing itself, which is to be closed then; or use ``async with``.

    Nothing happens before that.
    """

    def __init__(self, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._start = start
        self._started: list[T] = []

    def __await__(self) -> Generator[Any, None, T]:
        return self._start().__await__()

    async def __aenter__(self) -> T:
        self._started.append(await self._start())
        return self._started[-1]

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._started.pop().__aexit__(exc_type, exc, traceback)
