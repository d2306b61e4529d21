"""How the agent reads a terminal or a pipe: in pieces, as text, with room for only so much."""

from __future__ import annotations

from collections.abc import Callable

from ..protocol.message import PayloadType
from .byte_queue import Buffer, ByteQueue
from .events import Event, PauseReading, ResumeReading

# Beyond this much waiting output the agent reads no more: about what a pipe holds.
OUTPUT_LIMIT = 65536

_REPLACEMENT = b"\xef\xbf\xbd"
_LONGEST = 4


class TextReader:
    """The real agent's reading of bytes as UTF-8, which is not safe for bytes that are none.

    What is not valid within the last three bytes of a piece waits for the next, and is lost if none
    comes. Of U+FFFD, which stands for "not valid" in the agent's language, the first byte remains.
    """

    def __init__(self) -> None:
        self._rest = b""

    def read(self, data: Buffer, prefix: bytes = b"") -> bytes:
        """Take in a piece, with a prefix that goes in before it; what goes out by now."""
        text = b"".join((self._rest, prefix, data))
        read: list[bytes] = []
        position = 0
        while True:
            end = _valid_until(text, position)
            read.append(text[position:end])
            if len(text) - end < _LONGEST:
                break
            read.append(text[end : end + 1])
            position = end + (len(_REPLACEMENT) if text.startswith(_REPLACEMENT, end) else 1)
        self._rest = text[end:]
        return b"".join(read)


def _valid_until(text: bytes, start: int) -> int:
    """Where the first thing that is not valid begins, U+FFFD included."""
    end = len(text)
    try:
        text[start:].decode()
    except UnicodeDecodeError as error:
        end = start + error.start
    found = text.find(_REPLACEMENT, start, end)
    return end if found < 0 else found


class Pump:
    """One stream of a process: bytes in, payloads out.

    ``prefix`` goes before what begins a line, as far as messages tell. ``ideal`` leaves bytes as
    they are.
    """

    def __init__(
        self,
        connection: int,
        payload_type: PayloadType,
        emit: Callable[[Event], None],
        *,
        prefix: bytes = b"",
        ideal: bool = False,
    ) -> None:
        self.connection = connection
        self.payload_type = payload_type
        # No more will come.
        self.ended = False
        self._emit = emit
        self._queue = ByteQueue()
        self._paused = False
        self._text = None if ideal else TextReader()
        self._prefix = prefix
        self._needs_prefix = True

    @property
    def has_output(self) -> bool:
        """Whether something waits."""
        return len(self._queue) > 0

    @property
    def finished(self) -> bool:
        """Whether everything has gone out."""
        return self.ended and not self._queue

    def append(self, data: bytes) -> None:
        """Data has come."""
        if self.ended:
            return
        self._queue.append(data)
        if len(self._queue) > OUTPUT_LIMIT and not self._paused:
            self._paused = True
            self._emit(PauseReading(self.connection))

    def take(self, size: int) -> bytes:
        """The payload that reading ``size`` bytes at most gives, prefix included; maybe empty."""
        data = bytes(self._queue.take(size - len(self._prefix)))
        if self._paused and not self.ended and len(self._queue) <= OUTPUT_LIMIT // 2:
            self._paused = False
            self._emit(ResumeReading(self.connection))
        prefix = self._prefix if self._needs_prefix else b""
        self._needs_prefix = data.endswith(b"\n")
        if self._text is None:
            return prefix + data
        return self._text.read(data, prefix)

    def give_up(self) -> None:
        """Read no more, and forget what waits."""
        if not self.ended:
            self.ended = True
            self._emit(PauseReading(self.connection))
        self._queue = ByteQueue()
