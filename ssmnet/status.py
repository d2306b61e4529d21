"""What a command tells while it runs: lines for people on stderr, or JSON objects on stdout."""

from __future__ import annotations

import sys
import traceback
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from .destination import in_url
from .errors import Error
from .events import (
    Closed,
    Disconnected,
    Dropped,
    Event,
    Failed,
    Listening,
    Narrowed,
    Reloaded,
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


def printer(output: Output, stop: asyncio.Event) -> Callable[..., None]:
    """What prints events, ``(event)`` or ``(event, name)`` where several things run by name.

    ``stop`` is set when the reader of the JSON is gone.
    """
    return _print_text if output is Output.TEXT else JsonPrinter(stop)


class JsonPrinter:
    """Prints events as lines of JSON, and keeps some for a reader that is slow."""

    def __init__(self, stop: asyncio.Event) -> None:
        from asyncio import get_running_loop  # here, because the command's help needs no loop

        self._loop = get_running_loop()
        self._stop = stop
        self._waiting: deque[tuple[Event, str]] = deque()
        self._dropped = 0
        self._watching = False
        if sys.stdout is not None and is_pipe(sys.stdout):
            # A pipe that is written to becomes readable when its reader is gone, and not before.
            self._loop.add_reader(sys.stdout, self._reader_gone)

    def __call__(self, event: Event, name: str = "") -> None:
        """Print ``event``, in its turn."""
        if len(self._waiting) >= MAX_WAITING:
            self._dropped += 1
            return
        if self._dropped:
            self._waiting.append((Dropped(self._dropped), ""))
            self._dropped = 0
        self._waiting.append((event, name))
        self._print_waiting()

    def _reader_gone(self) -> None:
        # The program that follows this one has ended: so should we, or nobody ever ends us.
        self._loop.remove_reader(sys.stdout)
        self._stop.set()

    def _print_waiting(self) -> None:
        while self._waiting and (sys.stdout is None or can_write(sys.stdout)):
            event, name = self._waiting.popleft()
            told = {**msgspec.to_builtins(event), "name": name} if name else event
            if not write(sys.stdout, msgspec.json.encode(told).decode()):
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


def _print_text(event: Event, name: str = "") -> None:
    if text := describe(event):
        tell(f"{name}: {text}" if name else text)


def describe(event: Event) -> str:
    """A line about ``event``; empty for those that people do not ask for."""
    match event:
        case Listening():
            return _describe_listening(event)
        case Disconnected() if event.error:
            where = f" to {event.destination}" if event.destination else ""
            return f"connection {event.connection}{where}: {event.error}"
        case Failed():
            return f"{event.error}; trying again"
        case Reloaded() if event.error:
            return f"nothing was changed: {event.error}"
        case Reloaded():
            return f"the file was read again: {event.changes}"
        case Closed(session_id=""):
            return event.reason
    return _describe_session(event)


def _describe_session(event: Event) -> str:
    match event:
        case Resuming():
            what = f": {event.cause}; resuming"
        case Resumed():
            what = f": resumed after {event.seconds:.1f} s"
        case Restarting():
            what = f": {event.cause}; starting another"
        case Restarted():
            what = f" started after {event.seconds:.1f} s"
        case Widened():
            what = f" started: {event.sessions} share the connections"
        case Narrowed():
            what = f" was not used and is closed: {event.sessions} left"
        case Closed():
            what = f": {event.reason}"
        case _:
            return ""
    return f"session {event.session_id}{what}"


def _describe_listening(event: Listening) -> str:
    place = event.address if event.port is None else f"{in_url(event.address)}:{event.port}"
    if event.kind == "forward":
        return f"Listening on {place}, forwarding to {event.destination} ({event.session_id})"
    through = event.target or "the targets of its routes"
    return f"Listening on {place}, {event.kind.upper()} proxy through {through}"
