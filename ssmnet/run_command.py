"""``ssmnet run``: a command with the forwards that it needs, for as long as it runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace

from .command import (
    Bind,
    Check,
    ConfigFile,
    Debug,
    Document,
    EndpointUrl,
    Host,
    KeepAlive,
    Once,
    Parameter,
    Profile,
    Reason,
    Region,
    Remote,
    Target,
    read_parameters,
    run_command,
)
from .errors import Error, UsageError
from .status import tell, tell_traceback, warn

if TYPE_CHECKING:
    import asyncio

    from .config import NamedForward
    from .forwards import Forward

FAILED = 255
_COMMAND = "ssmnet.command"
_MISSING = "the command is missing: ssmnet run NAME -- COMMAND [ARGUMENT]..."


class BeforeCommand(Once):
    """A command line that ends at ``--``, after which stands another program's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base, for what is ours."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """As the base, and what comes after it."""
        return [*super().collect_usage_pieces(ctx), "-- COMMAND [ARGUMENT]..."]


def run(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|FORWARD",
            help="A forward of ssmnet.toml, by its name, or [bind:]port:host:hostport or "
            "port:hostport, as for 'ssmnet forward'.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    local: Annotated[
        str | None,
        typer.Option(
            metavar="PORT|PATH",
            help="Local port of the one forward, or the path of a unix socket; a free port by "
            "default, whatever the file says.",
            show_default=False,
        ),
    ] = None,
    remote: Remote = None,
    host: Host = None,
    bind: Bind = None,
    target: Target = None,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Reason = None,
    document: Document = None,
    parameter: Parameter = None,
    check: Check = False,
    sessions: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Share the connections among up to so many sessions, as for 'ssmnet forward'.",
        ),
    ] = None,
    keep_alive: KeepAlive = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a command with a forward open, and end with it.

    \b
    ssmnet run db -- psql -h {host} -p {port} -U app
    ssmnet run db cache -- ./manage.py migrate     (SSMNET_DB_PORT, SSMNET_CACHE_PORT)
    ssmnet run -t i-0123456789abcdef0 0:80 -- curl http://{host}:{port}/

    The command finds SSMNET_HOST and SSMNET_PORT in its environment, and {host} and {port} in its
    arguments are replaced; of several forwards, these are the first one's, and SSMNET_<NAME>_PORT
    and {name.port} are each one's. {{port}} stands for {port} itself. Options win over the file.

    Exit status: the command's own, or 128 and the number of the signal that it died of; 127 when
    there is no such command and 126 when it can't be run; 255 when the forward can't be opened, 2
    for a usage error, and 130 after a signal before the command has begun.
    """
    from .child_process import file_limit
    from .forwarded_command import check_command, run_with_forwards
    from .forwards import make_forward, parse_sessions

    command: list[str] = context.meta.get(_COMMAND) or []
    if not command:
        raise UsageError(_MISSING)
    source = context.get_parameter_source("target")
    from_environment = source is not None and source.name == "ENVIRONMENT"
    overrides = {
        "target": None if from_environment else target,
        "reason": reason,
        "document": document,
        "parameters": read_parameters(parameter, document),
        "check": check or None,
        "sessions": None if sessions is None else parse_sessions(sessions),
        "keep_alive": keep_alive,
    }
    wanted = _find(names or [], config, bind)
    if remote is not None or (document is not None and not wanted):
        wanted.append(_unnamed(wanted, make_forward(local or "0", remote, host, bind)))
    elif host is not None or not wanted:
        raise UsageError("there is no forward: give the name of one, or --remote")
    elif local is not None:
        wanted = _with_local(wanted, local, bind)
    wanted = [_with_options(one, overrides, (profile, region, endpoint_url)) for one in wanted]
    wanted = _with_targets(wanted, target)
    check_command(command, wanted)
    limit = file_limit()

    async def main(stop: asyncio.Event) -> int:
        return await run_with_forwards(wanted, command, limit, stop)

    raise typer.Exit(_status(main))


def _find(names: list[str], path: Path | None, bind: str | None) -> list[NamedForward]:
    """The forwards that are named or written out. A free port is for those of the file."""
    from .config import load_config
    from .forwards import make_forward, parse_forward

    config = None
    found: list[NamedForward] = []
    for text in names:
        if ":" in text:
            found.append(_unnamed(found, parse_forward(text, bind)))
            continue
        config = config or load_config(path)
        named = config.forward(text)
        free = make_forward("0", None, None, bind)
        forward = replace(named.forward, local=free.local, bind=free.bind)
        found.append(replace(named, forward=forward))
    if len({one.name for one in found}) < len(found):
        raise UsageError("a forward is named twice")
    return found


def _unnamed(others: list[NamedForward], forward: Forward) -> NamedForward:
    """A forward that is told by its place in the line, as 1, 2 and so on."""
    from .config import NamedForward, Place
    from .forwards import Request

    name = str(len(others) + 1)
    place, request = Place(None, None, None), Request("")
    return NamedForward(name=name, place=place, forward=forward, request=request)


def _with_local(wanted: list[NamedForward], local: str, bind: str | None) -> list[NamedForward]:
    from .forwards import make_forward

    if len(wanted) > 1:
        raise UsageError("--local is for one forward")
    made = make_forward(local, None, None, bind)
    forward = replace(wanted[0].forward, local=made.local, bind=made.bind)
    return [replace(wanted[0], forward=forward)]


def _with_options(
    one: NamedForward, overrides: dict[str, Any], place: tuple[str | None, ...]
) -> NamedForward:
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(
        one,
        place=type(one.place)(*(new or old for new, old in zip(place, one.place, strict=True))),
        request=replace(one.request, **given),
    )


def _with_targets(wanted: list[NamedForward], target: str | None) -> list[NamedForward]:
    """Where none is given, the environment's target, or the one that the user picks."""
    from .targets import pick_target

    found = []
    for one in wanted:
        if not one.request.target:
            target = target or pick_target(*one.place)
            one = replace(one, request=replace(one.request, target=target))
        found.append(one)
        if one.forward.is_exposed:
            bind = ", ".join(one.forward.bind)
            warn(f"listening on {bind}: all that can reach it can use the forward")
    return found


def _status(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """What ``main`` gives; no error of ours is to look like one of the command's."""
    try:
        return run_command(main)
    except UsageError:
        raise
    except Error as error:
        if os.environ.get("SSMNET_DEBUG"):
            tell_traceback(error)
        tell(f"error: {error}")
        return FAILED
