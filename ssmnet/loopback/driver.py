"""Drives an Agent in this process: real TCP destinations, or a real shell or command, on one side,
the gateway on the other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping

from ..alarm import Alarm
from ..protocol.message import message_ids
from .agent import FIRST_OUTPUT_DELAY, Agent
from .destination import Connection, Destination
from .documents import SessionRequest
from .encryption import Encryption
from .events import (
    Close,
    Dial,
    Ended,
    Event,
    HangUp,
    PauseReading,
    Resolve,
    ResumeReading,
    SetSize,
    Signal,
    Spawn,
    ToConnection,
    ToProcess,
    Write,
    WriteEof,
)
from .process import Process

# Unread input beyond this many bytes makes the gateway stop reading the client, and so stop
# answering its pings: AWS's is reported to go on. A client with 4 MiB in flight, its limit here,
# has all of that waiting when a destination does not read, headers and some resending on top.
INBOX_LIMIT = 16 * 1024 * 1024
# The operating system's own limit on an attempt to connect, more or less, in seconds.
DIAL_TIMEOUT = 120.0
# A closed connection gets this long to take what was written, in seconds.
CLOSE_TIMEOUT = 5.0


class BuiltInAgent:
    """The agent of one session, without a WebSocket between it and the gateway.

    ``send`` takes each burst of messages, ``flow(full)`` is told when input piles up and when it no
    longer does, ``ended(output)`` when the session is over. ``names`` are addresses by lower-case
    host name that this agent knows besides those that the system does.
    """

    def __init__(
        self,
        request: SessionRequest,
        *,
        session_id: str,
        agent_version: str,
        pace: bool,
        ideal: bool,
        setup_time: float,
        send: Callable[[list[bytes]], None],
        flow: Callable[[bool], None],
        ended: Callable[[str], None],
        encryption: Encryption | None = None,
        first_output_delay: float = FIRST_OUTPUT_DELAY,
        names: Mapping[str, str] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._agent = Agent(
            request,
            session_id=session_id,
            wall_clock=_milliseconds,
            message_id=message_ids(os.urandom(16)).__next__,
            agent_version=agent_version,
            pace=pace,
            ideal=ideal,
            setup_time=setup_time,
            first_output_delay=first_output_delay,
            encryption=encryption,
        )
        self._send = send
        self._flow = flow
        self._ended = ended
        self._names = names or {}
        self._full = False
        self._flushing = False
        self._closed = False
        self._alarm = Alarm(self._due)
        self._destinations: dict[int, Connection] = {}
        self._process: Process | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connections(self) -> int:
        """How many destinations are connected; what is left of a shell or command counts as one."""
        return 1 if self._process is not None else len(self._destinations)

    @property
    def agent(self) -> Agent:
        """The core, for a look at its counters."""
        return self._agent

    def start(self) -> None:
        """Begin the handshake."""
        self._agent.start(self._loop.time())
        self._schedule()

    def send(self, data: bytes) -> None:
        """Pass a binary message to the agent."""
        if self._closed:
            return
        self._agent.receive(data, self._loop.time())
        if not self._flushing:
            self._schedule()

    def block(self, blocked: bool) -> None:
        """The client takes nothing: stop sending to it, or go on."""
        self._agent.set_output_blocked(blocked, self._loop.time())
        self._schedule()

    def close(self) -> None:
        """The session is over: give destinations what was written, and let go of everything."""
        if self._closed:
            return
        self._agent.stop()
        self._do_events()
        self._let_go(CLOSE_TIMEOUT)

    def abort(self) -> None:
        """Let go of everything, and drop what destinations have not taken yet."""
        self._let_go(0.0)

    def _let_go(self, close_timeout: float) -> None:
        self._closed = True
        self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        for destination in list(self._destinations.values()):
            destination.close(close_timeout)
        if self._process is not None and close_timeout:
            self._process.hang_up()
        elif self._process is not None:
            self._process.kill()

    async def wait_closed(self) -> None:
        """Wait until nothing is left of the process, after close() or abort()."""
        if self._process is not None:
            await self._process.wait_gone()

    # What destinations tell.

    def received(self, connection: int, data: bytes) -> None:
        """A destination sent ``data``."""
        self._agent.received(connection, data, self._loop.time())
        # A pause has to come at once: uvloop reads on and on in one turn, megabytes of them.
        self._do_events()
        self._schedule()

    def connection_ended(self, connection: int) -> None:
        """A destination ended its sending direction."""
        self._agent.connection_ended(connection, self._loop.time())
        self._schedule()

    def connection_lost(self, connection: int, destination: Connection) -> None:
        """A destination is gone."""
        if self._destinations.get(connection) is destination:
            del self._destinations[connection]
        if not self._closed:
            self._agent.connection_lost(connection, self._loop.time())
            self._schedule()

    def set_writable(self, connection: int, writable: bool) -> None:
        """A destination's write buffer has become full, or has room again."""
        self._agent.set_writable(connection, writable, self._loop.time())
        self._schedule()

    # What the agent wants.

    def _schedule(self) -> None:
        """One flush for all that this turn of the loop brings."""
        if not self._flushing and not self._closed:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._closed:
            return
        messages = self._agent.data_to_send(self._loop.time())
        output = self._do_events()
        if messages:
            self._send(messages)
        if output is not None:
            self.close()
            self._ended(output)
            return
        self._tell_flow()
        self._alarm.set(self._agent.get_timer())

    def _do_events(self) -> str | None:
        """Do what the agent wants; the session's output when it has ended."""
        output: str | None = None
        for event in self._agent.events():
            if isinstance(event, Ended):
                output = event.output
            else:
                self._do(event)
        return output

    def _do(self, event: Event) -> None:
        if isinstance(event, Resolve):
            self._spawn(self._resolve(event.host))
        elif isinstance(event, Dial):
            self._spawn(self._dial(event))
        elif isinstance(event, Spawn):
            self._start_process(event)
        elif isinstance(event, ToProcess):
            self._do_to_process(event)
        elif not isinstance(event, Ended):
            destination = self._destinations.get(event.connection)
            if destination is not None:
                self._do_to(destination, event)

    def _do_to(self, destination: Connection, event: ToConnection) -> None:
        match event:
            case Write():
                destination.write(event.data)
            case WriteEof():
                destination.write_eof()
            case Close():
                destination.close(CLOSE_TIMEOUT)
            case PauseReading():
                destination.pause_reading()
            case ResumeReading():
                destination.resume_reading()

    def _start_process(self, event: Spawn) -> None:
        try:
            process = Process(event, self, exited=self._process_exited, gone=self._process_gone)
        except OSError as error:
            self._agent.spawn_failed(str(error), self._loop.time())
        else:
            self._process = process
            self._destinations.update(process.streams)
            self._agent.spawned(self._loop.time())
            for stream in process.streams.values():
                stream.resume_reading()
        self._schedule()

    def _do_to_process(self, event: SetSize | Signal | HangUp) -> None:
        if self._process is None:
            return
        match event:
            case SetSize():
                self._process.set_size(event.columns, event.rows)
            case Signal():
                self._process.signal(event.number, group=event.group)
            case HangUp():
                self._process.hang_up()

    def _process_exited(self, code: int) -> None:
        if not self._closed:
            self._agent.exited(code, self._loop.time())
            self._schedule()

    def _process_gone(self) -> None:
        self._process = None
        self._destinations.clear()

    def _tell_flow(self) -> None:
        full = self._agent.inbox_size > INBOX_LIMIT
        if full is not self._full:
            self._full = full
            self._flow(full)

    def _due(self) -> None:
        self._agent.handle_timer(self._loop.time())
        self._flush()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _resolve(self, host: str) -> None:
        # These come before DNS, as a hosts file does.
        named = self._names.get(host.lower().removesuffix("."), host)
        try:
            found = await self._loop.getaddrinfo(named, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            self._agent.resolve_failed(_reason(error), self._loop.time())
        else:
            addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
            self._agent.resolved(tuple(addresses), self._loop.time())
        self._schedule()

    async def _dial(self, dial: Dial) -> None:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                destination = await self._connect(dial)
        except OSError as error:
            self._agent.dial_failed(dial.connection, _reason(error), self._loop.time())
        else:
            if not destination.is_closing():
                self._destinations[dial.connection] = destination
            self._agent.dialled(dial.connection, self._loop.time())
            destination.resume_reading()
            if destination.is_closing():
                self._agent.connection_lost(dial.connection, self._loop.time())
        self._schedule()

    async def _connect(self, dial: Dial) -> Destination:
        """The first address that answers, or the first address's error."""
        first: OSError | None = None
        for address in dial.addresses:
            try:
                _, destination = await self._loop.create_connection(
                    lambda: Destination(dial.connection, self), address, dial.port
                )
            except OSError as error:
                first = first or error
            else:
                return destination
        raise first or OSError("missing address")


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
