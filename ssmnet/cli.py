"""The ``ssmnet`` command: parses, calls, prints. What happens is decided elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ._version import __version__
from .command import (
    Bind,
    Check,
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
    reach,
    read_parameters,
    run_command,
)
from .completion import completion
from .config_command import config, service
from .duration import parse_duration
from .errors import Error, UsageError
from .loopback_command import loopback
from .output import abandon
from .plugin_command import plugin
from .proxy_command import proxy
from .run_command import BeforeCommand, run
from .shell_command import execute, shell
from .ssh_command import ssh_config, ssh_proxy
from .status import Output, printer, tell, tell_traceback, warn
from .status_command import down, reload, status
from .up_command import up

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")

# The parser's own error: typer comes with click, or with a copy of it inside.
_ParserError: Any = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="ssmnet",
    help="AWS Systems Manager sessions that are fast and do not die.",
    add_completion=False,  # ssmnet completion
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: brackets mean themselves, and an error is a line
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        str,
        typer.Option(
            metavar="N|auto",
            help="Share the connections among up to so many sessions, each of which has a speed of "
            "its own; auto is 4. They are started as connections ask for them, one ahead, and "
            "closed after a minute without use. On AWS each counts against a quota.",
        ),
    ] = "1",
    no_restart: Annotated[
        bool, typer.Option("--no-restart", help="End with the session instead of starting another.")
    ] = False,
    max_restarts: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Start at most so many sessions after the first."),
    ] = None,
    max_session_age: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="Give new connections another session after so long, such as 8h.",
        ),
    ] = None,
    resume_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="Give up resuming a session after so long, and start another. Never by default.",
        ),
    ] = None,
    keep_alive: KeepAlive = None,
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
    from .forwards import Request, check_distinct, make_forward, parse_forward, parse_sessions
    from .targets import pick_target
    from .up import run_forwards

    wanted = [parse_forward(text, bind) for text in forwards or ()]
    if remote is not None or (document is not None and not wanted):
        wanted.append(make_forward(local or "0", remote, host, bind))
    elif local is not None or host is not None or not wanted:
        raise UsageError("--remote is missing: the port to forward to")
    check_distinct(wanted)
    for one in wanted:
        if one.is_exposed:
            warn(f"listening on {', '.join(one.bind)}: all that can reach it can use the forward")
    parameters = read_parameters(parameter, document)

    width = parse_sessions(sessions)
    chosen = target or pick_target(profile, region, endpoint_url)

    async def main(stop: asyncio.Event) -> bool:
        async with reach(chosen, profile, region, endpoint_url) as (client, reached):
            request = Request(
                reached,
                reason,
                document,
                parameters,
                check,
                sessions=width,
                max_restarts=0 if no_restart else max_restarts,
                max_session_age=max_session_age,
                resume_timeout=resume_timeout,
                keep_alive=keep_alive,
            )
            return await run_forwards(client, request, wanted, printer(output, stop), stop)

    raise typer.Exit(0 if run_command(main) else 1)


app.command(cls=Once)(proxy)
app.command(cls=Once)(up)
app.command(cls=Once)(status)
app.command(cls=Once)(down)
app.command(cls=Once)(reload)
app.command(cls=BeforeCommand)(run)
app.command(cls=Once)(shell)
app.command("exec", cls=Once)(execute)
app.command(cls=Once)(ssh_proxy)
app.command(cls=Once)(ssh_config)
app.command(cls=Once)(loopback)
app.command(cls=Once)(completion)


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

    raise typer.Exit(0 if run_command(main) else 1)


app.add_typer(config, name="config")
app.add_typer(service, name="service")
app.add_typer(plugin, name="plugin")


def main() -> None:
    """The entry point: errors become one line and an exit status."""
    # What follows -- is another program's.
    ours = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    debug = "--debug" in ours
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
        _tell_fault(error, debug)
        status = 1
    sys.exit(status)


def _tell_fault(error: Exception, debug: bool) -> None:
    """Tell of a fault of ours or of the machine. What is in others' errors may be secret."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if debug:
        tell_traceback(error)
    tell(f"error: {type(error).__name__}; --debug shows where")
