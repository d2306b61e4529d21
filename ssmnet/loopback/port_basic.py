"""Port sessions of one TCP connection: basic mode of old agents, and the raw stream.

Basic mode dials at the start of the session and again at the first input after its connection
ended. The raw stream (AWS-StartSSHSession) lives as long as its one connection.
"""

from __future__ import annotations

from enum import Enum

from ..protocol.message import Flag
from .byte_queue import Buffer, ByteQueue
from .events import Close, Dial, PauseReading, ResumeReading, Write
from .port import OUTPUT_LIMIT, Port


class _State(Enum):
    DIALLING = 1
    OPEN = 2
    CLOSED = 3
    STOPPED = 4


class RawPort(Port):
    """One connection: the session's bytes are its bytes, and its end is the session's."""

    # Connections are numbered so that news of an old one is known for what it is.
    _connection = 0

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._state = _State.CLOSED
        self._writable = False
        self._pending: list[Buffer] = []
        self._output = ByteQueue()
        self._reading_paused = False
        self._drained_end = False

    @property
    def blocked(self) -> bool:
        """Whether the last input has not been written to the far side yet."""
        return bool(self._pending) and not self._writable

    @property
    def has_output(self) -> bool:
        """Whether take() would give something."""
        return len(self._output) > 0

    def take(self, size: int) -> Buffer:
        """At most ``size`` bytes of output."""
        data = self._output.take(size)
        if self._reading_paused and len(self._output) <= OUTPUT_LIMIT // 2:
            self._reading_paused = False
            self._emit(ResumeReading(self._connection))
        if self._drained_end and not self._output:
            self._end("")
        return data

    def flush(self) -> None:
        """Emit what has been gathered; called at the end of a burst."""
        if self._pending and self._writable:
            pending, self._pending = self._pending, []
            self._emit(Write(self._connection, b"".join(pending)))

    def stop(self) -> None:
        """The session ends: close what is open."""
        self.flush()
        self._close()
        self._state = _State.STOPPED
        self.ready = False

    def dialled(self, connection: int) -> None:
        """A Dial has come about."""
        if connection != self._connection or self._state is not _State.DIALLING:
            self._emit(Close(connection))
            return
        self._state = _State.OPEN
        self._writable = True
        self.ready = True

    def dial_failed(self, connection: int) -> None:
        """A Dial has failed, and with it the session."""
        if connection == self._connection and self._state is _State.DIALLING:
            self._state = _State.CLOSED
            failure = f"Unable to connect to specified port: {self.dial_error}"
            self._end("" if self.ready else failure)

    def received(self, connection: int, data: bytes) -> None:
        """The destination sent ``data``."""
        if connection != self._connection or self._state is not _State.OPEN:
            return
        self._output.append(data)
        if len(self._output) > OUTPUT_LIMIT and not self._reading_paused:
            self._reading_paused = True
            self._emit(PauseReading(connection))

    def ended(self, connection: int) -> None:
        """The destination ended its sending direction: the agent closes both."""
        if connection != self._connection or self._state is not _State.OPEN:
            return
        self._close()
        self._connection_ended()

    def set_writable(self, connection: int, writable: bool) -> None:
        """The connection's write buffer has become full, or has room again."""
        if connection == self._connection and self._state is _State.OPEN:
            self._writable = writable
            self.flush()

    def _initialize(self, now: float) -> None:  # noqa: ARG002
        self._dial()

    def _dial(self) -> None:
        self._connection += 1
        self._state = _State.DIALLING
        self._emit(Dial(self._connection, self.addresses, self.port))

    def _close(self) -> None:
        if self._state is _State.OPEN:
            self._emit(Close(self._connection))
        self._state = _State.CLOSED
        self._writable = False
        self._reading_paused = False

    def _connection_ended(self) -> None:
        """What came before the end still goes out."""
        self._pending.clear()
        if self._output:
            self._drained_end = True
        else:
            self._end("")

    def _receive_output(self, payload: Buffer) -> None:
        if self._state is not _State.CLOSED:
            self._pending.append(payload)

    def _receive_flag(self, flag: int) -> None:
        if flag == Flag.DISCONNECT_TO_PORT:
            self.flush()
            self._close()
            self._connection_ended()
        else:
            super()._receive_flag(flag)


class BasicPort(RawPort):
    """One connection at a time; the next input after its end dials again.

    The client is told nothing of the end of a connection: the real agent has no word for it.
    """

    def _connection_ended(self) -> None:
        self._pending.clear()

    def _receive_output(self, payload: Buffer) -> None:
        if self._state is _State.CLOSED:
            self._dial()
        self._pending.append(payload)
