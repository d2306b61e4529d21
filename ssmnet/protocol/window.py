"""How much may be in flight: sent, not acknowledged, and not given up as lost."""

from __future__ import annotations

from .message import HEADER_SIZE, PAYLOAD_SIZE

MESSAGE_SIZE = HEADER_SIZE + PAYLOAD_SIZE
# The far end keeps what comes behind a gap: 10,000 messages in older ends. Never run further ahead.
MAX_MESSAGES = 8192
MAX_BYTES = 4 * 1024 * 1024


class Window:
    """The bytes in flight and their limits.

    ``limit`` (bytes) is moved by congestion control, up to ``max_bytes``. ``max_messages`` bounds
    how far the newest message may be ahead of the oldest unacknowledged one.
    """

    __slots__ = ("in_flight", "limit", "max_bytes", "max_messages")

    def __init__(
        self, limit: int, *, max_bytes: int = MAX_BYTES, max_messages: int = MAX_MESSAGES
    ) -> None:
        self.limit = limit
        self.max_bytes = max_bytes
        self.max_messages = max_messages
        self.in_flight = 0

    @property
    def is_open(self) -> bool:
        """Whether one more message may be in flight; it may overshoot by that one."""
        return self.in_flight < min(self.limit, self.max_bytes)

    def room(self, ahead: int, reserve: int = 0) -> int:
        """How many new messages of full size may be sent, the first ``ahead`` of the oldest
        unacknowledged one; the last of them may overshoot.

        ``reserve`` is for what may go beyond the limit, in bytes.
        """
        free = min(self.limit + reserve, self.max_bytes) - self.in_flight
        return max(0, min(-(-free // MESSAGE_SIZE), self.max_messages - ahead))
