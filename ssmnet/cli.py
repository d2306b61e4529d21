"""The ``ssmnet`` command: parses, calls, prints. What happens is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from ._version import __version__
from .errors import Error, ListenError, UsageError
from .output import abandon
from .status import Output, printer, tell, tell_traceback, warn

if TYPE_CHECKING:
    import ssl

    from .aws import Client

_T = TypeVar("_T")

LOOPBACK_TARGET = "loopback"
# These settings would lead an AWS client past the loopback's own.
_IN_THE_WAY = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL_SSMMESSAGES",
)
# The parser's own error: typer comes with click, or with a copy of it inside.
_ParserError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="ssmnet",
    help="AWS Systems Manager sessions that are fast and do not die.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: brackets mean themselves, and an error is a line
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Once(TyperCommand):
    """A command whose options mean one thing each: giving one twice is an error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base, after a look for what was given twice."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and not parameter.multiple and not getattr(parameter, "count", False):
                raise UsageError(f"{parameter.opts[-1]} is given twice")
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
        metavar="TARGET",
        envvar="SSMNET_TARGET",
        help="Instance (i-... or mi-...), ECS task (ecs:cluster_task_runtime), or 'loopback': "
        "a far end on this machine, without AWS.",
    ),
]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help="Profile of ~/.aws/config.")]
Region = Annotated[str | None, typer.Option(metavar="NAME", help="AWS region of the target.")]
EndpointUrl = Annotated[
    str | None, typer.Option(metavar="URL", help="Endpoint of the SSM API, as for the AWS CLI.")
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
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command(cls=Once)
def forward(
    forwards: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FORWARD",
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
        typer.Option(
            metavar="HOST", help="Host to forward to: a name or address that the target reaches."
        ),
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
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Reason to put down for the session.")
    ] = None,
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
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="End with the session instead of starting another.")
    ] = False,
    max_restarts: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Start at most so many sessions after the first."),
    ] = None,
    max_session_age: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Give new connections another session after so long, such as 8h.",
        ),
    ] = None,
    resume_timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Give up resuming a session after so long, and start another. Never by default.",
        ),
    ] = None,
    keep_alive: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Send something whenever nothing was for so long, such as 10m: the session's idle "
            "timeout is not reached then.",
        ),
    ] = None,
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
    from .duration import parse_duration
    from .forwards import check_distinct, make_forward, parse_forward
    from .targets import pick_target
    from .up import Request, run_forwards

    wanted = [parse_forward(text, bind) for text in forwards or ()]
    if remote is not None or (document is not None and not wanted):
        wanted.append(make_forward(local or "0", remote, host, bind))
    elif local is not None or host is not None or not wanted:
        raise UsageError("--remote is missing: the port to forward to")
    check_distinct(wanted)
    for one in wanted:
        if one.is_exposed:
            warn(f"listening on {', '.join(one.bind)}: all that can reach it can use the forward")
    parameters = _parameters(parameter, document)
    age, patience, alive = (
        None if text is None else parse_duration(text)
        for text in (max_session_age, resume_timeout, keep_alive)
    )

    chosen = target or pick_target(profile, region, endpoint_url)

    async def main(stop: asyncio.Event) -> bool:
        async with _client(chosen, profile, region, endpoint_url) as (client, reached):
            request = Request(
                reached,
                reason,
                document,
                parameters,
                check,
                max_restarts=0 if no_restart else max_restarts,
                max_session_age=age,
                resume_timeout=patience,
                keep_alive=alive,
            )
            return await run_forwards(client, request, wanted, printer(output, stop), stop)

    raise typer.Exit(0 if _run(main) else 1)


@app.command(cls=Once)
def loopback(
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 for a free one."),
    ] = 0,
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
        str, typer.Option(metavar="VERSION", help="Version that the agent announces.")
    ] = "3.3.0.0",
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate (PEM) for localhost: use https and wss."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="End a session without data for so long; AWS: 20 minutes."
        ),
    ] = None,
    max_duration: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="End a session that is so old.")
    ] = None,
    agent_away: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="End a session that has lost its agent for so long."),
    ] = 5.0,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a far end on this machine.

    It is a gateway and an agent, for tries and tests without AWS. Prints the settings that make any
    AWS client use it; give them to another shell:

    \b
    ssmnet loopback --port 8080
    aws ssm start-session --target i-0123456789abcdef0 ...

    Only this machine can reach it, and only with the credentials printed. With these, too, things
    go wrong on demand, to see what a tunnel makes of it:

    \b
    fault() { curl -u $AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY -d "$2" \\
              $AWS_ENDPOINT_URL_SSM/faults/$1; }
    fault cut_clients
    fault close_clients '{"code": 1000, "reason": "Bye"}'
    fault blackhole_clients '{"seconds": 60, "new": false}'
    fault impair '{"delay": 0.1, "jitter": 0.05, "loss": 0.01, "duplicate": 0.01,
                   "reorder": true, "direction": "to_agent", "seconds": 30, "seed": 1}'
    fault fail_next '{"code": "ThrottlingException", "times": 5, "action": "ResumeSession"}'
    fault expire_tokens
    fault kill_agents
    fault end_sessions '{"output": "maximum duration"}'
    """
    from .loopback import Loopback

    if not re.fullmatch(r"\d+(\.\d+){0,3}", agent_version):
        raise UsageError(f"{agent_version!r} is not a version such as 3.3.0.0")
    for seconds in (idle_timeout, max_duration, agent_away):
        if seconds is not None and not seconds > 0:
            raise UsageError(f"a limit of {seconds:g} s is none")

    async def main(stop: asyncio.Event) -> None:
        far_end = Loopback(
            port,
            tls=_server_context(tls_cert, tls_key),
            ca_file=str(tls_cert.resolve()) if tls_cert else None,
            allow_unsigned=allow_unsigned,
            pace=pace,
            ideal=ideal,
            agent_version=agent_version,
            idle_timeout=idle_timeout,
            max_duration=max_duration,
            agent_away_limit=agent_away,
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(far_end)
            except OSError as error:
                what = os.strerror(error.errno) if error.errno else str(error)
                raise ListenError(f"cannot listen on port {port}: {what}") from error
            typer.echo(f"unset {' '.join(_IN_THE_WAY)}")
            for name, value in far_end.environment.items():
                typer.echo(f"export {name}={value}")
            tell(f"{far_end.target} is online at {far_end.endpoint_url}; Ctrl-C ends it")
            await stop.wait()
            tell(f"{far_end.sessions_started} sessions started, {far_end.sessions} still open")

    _run(main)


@app.command(cls=Once)
def demo(debug: Debug = False) -> None:  # noqa: ARG001 - acts by its callback
    """Show a forward at work, without AWS.

    On this machine alone: starts a loopback far end and a small HTTP server, forwards a port to it,
    moves 16 MiB through it both ways and compares checksums, in well under a minute. Exit status:
    0, or 1 when anything differs.
    """
    from .demo import run_demo

    async def main(stop: asyncio.Event) -> bool:
        return await run_demo(stop)

    raise typer.Exit(0 if _run(main) else 1)


def main() -> None:
    """The entry point: errors become one line and an exit status."""
    debug = "--debug" in sys.argv
    try:
        status = app(prog_name="ssmnet", standalone_mode=False)
    except _ParserError as error:
        command = error.ctx.command_path if error.ctx else "ssmnet"
        tell(f"error: {error.format_message()} (see {command} --help)")
        status = 2
    except Error as error:
        if debug:
            tell_traceback(error)
        tell(f"error: {error}")
        status = 2 if isinstance(error, UsageError) else 1
    except (typer.Abort, KeyboardInterrupt):
        # Ctrl-C or the end of input, at a question or before there is anything to end.
        status = 130
    except BrokenPipeError:
        # Whoever read our output is gone; nobody to tell.
        abandon(sys.stdout.fileno())
        status = 1
    except Exception as error:
        # A fault of ours or of the machine. What others put into their errors may be secret.
        if debug:
            tell_traceback(error)
        tell(f"error: {type(error).__name__}; --debug shows where")
        status = 1
    sys.exit(status)


def _run(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    from .runner import run

    if os.environ.get("SSMNET_DEBUG"):
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("ssmnet").setLevel(logging.DEBUG)
    return run(main)


@contextlib.asynccontextmanager
async def _client(
    target: str, profile: str | None, region: str | None, endpoint_url: str | None
) -> AsyncIterator[tuple[Client, str]]:
    """The AWS side of a command, and the target to use."""
    from .aws import Client

    if target != LOOPBACK_TARGET:
        ask = getpass.getpass if sys.stdin is not None and sys.stdin.isatty() else None
        yield (
            Client(profile=profile, region=region, endpoint_url=endpoint_url, mfa_code=ask),
            target,
        )
        return
    from .loopback import Loopback
    from .runner import see_no_aws_but

    async with Loopback() as far_end:
        see_no_aws_but(far_end.environment)
        yield Client(), far_end.target


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
