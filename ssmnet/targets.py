"""The question which target is meant, for people at a terminal who have named none."""

from __future__ import annotations

import asyncio
import sys

import typer

from .aws import Client, OnlineTarget
from .errors import Error, UsageError

MISSING = "no target: pass -t i-..., set SSMNET_TARGET, or use -t loopback to try without AWS"


def pick_target(profile: str | None, region: str | None, endpoint_url: str | None) -> str:
    """Let the user choose one that is online. Raises UsageError, always so without a terminal."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(MISSING)

    async def list_targets() -> list[OnlineTarget]:
        return await Client(
            profile=profile, region=region, endpoint_url=endpoint_url
        ).online_targets()

    try:
        # A loop of its own: where a loop has the signals, Ctrl-C can't end the question below.
        online = asyncio.run(list_targets())
    except Error as error:
        raise UsageError(f"{MISSING} (AWS lists none: {error})") from error
    if not online:
        raise UsageError(f"{MISSING} (AWS has none online)")
    return _ask(online)


def _ask(online: list[OnlineTarget]) -> str:
    for index, one in enumerate(online, 1):
        typer.echo(f"{index:4}  {one.instance_id}  {one.platform:10}  {one.name}", err=True)
    while True:
        number: int = typer.prompt("Target", type=int, err=True)
        if 1 <= number <= len(online):
            return online[number - 1].instance_id
        typer.echo(f"{number} is not in the list", err=True)
