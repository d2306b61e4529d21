"""What a command tells while it runs: lines for people on stderr, or JSON objects on stdout."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from .errors import Error
from .events import (
    Closed,
    Disconnected,
    Dropped,
    Event,
    Listening,
    Narrowed,
    Restarted,
    Restarting,
    Resumed,
    Resuming,
    Widened,
)
from .output import can_write, is_pipe, write

if TYPE_CHECKING:
    import asyncio

# Events kept for a reader that is slow. 500 connections at once are more than a pipe holds.
MAX_WAITING = 10_000
MAX_LINE = 4000  # characters
# Seconds. Most interruptions are shorter, and nobody's concern.
TELL_AFTER = 5.0


class Output(StrEnum):
    """How to tell what happens."""

    TEXT = "text"
    JSON = "json"


def printer(output: Output, stop: asyncio.Event) -> Callable[[Event], None]:
    """What prints events. ``stop`` is set when the reader of the JSON is gone."""
    return _print_text if output is Output.TEXT else JsonPrinter(stop)


class JsonPrinter:
    """Prints events as lines of JSON, and keeps some for a reader that is slow."""

    def __init__(self, stop: asyncio.Event) -> None:
        from asyncio import get_running_loop  # here, because the command's help needs no loop

        self._loop = get_running_loop()
        self._stop = stop
        self._waiting: deque[Event] = deque()
        self._dropped = 0
        self._watching = False
        if sys.stdout is not None and is_pipe(sys.stdout):
            # A pipe that is written to becomes readable when its reader is gone, and not before.
            self._loop.add_reader(sys.stdout, self._reader_gone)

    def __call__(self, event: Event) -> None:
        """Print ``event``, in its turn."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            self._waiting.append(Dropped(self._dropped))
            self._dropped = 0
        self._waiting.append(event)
        self._print_waiting()

    def _reader_gone(self) -> None:
        # The program that follows this one has ended: so should we, or nobody ever ends us.
        self._loop.remove_reader(sys.stdout)
        self._stop.set()

    def _print_waiting(self) -> None:
        while self._waiting and (sys.stdout is None or can_write(sys.stdout)):
            if not write(sys.stdout, msgspec.json.encode(self._waiting.popleft()).decode()):
                self._stop.set()
        if self._watching != bool(self._waiting):
            self._watching = not self._watching
            self._watch()

    def _watch(self) -> None:
        if self._watching:
            self._loop.add_writer(sys.stdout, self._print_waiting)
        else:
            self._loop.remove_writer(sys.stdout)


def tell(text: str) -> None:
    """Print a line for people. That they read no more is no reason to end.

    What the far end says may be in it: nothing goes to the terminal that could control it, or fills
    it.
    """
    write(sys.stderr, "".join(c if c.isprintable() else " " for c in text[:MAX_LINE]))


def warn(text: str) -> None:
    """Print a line about what may surprise."""
    tell(f"warning: {text}")


class TellLongInterruptions:
    """Tells of an interruption of a session that lasts, and of its end; of others nothing."""

    def __init__(self) -> None:
        from asyncio import get_running_loop

        self._loop = get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def __call__(self, event: Event) -> None:
        """Take an event of the session."""
        if isinstance(event, Resuming):
            self._forget()
            delay = 0.0 if self._told else TELL_AFTER
            self._timer = self._loop.call_later(delay, self._tell, event)
        elif isinstance(event, Resumed):
            self._forget()
            if self._told:
                _print_text(event)
            self._told = False

    def _tell(self, event: Resuming) -> None:
        self._told = True
        _print_text(event)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def tell_traceback(error: BaseException) -> None:
    """Print where ``error`` and its causes arose, for people who look for a fault.

    Only our own errors and the system's say what happened: what others put into the texts of theirs
    may be secret, such as a proxy's password or an answer with a token in it.
    """
    told = []
    cause: BaseException | None = error
    while cause is not None:
        text = f": {cause}" if isinstance(cause, (Error, OSError)) else ""
        kind = f"{type(cause).__module__}.{type(cause).__qualname__}"
        told.append("".join(traceback.format_tb(cause.__traceback__)) + kind + text)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    write(sys.stderr, "Traceback, the cause first:\n" + "\n\n".join(reversed(told)))


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
    elif isinstance(event, Widened):
        tell(f"session {event.session_id} started: {event.sessions} share the connections")
    elif isinstance(event, Narrowed):
        tell(f"session {event.session_id} was not used and is closed: {event.sessions} left")
    elif isinstance(event, Closed):
        tell(f"session {event.session_id}: {event.reason}")


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address
