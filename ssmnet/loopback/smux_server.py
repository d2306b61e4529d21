"""The agent's end of smux version 1: frames in, frames out, no IO.

Input is not limited by stream: all streams share one budget, and when that is spent parsing stops
until somebody reads. That is what makes one lazy destination stop a whole session.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import RemoteProtocolError
from ..protocol.smux import HEADER, VERSION, Command
from .byte_queue import Buffer, ByteQueue

MAX_FRAME = 32768


class SmuxServer:
    """Parses the client's frames and queues ours.

    ``opened(stream)``, ``received(stream, pieces)`` and ``ended(stream)`` are called from within
    receive() and resume(); frames of streams that never were or are no more are theirs to ignore.
    Data is handed on by whole frames, as the library does.
    ``may_parse()`` is asked before each frame: while it says no, ``blocked`` is true and the rest
    is kept until resume().
    """

    def __init__(
        self,
        *,
        opened: Callable[[int], None],
        received: Callable[[int, list[memoryview]], None],
        ended: Callable[[int], None],
        may_parse: Callable[[], bool],
    ) -> None:
        self.output = ByteQueue()
        self.frames = 0
        self._opened = opened
        self._received = received
        self._ended = ended
        self._may_parse = may_parse
        self._rest: memoryview | None = None
        self._partial = b""
        self._stream = 0
        self._remaining = 0
        self._pieces: list[memoryview] = []

    @property
    def blocked(self) -> bool:
        """Whether some input had to be left for later."""
        return self._rest is not None

    def receive(self, data: Buffer) -> None:
        """Take in a piece of the client's byte stream. Raises RemoteProtocolError.

        Must not be called while blocked.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self._remaining:
                size = min(self._remaining, end - position)
                self._receive_data(view[position : position + size])
                position += size
            elif self._may_parse():
                position += self._receive_header(view[position:])
            else:
                self._rest = view[position:]
                return

    def resume(self) -> None:
        """Go on with what was left, as far as it goes."""
        if self._rest is not None and self._may_parse():
            rest, self._rest = self._rest, None
            self.receive(rest)

    def send(self, stream: int, data: Buffer) -> None:
        """Queue data of a stream, in frames of at most 32 KiB as the library makes them."""
        view = memoryview(data)
        for start in range(0, len(view), MAX_FRAME):
            piece = view[start : start + MAX_FRAME]
            self.output.append(HEADER.pack(VERSION, Command.PSH, len(piece), stream))
            self.output.append(piece)

    def close(self, stream: int) -> None:
        """Queue a stream's FIN."""
        self.output.append(HEADER.pack(VERSION, Command.FIN, 0, stream))

    def keep_alive(self) -> None:
        """Queue a NOP."""
        self.output.append(HEADER.pack(VERSION, Command.NOP, 0, 0))

    def _receive_data(self, data: memoryview) -> None:
        self._pieces.append(data)
        self._remaining -= len(data)
        if not self._remaining:
            pieces, self._pieces = self._pieces, []
            self._received(self._stream, pieces)

    def _receive_header(self, view: memoryview) -> int:
        """Read a header, or what has come of it; how many bytes that took."""
        missing = HEADER.size - len(self._partial)
        header = self._partial + view[:missing]
        if len(view) < missing:
            self._partial = header
            return len(view)
        self._partial = b""
        self._receive_frame(*HEADER.unpack(header))
        return missing

    def _receive_frame(self, version: int, command: int, length: int, stream: int) -> None:
        if version != VERSION or command > Command.NOP:
            raise RemoteProtocolError(f"smux version {version}, command {command}")
        if length and command != Command.PSH:
            raise RemoteProtocolError(f"smux command {command} with {length} bytes")
        self.frames += 1
        if command == Command.PSH:
            self._stream, self._remaining = stream, length
        elif command == Command.SYN:
            self._opened(stream)
        elif command == Command.FIN:
            self._ended(stream)
