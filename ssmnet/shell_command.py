"""``ssmnet shell`` and ``ssmnet exec``: a shell, or one command, on a target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .command import (
    Debug,
    Document,
    EndpointUrl,
    KeepAlive,
    Parameter,
    Profile,
    Reason,
    Region,
    read_parameters,
)
from .duration import parse_duration
from .errors import UsageError
from .session_command import What, Where, run_session
from .status import tell

if TYPE_CHECKING:
    import asyncio

    from .session import Session

FAILED = 255

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="Instance (i-... or mi-...), ECS task (ecs:cluster_task_runtime), or 'loopback': "
        "this machine.",
    ),
]


def shell(
    target: Target,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Reason = None,
    document: Document = None,
    parameter: Parameter = None,
    keep_alive: KeepAlive = None,
    no_escapes: Annotated[
        bool, typer.Option("--no-escapes", help="Send ~ like any other key.")
    ] = False,
    quiet_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="After the end of a piped input, how long the shell may be silent; 5m by default.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Open a shell on a target.

    \b
    ssmnet shell i-0123456789abcdef0
    echo uptime | ssmnet shell i-0123456789abcdef0

    On a terminal all keys belong to the shell; after Enter, ~. ends the session, even one that
    hangs, and ~? shows what else there is. The session resumes when its connection is lost.

    Exit status: 0 when the shell has ended, whatever its own was; 1 when the session was ended with
    a reason, was lost or could not be had; 2 for a usage error; 130 after a signal, 141 when nobody
    reads the output, and 255 when it was left by ~. or after --quiet-timeout.
    """
    from .execute import NON_INTERACTIVE_DOCUMENT, shell_status
    from .shell import QUIET_TIMEOUT, Shell

    parameters = read_parameters(parameter, document)
    quiet = QUIET_TIMEOUT if quiet_timeout is None else quiet_timeout

    async def run(session: Session, stop: asyncio.Event, _: float | None) -> int:
        escapes = not no_escapes
        front = Shell(session, stop, escapes=escapes, greet=tell, quiet_timeout=quiet)
        return shell_status(await front.run())

    may_be_shell = document != NON_INTERACTIVE_DOCUMENT
    what = What(document, parameters, reason, keep_alive, may_be_shell)
    raise typer.Exit(run_session(Where(target, profile, region, endpoint_url), what, run))


def execute(
    target: Target,
    command: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="-- COMMAND [ARGUMENT]...",
            help="What to run, and its arguments, each as it is: no shell looks at them.",
            show_default=False,
        ),
    ] = None,
    tty: Annotated[
        bool,
        typer.Option("--tty", help="Run it on a terminal; then its exit status is not known."),
    ] = False,
    base64: Annotated[
        bool,
        typer.Option(
            "--base64",
            help="Have its standard output encoded on the way: agents damage what is not UTF-8 "
            "text. It comes in blocks then. Needs sh and base64 on the target.",
        ),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="TIME", parser=parse_duration, help="End it after so long, such as 10m."
        ),
    ] = None,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Reason = None,
    document: Document = None,
    parameter: Parameter = None,
    keep_alive: KeepAlive = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a command on a target, with its output and exit status.

    \b
    ssmnet exec i-0123456789abcdef0 -- uname -a
    ssmnet exec i-0123456789abcdef0 -- sh -c 'df -h | grep nvme'
    ssmnet exec i-0123456789abcdef0 --base64 -- cat /etc/ssl/cert.der >cert.der
    ssmnet exec i-0123456789abcdef0 --document MyDocument --parameter key=value

    It gets no standard input: its document has none. Use 'ssmnet shell' or ssh to send data. Ctrl-C
    reaches the command as SIGINT; another, a second or more later, ends the session.

    Exit status: the command's own; 124 after --timeout; 255 when the command could not be run, has
    no status or was lost, and one line says why; 2 for a usage error; 130 after a signal, and 141
    when nobody reads the output.
    """
    from .execute import NON_INTERACTIVE_DOCUMENT, command_request, run_command_session

    parameters = read_parameters(parameter, document)
    if document is None:
        if not command:
            raise UsageError("the command is missing: ssmnet exec TARGET -- COMMAND [ARGUMENT]...")
        if tty and base64:
            raise UsageError("--base64 does not go with --tty")
        document, parameters = command_request(command, tty=tty, base64=base64)
    elif command or tty:
        raise UsageError("--document says what to run: give its parameters with --parameter")

    async def run(session: Session, stop: asyncio.Event, left: float | None) -> int:
        return await run_command_session(session, stop, tty=tty, base64=base64, timeout=left)

    may_be_shell = document != NON_INTERACTIVE_DOCUMENT
    what = What(document, parameters, reason, keep_alive, may_be_shell)
    where = Where(target, profile, region, endpoint_url)
    raise typer.Exit(run_session(where, what, run, FAILED, timeout))
