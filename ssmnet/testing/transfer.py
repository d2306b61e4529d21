"""Transfers that know both of their ends, and check every byte at both.

A transfer is a connection through a tunnel: the client sends its number and then ``up`` bytes, the
destination sends ``down`` bytes, and one of them ends the connection when both are through. One
that is reset by the end of its session is begun again, from its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from ..errors import Error
from ..pool import SessionPool
from ..transport import HIGH_WATER, StreamTransport
from .agent import DestinationSide
from .gateway import Hosted
from .transcript import Transcript

# What all transfers send is cut out of this, each from another place.
CONTENT = Random(0).randbytes(4 * 1024 * 1024)
NUMBER_SIZE = 4


@dataclass(frozen=True)
class Pause:
    """After so many bytes, nothing is read for so many seconds."""

    after: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What a transfer does.

    It starts ``start`` seconds after the beginning. Its ends write ``piece`` bytes at a time, with
    ``gap`` seconds in between.
    """

    start: float
    up: int
    down: int
    piece: int = 4096
    gap: float = 0.0
    client_ends: bool = True
    client_pause: Pause | None = None
    destination_pause: Pause | None = None


class Transfers:
    """All tries of all transfers; ``sessions`` are the gateway's, by their names."""

    def __init__(self, sessions: Mapping[str, Hosted], transcript: Transcript) -> None:
        self.connections: list[Connection] = []
        self.sessions = sessions
        self.transcript = transcript

    async def run(self, name: str, plan: Plan, pool: SessionPool) -> None:
        """Do what ``plan`` says, as often as it takes until all has arrived.

        Raises the end of the pool.
        """
        await asyncio.sleep(plan.start)
        while True:
            connection = Connection(len(self.connections), name, plan, self)
            self.connections.append(connection)
            pool.dial(connection.client)
            if await connection.client.over:
                return
            self.transcript.event(f"{connection.name} will be begun again")
            await asyncio.sleep(0.05)

    def connect(self, side: DestinationSide, session: Hosted) -> DestinationEnd:
        """The destination of a new connection of the agent's."""
        return DestinationEnd(side, session, self)


class Connection:
    """One try of a transfer; each of its ends, and what has passed between them."""

    def __init__(self, number: int, name: str, plan: Plan, transfers: Transfers) -> None:
        self.name = f"{name}, connection {number}"
        self.plan = plan
        self.transfers = transfers
        self.transcript = transfers.transcript
        start = number * 7919 % (len(CONTENT) // 2)
        self.up = number.to_bytes(NUMBER_SIZE) + CONTENT[start : start + plan.up]
        self.down = CONTENT[-start - plan.down - 1 : -start - 1]
        self.client = ClientEnd(self)
        self.destination: DestinationEnd | None = None


class Source:
    """Sends ``data`` in pieces by ``write``, which says whether more may follow at once.

    ``finished()`` is called when all has been written.
    """

    def __init__(
        self,
        data: bytes,
        plan: Plan,
        write: Callable[[bytes], bool],
        finished: Callable[[], None],
    ) -> None:
        self._data = data
        self._piece = plan.piece
        self._gap = plan.gap
        self._write = write
        self._finished = finished
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.sent = 0

    @property
    def done(self) -> bool:
        """Whether all has been written."""
        return self.sent == len(self._data)

    def go_on(self) -> None:
        """Write what may be written."""
        while not self.done and self._timer is None:
            piece = self._data[self.sent : self.sent + self._piece]
            self.sent += len(piece)
            if self._gap and not self.done:
                self._timer = self._loop.call_later(self._gap, self._after_gap)
            if not self._write(piece):
                break
        if self.done:
            self._finished()

    def stop(self) -> None:
        """Write no more."""
        self.sent = len(self._data)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _after_gap(self) -> None:
        self._timer = None
        self.go_on()


class Sink:
    """Compares what comes with what should come."""

    def __init__(self, data: bytes, name: str, transcript: Transcript) -> None:
        self._data = data
        self._name = name
        self._transcript = transcript
        self.size = 0

    @property
    def done(self) -> bool:
        """Whether all has come."""
        return self.size == len(self._data)

    def take(self, data: bytes) -> None:
        """The next bytes."""
        start, self.size = self.size, self.size + len(data)
        if self._data[start : self.size] != data:
            self._transcript.fail(f"{self._name}: wrong bytes from byte {start} on")


class ClientEnd(asyncio.Protocol):
    """The client's end. ``over`` is done when the stream is: True if all has arrived."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._source = Source(connection.up, connection.plan, self._write, self._end_if_done)
        self._sink = Sink(connection.down, f"{connection.name}, client", connection.transcript)
        self._paused = False
        self._pause = connection.plan.client_pause
        self._timer: asyncio.TimerHandle | None = None
        self.transport: StreamTransport | None = None
        self.over: asyncio.Future[bool] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The stream is open."""
        assert isinstance(transport, StreamTransport)  # noqa: S101 - for the type
        self.transport = transport
        self._connection.transcript.event(f"{self._connection.name} has a stream")
        self._source.go_on()

    def data_received(self, data: bytes) -> None:
        """Bytes of the destination."""
        # Once the session is over there is no later: what has come is handed over.
        if self._timer is not None and self._session_lives():
            self._connection.transcript.fail(f"{self._connection.name}: data came in a pause")
        self._sink.take(data)
        if self._pause is not None and self._sink.size >= self._pause.after and self.transport:
            self.transport.pause_reading()
            self._timer = self._loop.call_later(self._pause.seconds, self._read_again)
            self._pause = None
        self._end_if_done()

    def pause_writing(self) -> None:
        """The stream's queue is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """It has room again."""
        self._paused = False
        self._source.go_on()

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is over."""
        connection, transcript = self._connection, self._connection.transcript
        transcript.event(f"{connection.name} is over: {exc!r}")
        whole = self._sink.done and self._source.done
        self._source.stop()
        if self._timer is not None:
            self._timer.cancel()
        if exc is None and not whole:
            transcript.fail(f"{connection.name}: a clean end after {self._sink.size} bytes")
        if exc is not None and self._session_lives():
            transcript.fail(f"{connection.name}: reset, and its session lives")
        if not isinstance(exc, Error | None):
            transcript.fail(f"{connection.name}: an error that is none of ours")
        destination = connection.destination
        done = whole and destination is not None and destination.done
        if exc is None and not done:
            # What the destination is still to get is on its way.
            self._loop.create_task(self._wait_for_destination())
        else:
            self.over.set_result(done)

    async def _wait_for_destination(self) -> None:
        destination = self._connection.destination
        self.over.set_result(destination is not None and await destination.over)

    def _session_lives(self) -> bool:
        if self.transport is None:
            return False
        session_id = self.transport.get_extra_info("session_id")
        return not self._connection.transfers.sessions[session_id].ended

    def _write(self, data: bytes) -> bool:
        if self.transport is None:
            return False
        self.transport.write(data)
        buffered = self.transport.get_write_buffer_size()
        if buffered > HIGH_WATER and not self._paused:
            self._connection.transcript.fail(
                f"{self._connection.name}: {buffered} bytes wait, and nobody asks it to pause"
            )
        return not self._paused

    def _read_again(self) -> None:
        self._timer = None
        if self.transport is not None:
            self.transport.resume_reading()

    def _end_if_done(self) -> None:
        done = self._sink.done and self._source.done
        if done and self._connection.plan.client_ends and self.transport is not None:
            self.transport.close()


class DestinationEnd:
    """The destination's end. ``over`` is done when the agent has closed it, or it itself has."""

    def __init__(self, side: DestinationSide, session: Hosted, transfers: Transfers) -> None:
        self._side = side
        self._session = session
        self._connections = transfers.connections
        self._transcript = transfers.transcript
        self._loop = asyncio.get_running_loop()
        self._early = b""
        self._connection: Connection | None = None
        self._source: Source | None = None
        self._sink: Sink | None = None
        self._pause: Pause | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self.over: asyncio.Future[bool] = self._loop.create_future()

    @property
    def done(self) -> bool:
        """Whether all has come and all has been sent."""
        if self._source is None or self._sink is None:
            return False
        return self._source.done and self._sink.done

    def written(self, data: bytes) -> None:
        """Bytes of the client."""
        if self._connection is None:
            self._early += data
            if len(self._early) < NUMBER_SIZE:
                return
            data = self._early
            number = int.from_bytes(data[:NUMBER_SIZE])
            if number >= len(self._connections):
                self._transcript.fail(f"there is no connection {number}")
                return
            self._begin(self._connections[number])
        if self._ended:
            self._transcript.fail("a destination that has ended gets data")
        if self._sink is not None:
            self._sink.take(data)
            if self._pause is not None and self._sink.size >= self._pause.after:
                self._side.set_reading(False)
                self._timer = self._loop.call_later(self._pause.seconds, self._read_again)
                self._pause = None
        self._end_if_done()

    def closed(self) -> None:
        """The agent has closed the connection."""
        if not self.done:
            name = "?" if self._connection is None else self._connection.name
            self._transcript.fail(f"{name}: the destination is closed before the end")
        self._finish(self.done)

    def session_over(self) -> None:
        """The session has ended."""
        self._finish(self.done)

    def _begin(self, connection: Connection) -> None:
        self._connection = connection
        if connection.destination is not None:
            self._transcript.fail(f"{connection.name}: connected twice")
        connection.destination = self
        self._transcript.event(f"{connection.name} has a destination in {self._session.id}")
        self._pause = connection.plan.destination_pause
        self._sink = Sink(connection.up, f"{connection.name}, destination", self._transcript)
        self._source = Source(connection.down, connection.plan, self._write, self._end_if_done)
        self._source.go_on()

    def _write(self, data: bytes) -> bool:
        self._side.send(data)
        return True

    def _read_again(self) -> None:
        self._timer = None
        self._side.set_reading(True)

    def _end_if_done(self) -> None:
        """End the connection when all is through, if that is ours to do."""
        connection = self._connection
        if connection is None or self._ended or not self.done or connection.plan.client_ends:
            return
        self._ended = True
        self._side.end()

    def _finish(self, done: bool) -> None:
        if self._source is not None:
            self._source.stop()
        if self._timer is not None:
            self._timer.cancel()
        if not self.over.done():
            self.over.set_result(done)
