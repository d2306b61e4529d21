"""What the agent's core asks of whoever drives it.

A connection is known by its number: the smux stream it belongs to, or 0 where a session has one
connection only.
"""

from __future__ import annotations

from typing import Any

import msgspec


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


class Ended(msgspec.Struct, gc=False):
    """The session is over; ``output`` is the reason that the user is shown, often empty."""

    output: str


Event = Resolve | Dial | Write | WriteEof | Close | PauseReading | ResumeReading | Ended
