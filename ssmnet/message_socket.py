"""The seam between a session and its WebSocket, which may be simulated."""

from __future__ import annotations

from typing import Protocol


class MessageSocket(Protocol):
    """What a session needs of a WebSocket.

    ``heard`` is set whenever something comes, if only a pong; whoever wants to know clears it.
    """

    heard: bool

    @property
    def reading_paused(self) -> bool:
        """Whether it is not read."""

    @property
    def write_buffer_size(self) -> int:
        """How many bytes wait to be written."""

    def write(self, messages: list[bytes]) -> None:
        """Send binary messages in one write."""

    def write_text(self, text: str) -> None:
        """Send one text message."""

    def ping(self) -> None:
        """Ask the far end for a sign of life."""

    def pause_reading(self) -> None:
        """Stop reading."""

    def resume_reading(self) -> None:
        """Go on reading."""

    def close(self) -> None:
        """Close after what was written."""

    def abort(self) -> None:
        """Drop the connection."""

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""


class Handler(Protocol):
    """Who gets what a WebSocket receives."""

    def messages_received(self, messages: list[bytes]) -> None:
        """The binary messages that one read has brought."""

    def pause_writing(self) -> None:
        """The write buffer is full."""

    def resume_writing(self) -> None:
        """The write buffer has room again."""

    def connection_lost(self, reason: str, *, broken: bool = False) -> None:
        """The WebSocket is gone, for whatever reason but our own ``close`` or ``abort``.

        ``broken`` says that what the far end sent is no WebSocket's, or more than one may bring.
        """
