"""What the commands of ``ssmnet`` have in common: options, and how they are run."""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from .duration import parse_duration
from .errors import UsageError

if TYPE_CHECKING:
    import asyncio

    from .aws import Client

_T = TypeVar("_T")

LOOPBACK_TARGET = "loopback"

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
Reason = Annotated[
    str | None, typer.Option(metavar="TEXT", help="Reason to put down for the session.")
]
Document = Annotated[str | None, typer.Option(metavar="NAME", help="Session document of your own.")]
Parameter = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Parameter of --document; may be repeated."),
]
Remote = Annotated[
    str | None, typer.Option(metavar="PORT", help="Port of the target, or of --host.")
]
Host = Annotated[
    str | None,
    typer.Option(
        metavar="HOST", help="Host to forward to: a name or address that the target reaches."
    ),
]
Bind = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Listen here instead of on 127.0.0.1 and ::1.",
        show_default=False,
    ),
]
Check = Annotated[
    bool, typer.Option("--check", help="Fail unless the destination accepts a connection.")
]
KeepAlive = Annotated[
    float | None,
    typer.Option(
        metavar="TIME",
        parser=parse_duration,
        help="Send something whenever nothing was for so long, such as 10m: the session's idle "
        "timeout is not reached then.",
    ),
]


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="PATH",
        envvar="SSMNET_CONFIG",
        help="The file, instead of ssmnet.toml of this folder, one above it, or the user's own.",
        show_default=False,
    ),
]


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


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Log what happens, and show tracebacks.", callback=_set_debug),
]


def run_command(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``main`` until it ends by itself, or by a signal that sets its argument."""
    from .runner import run

    if os.environ.get("SSMNET_DEBUG"):
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("ssmnet").setLevel(logging.DEBUG)
    return run(main)


def make_client(
    profile: str | None,
    region: str | None,
    endpoint_url: str | None,
    ask: Callable[[str], str] | None = None,
) -> Client:
    """The AWS side of a command. For ``ask`` see reach."""
    from .aws import Client

    if ask is None and sys.stdin is not None and sys.stdin.isatty():
        ask = getpass.getpass
    return Client(profile=profile, region=region, endpoint_url=endpoint_url, mfa_code=ask)


@contextlib.asynccontextmanager
async def reach(
    target: str,
    profile: str | None,
    region: str | None,
    endpoint_url: str | None,
    ask: Callable[[str], str] | None = None,
) -> AsyncIterator[tuple[Client, str]]:
    """The AWS side of a command, and the target to use.

    ``ask`` is how to ask for a code; None to do so where stdin is a terminal.
    """
    from .aws import Client

    if target != LOOPBACK_TARGET:
        yield make_client(profile, region, endpoint_url, ask), target
        return
    from .loopback import Loopback
    from .runner import see_no_aws_but

    async with Loopback() as far_end:
        see_no_aws_but(far_end.environment)
        yield Client(), far_end.target


def read_parameters(given: list[str] | None, document: str | None) -> dict[str, list[str]] | None:
    """What ``--parameter`` gave, by name. Raises UsageError."""
    if given and document is None:
        raise UsageError("--parameter goes with --document")
    parameters: dict[str, list[str]] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"--parameter {text!r} is not KEY=VALUE")
        parameters.setdefault(name, []).append(value)
    return parameters or None
