"""Standard input and output as one asyncio transport, whatever they are.

``open_stdio`` gives what a Forwarder or any other protocol can use like a socket. See descriptor.py
(POSIX) and console.py (Windows) for how the two ends are read and written; their descriptors are
left as they were found.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys

if sys.platform == "win32":
    from .console import Input, Output
else:
    from .descriptor import Input, Output

HIGH_WATER = 64 * 1024
LOW_WATER = HIGH_WATER // 4


class Stdio(asyncio.Transport):
    """Two descriptors, or an output alone. Use ``open_stdio``.

    The end of the input is told once by ``eof_received``; if that returns a true value, the output
    goes on. ``connection_lost`` gets None after ``close`` and ``abort``, BrokenPipeError as soon
    as the output's reader is gone, and OSError when reading or writing fails.

    ``close`` waits for the reader of what was written for as long as it takes: whoever has a
    deadline calls ``abort`` when it is over.
    """

    def __init__(self, protocol: asyncio.BaseProtocol, source: int | None, sink: int) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._closing = False
        self._lost = False
        self._reading = source is not None
        self._writing_paused = False
        self._one_socket = source is not None and _is_one_socket(source, sink)
        self._end: tuple[OSError | None] | None = None
        self.set_write_buffer_limits()
        self._output = Output(sink, self._relieved, self._output_lost)
        self._input: Input | None = None
        try:
            if source is not None:
                self._input = Input(source, self._received, self._input_ended)
        except OSError:
            self._output.close()
            raise

    # Reading.

    def pause_reading(self) -> None:
        """Read nothing until ``resume_reading``."""
        self._reading = False
        if self._input is not None:
            self._input.pause()

    def resume_reading(self) -> None:
        """Read on, from the loop's next turn."""
        if self._input is not None and not self._closing:
            self._reading = True
            self._input.resume()

    def is_reading(self) -> bool:
        """Whether data is handed over as it comes."""
        return self._reading and not self._closing

    # Writing.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write it, now or as soon as it can be."""
        if self._closing or not data:
            return
        self._output.write(data)
        if not self._writing_paused and self._output.size > self._high_water:
            self._writing_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """How many bytes the system has not taken yet."""
        return self._output.size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return below and above which sizes the protocol is resumed and paused."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the protocol above ``high`` bytes, and resume it at ``low``."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        low = high // 4 if low is None else low
        if not 0 <= low <= high:
            raise ValueError(f"0 <= low ({low}) <= high ({high}) does not hold")
        self._low_water, self._high_water = low, high

    def can_write_eof(self) -> bool:
        """Return False: its reader finds the output's end when this process ends."""
        return False

    def write_eof(self) -> None:
        """Raise NotImplementedError; see ``can_write_eof``."""
        raise NotImplementedError("standard output ends with the process")

    # Ends.

    def close(self) -> None:
        """Read no more, and end when what was written has gone out."""
        if not self._closing:
            self._closing = True
            if self._input is not None:
                self._input.close()
            if not self._output.size:
                self._lose(None)

    def abort(self) -> None:
        """End at once, and drop what has not gone out."""
        self._lose(None)

    def is_closing(self) -> bool:
        """Whether the transport is closing or closed."""
        return self._closing

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that gets the data."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Change the protocol."""
        self._protocol = protocol

    # The two ends call these.

    def _received(self, data: bytes) -> None:
        if isinstance(self._protocol, asyncio.Protocol):
            self._protocol.data_received(data)

    def _input_ended(self, error: OSError | None) -> None:
        self._input = None
        if error is not None:
            self._lose(error)
            return
        go_on = isinstance(self._protocol, asyncio.Protocol) and self._protocol.eof_received()
        if self._end is not None:
            self._lose(*self._end)
        elif not go_on:
            self.close()

    def _relieved(self) -> None:
        if self._closing:
            if not self._output.size:
                self._lose(None)
        elif self._writing_paused and self._output.size <= self._low_water:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _output_lost(self, error: OSError) -> None:
        if self._one_socket and self._input is not None and not self._closing:
            # What the peer had sent before it closed comes first, as with any connection.
            self._end = (error if self._output.size else None,)
        else:
            self._lose(error)

    def _lose(self, error: OSError | None) -> None:
        if self._lost:
            return
        self._lost = self._closing = True
        if self._input is not None:
            self._input.close()
            self._input = None
        self._output.close()
        self._loop.call_soon(self._protocol.connection_lost, error)


def open_stdio(protocol: asyncio.BaseProtocol, source: int | None = 0, sink: int = 1) -> Stdio:
    """Connect standard input and output to a protocol, as one transport.

    Each may be a pipe, a terminal, a socket (also one for both), a file, /dev/null or the like; a
    ``source`` of None is for what is only written, as standard error.
    ``protocol.connection_made`` has been called on return; reading begins in the loop's next turn,
    unless it was paused. Raises OSError where a descriptor is closed.
    """
    transport = Stdio(protocol, source, sink)
    protocol.connection_made(transport)
    if transport.is_reading():
        transport.resume_reading()
    return transport


def _is_one_socket(source: int, sink: int) -> bool:
    status = os.fstat(source)
    return stat.S_ISSOCK(status.st_mode) and os.path.samestat(status, os.fstat(sink))
