"""What the agent's core asks of whoever drives it.

A connection is known by its number: the smux stream it belongs to, 0 where a session has one
connection only, or what of a process it is: STDOUT, STDERR.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

# A process's terminal, or its standard output; and its standard error.
STDOUT = 1
STDERR = 2


class Wiring(Enum):
    """What a process has for standard input, output and error."""

    TERMINAL = "a pseudo-terminal: STDOUT, which can be written to as well"
    PIPES = "nothing to read; pipes that are STDOUT and STDERR"
    FILE = "nothing to read; one file, which is STDOUT once the process has ended"


class Resolve(msgspec.Struct, gc=False):
    """Look ``host`` up, then call Agent.resolved or Agent.resolve_failed."""

    host: str


class Dial(msgspec.Struct, gc=False):
    """Connect to the first of ``addresses`` that answers, one after the other.

    Then call Agent.dialled or Agent.dial_failed.
    """

    connection: int
    addresses: tuple[str, ...]
    port: int


class Write(msgspec.Struct, gc=False):
    """Write ``data`` to the connection."""

    connection: int
    data: bytes

    def __repr__(self) -> str:
        """Without the data, which is somebody's."""
        return f"Write(connection={self.connection}, size={len(self.data)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("connection", self.connection)]


class WriteEof(msgspec.Struct, gc=False):
    """Close the connection's sending direction after all that was written."""

    connection: int


class Close(msgspec.Struct, gc=False):
    """Close both directions after all that was written. Nothing more is told of it."""

    connection: int


class PauseReading(msgspec.Struct, gc=False):
    """Stop reading the connection."""

    connection: int


class ResumeReading(msgspec.Struct, gc=False):
    """Read the connection again."""

    connection: int


class Spawn(msgspec.Struct, gc=False):
    """Start a process, then call Agent.spawned or Agent.spawn_failed, and Agent.exited one day."""

    arguments: tuple[str, ...]
    wiring: Wiring

    def __repr__(self) -> str:
        """Without the arguments but the first: they are somebody's."""
        return f"Spawn({self.arguments[0]!r}, {self.wiring.name})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("arguments", self.arguments[0]), ("wiring", self.wiring.name)]


class SetSize(msgspec.Struct, gc=False):
    """Give the process's terminal this many columns and rows."""

    columns: int
    rows: int


class Signal(msgspec.Struct, gc=False):
    """Send a signal to the process; ``group``: to its process group as well."""

    number: int
    group: bool


class HangUp(msgspec.Struct, gc=False):
    """End the process and whatever it has started. Nothing more is told of it."""


class Ended(msgspec.Struct, gc=False):
    """The session is over; ``output`` is the reason that the user is shown, often empty."""

    output: str


ToConnection = Write | WriteEof | Close | PauseReading | ResumeReading
ToProcess = SetSize | Signal | HangUp
Event = Resolve | Dial | Spawn | ToConnection | ToProcess | Ended
