"""The ``ssmnet`` command: parses, calls, prints. What happens is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer
from typer.core import TyperCommand

from ._version import __version__
from .errors import Error, UsageError
from .events import Closed, Disconnected, Event, Listening

if TYPE_CHECKING:
    import ssl

    from .aws import Client

_T = TypeVar("_T")

LOOPBACK_TARGET = "loopback"

app = typer.Typer(
    name="ssmnet",
    help="AWS Systems Manager sessions that are fast and do not die.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: brackets mean themselves, and an error is a line
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Output(StrEnum):
    """How to tell what happens."""

    TEXT = "text"
    JSON = "json"


class Once(TyperCommand):
    """A command whose options mean one thing each: giving one twice is an error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base, after a look for what was given twice."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and not parameter.multiple and not getattr(parameter, "count", False):
                raise typer.BadParameter(f"{parameter.opts[-1]} is given twice", ctx=ctx)
        return super().parse_args(ctx, args)


def _set_debug(value: bool) -> bool:
    if value:
        os.environ["SSMNET_DEBUG"] = "1"
    return value


Target = Annotated[
    str | None,
    typer.Option(
        "-t",
        "--target",
        envvar="SSMNET_TARGET",
        help="Instance (i-... or mi-...), ECS task (ecs:cluster_task_runtime), or 'loopback': "
        "a far end on this machine, without AWS.",
    ),
]
Profile = Annotated[str | None, typer.Option(help="Profile of ~/.aws/config.")]
Region = Annotated[str | None, typer.Option(help="AWS region of the target.")]
EndpointUrl = Annotated[
    str | None, typer.Option(help="Endpoint of the SSM API, as for the AWS CLI.")
]
Debug = Annotated[
    bool,
    typer.Option("--debug", help="Log what happens, and show tracebacks.", callback=_set_debug),
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)
    ] = False,
) -> None:
    """AWS Systems Manager sessions that are fast and do not die."""
    if version:
        typer.echo(f"ssmnet {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


@app.command(cls=Once)
def forward(
    forwards: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FORWARD]...",
            help="[bind:]port:host:hostport, or port:hostport of the target itself.",
            show_default=False,
        ),
    ] = None,
    local: Annotated[
        str | None,
        typer.Option(
            metavar="PORT|PATH",
            help="Local port, 0 for a free one (default), or the path of a unix socket.",
        ),
    ] = None,
    remote: Annotated[
        str | None, typer.Option(metavar="PORT", help="Port of the target, or of --host.")
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Host to forward to: a name or address that the target reaches."),
    ] = None,
    bind: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Listen here instead of on 127.0.0.1 and ::1.",
            show_default=False,
        ),
    ] = None,
    target: Target = None,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Annotated[str | None, typer.Option(help="Reason to put down for the session.")] = None,
    document: Annotated[
        str | None, typer.Option(metavar="NAME", help="Session document of your own.")
    ] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Parameter of --document; may be repeated."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail unless the destination accepts a connection.")
    ] = False,
    output: Annotated[
        Output, typer.Option(help="Status on stderr, or JSON objects on stdout, one a line.")
    ] = Output.TEXT,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Forward local ports through a target.

    \b
    ssmnet forward -t i-0123456789abcdef0 --local 5432 --remote 5432
    ssmnet forward -t i-0123456789abcdef0 --local 5432 --host db.internal --remote 5432
    ssmnet forward -t i-0123456789abcdef0 5432:db.internal:5432 8080:80
    ssmnet forward -t loopback --local 0 --remote 5432      (a try on this machine alone)

    Ends with Ctrl-C: open connections may finish for a moment, then the session is terminated.
    Exit status: 0 after Ctrl-C or SIGTERM, 1 after an error, 2 for a usage error.
    """
    from .forwards import check_distinct, make_forward, parse_forward
    from .up import Request, run_forwards

    wanted = [parse_forward(text, bind) for text in forwards or ()]
    if remote is not None or (document is not None and not wanted):
        wanted.append(make_forward(local or "0", remote, host, bind))
    elif local is not None or host is not None or not wanted:
        raise UsageError("--remote is missing: the port to forward to")
    check_distinct(wanted)
    for one in wanted:
        if one.is_exposed:
            _warn(f"{', '.join(one.bind)}: all that reach this address can use the forward")
    parameters = _parameters(parameter, document)

    async def main(stop: asyncio.Event) -> bool:
        async with _client(target, profile, region, endpoint_url) as (client, chosen):
            request = Request(chosen, reason, document, parameters, check)
            return await run_forwards(client, request, wanted, _printer(output), stop)

    raise typer.Exit(0 if _run(main) else 1)


@app.command(cls=Once)
def loopback(
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.")] = 0,
    allow_unsigned: Annotated[
        bool,
        typer.Option("--allow-unsigned", help="Let clients in that do not sign the WebSocket."),
    ] = False,
    pace: Annotated[
        bool, typer.Option("--pace", help="Sleep 1 ms after each message, as the real agent does.")
    ] = False,
    ideal: Annotated[
        bool, typer.Option("--ideal", help="Without the real agent's bad habits.")
    ] = False,
    agent_version: Annotated[
        str, typer.Option(help="Version that the agent announces.")
    ] = "3.3.0.0",
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate (PEM) for localhost: use https and wss.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key (PEM).")] = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a gateway and an agent on this machine, for tries and tests without AWS.

    Prints the settings that make any AWS client use it; give them to another shell:

    \b
    ssmnet loopback --port 8080
    aws ssm start-session --target i-0123456789abcdef0 ...

    Only this machine can reach it, and only with the credentials printed.
    """
    from .loopback import Loopback

    async def main(stop: asyncio.Event) -> None:
        far_end = Loopback(
            port,
            tls=_server_context(tls_cert, tls_key),
            ca_file=str(tls_cert) if tls_cert else None,
            allow_unsigned=allow_unsigned,
            pace=pace,
            ideal=ideal,
            agent_version=agent_version,
        )
        async with far_end:
            for name, value in far_end.environment.items():
                typer.echo(f"export {name}={value}")
            sys.stdout.flush()
            _tell(f"{far_end.target} is online at {far_end.endpoint_url}; Ctrl-C ends it")
            await stop.wait()

    _run(main)


@app.command(cls=Once)
def demo(debug: Debug = False) -> None:  # noqa: ARG001 - acts by its callback
    """Show a forward at work, on this machine alone and in under a minute.

    Starts a loopback far end and a small HTTP server, forwards a port to it, moves 16 MiB through
    it both ways and compares checksums. Exit status: 0, or 1 when anything differs.
    """
    from .demo import run_demo

    async def main(stop: asyncio.Event) -> bool:
        return await run_demo(stop)

    raise typer.Exit(0 if _run(main) else 1)


def main() -> None:
    """The entry point: errors become one line and an exit status."""
    debug = "--debug" in sys.argv
    try:
        app()
    except Error as error:
        if debug:
            traceback.print_exc()
        _tell(f"error: {error}")
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:
        # Whoever read our output is gone; nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    from .runner import run

    if os.environ.get("SSMNET_DEBUG"):
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("ssmnet").setLevel(logging.DEBUG)
    return run(main)


@contextlib.asynccontextmanager
async def _client(
    target: str | None, profile: str | None, region: str | None, endpoint_url: str | None
) -> AsyncIterator[tuple[Client, str]]:
    """The AWS side of a command, and the target to use."""
    from .aws import Client

    if target != LOOPBACK_TARGET:
        client = Client(profile=profile, region=region, endpoint_url=endpoint_url)
        yield client, target or await _pick_target(client)
        return
    from .loopback import Loopback

    async with Loopback() as far_end:
        # It is the only AWS that this process sees, and its credentials are good for nothing else.
        os.environ.pop("AWS_PROFILE", None)
        os.environ.update(far_end.environment)
        yield Client(), far_end.target


async def _pick_target(client: Client) -> str:
    """Ask on a terminal; elsewhere say how to name one."""
    missing = UsageError(
        "no target: pass -t i-..., set SSMNET_TARGET, or use -t loopback for a far end on "
        "this machine"
    )
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise missing
    try:
        online = await client.online_targets()
    except Error as error:
        raise missing from error
    if not online:
        raise missing
    for index, one in enumerate(online, 1):
        _tell(f"{index:4}  {one.instance_id}  {one.platform:10}  {one.name}")
    number: int = typer.prompt("Target", type=int, err=True)
    if not 1 <= number <= len(online):
        raise UsageError(f"{number} is not in the list")
    return online[number - 1].instance_id


def _printer(output: Output) -> Callable[[Event], None]:
    if output is Output.JSON:
        return lambda event: typer.echo(msgspec.json.encode(event))
    return _print_event


def _print_event(event: Event) -> None:
    if isinstance(event, Listening):
        place = event.address if event.port is None else f"{event.address}:{event.port}"
        _tell(f"Listening on {place}, forwarding to {event.destination} ({event.session_id})")
    elif isinstance(event, Disconnected) and event.error:
        _tell(f"connection {event.connection} to {event.destination}: {event.error}")
    elif isinstance(event, Closed):
        _tell(f"session {event.session_id}: {event.reason}")


def _parameters(given: list[str] | None, document: str | None) -> dict[str, list[str]] | None:
    if given and document is None:
        raise UsageError("--parameter goes with --document")
    parameters: dict[str, list[str]] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--parameter {text!r} is not KEY=VALUE")
        parameters.setdefault(name, []).append(value)
    return parameters or None


def _server_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together")
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise UsageError(f"cannot use {cert} and {key}: {error}") from error
    return context


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def _warn(text: str) -> None:
    _tell(f"warning: {text}")
