"""``ssmnet status``, ``ssmnet down`` and ``ssmnet reload``: ask an ``ssmnet up`` that runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from .command import ConfigFile, Debug, run_command
from .errors import ConnectError, UsageError
from .status import tell

if TYPE_CHECKING:
    import asyncio
    from pathlib import Path

    from .control_client import Answer, Request, Running, Status

_T = TypeVar("_T")

Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Only these.", show_default=False)
]


def status(
    names: Names = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="A JSON object; with --watch one a line.")
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it every second, until Ctrl-C.")
    ] = False,
    config: ConfigFile = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Show how a running 'ssmnet up' is.

    \b
    ssmnet status
    ssmnet status --watch db cache
    ssmnet status --json | jq -r '.services[] | select(.state != "up") | .name'

    It is the one that runs with the ssmnet.toml found here, or else the only one of yours. Exit
    status: 0, 1 when none runs or it ends while it is watched, 2 for a usage error.
    """
    if watch:
        run_command(lambda stop: _watch(config, names or (), as_json, stop))
        return
    shown = _only(_run(_find(config, or_another=True)).status, names or ())
    typer.echo(_json(shown) if as_json else _text(shown), nl=as_json)


def down(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="Only these; without any, all of it.", show_default=False
        ),
    ] = None,
    config: ConfigFile = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Stop what a running 'ssmnet up' runs.

    That is the forwards and proxies named; without a name all, and it ends. Open connections may
    finish for a moment. Local ports are free when this is over. Exit status: 0, 1 when none runs, 2
    for a usage error.
    """
    from .control_client import Do, Request

    answer = _run(_ask(config, Request(Do.DOWN, tuple(dict.fromkeys(names or ())))))
    stopped = ", ".join(answer.stopped or ())
    typer.echo(f"stopped {stopped}" if stopped else "nothing of it was running")


def reload(
    config: ConfigFile = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Have a running 'ssmnet up' read its file.

    Tells what has changed. What has not goes on, with its connections. With an error in the file,
    all goes on as it was. Exit status: 0, 1 when none runs, 2 for an error in the file.
    """
    from .control_client import Do, Request

    answer = _run(_ask(config, Request(Do.RELOAD)))
    typer.echo(answer.changed or "")


def _run(asking: Coroutine[Any, Any, _T]) -> _T:
    from .runner import unless

    async def main(stop: asyncio.Event) -> _T | None:
        return await unless(stop, asking)

    result = run_command(main)
    if result is None:
        raise typer.Exit(130)
    return result


async def _find(config: Path | None, *, or_another: bool) -> Running:
    """The process to ask. Raises ConnectError when there is none, UsageError for several.

    ``or_another`` is whether it may be one that runs with another file than that found here: it is
    harmless to show how that is, but not to stop it.
    """
    from .config_file import find_config
    from .control_client import Do, Request, Running, ask, find_running, socket_path

    path = config or find_config()
    if path is not None:
        socket = socket_path(path)
        answer = await ask(socket, Request(Do.STATUS))
        if answer is not None and answer.status is not None:
            return Running(socket, answer.status)
    others = await find_running()
    told = ", ".join(f"{one.status.config} (pid {one.status.pid})" for one in others)
    if config is not None or (path is not None and not or_another):
        raise ConnectError(f"nothing runs with {path}" + (f", but with {told}" if told else ""))
    if not others:
        raise ConnectError("nothing runs: see 'ssmnet up'")
    if len(others) > 1:
        raise UsageError(f"several run, and --config says which: {told}")
    tell(f"running with {told}")
    return others[0]


async def _ask(config: Path | None, request: Request) -> Answer:
    from .control_client import ask

    running = await _find(config, or_another=False)
    answer = await ask(running.socket, request)
    if answer is None:
        raise ConnectError(f"process {running.status.pid} has just ended")
    return answer


async def _watch(
    config: Path | None, names: Sequence[str], as_json: bool, stop: asyncio.Event
) -> None:
    from .control_client import watch
    from .output import write
    from .runner import unless

    running = await unless(stop, _find(config, or_another=True))
    if running is None:
        return
    latest = _only(running.status, names)

    def take(status: Status) -> None:
        nonlocal latest
        latest = _only(status, names, strict=False)

    def show(status: Status) -> None:
        take(status)
        if not write(sys.stdout, _json(latest) if as_json else _text(latest)):
            stop.set()

    if as_json:
        await unless(stop, watch(running.socket, show))
        return
    from .table import LiveTable, can_draw

    if not can_draw(sys.stdout):
        await unless(stop, watch(running.socket, show))
        return
    with LiveTable(lambda: latest.services, sys.stdout):
        await unless(stop, watch(running.socket, take))


def _only(status: Status, names: Sequence[str], *, strict: bool = True) -> Status:
    """With the services of these names alone. Raises UsageError where one is not there."""
    from .control_client import Status

    known = [one.name for one in status.services]
    if strict and (unknown := [name for name in names if name not in known]):
        raise UsageError(f"{unknown[0]!r} does not run there: it runs {', '.join(known)}")
    services = tuple(one for one in status.services if not names or one.name in names)
    return Status(status.pid, status.config, status.started, services)


def _json(status: Status) -> str:
    import msgspec

    return msgspec.json.encode(status).decode()


def _text(status: Status) -> str:
    from .table import WIDEST, as_text

    if sys.stdout.isatty():
        return as_text(status.services, _columns(), colours=True)
    return as_text(status.services, WIDEST)


def _columns() -> int:
    try:
        return os.get_terminal_size(1).columns or 80
    except OSError:
        return 80
