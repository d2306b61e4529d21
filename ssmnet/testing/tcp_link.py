"""A bad line for real programs: a TCP relay that is slow, narrow, stalls or breaks when told to.

::

    async with TcpLink("127.0.0.1", 8080, delay=0.02, rate=1_000_000) as link:
        ...  # a client connects to 127.0.0.1 and link.port instead
        link.cut()

What a Path decides in virtual time happens here in real time. TCP hides loss and order from those
who use it, so there is none: what a program sees of a bad line is delay, rate, silence and resets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from random import Random
from typing import Self, cast

from ..alarm import Alarm
from .link import Fate, Path, unharmed

CONNECT_TIMEOUT = 10.0
# With a rate, what is read at once goes on in pieces, or small messages would wait for large ones.
PIECE = 4096
# How many bytes may be on their way in one direction of a connection, unless told otherwise: what
# 100 ms of a gigabit hold is more than any test needs.
CAPACITY = 1024 * 1024


class TcpLink:
    """Listens, and carries the bytes of each connection to ``host`` and ``port`` and back.

    ``delay`` is how many seconds a byte is on its way in one direction, ``jitter`` how many more it
    may be (drawn from ``seed``; the order stays), ``rate`` how many bytes a second one direction of
    one connection takes; None for no limit. Each direction holds ``capacity`` bytes; a sender of
    more has to wait, as with any TCP. Opening a connection takes no delay of its own.

    Raises OSError at the start when it cannot listen. A connection that has nobody to go to is
    reset.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        listen_host: str = "127.0.0.1",
        listen_port: int = 0,
        delay: float = 0.0,
        jitter: float = 0.0,
        rate: float | None = None,
        capacity: int = CAPACITY,
        seed: int = 0,
    ) -> None:
        self._destination = (host, port)
        self._listen = (listen_host, listen_port)
        self._delay = delay
        self._rate = rate
        self._capacity = capacity
        self._fate = _jittering(Random(seed), jitter) if jitter else unharmed
        self._stalled = (False, False)
        self._connections: dict[Connection, None] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._alarm = Alarm(self._move)
        self.port = listen_port
        """Where it listens, once it has been started."""

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._server = await self._loop.create_server(self._accept, *self._listen)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stop listening and reset what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._dialling:
            task.cancel()
        self.cut()
        self._alarm.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def on_the_way(self) -> int:
        """How many bytes have come and not yet gone on, in all."""
        return sum(way.under_way for connection in self._connections for way in connection.ways)

    def cut(self) -> None:
        """Reset every connection at both ends; what is on its way is lost. New ones are welcome."""
        for connection in list(self._connections):
            connection.reset()

    def stall(self, *, to_server: bool = True, to_client: bool = True) -> None:
        """Let nothing through in these directions, in new connections either; none is closed."""
        self._stalled = (to_server, to_client)
        for connection in self._connections:
            connection.stall(self._stalled)

    def go_on(self) -> None:
        """End a stall: what was held arrives at once."""
        self.stall(to_server=False, to_client=False)
        self._move()

    # For the connections.

    def forget(self, connection: Connection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)

    def arm(self) -> None:
        """See to it that the timer fires when the next bytes arrive anywhere."""
        times = [
            time
            for connection in self._connections
            for way in connection.ways
            if (time := way.next_arrival()) is not None
        ]
        self._alarm.set(min(times, default=None))

    def _move(self) -> None:
        for connection in list(self._connections):
            for way in connection.ways:
                way.deliver(self._loop.time())
        self.arm()

    def _accept(self) -> End:
        connection = Connection(self, self._path(), self._path(), self._capacity)
        connection.stall(self._stalled)
        self._connections[connection] = None
        task = self._loop.create_task(self._dial(connection))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)
        return connection.client

    async def _dial(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._loop.create_connection(lambda: connection.server, *self._destination)
        except OSError:
            connection.reset()

    def _path(self) -> Path:
        return Path(self._delay, rate=self._rate, fate=self._fate)


class Connection:
    """The two ends of a relayed connection, and the ways between them."""

    def __init__(self, link: TcpLink, there: Path, back: Path, capacity: int) -> None:
        self._link = link
        self.client = End(self)
        self.server = End(self)
        self.ways = (
            Way(link, self, there, self.client, self.server, capacity),
            Way(link, self, back, self.server, self.client, capacity),
        )
        self.client.incoming, self.server.incoming = self.ways[0], self.ways[1]
        self.client.outgoing, self.server.outgoing = self.ways[1], self.ways[0]
        self._reset = False

    def stall(self, stalled: tuple[bool, bool]) -> None:
        """Hold what goes to the server and to the client, or let it go on."""
        now = asyncio.get_running_loop().time()
        for way, held in zip(self.ways, stalled, strict=True):
            way.hold(held, now)

    def reset(self) -> None:
        """Cut both ends, one that is just being made included."""
        self._reset = True
        self._link.forget(self)
        for end in (self.client, self.server):
            end.reset()

    def made(self, end: End) -> None:
        """One end is connected."""
        if self._reset:
            end.reset()
        for way in self.ways:
            way.set_flow()
        self._link.arm()

    def way_ended(self) -> None:
        """The end of the bytes has arrived in one direction; after both, nothing is left to do."""
        if all(way.ended for way in self.ways):
            for end in (self.client, self.server):
                end.close()

    def lost(self, failed: bool) -> None:
        """One end is gone: so is the other, unless both have ended in good order."""
        if failed or not all(way.ended for way in self.ways):
            self.reset()
        self._link.forget(self)


class End(asyncio.Protocol):
    """A socket: what it receives goes into ``incoming``, what it sends comes from ``outgoing``."""

    incoming: Way
    outgoing: Way

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transport: asyncio.Transport | None = None
        self.full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self.transport = cast(asyncio.Transport, transport)
        self._connection.made(self)

    def data_received(self, data: bytes) -> None:
        """Bytes set out."""
        self.incoming.send(data)

    def eof_received(self) -> bool:
        """So does the end of the bytes; the other direction stays open."""
        self.incoming.send(b"")
        return True

    def pause_writing(self) -> None:
        """The socket takes no more."""
        self.full = True

    def resume_writing(self) -> None:
        """The socket takes more again."""
        self.full = False
        self.outgoing.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self.transport = None
        self._connection.lost(exc is not None)

    def close(self) -> None:
        """Close the socket when all is written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """Close the socket so that the far end sees a reset."""
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            form = "hh" if sys.platform == "win32" else "ii"
            with contextlib.suppress(OSError):  # it is closed already
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack(form, 1, 0))
            self.transport.abort()


class Way:
    """One direction of a connection. An empty message on the path is the end of the bytes."""

    def __init__(
        self,
        link: TcpLink,
        connection: Connection,
        path: Path,
        source: End,
        sink: End,
        capacity: int,
    ) -> None:
        self._link = link
        self._connection = connection
        self._path = path
        self._source = source
        self._sink = sink
        self._capacity = capacity
        self._reading = True
        self.ended = False
        """Whether the end of the bytes has arrived."""

    @property
    def under_way(self) -> int:
        """How many bytes have come and not yet gone on."""
        return self._path.under_way

    def send(self, data: bytes) -> None:
        """Bytes set out, or with none of them their end."""
        now = asyncio.get_running_loop().time()
        piece = PIECE if self._path.rate else len(data)
        for start in range(0, len(data), piece or 1):
            self._path.send(data[start : start + piece], now)
        if not data:
            self._path.send(data, now)
        self.set_flow()
        self._link.arm()

    def next_arrival(self) -> float | None:
        """When to deliver, on the loop's clock; None when there is nothing, or no room for it."""
        if self._sink.full or self._sink.transport is None:
            return None
        return self._path.next_event()

    def deliver(self, now: float) -> None:
        """Pass on what has arrived by ``now``."""
        transport = self._sink.transport
        if transport is None or self._sink.full:
            return
        pieces = self._path.arrived(now)
        data = b"".join(pieces)
        if data:
            transport.write(data)
        if pieces and not pieces[-1]:
            self.ended = True
            transport.write_eof()
            self._connection.way_ended()
        self.set_flow()

    def go_on(self) -> None:
        """There is room again at the far end."""
        self.deliver(asyncio.get_running_loop().time())
        self._link.arm()

    def hold(self, held: bool, now: float) -> None:
        """Stop everything where it is, or let it go on."""
        if held:
            self._path.stop()
        elif self._path.stopped:
            self._path.go_on(now)

    def set_flow(self) -> None:
        """Read from the source only while there is room, and somebody to send it to."""
        source = self._source.transport
        if source is None or source.is_closing():
            return
        room = self.under_way < self._capacity and self._sink.transport is not None
        if room is not self._reading:
            self._reading = room
            (source.resume_reading if room else source.pause_reading)()


def _jittering(random: Random, jitter: float) -> Fate:
    return lambda n, now: (random.random() * jitter,)
