"""Runs services: those of one command together, or those of a file, each by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from random import SystemRandom

from .aws import Client
from .config import Config, NamedForward, NamedProxy
from .errors import Error, SessionClosed, UsageError
from .events import Event, Failed, Reloaded
from .forwards import Forward, Request
from .runner import finish, unless
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

    ``load`` reads the file at ``path``. ``make`` gives the service of a name, which tells its
    events to the callable that it is given. ``names`` are those wanted, or none for all. ``tell``
    is told each event with the name that it is of; empty for the file's own.
    """

    def __init__(
        self,
        path: Path,
        load: Callable[[], Config],
        make: Callable[[Named, Callable[[Event], None]], Service],
        names: Sequence[str],
        tell: Tell,
    ) -> None:
        self._path = path
        self._load = load
        self._make = make
        self._names = tuple(names)
        self._tell = tell
        self._file = _stamp(path)
        self._wanted = self._choose(load())
        self._running: dict[str, _Running] = {}
        self._changing = asyncio.Lock()
        self._is_closing = False
        self._all_down = asyncio.Event()
        self.pid = os.getpid()
        self.started_at = time.time()

    @property
    def config_path(self) -> str:
        """The file, as an absolute path."""
        return str(self._path.absolute())

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop``, or until all are down."""
        services = {
            name: self._make_service(named)
            for name, named in self._wanted.items()
            if name not in self._running  # somebody may have asked for a reload already
        }
        watching = asyncio.ensure_future(self._watch_file())
        self._start(services)
        try:
            await unless(stop, self._all_down.wait())
        finally:
            await finish(self._end(watching))

    def snapshots(self) -> list[Snapshot]:
        """How each of them is now."""
        running = self._running
        return [running[name].snapshot() for name in self._wanted if name in running]

    async def down(self, names: Sequence[str]) -> list[str]:
        """Stop these, or all and then the whole; the names of those that were stopped.

        A reload starts them again. Raises UsageError for a name that is not there.
        """
        async with self._changing:
            for name in names:
                if name not in self._running:
                    raise UsageError(f"{name!r} does not run here")
            self._is_closing = self._is_closing or not names
            wanted = dict.fromkeys(names or self._running)
            stopped = [name for name in wanted if not self._running[name].is_over]
            await self._stop(stopped)
            if all(running.is_over for running in self._running.values()):
                self._is_closing = True
                self._all_down.set()
        return stopped

    async def reload(self) -> str:
        """Read the file again and do what has changed; a line about that. Raises Error.

        What has not changed goes on, with its connections.
        """
        async with self._changing:
            self._file = _stamp(self._path)
            try:
                changes = await self._reload()
            except Error as error:
                self._tell(Reloaded("", str(error)), "")
                raise
        self._tell(Reloaded(changes), "")
        return changes

    async def _reload(self) -> str:
        before, running = self._wanted, self._running
        wanted = self._choose(self._load())
        gone = [name for name in before if name not in wanted]
        new = [name for name in wanted if name not in running or running[name].is_over]
        changed = [name for name in wanted if name not in new and before[name] != wanted[name]]
        # Before anything is stopped: if one can't be made, all goes on as it was.
        services = {name: self._make_service(wanted[name]) for name in (*new, *changed)}
        await self._stop([name for name in (*gone, *changed) if name in running])
        if self._is_closing:
            raise SessionClosed("the process ends")
        self._wanted = wanted
        for name in gone:
            running.pop(name, None)
        self._start(services)
        parts = (("started", new), ("changed", changed), ("stopped", gone))
        told = "; ".join(f"{what} {', '.join(names)}" for what, names in parts if names)
        return told or "nothing has changed"

    def _choose(self, config: Config) -> dict[str, Named]:
        """What is wanted of the file. Raises UsageError."""
        found: Mapping[str, Named] = {**config.forwards, **config.proxies}
        if not found:
            raise UsageError(f"{config.path} has no forward and no proxy")
        config.check_names(self._names)
        return {name: found[name] for name in self._names or found}

    def _make_service(self, named: Named) -> Service:
        return self._make(named, lambda event: self._tell(event, named.name))

    def _start(self, services: Mapping[str, Service]) -> None:
        for name, service in services.items():
            self._running[name] = _Running(name, service)

    async def _stop(self, names: Sequence[str]) -> None:
        tasks = [self._running[name].stop() for name in names]
        if tasks:
            await asyncio.wait(tasks)

    async def _end(self, watching: asyncio.Task[None]) -> None:
        self._is_closing = True
        watching.cancel()
        await asyncio.wait((watching,))
        for running in self._running.values():
            running.stop()
        async with self._changing:
            await self._stop(tuple(self._running))

    async def _watch_file(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AT_FILE_TIME)
            stamp = _stamp(self._path)
            if stamp is None or stamp == self._file:
                continue  # one that is gone may be on its way back
            try:
                await self.reload()
            except Error:
                pass  # it is told
            except Exception as fault:
                # Whatever it is, nobody would notice that nobody looks any more.
                logger.exception("cannot reload %s", self._path)
                self._tell(Reloaded("", f"cannot read {self._path}: {type(fault).__name__}"), "")


class _Running:
    """A service that is run again whenever it ends, until it is stopped."""

    def __init__(self, name: str, service: Service) -> None:
        self._name = name
        self._service = service
        self._stop = asyncio.Event()
        self._state: State | None = None
        self._task = asyncio.ensure_future(self._keep_running())

    @property
    def is_over(self) -> bool:
        """Whether it was stopped, and that is done."""
        return self._task.done()

    def stop(self) -> asyncio.Task[None]:
        """Have it stop; what is done then."""
        self._stop.set()
        return self._task

    def snapshot(self) -> Snapshot:
        """How it is now."""
        return self._service.snapshot(self._name, State.STOPPED if self.is_over else self._state)

    async def _keep_running(self) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_RETRY_TIME
        told = ""
        while True:
            began = loop.time()
            self._state = None
            error = await self._run()
            if error is None:
                return
            if loop.time() - began >= LASTING_TIME:
                delay, told = FIRST_RETRY_TIME, ""
            self._state = State.FAILED
            failed = Failed(str(error), type(error).__name__)
            self._service.tell(failed, again=failed.error == told)
            told = failed.error
            wait = delay * (0.5 + SystemRandom().random() / 2)
            if await unless(self._stop, asyncio.sleep(wait, True)) is None:
                return
            delay = min(2 * delay, LAST_RETRY_TIME)

    async def _run(self) -> Error | None:
        """Run it once; why it has ended, or None when it was stopped."""
        try:
            if await self._service.run(self._stop):
                return None
        except Error as error:
            return error
        except Exception as fault:
            # Whatever it is, nobody would notice that this one is not tried any more.
            logger.exception("%s: cannot run", self._name)
            return Error(f"it cannot run: {type(fault).__name__}")
        return self._service.ended or Error("it has ended")


def _stamp(path: os.PathLike[str]) -> tuple[int, int, int] | None:
    """What changes when a file does; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
