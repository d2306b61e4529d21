"""What a command tells while it runs: lines for people on stderr, or JSON objects on stdout."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from enum import StrEnum

import msgspec
import typer

from .events import (
    Closed,
    Disconnected,
    Event,
    Listening,
    Restarted,
    Restarting,
    Resumed,
    Resuming,
)


class Output(StrEnum):
    """How to tell what happens."""

    TEXT = "text"
    JSON = "json"


def printer(output: Output, stop: asyncio.Event) -> Callable[[Event], None]:
    """What prints events. ``stop`` is set when the reader of the JSON is gone."""
    if output is Output.TEXT:
        return _print_text

    def print_json(event: Event) -> None:
        try:
            typer.echo(msgspec.json.encode(event))
        except BrokenPipeError:
            # The program that follows this one has ended: so should we, or nobody ever ends us.
            abandon(sys.stdout.fileno())
            stop.set()

    return print_json


def tell(text: str) -> None:
    """Print a line for people."""
    try:
        typer.echo(text, err=True)
    except BrokenPipeError:
        # They read no more, as after `2>&1 | grep -m1 Listening`: no reason to end.
        abandon(sys.stderr.fileno())


def warn(text: str) -> None:
    """Print a line about what may surprise."""
    tell(f"warning: {text}")


def abandon(descriptor: int) -> None:
    """Send what goes there nowhere from now on: its reader is gone."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _print_text(event: Event) -> None:
    if isinstance(event, Listening):
        place = event.address if event.port is None else f"{_in_url(event.address)}:{event.port}"
        tell(f"Listening on {place}, forwarding to {event.destination} ({event.session_id})")
    elif isinstance(event, Disconnected) and event.error:
        tell(f"connection {event.connection} to {event.destination}: {event.error}")
    elif isinstance(event, Resuming):
        tell(f"session {event.session_id}: {event.cause}; resuming")
    elif isinstance(event, Resumed):
        tell(f"session {event.session_id}: resumed after {event.seconds:.1f} s")
    elif isinstance(event, Restarting):
        tell(f"session {event.session_id}: {event.cause}; starting another")
    elif isinstance(event, Restarted):
        tell(f"session {event.session_id} started after {event.seconds:.1f} s")
    elif isinstance(event, Closed):
        tell(f"session {event.session_id}: {event.reason}")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
