"""A command with forwards open: it is told where they listen, and they end when it does."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from msgspec.structs import replace

from .aws import Client
from .child_process import FileLimit, run_child, why_not
from .command import LOOPBACK_TARGET, reach
from .config import NamedForward, Place
from .errors import Error, SessionClosed, UsageError, one_line
from .events import Closed, Disconnected, Event, Listening, Restarted, Restarting
from .forwards import Request
from .runner import finish, unless
from .status import Output, TellLongInterruptions, printer, tell
from .up import run_forwards

INTERRUPTED = 130

_WHAT = r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*\.)?(?:host|port)"
# With a second brace, what stands there is meant.
_PLACEHOLDER = re.compile(rf"\{{\{{({_WHAT})\}}\}}?|\{{({_WHAT})\}}")
# Where programs connect to for what listens everywhere.
_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared with

# Host and port by a forward's name; the path and None for a unix socket. The first is everyone's.
Places = Mapping[str, tuple[str, int | None]]


def check_command(command: Sequence[str], wanted: Sequence[NamedForward]) -> None:
    """Raise UsageError for what could only be told once the forwards are open."""
    places: dict[str, tuple[str, int | None]] = {
        one.name: ("", None if isinstance(one.forward.local, str) else 0) for one in wanted
    }
    fill_in(command, places)
    targets = {one.request.target for one in wanted}
    if LOOPBACK_TARGET in targets and len(targets) > 1:
        raise UsageError("'loopback' goes with no other target")
    if len(environment(places)) < 2 + 2 * len(wanted):
        raise UsageError(f"{', '.join(places)}: the names differ too little for the environment's")


def fill_in(command: Sequence[str], places: Places) -> list[str]:
    """``command`` with each placeholder replaced. Raises UsageError for one that means nothing."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return f"{{{match[1]}}}"
        name, _, what = match[2].rpartition(".")
        name = name or next(iter(places))
        if name not in places:
            raise UsageError(f"{match[0]} names no forward; to mean it, write {{{match[0]}}}")
        host, port = places[name]
        if what == "port" and port is None:
            raise UsageError(f"{match[0]}: a unix socket has no port; {{host}} is its path")
        return host if what == "host" else str(port)

    return [_PLACEHOLDER.sub(value, word) for word in command]


def environment(places: Places) -> dict[str, str]:
    """The variables that tell a command where the forwards listen."""
    variables: dict[str, str] = {}
    for name, (host, port) in [("", next(iter(places.values()))), *places.items()]:
        prefix = "_".join(["SSMNET", *filter(None, [re.sub("[^A-Z0-9]", "_", name.upper())])])
        variables[f"{prefix}_HOST"] = host
        variables[f"{prefix}_PORT"] = "" if port is None else str(port)
    return variables


async def run_with_forwards(
    wanted: Sequence[NamedForward],
    command: Sequence[str],
    limit: FileLimit | None,
    stop: asyncio.Event,
) -> int:
    """Open all ``wanted``, run the command with them, and end them; the exit status.

    ``limit`` is the command's own of open files. Raises the Error that keeps one from being opened.
    """
    own = dict(os.environ)  # of our user: the loopback far end changes ours
    async with AsyncExitStack() as stack:
        reached = await _reach(stack, wanted)
        closing = asyncio.Event()
        names = [one.name if len(wanted) > 1 else "" for one in wanted]
        opened = [_Opened(name, closing, stop) for name in names]
        tasks = [
            asyncio.create_task(run_forwards(client, request, [one.forward], told, closing))
            for (client, request), one, told in zip(reached, wanted, opened, strict=True)
        ]
        try:
            opening = await unless(stop, _all_open(tasks, opened))
            # Both may come in the same turn, and nobody looks at stop once the command runs.
            if opening is None or stop.is_set():
                return INTERRUPTED
            places = {one.name: told.place for one, told in zip(wanted, opened, strict=True)}
            for task, told in zip(tasks, opened, strict=True):
                task.add_done_callback(told.over)
            return await _run(fill_in(command, places), own | environment(places), limit)
        finally:
            closing.set()
            await finish(_all_closed(tasks))


class _Opened:
    """What is known of one forward: where it listens, and what is to be told of it."""

    def __init__(self, name: str, closing: asyncio.Event, stop: asyncio.Event) -> None:
        self.listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
        self._name = name
        self._closing = closing
        self._print = printer(Output.TEXT, stop)
        self._interruptions = TellLongInterruptions()
        self._reason = "it has ended"

    def __call__(self, event: Event) -> None:
        """Take an event. What the command has on its terminal is not disturbed for nothing."""
        if isinstance(event, Listening) and not self.listening.done():
            self.listening.set_result(event)
        elif isinstance(event, Closed):
            self._reason = event.reason
        elif isinstance(event, Disconnected | Restarting | Restarted):
            self._print(event, self._name)
        else:
            self._interruptions(event)

    @property
    def place(self) -> tuple[str, int | None]:
        """Where programs connect to."""
        event = self.listening.result()
        return _NEAR.get(event.address, event.address), event.port

    def over(self, task: asyncio.Task[bool]) -> None:
        """Tell that the forward has ended before the command has."""
        error = None if task.cancelled() else task.exception()
        if self._closing.is_set():
            return
        what = f"forward {self._name}" if self._name else "the forward"
        why = one_line(error) if isinstance(error, Error) else self._reason
        tell(f"{what} is over: {why}; the command goes on without it")


async def _reach(
    stack: AsyncExitStack, wanted: Sequence[NamedForward]
) -> list[tuple[Client, Request]]:
    """The AWS side of each, one for all of the same place, and the request with its real target."""
    known: dict[tuple[str, Place], tuple[Client, str]] = {}
    found = []
    for one in wanted:
        target = one.request.target
        key = (target if target == LOOPBACK_TARGET else "", one.place)
        if key not in known:
            known[key] = await stack.enter_async_context(reach(target, *one.place))
        client, far_end = known[key]
        reached = far_end if target == LOOPBACK_TARGET else target
        found.append((client, replace(one.request, target=reached)))
    return found


async def _all_open(tasks: Sequence[asyncio.Future[bool]], opened: Sequence[_Opened]) -> bool:
    """True, once all listen. Raises the Error of the first that can't."""
    for one in opened:
        waiting: list[asyncio.Future[Any]] = [one.listening, *tasks]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and not task.result():
                raise SessionClosed("the forward has ended before the command could begin")
    return True


async def _run(
    command: Sequence[str], variables: Mapping[str, str], limit: FileLimit | None
) -> int:
    try:
        return await run_child(command, variables, limit)
    except OSError as error:
        status, why = why_not(error, command[0])
        tell(f"error: {why}")
        return status


async def _all_closed(tasks: Sequence[asyncio.Task[bool]]) -> None:
    # Their errors have been raised or told.
    await asyncio.gather(*tasks, return_exceptions=True)
