"""The blocking face, for scripts, notebooks, pytest and Django: a private loop in a thread.

::

    with ssmnet.blocking.forward("i-0123456789abcdef0", 5432, host="db.internal") as port:
        ...  # 127.0.0.1:port leads there

Arguments and errors are those of the library without it. What a script leaves open is ended with
its process. All may be used from any thread, also
where an event loop runs, which it blocks meanwhile.
"""

from __future__ import annotations

import asyncio
import atexit
import inspect
import os
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from . import connecting, remote
from .credentials import Source
from .errors import SessionClosed, UsageError
from .events import Event
from .listening import TunnelListener
from .process import OUTPUT_LIMIT
from .starting import Closable, Starting
from .statistics import Statistics

__all__ = ["Target", "connect", "forward"]

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound=Closable)

# How long the end of the process may wait for that of its sessions, in seconds; and then as long
# for the loop's.
EXIT_TIMEOUT = 5.0


class LoopThread:
    """An event loop in a thread of its own, for as long as ``with`` lasts.

    What is still open at the end of the process is ended then, within a few seconds.
    """

    def __init__(self) -> None:
        self._running: Future[asyncio.AbstractEventLoop] = Future()
        self._stop = asyncio.Event()
        # Whoever ends the process without leaving ``with`` is not to be kept.
        self._thread = threading.Thread(target=self._work, name="ssmnet", daemon=True)
        self._entered: dict[Starting[Any], None] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        self._over = False

    def __enter__(self) -> Self:
        try:
            self._thread.start()
            self._running.result()
            atexit.register(self._leave)
        except BaseException:
            self._over = True
            # An interrupt may come before there is a loop to stop.
            self._running.add_done_callback(self._stop_loop)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._is_over:
            self._end(None)
            atexit.unregister(self._leave)

    @property
    def _is_over(self) -> bool:
        return self._over or os.getpid() != self._pid  # a fork has no such thread

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """What ``work`` gives in the loop. It is cancelled when this thread is interrupted."""
        if self._is_over:
            work.close()
            raise SessionClosed("the target is closed")
        if threading.current_thread() is self._thread:
            work.close()
            raise UsageError(
                "on_event must not wait for the loop that calls it: use another thread"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._running.result())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @contextmanager
    def entered(self, starting: Starting[C]) -> Iterator[C]:
        """As ``async with`` in the loop."""
        made = self.call(starting.__aenter__())
        self._entered[starting] = None
        try:
            yield made
        except BaseException as error:
            self._exit(starting, type(error), error, error.__traceback__)
            raise
        else:
            self._exit(starting, None, None, None)

    def _exit(self, starting: Starting[Any], *exc_info: Any) -> None:
        """Leave it, unless all was left at the end of the process."""
        if not self._is_over:
            self._entered.pop(starting)
            self.call(self._see_out(starting.__aexit__(*exc_info)))

    async def _see_out(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it to its end, also where this thread is interrupted again and waits no more."""
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        await asyncio.shield(task)

    def _end(self, patience: float | None) -> None:
        self._over = True
        self._stop_loop(self._running)
        self._thread.join(patience)

    def _stop_loop(self, running: Future[asyncio.AbstractEventLoop]) -> None:
        if running.exception() is None:
            running.result().call_soon_threadsafe(self._stop.set)

    def _leave(self) -> None:
        """The process ends: so do sessions, which would else go on until AWS's idle timeout."""
        if self._is_over:
            return
        exits = [one.__aexit__(SystemExit, None, None) for one in reversed(self._entered)]
        work = asyncio.run_coroutine_threadsafe(_gather(exits), self._running.result())
        wait((work,), EXIT_TIMEOUT)
        self._end(EXIT_TIMEOUT)

    def _work(self) -> None:
        try:
            with asyncio.Runner() as runner:
                runner.run(self._run())
        except BaseException as error:
            if self._running.done():
                raise
            self._running.set_exception(error)  # no loop could be made

    async def _run(self) -> None:
        self._running.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        if self._leaving:
            await asyncio.wait(self._leaving, timeout=EXIT_TIMEOUT)


async def _gather(exits: Sequence[Coroutine[Any, Any, None]]) -> None:
    await asyncio.gather(*exits, return_exceptions=True)


def _shown(function: Callable[P, T], first: str, given: str) -> Callable[P, T]:
    """For ``help``: what is another than in the original."""
    signature = inspect.signature(function).replace(
        return_annotation=f"AbstractContextManager[{given}]"
    )
    shown: Any = function
    shown.__signature__ = signature
    shown.__doc__ = f"{first}\n\n    {shown.__doc__}"
    return function


def _listening(
    open_listener: Callable[Concatenate[remote.Target, P], Starting[TunnelListener]],
) -> Callable[Concatenate[Target, P], AbstractContextManager[int]]:
    """The same for ``with``, which gives the local port."""

    @contextmanager
    @wraps(open_listener)
    def enter(self: Target, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[int]:
        with self._loop.entered(open_listener(self._target, *args, **kwargs)) as listener:
            yield listener.port

    return _shown(enter, "For ``with``, which gives the local port.", "int")


class Target:
    """As ssmnet.Target, without connections that only a loop could use. Made by ``connect``."""

    def __init__(self, loop: LoopThread, target: remote.Target) -> None:
        self._loop = loop
        self._target = target

    forward = _listening(remote.Target.forward)
    """As ssmnet.Target.forward, for ``with``, which gives the local port."""

    proxy = _listening(remote.Target.proxy)
    """As ssmnet.Target.proxy, for ``with``, which gives the local port."""

    def run(
        self,
        *args: str,
        timeout: float | None = None,
        base64: bool = False,
        limit: int = OUTPUT_LIMIT,
    ) -> CompletedProcess[bytes]:
        """As ssmnet.Target.run: a command to its end. Times are in seconds, ``limit`` in bytes.

        Raises what that raises.
        """
        return self._loop.call(self._target.run(*args, timeout=timeout, base64=base64, limit=limit))

    def statistics(self) -> Statistics:
        """How it is at this moment. Raises SessionClosed when it is closed."""

        async def look() -> Statistics:
            return self._target.statistics()

        return self._loop.call(look())


def _entered(
    make: Callable[P, Starting[remote.Target]],
) -> Callable[P, AbstractContextManager[Target]]:
    @contextmanager
    @wraps(make)
    def enter(*args: P.args, **kwargs: P.kwargs) -> Iterator[Target]:
        starting = make(*args, **kwargs)
        with LoopThread() as loop, loop.entered(starting) as target:
            yield Target(loop, target)

    said = "As ssmnet.connect, for ``with``. ``on_event`` is called in the loop's thread."
    return _shown(enter, said, "Target")


connect = _entered(connecting.connect)
"""As ssmnet.connect, for ``with``. ``on_event`` is called in the loop's thread."""


@contextmanager
def forward(
    target: str,
    port: int,
    *,
    host: str | None = None,
    local_port: int = 0,
    bind: str | Sequence[str] | None = None,
    sessions: int = 1,
    check: bool = False,
    profile: str | None = None,
    region: str | None = None,
    credentials: Source | None = None,
    endpoint_url: str | None = None,
    messages_endpoint_url: str | None = None,
    reason: str | None = None,
    keep_alive: float | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Iterator[int]:
    """The local port of one forward; see ``ssmnet.connect`` and ``ssmnet.Target.forward``.

    It listens while ``with`` lasts. ``on_event`` is called in the loop's thread. Raises what those
    raise.
    """
    with (
        connect(
            target,
            profile=profile,
            region=region,
            credentials=credentials,
            endpoint_url=endpoint_url,
            messages_endpoint_url=messages_endpoint_url,
            reason=reason,
            keep_alive=keep_alive,
            on_event=on_event,
        ) as reached,
        reached.forward(
            port, host=host, local_port=local_port, bind=bind, sessions=sessions, check=check
        ) as listening,
    ):
        yield listening
