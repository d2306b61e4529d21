"""What an application or a status line may want to know of a tunnel."""

from __future__ import annotations

import msgspec

__all__ = [
    "Closed",
    "Connected",
    "Disconnected",
    "Dropped",
    "Event",
    "Failed",
    "Listening",
    "Narrowed",
    "Reloaded",
    "Restarted",
    "Restarting",
    "Resumed",
    "Resuming",
    "Widened",
]


class Listening(msgspec.Struct, frozen=True, tag="listening", tag_field="event"):
    """A local port or socket accepts connections.

    ``kind`` is what it is: a forward, a socks or an http proxy. A proxy has no session yet, and its
    clients name the destinations.
    """

    address: str
    port: int | None
    session_id: str
    target: str
    destination: str
    kind: str = "forward"


class Connected(msgspec.Struct, frozen=True, tag="connected", tag_field="event"):
    """A local connection was accepted from ``peer``, or an application has opened one without.

    ``connection`` is its number, and ``peer`` empty for one without a local port.
    """

    connection: int
    peer: str
    destination: str


class Disconnected(msgspec.Struct, frozen=True, tag="disconnected", tag_field="event"):
    """A connection is over. ``error`` is empty after an orderly end, and ``cause`` its class.

    ``bytes_sent`` went to the destination, ``bytes_received`` came from there.
    """

    connection: int
    destination: str
    bytes_sent: int
    bytes_received: int
    error: str
    cause: str = ""


class Resuming(msgspec.Struct, frozen=True, tag="resuming", tag_field="event"):
    """The WebSocket was lost; the session and its connections wait for a new one."""

    session_id: str
    cause: str


class Resumed(msgspec.Struct, frozen=True, tag="resumed", tag_field="event"):
    """The session goes on, after ``seconds``."""

    session_id: str
    seconds: float


class Restarting(msgspec.Struct, frozen=True, tag="restarting", tag_field="event"):
    """Another session is being started.

    ``over`` says that the last one has ended and its connections are reset. Otherwise it keeps
    them, and gets no more. Told again when it is another ``cause`` that keeps it from starting.
    """

    session_id: str
    cause: str
    over: bool


class Restarted(msgspec.Struct, frozen=True, tag="restarted", tag_field="event"):
    """There is a new session, after ``seconds``."""

    session_id: str
    seconds: float


class Widened(msgspec.Struct, frozen=True, tag="widened", tag_field="event"):
    """There is another session for the connections to share; so many ``sessions`` now."""

    session_id: str
    sessions: int


class Narrowed(msgspec.Struct, frozen=True, tag="narrowed", tag_field="event"):
    """A session that was not used for a while is closed; so many ``sessions`` are left."""

    session_id: str
    sessions: int


class Dropped(msgspec.Struct, frozen=True, tag="dropped", tag_field="event"):
    """So many events before this one were not told: their reader did not read."""

    events: int


class Failed(msgspec.Struct, frozen=True, tag="failed", tag_field="event"):
    """A forward or proxy could not start, or go on. It is tried again until it can.

    Told again when another ``error`` keeps it from that; ``cause`` is the error's class.
    """

    error: str
    cause: str


class Reloaded(msgspec.Struct, frozen=True, tag="reloaded", tag_field="event"):
    """The file was read again. ``error`` says why nothing of it was taken, or is empty."""

    changes: str
    error: str = ""


class Closed(msgspec.Struct, frozen=True, tag="closed", tag_field="event"):
    """A forward is over."""

    session_id: str
    reason: str


Event = (
    Listening
    | Connected
    | Disconnected
    | Resuming
    | Resumed
    | Restarting
    | Restarted
    | Widened
    | Narrowed
    | Dropped
    | Failed
    | Reloaded
    | Closed
)
"""Any of these."""
