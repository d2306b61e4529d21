"""What shells and commands have in common: a process here, whose output is the session's."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from ..protocol.message import PayloadType
from .byte_queue import Buffer
from .events import HangUp, Spawn
from .kind import Emit, End, Kind, Send
from .pump import Pump

# What the agent puts before the reason why a session could not be.
ERROR_TITLE = "\n----------ERROR-------\n"


class Program(Kind):
    """A session that is a process; ``pumps`` are its streams in the order of their connections.

    ``setup_time`` is how long the agent takes until it starts it, in seconds.
    """

    def __init__(
        self, pumps: Sequence[Pump], *, send: Send, emit: Emit, end: End, setup_time: float
    ) -> None:
        super().__init__(send=send, emit=emit, end=end)
        self._pumps = {pump.connection: pump for pump in pumps}
        # Those with something to take, the next first; and what else there is to say after them.
        self._waiting: deque[Pump] = deque()
        self._last_words: deque[tuple[PayloadType, bytes]] = deque()
        self._setup_time = setup_time
        self._due: float | None = None
        self._do_due: Callable[[float], None] = self._begin
        # From Spawn to the end of the session, unless there is no process after all.
        self._running = False

    def start(self, now: float) -> None:
        """The session begins."""
        self._due = now + self._setup_time

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return self._due

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        if self._due is not None and now >= self._due:
            self._due = None
            self._do_due(now)

    @abstractmethod
    def spawned(self, now: float) -> None:
        """The process runs."""

    @abstractmethod
    def spawn_failed(self, reason: str, now: float) -> None:
        """There is no process, and will be none."""

    @abstractmethod
    def exited(self, code: int) -> None:
        """The process has ended; the code is -1 if a signal did that."""

    @property
    def has_output(self) -> bool:
        """Whether take_message() would give something."""
        return bool(self._waiting or self._last_words)

    def take_message(self, size: int) -> tuple[PayloadType, Buffer]:
        """A message of one of the streams, in turns."""
        if not self._waiting:
            message = self._last_words.popleft()
            self._finish_if_done()
            return message
        pump = self._waiting.popleft()
        payload = pump.take(size)
        self._taken(pump)
        if pump.has_output:
            self._waiting.append(pump)
        self._finish_if_done()
        return pump.payload_type, payload

    def received(self, connection: int, data: bytes) -> None:
        """The process wrote ``data``."""
        pump = self._pumps[connection]
        pump.append(data)
        if pump.has_output and pump not in self._waiting:
            self._waiting.append(pump)

    def ended(self, connection: int) -> None:
        """Nothing more comes of that stream."""
        self._pumps[connection].ended = True
        self._finish_if_done()

    def flush(self) -> None:
        """Emit what has been gathered; called at the end of a burst."""

    def set_writable(self, connection: int, writable: bool) -> None:
        """The process's input has become full, or has room again."""

    def stop(self) -> None:
        """The session ends, and the process with it."""
        self.ready = False
        self._due = None
        if self._running:
            self._running = False
            self._emit(HangUp())

    @abstractmethod
    def _begin(self, now: float) -> None:
        """Start the process."""

    def _start_process(self, spawn: Spawn) -> None:
        self._running = True
        self._emit(spawn)

    def _schedule(self, due: float, do: Callable[[float], None]) -> None:
        self._due, self._do_due = due, do

    @property
    def _drained(self) -> bool:
        """Whether all that the process wrote has gone out."""
        return all(pump.finished for pump in self._pumps.values())

    def _taken(self, pump: Pump) -> None:
        """A message has been taken of that stream."""

    @abstractmethod
    def _finish_if_done(self) -> None:
        """End the session if there is nothing more to come."""
