"""How the agent puts its input in order."""

from __future__ import annotations

from enum import Enum

from ..protocol.message import AgentMessage

CAPACITY = 100_000


class Arrival(Enum):
    """Where a message stands among the others."""

    EXPECTED = "the next one: process it"
    EARLY = "kept for later: acknowledge it"
    DUPLICATE = "had that: acknowledge it again"
    REFUSED = "no room: say nothing"


class Receiver:
    """Expected number and early messages. The caller processes and acknowledges."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.expected = 0
        self._capacity = capacity
        self._early: dict[int, AgentMessage] = {}

    def place(self, message: AgentMessage) -> Arrival:
        """Say where ``message`` stands, and keep it if it is early."""
        number = message.sequence_number
        if number == self.expected:
            return Arrival.EXPECTED
        if number < self.expected:
            return Arrival.DUPLICATE
        if number not in self._early and len(self._early) >= self._capacity:
            return Arrival.REFUSED
        self._early[number] = message
        return Arrival.EARLY

    def advance(self) -> AgentMessage | None:
        """The expected message is done: the next, if it came early."""
        self.expected += 1
        return self._early.pop(self.expected, None) if self._early else None
