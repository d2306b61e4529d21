"""Sessions on a terminal: Standard_Stream, which is a shell, and InteractiveCommands."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..protocol.message import PayloadType, decode_json
from .byte_queue import Buffer
from .events import STDOUT, SetSize, Spawn, Wiring, Write
from .kind import Emit, End, Send
from .program import ERROR_TITLE, Program
from .pump import Pump

# What the agent starts. It asks for no shell of the user's.
SHELL = ("sh",)
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Size(msgspec.Struct):
    cols: _Count = 0
    rows: _Count = 0


class Shell(Program):
    """A process on a terminal. The client's bytes are typed there, what shows comes back.

    Without a handshake, so the first sign of life is output, ``first_output_delay`` seconds after
    the start.
    """

    def __init__(
        self,
        arguments: tuple[str, ...],
        *,
        send: Send,
        emit: Emit,
        end: End,
        setup_time: float,
        first_output_delay: float,
        ideal: bool,
    ) -> None:
        super().__init__(
            [Pump(STDOUT, PayloadType.OUTPUT, emit, ideal=ideal)],
            send=send,
            emit=emit,
            end=end,
            setup_time=setup_time,
        )
        self._arguments = arguments
        self._first_output_delay = first_output_delay
        self._input: list[Buffer] = []
        self._writable = False
        self._shows = False

    @property
    def has_output(self) -> bool:
        """Whether take_message() would give something."""
        return self._shows and super().has_output

    @property
    def blocked(self) -> bool:
        """Whether the last input has not been written to the terminal yet."""
        return bool(self._input) and not self._writable

    def receive(self, payload_type: int, payload: Buffer) -> None:
        """Keys, or a new size; anything else means nothing to a shell, flags included."""
        if payload_type == PayloadType.OUTPUT:
            self._input.append(payload)
        elif payload_type == PayloadType.SIZE:
            size = decode_json(payload, _Size)
            self._write()
            self._emit(SetSize(size.cols & 0xFFFF, size.rows & 0xFFFF))

    def flush(self) -> None:
        """Type what has come; called at the end of a burst."""
        if self._writable:
            self._write()

    def set_writable(self, connection: int, writable: bool) -> None:  # noqa: ARG002
        """The terminal takes no more, or takes some again."""
        self._writable = writable and self.ready
        self.flush()

    def spawned(self, now: float) -> None:
        """The process runs, and may be typed to."""
        self.ready = self._writable = self.announces_end = True
        self._schedule(now + self._first_output_delay, self._show)

    def spawn_failed(self, reason: str, now: float) -> None:  # noqa: ARG002
        """There is no process, and will be none."""
        self._running = False
        self._end(f"{ERROR_TITLE}Unable to start command: Failed to start pty: {reason}\n\n")

    def exited(self, code: int) -> None:
        """The process has ended. The session goes on until the terminal does: nobody is told."""

    def ended(self, connection: int) -> None:
        """The terminal is gone, so nothing can be typed."""
        self.ready = self._writable = False
        self._input.clear()
        super().ended(connection)

    def _begin(self, now: float) -> None:  # noqa: ARG002
        self._start_process(Spawn(self._arguments, Wiring.TERMINAL))

    def _show(self, now: float) -> None:  # noqa: ARG002
        self._shows = True
        self._finish_if_done()

    def _write(self) -> None:
        if self._input:
            pending, self._input = self._input, []
            self._emit(Write(STDOUT, b"".join(pending)))

    def _finish_if_done(self) -> None:
        if self._shows and self._drained:
            self._end("")
