"""What a command tells while it runs: lines for people on stderr, or JSON objects on stdout."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from enum import StrEnum

import msgspec

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
from .output import write


class Output(StrEnum):
    """How to tell what happens."""

    TEXT = "text"
    JSON = "json"


def printer(output: Output, stop: asyncio.Event) -> Callable[[Event], None]:
    """What prints events. ``stop`` is set when the reader of the JSON is gone."""
    if output is Output.TEXT:
        return _print_text

    def print_json(event: Event) -> None:
        if not write(sys.stdout, msgspec.json.encode(event).decode()):
            # The program that follows this one has ended: so should we, or nobody ever ends us.
            stop.set()

    return print_json


def tell(text: str) -> None:
    """Print a line for people. That they read no more is no reason to end."""
    write(sys.stderr, " ".join(text.split("\n")))


def warn(text: str) -> None:
    """Print a line about what may surprise."""
    tell(f"warning: {text}")


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
