"""Drives the loopback agent's core in virtual time, with simulated destinations."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Protocol

from ..alarm import Alarm
from ..loopback.agent import Agent
from ..loopback.documents import LOCAL_PORT_FORWARDING, SessionRequest
from ..loopback.events import (
    Close,
    Dial,
    Ended,
    Event,
    PauseReading,
    ResumeReading,
    ToConnection,
    Write,
    WriteEof,
)
from ..protocol.message import message_ids

PROPERTIES = {"portNumber": "80", "localPortNumber": "0", "type": LOCAL_PORT_FORWARDING}


class Destination(Protocol):
    """What the agent connects a stream to."""

    def written(self, data: bytes) -> None:
        """The agent has written ``data``."""

    def closed(self) -> None:
        """The agent has closed the connection after that."""

    def session_over(self) -> None:
        """The session has ended and taken the connection along."""


class DestinationSide:
    """What a destination can do to its connection."""

    def __init__(self, agent: AgentSide, connection: int) -> None:
        self._agent = agent
        self._connection = connection
        self._paused = False
        self._kept: list[bytes] = []
        self._ending = False

    def send(self, data: bytes) -> None:
        """Send ``data`` to the client, as soon as the agent reads it."""
        if self._paused:
            self._kept.append(data)
        else:
            self._agent.core.received(self._connection, data, self._agent.now)
            self._agent.flush_soon()

    def set_reading(self, reading: bool) -> None:
        """Take what the agent writes, or take nothing."""
        self._agent.core.set_writable(self._connection, reading, self._agent.now)
        self._agent.flush_soon()

    def end(self) -> None:
        """Nothing more will be sent."""
        if self._paused:
            self._ending = True
            return
        self._agent.core.connection_ended(self._connection, self._agent.now)
        self._agent.flush_soon()

    def pause(self) -> None:
        """The agent does not read."""
        self._paused = True

    def go_on(self) -> None:
        """The agent reads again."""
        self._paused = False
        kept, self._kept = self._kept, []
        for data in kept:
            self.send(data)
        if self._ending:
            self.end()


class AgentSide:
    """One session's agent.

    ``send`` takes its messages, ``ended(output)`` is called when it ends the session, and
    ``connect`` makes the destination of a new connection, ``dial_time`` seconds after it is asked;
    None if that is refused.
    """

    def __init__(
        self,
        *,
        ideal: bool,
        pace: bool,
        version: str,
        random: Random,
        send: Callable[[list[bytes]], None],
        ended: Callable[[str], None],
        connect: Callable[[DestinationSide], Destination | None],
        dial_time: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.core = Agent(
            SessionRequest("Port", PROPERTIES),
            session_id="session",
            wall_clock=lambda: int((1_700_000_000 + self.now) * 1000),
            message_id=message_ids(random.randbytes(16)).__next__,
            agent_version=version,
            ideal=ideal,
            pace=pace,
        )
        self._send = send
        self._ended = ended
        self._connect = connect
        self._dial_time = dial_time
        self._over = False
        self._flushing = False
        self._alarm = Alarm(self._due)
        self._dials: dict[int, asyncio.TimerHandle] = {}
        self._destinations: dict[int, tuple[DestinationSide, Destination]] = {}

    @property
    def now(self) -> float:
        """The loop's time."""
        return self._loop.time()

    @property
    def ending(self) -> bool:
        """Whether the agent itself has begun to end the session."""
        return self.core._ending is not None

    def start(self) -> None:
        """Begin the handshake."""
        self.core.start(self.now)
        self.flush()

    def receive(self, messages: list[bytes]) -> None:
        """Messages of the gateway."""
        if not self._over:
            now = self.now
            for data in messages:
                self.core.receive(data, now)
            self.flush()

    def block(self, blocked: bool) -> None:
        """The gateway takes nothing, or it does again."""
        if not self._over:
            self.core.set_output_blocked(blocked, self.now)
            self.flush_soon()

    def stop(self) -> None:
        """The session is over."""
        if self._over:
            return
        self._over = True
        self.core.stop()
        for event in self.core.events():
            if isinstance(event, Write):
                self._do(event)
        self._alarm.cancel()
        for dial in self._dials.values():
            dial.cancel()
        for _, destination in self._destinations.values():
            destination.session_over()
        self._destinations.clear()

    def flush_soon(self) -> None:
        """One flush for all that this turn of the loop brings."""
        if not self._flushing and not self._over:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Let out what the agent has to say."""
        self._flushing = False
        out: list[bytes] = []
        ended: str | None = None
        while not self._over:
            messages = self.core.data_to_send(self.now)
            events = self.core.events()
            out += messages
            for event in events:
                if isinstance(event, Ended):
                    ended = event.output
                else:
                    self._do(event)
            if not messages and not events:
                break
        if out:
            self._send(out)
        if ended is not None:
            self._ended(ended)
        elif not self._over:
            self._alarm.set(self.core.get_timer())

    def _do(self, event: Event) -> None:
        if isinstance(event, Dial):
            self._dial(event.connection)
        elif isinstance(event, ToConnection) and event.connection in self._destinations:
            side, destination = self._destinations[event.connection]
            match event:
                case Write(data=data):
                    destination.written(data)
                case WriteEof():
                    # What it has to send, it sends at once: there is nothing left to wait for.
                    side.end()
                case Close():
                    del self._destinations[event.connection]
                    destination.closed()
                case PauseReading():
                    side.pause()
                case ResumeReading():
                    side.go_on()

    def _dial(self, connection: int) -> None:
        dialled = self._loop.call_later(self._dial_time, self._dialled, connection)
        self._dials[connection] = dialled

    def _dialled(self, connection: int) -> None:
        del self._dials[connection]
        side = DestinationSide(self, connection)
        destination = self._connect(side)
        if destination is None:
            self.core.dial_failed(connection, "connection refused", self.now)
        else:
            self._destinations[connection] = side, destination
            self.core.dialled(connection, self.now)
        self.flush()

    def _due(self) -> None:
        self.core.handle_timer(max(self.now, self._alarm.due))
        self.flush()
