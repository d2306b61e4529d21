"""TunnelListener: a forward or proxy of an application, with the verbs of asyncio.Server."""

from __future__ import annotations

import asyncio
import socket
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from .aws import Client
from .config import NamedProxy
from .errors import Error
from .events import Event, Listening
from .runner import finish
from .service import ProxyService, Service
from .snapshot import Snapshot, State


class TunnelListener:
    """A local port or unix socket that leads through a target. It listens until it is closed.

    ``host`` and ``port`` are where, as ``127.0.0.1`` and 5432; ``host`` is the path and ``port`` 0
    for a unix socket. Leaving ``async with`` closes it: connections have a few seconds to end, or
    none after an exception, and are then reset.
    """

    def __init__(
        self,
        make: Callable[[Callable[[Event], None]], Service],
        on_event: Callable[[Event], None],
        on_closed: Callable[[TunnelListener], None],
        numbers: Iterator[int],
    ) -> None:
        self._on_event = on_event
        self._on_closed = on_closed
        self._stop = asyncio.Event()
        self._listening = asyncio.Event()
        self._service = make(self._tell)
        self._service.numbers = numbers
        self._task: asyncio.Task[bool] | None = None
        self.host = ""
        self.port = 0

    async def _start(self) -> None:
        """Open it; once. Raises ListenError, ConnectError and its kinds, with nothing left."""
        self._task = asyncio.create_task(self._service.run(self._stop))
        self._task.add_done_callback(lambda _: self._on_closed(self))
        listening = asyncio.create_task(self._listening.wait())
        try:
            await asyncio.wait((self._task, listening), return_when=FIRST_COMPLETED)
            if not self._listening.is_set():
                self._task.result()
                raise Error("the listener was closed before it could listen")
        except BaseException:
            self._service.drain_time = 0.0
            self.close()
            await finish(self._finished())
            raise
        finally:
            listening.cancel()

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """The sockets that are listened on, as of asyncio.Server."""
        return self._service.sockets

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, as ``127.0.0.1:5432`` or a path."""
        return self.statistics().addresses

    def is_serving(self) -> bool:
        """Whether it accepts connections."""
        return bool(self._service.sockets) and not self._stop.is_set()

    def statistics(self) -> Snapshot:
        """How it is at this moment; see Snapshot."""
        over = self._task is None or self._task.done() or self._stop.is_set()
        return self._service.snapshot(self._service.destination, State.STOPPED if over else None)

    def close(self) -> None:
        """Accept no more, and end. See wait_closed."""
        self._stop.set()

    async def wait_closed(self) -> None:
        """Wait until it is closed, with its connections and sessions.

        That is after ``close``, or when there will be no session any more (see ``max_restarts``):
        why, its Closed event tells. Raises Error for what it did not expect.
        """
        await self._finished()
        if self._task is not None and not self._task.cancelled():
            self._task.result()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is not None:
            self._service.drain_time = 0.0
        self.close()
        await finish(self.wait_closed())

    async def _finished(self) -> None:
        if self._task is not None:
            await asyncio.wait((self._task,))

    def _tell(self, event: Event) -> None:
        if isinstance(event, Listening):
            self.host, self.port = event.address, event.port or 0
            self._listening.set()
        self._on_event(event)


class Listeners:
    """The listeners of one owner. ``numbers`` is for their connections."""

    def __init__(self, tell: Callable[[Event], None], numbers: Iterator[int]) -> None:
        self._tell = tell
        self._numbers = numbers
        self._open: dict[TunnelListener, None] = {}

    async def start(self, make: Callable[[Callable[[Event], None]], Service]) -> TunnelListener:
        """One more, for the service that ``make`` makes."""
        listener = TunnelListener(make, self._tell, self._forget, self._numbers)
        self._open[listener] = None
        await listener._start()
        return listener

    def statistics(self) -> tuple[Snapshot, ...]:
        """How they are at this moment."""
        return tuple(listener.statistics() for listener in self._open)

    async def close(self) -> None:
        """Close all."""
        listeners = tuple(self._open)
        for listener in listeners:
            listener.close()
        # What has failed is told by the listener's own wait_closed.
        closing = (listener.wait_closed() for listener in listeners)
        await asyncio.gather(*closing, return_exceptions=True)

    def _forget(self, listener: TunnelListener) -> None:
        self._open.pop(listener, None)


class OpenProxy(ProxyService):
    """A proxy with its password at hand, instead of in the environment."""

    def __init__(
        self,
        client: Client,
        proxy: NamedProxy,
        on_event: Callable[[Event], None],
        password: tuple[str, str] | None,
    ) -> None:
        super().__init__(client, proxy, on_event)
        self._password = password

    def _credentials(self) -> tuple[str, str] | None:
        return self._password
