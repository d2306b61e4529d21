"""``ssmnet up``: the forwards and proxies of ssmnet.toml in one process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from msgspec.structs import replace

from .command import LOOPBACK_TARGET, ConfigFile, Debug, make_client, reach, run_command
from .errors import UsageError
from .status import Output, describe, printer, tell, warn

if TYPE_CHECKING:
    import asyncio

    from .aws import Client
    from .config import Config, NamedForward, NamedProxy, Place
    from .events import Event
    from .service import Service
    from .up import Named, Tell, Up

_T = TypeVar("_T", "NamedForward", "NamedProxy")

CLOSE_TIMEOUT = 2.0  # s, for answers to those who have asked for the end


def up(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help="A forward or proxy of the file; all without.", show_default=False
        ),
    ] = None,
    config: ConfigFile = None,
    target: Annotated[
        str | None,
        typer.Option(
            "-t",
            "--target",
            metavar="TARGET",
            envvar="SSMNET_TARGET",
            help="For those that the file names no target for.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT", help="Serve metrics to Prometheus here, such as 127.0.0.1:9464."
        ),
    ] = None,
    output: Annotated[
        Output,
        typer.Option(help="A table or lines on stderr, or JSON objects on stdout, one a line."),
    ] = Output.TEXT,
    debug: Debug = False,
) -> None:
    """Run what ssmnet.toml names.

    Its forwards and proxies, all or those named, in one process.

    \b
    ssmnet config example > ssmnet.toml
    ssmnet up
    ssmnet up db cache
    ssmnet status; ssmnet reload; ssmnet down db      (from another terminal)

    Each is started by itself, and again whenever it fails; the others go on. A changed file is read
    again, and what has not changed in it keeps its connections. It stays in the foreground: see
    'ssmnet service print' to have the system run it. Ends with Ctrl-C or 'ssmnet down'. Exit
    status: 0, 1 after an error, 2 for a usage error.
    """
    from .config import load_config
    from .up import Up

    first = load_config(config)
    # What is found from here later may be another.
    path = first.path.absolute()
    on_loopback = LOOPBACK_TARGET in _targets(_with_targets(first, target))

    unused = [first]  # a pipe can be read only once

    def load() -> Config:
        read = _with_targets(unused.pop() if unused else load_config(path), target)
        if on_loopback and _targets(read) != {LOOPBACK_TARGET}:
            raise UsageError("'loopback' goes with no other target")
        if not on_loopback and LOOPBACK_TARGET in _targets(read):
            raise UsageError("'loopback' needs a new start of 'ssmnet up'")
        return read

    async def main(stop: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            teller = _Teller(output, stop)
            services = _Services(teller.warn)
            if on_loopback:
                reaching = reach(LOOPBACK_TARGET, None, None, None)
                services.loopback = await stack.enter_async_context(reaching)
            up = Up(path, load, services.make, names or (), teller)
            await _answer(up, metrics, stack)
            if output is Output.TEXT and not debug:
                teller.draw(up, stack)
            await up.run(stop)

    run_command(main)


class _Services:
    """Makes services, with one client for all of the same place: AWS limits starts there."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        # The client and the target of a far end on this machine, where that is the target of all.
        self.loopback: tuple[Client, str] | None = None
        self._clients: dict[Place, Client] = {}

    def make(self, named: Named, tell: Callable[[Event], None]) -> Service:
        """The service of a name. Raises UsageError."""
        from .config import NamedForward
        from .forwards import is_exposed
        from .service import ForwardService, ProxyService

        client, target = self._reach(named.place, named.request.target)
        request = replace(named.request, target=target)
        if isinstance(named, NamedForward):
            if named.forward.is_exposed:
                bind = ", ".join(named.forward.bind)
                self._warn(f"{named.name}: all that can reach {bind} can use the forward")
            return ForwardService(client, request, named.forward, tell)
        if is_exposed(named.bind):
            bind = ", ".join(named.bind)
            self._warn(f"{named.name}: others that know the password can use it on {bind}")
        return ProxyService(client, replace(named, request=request), tell)

    def _reach(self, place: Place, target: str) -> tuple[Client, str]:
        if self.loopback is not None:
            return self.loopback
        if place not in self._clients:
            self._clients[place] = make_client(*place)
        return self._clients[place], target


class _Teller:
    """Tells events as lines, above the table where there is one."""

    def __init__(self, output: Output, stop: asyncio.Event) -> None:
        self._tell: Tell = printer(output, stop)
        self._say: Callable[[str], None] = tell

    def __call__(self, event: Event, name: str) -> None:
        self._tell(event, name)

    def warn(self, text: str) -> None:
        """Print a line about what may surprise."""
        self._say(f"warning: {text}")

    def draw(self, up: Up, stack: contextlib.AsyncExitStack) -> None:
        """Show a table, if stderr is a terminal."""
        from .table import LiveTable, can_draw

        if not can_draw(sys.stderr):
            return
        table = stack.enter_context(LiveTable(up.snapshots, sys.stderr))

        def tell_event(event: Event, name: str) -> None:
            text = describe(event)
            if text:
                table.log(f"{name}: {text}" if name else text)

        self._tell, self._say = tell_event, table.log


async def _answer(up: Up, metrics: str | None, stack: contextlib.AsyncExitStack) -> None:
    """Answer ``ssmnet status`` and Prometheus. Raises ListenError, as when it runs already."""
    from .control import AVAILABLE, ControlServer

    if AVAILABLE:
        control = ControlServer(up)
        await control.listen()
        stack.push_async_callback(control.wait_closed, CLOSE_TIMEOUT)
        stack.callback(control.close)
    if metrics is not None:
        from .forwards import is_exposed
        from .metrics import PATH, MetricsServer, parse_address

        hosts, port = parse_address(metrics)
        if is_exposed(hosts):
            warn(f"metrics on {', '.join(hosts)}: all that can reach it can read them")
        server = MetricsServer(up.snapshots)
        await server.listen(hosts, port)
        stack.push_async_callback(server.close)
        tell(f"Metrics at http://{server.place}{PATH}")


def _targets(config: Config) -> set[str]:
    wanted: tuple[Named, ...] = (*config.forwards.values(), *config.proxies.values())
    return {one.request.target for one in wanted if one.request.target}


def _with_targets(config: Config, default: str | None) -> Config:
    """With ``default`` for those that have no target. Raises UsageError."""

    def fill(one: _T, kind: str) -> _T:
        target = one.request.target or default
        if not target and not getattr(one, "routes", ()):
            raise UsageError(f"{config.path}, {kind}.{one.name}: no target; see --target")
        return replace(one, request=replace(one.request, target=target or ""))

    return replace(
        config,
        forwards={name: fill(one, "forwards") for name, one in config.forwards.items()},
        proxies={name: fill(one, "proxies") for name, one in config.proxies.items()},
    )
