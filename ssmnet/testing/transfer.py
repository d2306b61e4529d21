"""Transfers that know both of their ends, and check every byte at both.

A transfer is a connection through a tunnel: the client sends its number and then ``up`` bytes, the
destination sends ``down`` bytes, and one of them ends the connection when both are through. One
that is refused, or reset by the end of its session, is begun again from its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from random import Random

from ..errors import DestinationRefused, Error, StreamStalled
from ..pool import SessionPool
from ..transport import HIGH_WATER, StreamTransport
from .agent import DestinationSide
from .gateway import Hosted
from .traffic import CONTENT, Pause, Plan, Sink, Source
from .transcript import Transcript

NUMBER_SIZE = 4


class Transfers:
    """All tries of all transfers; ``sessions`` are the gateway's, by their names.

    Of the destinations' connections a share of ``refusing`` is refused.
    """

    def __init__(
        self,
        sessions: Mapping[str, Hosted],
        transcript: Transcript,
        *,
        random: Random,
        refusing: float,
    ) -> None:
        self.connections: list[Connection] = []
        self.sessions = sessions
        self.transcript = transcript
        self.closing = False  # the client's pool is being closed
        self.refusals = 0  # that the client has not been told of
        self._random = random
        self._refusing = refusing

    async def run(self, name: str, plan: Plan, pool: SessionPool) -> None:
        """Do what ``plan`` says, as often as it takes until all has arrived.

        Raises the end of the pool.
        """
        await asyncio.sleep(plan.start)
        while True:
            connection = self.begin(name, plan, pool)
            if await connection.client.over:
                return
            if connection.client.stalled:
                plan = replace(plan, client_pause=None)
            self.transcript.event(f"{connection.name} will be begun again")
            await asyncio.sleep(0.05)

    def begin(self, name: str, plan: Plan, pool: SessionPool) -> Connection:
        """One try."""
        connection = Connection(len(self.connections), name, plan, self)
        self.connections.append(connection)
        pool.dial(connection.client)
        return connection

    def connect(self, side: DestinationSide, session: Hosted) -> DestinationEnd | None:
        """The destination of a new connection of the agent's; None if that is refused."""
        if self._random.random() < self._refusing:
            self.refusals += 1
            self.transcript.event(f"a destination refuses a connection of {session.id}")
            return None
        return DestinationEnd(side, session, self)


class Connection:
    """One try of a transfer; each of its ends, and what has passed between them."""

    def __init__(self, number: int, name: str, plan: Plan, transfers: Transfers) -> None:
        self.name = f"{name}, connection {number}"
        self.plan = plan
        self.transfers = transfers
        self.transcript = transfers.transcript
        self.aborted = False  # by the client
        start = number * 7919 % (len(CONTENT) // 2)
        self.up = number.to_bytes(NUMBER_SIZE) + CONTENT[start : start + plan.up]
        self.down = CONTENT[-start - plan.down - 1 : -start - 1]
        self.client = ClientEnd(self)
        self.destination: DestinationEnd | None = None


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
        self.stalled = False
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
        transport = self.transport
        abort_after = self._connection.plan.abort_after
        if abort_after is not None and self._sink.size >= abort_after and transport is not None:
            self._connection.aborted = True
            transport.abort()
            return
        if self._pause is not None and self._sink.size >= self._pause.after and transport:
            transport.pause_reading()
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
        connection = self._connection
        connection.transcript.event(f"{connection.name} is over: {exc!r}")
        objection = self._objection(exc)
        if objection is not None:
            connection.transcript.fail(f"{connection.name}: {objection}")
        whole = self._whole
        self._source.stop()
        if self._timer is not None:
            self._timer.cancel()
        self.stalled = isinstance(exc, StreamStalled)
        destination = connection.destination
        done = whole and destination is not None and destination.done
        if exc is None and not done and not connection.aborted:
            # What the destination is still to get is on its way.
            self._loop.create_task(self._wait_for_destination())
        else:
            self.over.set_result(done or connection.aborted)

    @property
    def _whole(self) -> bool:
        return self._sink.done and self._source.done

    def _objection(self, exc: Exception | None) -> str | None:
        """What speaks against such an end."""
        connection, transfers = self._connection, self._connection.transfers
        if connection.aborted:
            return None
        if exc is None:
            return None if self._whole else f"a clean end after {self._sink.size} bytes"
        if not isinstance(exc, Error):
            return f"{exc!r} is none of our errors"
        if isinstance(exc, DestinationRefused):
            transfers.refusals -= 1
            if transfers.refusals < 0 or connection.destination is not None:
                return "refused by nobody"
        elif isinstance(exc, StreamStalled):
            if self._timer is None:
                return "stalled, and we read"
        elif self._session_lives() and not transfers.closing:
            return "reset, and its session lives"
        return None

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
        if self._whole and self._connection.plan.client_ends and self.transport is not None:
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
        connection = self._connection
        if connection is not None and not self.done and not self._may_close_early(connection):
            self._transcript.fail(f"{connection.name}: the destination is closed before the end")
        self._finish(self.done)

    def session_over(self) -> None:
        """The session has ended."""
        self._finish(self.done)

    def _may_close_early(self, connection: Connection) -> bool:
        agent = self._session.agent
        ending = agent is not None and agent.ending
        given_up = connection.aborted or connection.client.stalled
        return ending or given_up or connection.transfers.closing

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
