"""What a DataChannel tells its driver, apart from the bytes of streams."""

from __future__ import annotations

import msgspec


class SessionReady(msgspec.Struct, frozen=True):
    """Session data may flow both ways: the handshake is complete, or there is none.

    ``agent_version`` is empty where there was none.
    """

    session_type: str
    properties: dict[str, str]
    agent_version: str
    customer_message: str


class DataKeyNeeded(msgspec.Struct, frozen=True):
    """The agent wants the session to be encrypted by a data key of the KMS key ``key_id``.

    ``challenge`` belongs into the encryption context, unless it is empty. The answer is
    DataChannel.data_key_received.
    """

    key_id: str
    challenge: str


class ExitCode(msgspec.Struct, frozen=True):
    """The command has ended so; only agents that keep standard error apart tell that."""

    code: int


class ChannelEnded(msgspec.Struct, frozen=True):
    """The gateway has closed the session; ``output`` is its reason, and may be empty."""

    output: str


Event = SessionReady | DataKeyNeeded | ExitCode | ChannelEnded
