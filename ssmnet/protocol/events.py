"""What a DataChannel tells its driver, apart from the bytes of streams."""

from __future__ import annotations

import msgspec


class SessionReady(msgspec.Struct, frozen=True):
    """The handshake is complete: session data may flow both ways."""

    session_type: str
    properties: dict[str, str]
    agent_version: str
    customer_message: str


class ChannelEnded(msgspec.Struct, frozen=True):
    """The gateway has closed the session; ``output`` is its reason, and may be empty."""

    output: str


Event = SessionReady | ChannelEnded
