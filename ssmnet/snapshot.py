"""What a running forward or proxy looks like at one moment, for those who show it."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class State(StrEnum):
    """How a service is."""

    STARTING = "starting"
    UP = "up"
    RESUMING = "resuming"
    RESTARTING = "restarting"
    FAILED = "failed"  # and tried again
    STOPPED = "stopped"


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One forward or proxy. Counters only grow while it runs; times are in seconds.

    ``addresses`` are where it listens, as ``127.0.0.1:5432`` or a path. ``sent`` is what local
    programs have sent, in bytes; ``received`` what they got. ``round_trip_time`` is None until it
    is known. ``errors`` counts by cause.
    """

    name: str
    kind: str  # forward, proxy
    target: str
    destination: str
    state: State
    addresses: tuple[str, ...] = ()
    sessions: int = 0
    connections: int = 0
    accepted: int = 0
    sent: int = 0
    received: int = 0
    round_trip_time: float | None = None
    retransmissions: int = 0
    resumes: int = 0
    restarts: int = 0
    errors: dict[str, int] = {}
    last_error: str = ""
