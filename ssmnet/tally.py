"""Tally: what the events of a forward or proxy add up to."""

from __future__ import annotations

from collections import Counter

from .events import Disconnected, Event, Failed, Restarted, Restarting, Resumed, Resuming

# The causes of errors that have no class: the WebSocket was lost, the session has ended or was
# no good for new connections.
WEBSOCKET_LOST = "WebSocketLost"
SESSION_ENDED = "SessionEnded"
SESSION_UNFIT = "SessionUnfit"


class Tally:
    """Counts, which only grow.

    ``errors`` counts by cause, of which there are few: classes of errors, or the names above.
    """

    def __init__(self) -> None:
        self.resumes = 0
        self.restarts = 0
        self.errors: Counter[str] = Counter()
        self.last_error = ""

    def add(self, event: Event) -> None:
        """Count one event."""
        match event:
            case Disconnected() if event.error:
                self._count(event.cause, event.error)
            case Resuming():
                self._count(WEBSOCKET_LOST, event.cause)
            case Resumed():
                self.resumes += 1
            case Restarting():
                self._count(SESSION_ENDED if event.over else SESSION_UNFIT, event.cause)
            case Restarted():
                self.restarts += 1
            case Failed():
                self._count(event.cause, event.error)

    def _count(self, cause: str, error: str) -> None:
        self.errors[cause] += 1
        self.last_error = error
