"""What a session needs of AWS. It is handed in: the session knows no credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .message_socket import Handler, MessageSocket


class Grant(Protocol):
    """What AWS gives for opening a session's data channel."""

    @property
    def session_id(self) -> str:
        """The session's name."""

    @property
    def token_value(self) -> str:
        """A secret that opens the data channel."""

    @property
    def stream_url(self) -> str:
        """Where the data channel is."""


class DataKey(Protocol):
    """A key that KMS has made for one session."""

    @property
    def plaintext(self) -> bytes:
        """The key itself, a secret."""

    @property
    def encrypted(self) -> bytes:
        """The key as only KMS can read it."""


class Access(Protocol):
    """What a session needs of AWS."""

    async def connect(self, stream_url: str, handler: Handler) -> MessageSocket:
        """Open a WebSocket to a data channel. Raises ConnectError."""

    async def resume_session(self, session_id: str) -> Grant | None:
        """A fresh grant; None when the session is over. Raises ConnectError."""

    async def terminate_session(self, session_id: str) -> None:
        """End the session. Raises ConnectError."""

    async def generate_data_key(self, key_id: str, context: Mapping[str, str]) -> DataKey:
        """A data key of KMS, bound to an encryption context. Raises ConnectError."""
