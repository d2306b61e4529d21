"""What every kind of session has: input that it takes, output that it gives, and an end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from ..protocol.message import PayloadType
from .byte_queue import Buffer
from .events import Event

Send = Callable[[PayloadType, bytes], None]
Emit = Callable[[Event], None]
End = Callable[[str], None]


class Kind(ABC):
    """A session that needs no more preliminaries.

    ``send`` sends a message beside the output, ``emit`` asks the driver for something, ``end``
    ends the session with a text for the user.
    """

    # Whether the agent sleeps after each message of this kind's output.
    paced = True
    # Whether output waits while the client is away.
    heeds_pause = True

    def __init__(self, *, send: Send, emit: Emit, end: End) -> None:
        # Whether input is taken. What comes before is not acknowledged.
        self.ready = False
        # Whether the agent sleeps after each message of output.
        self.paced = True
        # Whether output waits while the client is away.
        self.heeds_pause = True
        # Whether the gateway is told of the end before it comes.
        self.announces_end = False
        self._send = send
        self._emit = emit
        self._end = end

    @abstractmethod
    def start(self, now: float) -> None:
        """The session begins."""

    @abstractmethod
    def receive(self, payload_type: int, payload: Buffer) -> None:
        """One in-order message of input. Only called while ready and not blocked.

        Raises RemoteProtocolError for one that makes no sense; it is not acknowledged then.
        """

    @property
    @abstractmethod
    def blocked(self) -> bool:
        """Whether the last input has not been written to the far side yet."""

    @property
    @abstractmethod
    def has_output(self) -> bool:
        """Whether take_message() would give something."""

    @abstractmethod
    def take_message(self, size: int) -> tuple[PayloadType, Buffer]:
        """A message of some ``size`` bytes of output; an empty one is not to be sent."""

    @abstractmethod
    def get_timer(self) -> float | None:
        """When handle_timer is due."""

    @abstractmethod
    def handle_timer(self, now: float) -> None:
        """Do what is due."""

    @abstractmethod
    def flush(self) -> None:
        """Emit what has been gathered for connections; called at the end of a burst."""

    @abstractmethod
    def stop(self) -> None:
        """The session ends: close what is open."""

    @abstractmethod
    def received(self, connection: int, data: bytes) -> None:
        """The far side sent ``data``."""

    @abstractmethod
    def ended(self, connection: int) -> None:
        """The far side ended its sending direction."""

    def lost(self, connection: int) -> None:
        """The connection is gone, both directions."""
        self.ended(connection)

    @abstractmethod
    def set_writable(self, connection: int, writable: bool) -> None:
        """The connection's write buffer has become full, or has room again."""
