"""Runs services: those of one command together, or those of a file, each by itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import SystemRandom

from .aws import Client
from .config import Config, NamedForward, NamedProxy
from .errors import Error, UsageError
from .events import Event, Failed, Reloaded
from .forwards import Forward, Request
from .runner import unless
from .service import ForwardService, Service
from .snapshot import Snapshot, State

logger = logging.getLogger("ssmnet.up")

Named = NamedForward | NamedProxy
Tell = Callable[[Event, str], None]

# How long one that has failed waits for its next try: twice as long each time. In seconds.
FIRST_RETRY_TIME = 1.0
LAST_RETRY_TIME = 30.0
# One that has run for so long has not failed to start.
LASTING_TIME = 60.0
# A look at the file is one call of the system. What could tell of changes instead differs from
# system to system, and misses those on other machines.
LOOK_AT_FILE_TIME = 1.0


async def run_together(services: Iterable[Service], stop: asyncio.Event) -> bool:
    """Run all until ``stop``; whether none of them ended before.

    Raises the error of the first that can't start, with nothing left behind.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(service.run(stop)) for service in services]
    except* Error as errors:
        first = errors.exceptions[0]
    else:
        return all(task.result() for task in tasks)
    raise first


async def run_forwards(
    client: Client,
    request: Request,
    forwards: Sequence[Forward],
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
) -> bool:
    """Run ``forwards`` as run_together does."""
    services = [ForwardService(client, request, forward, on_event) for forward in forwards]
    return await run_together(services, stop)


class Up:
    """The forwards and proxies of a file: started together, and kept up one by one.

    ``load`` reads the file. ``make`` gives the service of a name, which tells its events to the
    callable that it is given. ``names`` are those wanted, or none for all. ``tell`` is told each
    event with the name that it is of; empty for the file's own.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        make: Callable[[Named, Callable[[Event], None]], Service],
        names: Sequence[str],
        tell: Tell,
    ) -> None:
        self._load = load
        self._make = make
        self._names = tuple(names)
        self._tell = tell
        self._wanted: dict[str, Named] = {}
        self._running: dict[str, _Running] = {}
        self._reloading = asyncio.Lock()
        self._down = asyncio.Event()
        config = load()
        self._path = config.path
        self._file = _stamp(self._path)
        self._take(config)
        self.pid = os.getpid()
        self.started_at = time.time()

    @property
    def config_path(self) -> str:
        """The file, as an absolute path."""
        return str(self._path.absolute())

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop``, or until all are down."""
        watching = asyncio.ensure_future(self._watch_file())
        for name in self._wanted:
            self._start(name)
        try:
            await unless(stop, self._all_down())
        finally:
            watching.cancel()
            await self._stop(tuple(self._running))

    def snapshots(self) -> list[Snapshot]:
        """How each of them is now."""
        running = self._running
        return [running[name].snapshot() for name in self._wanted if name in running]

    async def down(self, names: Sequence[str]) -> list[str]:
        """Stop these, or all and then the whole; the names of those that were stopped.

        Raises UsageError for a name that does not run.
        """
        for name in names:
            if name not in self._running:
                raise UsageError(f"{name!r} does not run here")
        stopped = list(names or self._running)
        await self._stop(stopped)
        return stopped

    async def reload(self) -> str:
        """Read the file again and do what has changed; a line about that. Raises UsageError.

        What has not changed goes on, with its connections.
        """
        async with self._reloading:
            self._file = _stamp(self._path)
            try:
                changes = await self._reload()
            except Error as error:
                self._tell(Reloaded("", str(error)), "")
                raise
        self._tell(Reloaded(changes), "")
        return changes

    async def _reload(self) -> str:
        before = self._wanted
        self._take(self._load())
        wanted = self._wanted
        gone = [name for name in before if name not in wanted]
        new = [name for name in wanted if name not in before]
        changed = [name for name in wanted if before.get(name, wanted[name]) != wanted[name]]
        await self._stop([name for name in (*gone, *changed) if name in self._running])
        for name in (*new, *changed):
            self._start(name)
        parts = (("started", new), ("changed", changed), ("stopped", gone))
        told = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)
        return told or "nothing has changed"

    def _take(self, config: Config) -> None:
        """Raises UsageError, with nothing taken."""
        found: Mapping[str, Named] = {**config.forwards, **config.proxies}
        for name in self._names:
            if name not in found:
                raise UsageError(f"{config.path} has no {name!r}: it has {', '.join(found)}")
        if not found:
            raise UsageError(f"{config.path} has no forward and no proxy")
        self._wanted = {name: found[name] for name in self._names or found}

    def _start(self, name: str) -> None:
        def tell(event: Event) -> None:
            self._tell(event, name)

        self._down.clear()
        self._running[name] = _Running(name, self._make(self._wanted[name], tell))

    async def _stop(self, names: Sequence[str]) -> None:
        stopping = [self._running[name] for name in names]
        for running in stopping:
            running.stop.set()
        if stopping:
            await asyncio.wait([running.task for running in stopping])
        for running in stopping:
            if self._running.get(running.name) is running:
                del self._running[running.name]
        if not self._running:
            self._down.set()

    async def _all_down(self) -> bool:
        return await self._down.wait()

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_FILE_TIME)
            stamp = _stamp(self._path)
            if stamp is None or stamp == self._file:
                continue  # one that is gone may be on its way back
            with contextlib.suppress(Error):  # it is told
                await self.reload()


class _Running:
    """A service that is run again whenever it ends, until it is to ``stop``."""

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self.stop = asyncio.Event()
        self._service = service
        self._state: State | None = None
        self.task = asyncio.ensure_future(self._keep_running())

    def snapshot(self) -> Snapshot:
        return self._service.snapshot(self.name, self._state)

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY_TIME
        told = ""
        while True:
            began = loop.time()
            self._state = None
            error: Exception = Error("it has ended")
            try:
                if await self._service.run(self.stop):
                    return
            except Error as failed:
                error = failed
            except Exception as fault:
                # Whatever it is, nobody would notice that this one is not tried any more.
                logger.exception("%s: cannot run", self.name)
                error = Error(f"it cannot run: {type(fault).__name__}")
            if loop.time() - began >= LASTING_TIME:
                delay, told = FIRST_RETRY_TIME, ""
            self._state = State.FAILED
            if str(error) != told:
                told = str(error)
                self._service.tell(Failed(told, type(error).__name__))
            wait = delay * (0.5 + SystemRandom().random() / 2)
            if await unless(self.stop, asyncio.sleep(wait, True)) is None:
                return
            delay = min(2 * delay, LAST_RETRY_TIME)


def _stamp(path: os.PathLike[str]) -> tuple[int, int, int] | None:
    """What changes when a file does; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
