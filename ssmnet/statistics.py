"""What an application sees of a target at one moment."""

from __future__ import annotations

import msgspec

from .dialer import Dialer
from .snapshot import Snapshot
from .streams import Connections
from .tally import Tally


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """A target's connections at one moment, and its listeners one by one.

    The first figures are of connections without a local port: those of ``open_connection`` and
    ``create_connection``. Counters only grow. ``sent`` and ``received`` are bytes, with TLS as they
    are in the tunnel. ``round_trip_time`` is of the session that was used
    last, in seconds; None until it is known. ``errors`` counts by cause. ``listeners`` are the
    forwards and proxies that are open.
    """

    target: str
    sessions: int = 0
    connections: int = 0
    sent: int = 0
    received: int = 0
    round_trip_time: float | None = None
    retransmissions: int = 0
    resumes: int = 0
    restarts: int = 0
    errors: dict[str, int] = {}
    last_error: str = ""
    listeners: tuple[Snapshot, ...] = ()


def statistics(
    target: str,
    dialer: Dialer,
    streams: Connections,
    tally: Tally,
    listeners: tuple[Snapshot, ...],
) -> Statistics:
    """What these say now."""
    return Statistics(
        target=target,
        sessions=dialer.sessions,
        connections=dialer.connections,
        sent=streams.sent,
        received=streams.received,
        round_trip_time=dialer.round_trip_time,
        retransmissions=dialer.retransmissions,
        resumes=tally.resumes,
        restarts=tally.restarts,
        errors=dict(tally.errors),
        last_error=tally.last_error,
        listeners=listeners,
    )
