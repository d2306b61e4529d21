"""A bad line between two protocols of one program, without sockets: for tests in virtual time.

::

    async def main() -> None:
        link = MemoryLink(delay=0.05, rate=100_000)
        client, server = link.connect(Client, Server)
        ...
        link.cut()

    ssmnet.testing.run(main())  # hours of that take as long as what happens in them

What they see of the line is what TCP lets through: delay, rate, silence and resets, never loss or
disorder. TcpLink is the same between real programs, in real time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import TypeVar

from ..alarm import Alarm
from .link import Path, unharmed

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
C = TypeVar("C", bound=asyncio.Protocol)
S = TypeVar("S", bound=asyncio.Protocol)

CAPACITY = 1024 * 1024
# With a rate, what is written at once goes in pieces, or small writes would wait for large ones.
PIECE = 4096
# Said to the other end, in the order of the bytes. Only these very objects mean it.
_EOF = b""
_RESET = b"reset"


class MemoryLink:
    """Connects pairs of protocols in a running loop, a virtual one or any other.

    ``delay`` is how many seconds a byte is on its way in one direction, ``jitter`` how many more it
    may be (drawn from ``seed``; the order stays), ``rate`` how many bytes a second one direction of
    one connection takes; None for no limit. A direction that holds ``capacity`` bytes pauses its
    writer, as does an end that has paused reading.
    """

    def __init__(
        self,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        rate: float | None = None,
        capacity: int = CAPACITY,
        seed: int = 0,
    ) -> None:
        self._delay = delay
        self._rate = rate
        self._capacity = capacity
        random = Random(seed)
        self._fate = (lambda n, now: (random.random() * jitter,)) if jitter else unharmed
        self._stalled = (False, False)
        self._pairs: list[tuple[_End, _End]] = []

    def connect(self, client: Callable[[], C], server: Callable[[], S]) -> tuple[C, S]:
        """A new connection between what these make; both have heard connection_made then."""
        near, far = client(), server()
        ends = self._end(near), self._end(far)
        ends[0].join(ends[1])
        ends[1].join(ends[0])
        self._pairs = [pair for pair in self._pairs if not all(end.gone for end in pair)]
        self._pairs.append(ends)
        self._hold(ends)
        near.connection_made(ends[0])
        far.connection_made(ends[1])
        return near, far

    def open_streams(self) -> tuple[Streams, Streams]:
        """A new connection as the client's and the server's ``(reader, writer)``."""
        loop = asyncio.get_running_loop()
        readers = asyncio.StreamReader(loop=loop), asyncio.StreamReader(loop=loop)
        client, server = (asyncio.StreamReaderProtocol(reader, loop=loop) for reader in readers)
        self.connect(lambda: client, lambda: server)
        writers = (
            asyncio.StreamWriter(end, protocol, reader, loop)
            for end, protocol, reader in zip(
                self._pairs[-1], (client, server), readers, strict=True
            )
        )
        return (readers[0], next(writers)), (readers[1], next(writers))

    def cut(self) -> None:
        """Reset every connection at both ends; what is on its way is lost. New ones are welcome."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                end.reset()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Let nothing through in these directions, in new connections either; none is closed."""
        self._stalled = (to_server, to_client)
        for pair in self._pairs:
            self._hold(pair)

    def go_on(self) -> None:
        """End a stall: what was held arrives at once."""
        self.stall(to_server=False, to_client=False)

    def _hold(self, pair: tuple[_End, _End]) -> None:
        for end, held in zip(pair, self._stalled, strict=True):
            end.hold(held)

    def _end(self, protocol: asyncio.Protocol) -> _End:
        path = Path(self._delay, rate=self._rate, fate=self._fate)
        return _End(protocol, path, self._capacity)


class _End(asyncio.Transport):
    """One end of a connection: ``path`` takes what is written here to the other."""

    _peer: _End

    def __init__(self, protocol: asyncio.Protocol, path: Path, capacity: int) -> None:
        super().__init__()
        self.gone = False
        """Whether its protocol knows that there is no connection any more."""
        self._protocol = protocol
        self._path = path
        self._high, self._low = capacity, capacity // 2
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(lambda: self._deliver(max(self._loop.time(), self._alarm.due)))
        self._closing = False
        self._eof_written = False
        self._eof_arrived = False
        self._reading = True
        self._writing_paused = False

    # For the link.

    def join(self, peer: _End) -> None:
        """Who is at the other end."""
        self._peer = peer

    def reset(self) -> None:
        """The connection is gone, and what was on its way."""
        self._path.cut()
        self._alarm.cancel()
        self._end(ConnectionResetError("the link was cut"))

    def hold(self, held: bool) -> None:
        """Stop what is on its way to the other end, or let it go on."""
        if held:
            self._path.stop()
        elif self._path.stopped:
            self._path.go_on(self._loop.time())
            self._arm()

    # asyncio.Transport.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send bytes."""
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and not self._closing:
            whole = bytes(data)
            piece = PIECE if self._path.rate else len(whole)
            for start in range(0, len(whole), piece):
                self._send(whole[start : start + piece])

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Send the end of the bytes; the other direction stays open."""
        if not self._eof_written and not self._closing:
            self._eof_written = True
            self._send(_EOF)

    def close(self) -> None:
        """Close it; what was written arrives."""
        if not self._closing:
            self.write_eof()
            self._end(None)

    def abort(self) -> None:
        """Close it so that the other end sees a reset; what was written is lost."""
        if not self._closing:
            self._path.cut()
            self._send(_RESET)
            self._end(None)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing

    def is_reading(self) -> bool:
        """Whether the protocol gets what arrives."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Take nothing until resume_reading."""
        self._reading = False

    def resume_reading(self) -> None:
        """Go on taking what arrives."""
        self._reading = True
        self._peer._arm()
        if self._eof_arrived:
            self._loop.call_soon(self._receive, b"", False)

    def get_write_buffer_size(self) -> int:
        """How many bytes have been written that the other end has not taken."""
        return self._path.under_way

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """When the writer is let go on, and when it is paused."""
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Pause the writer at ``high`` bytes, until there are ``low``."""
        self._high = high if high is not None else 4 * low if low else CAPACITY
        self._low = low if low is not None else self._high // 4
        self._set_flow()

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose transport this is."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand it to another."""
        if not isinstance(protocol, asyncio.Protocol):
            raise TypeError("MemoryLink calls data_received")
        self._protocol = protocol

    # Between the ends.

    def _send(self, data: bytes) -> None:
        self._path.send(data, self._loop.time())
        self._set_flow()
        self._arm()

    def _arm(self) -> None:
        if self._peer._reading or self._peer.gone:
            self._alarm.set(self._path.next_event())

    def _deliver(self, now: float) -> None:
        """Hand over what has arrived, unless it is not taken yet."""
        peer = self._peer
        if not (peer._reading or peer.gone):
            return
        pieces = self._path.arrived(now)
        if peer._closing and any(pieces):
            self._end(ConnectionResetError("the other end is closed"))
        elif pieces and pieces[-1] is _RESET:
            peer._end(ConnectionResetError("the other end has reset the connection"))
        elif pieces:
            peer._receive(b"".join(pieces), pieces[-1] is _EOF)
        self._set_flow()
        self._arm()

    def _receive(self, data: bytes, eof: bool) -> None:
        self._eof_arrived = self._eof_arrived or eof
        if data and not self._closing:
            self._protocol.data_received(data)
        if self._eof_arrived and self.is_reading():
            self._eof_arrived = False
            if not self._protocol.eof_received():
                self.close()

    def _set_flow(self) -> None:
        size = self._path.under_way
        if not self._writing_paused and size > self._high and not self._closing:
            self._writing_paused = True
            self._protocol.pause_writing()
        elif self._writing_paused and size <= self._low:
            self._writing_paused = False
            if not self._closing:
                self._protocol.resume_writing()

    def _end(self, error: Exception | None) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        self.gone = True
        self._protocol.connection_lost(error)
        if self._peer.gone:  # nobody is left to hear of anything
            self._alarm.cancel()
            self._peer._alarm.cancel()
        else:
            self._peer._arm()
