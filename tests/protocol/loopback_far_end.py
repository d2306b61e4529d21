"""The loopback agent's core as the far end of a Conversation, with destinations in virtual time."""

from __future__ import annotations

import json
from collections.abc import Mapping

from ssmnet.loopback.agent import Agent
from ssmnet.loopback.documents import SessionRequest
from ssmnet.loopback.events import (
    Close,
    Dial,
    Ended,
    Event,
    PauseReading,
    Resolve,
    ResumeReading,
    Write,
    WriteEof,
)
from ssmnet.protocol.message import AgentMessage, MessageType, message_ids, parse
from tests.protocol.far_end import FORWARD
from tests.protocol.simulation import CREATED


class LoopbackFarEnd:
    """An agent, its gateway and its destinations.

    ``written`` holds what each destination got, by the number of its connection. A destination
    sends back what it gets if ``echo`` is set, says ``greeting`` first, and refuses if ``refuse``
    is set. ``ended`` is the session's output once it is over.
    """

    def __init__(
        self,
        *,
        properties: Mapping[str, str] = FORWARD,
        version: str = "3.3.0.0",
        ideal: bool = False,
        pace: bool = False,
        echo: bool = True,
        greeting: bytes = b"",
        refuse: bool = False,
        addresses: tuple[str, ...] = ("127.0.0.1",),
    ) -> None:
        self.agent = Agent(
            SessionRequest("Port", properties),
            session_id="session",
            wall_clock=lambda: CREATED,
            message_id=message_ids(bytes(16)).__next__,
            agent_version=version,
            ideal=ideal,
            pace=pace,
        )
        self.written: dict[int, bytearray] = {}
        self.closed: list[int] = []
        self._told_end = False
        self.ended: str | None = None
        self.refuse = refuse
        self._echo = echo
        self._greeting = greeting
        self._addresses = addresses
        self._paused: set[int] = set()
        self._waiting: dict[int, bytearray] = {}

    def start(self, now: float) -> None:
        """The channel to the gateway is open."""
        self.agent.start(now)

    def receive(self, data: bytes, now: float) -> None:
        """One binary message from the gateway."""
        self.agent.receive(data, now)

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return self.agent.get_timer()

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self.agent.handle_timer(now)

    def set_writable(self, connection: int, writable: bool, now: float) -> None:
        """The destination stops reading, or reads again."""
        self.agent.set_writable(connection, writable, now)

    def send(self, connection: int, data: bytes, now: float) -> None:
        """The destination sends ``data``, as soon as the agent reads it."""
        if connection in self._paused:
            self._waiting.setdefault(connection, bytearray()).extend(data)
        else:
            self.agent.received(connection, data, now)

    def data_to_send(self, now: float) -> list[bytes]:
        """The messages that go out now, with the gateway's own."""
        out: list[bytes] = []
        while True:
            messages = self.agent.data_to_send(now)
            events = self.agent.events()
            for event in events:
                self._do(event, now)
            out += [data for data in messages if not _is_for_the_gateway(data)]
            if not messages and not events:
                break
        if self.ended is not None and not self._told_end:
            self._told_end = True
            out.append(_channel_closed(self.ended))
        return out

    def _do(self, event: Event, now: float) -> None:
        match event:
            case Resolve():
                self.agent.resolved(self._addresses, now)
            case Dial(connection=connection):
                self._dial(connection, now)
            case Write(connection=connection, data=data):
                self.written[connection] += data
                if self._echo:
                    self.send(connection, bytes(data), now)
            case WriteEof(connection=connection):
                self.agent.connection_ended(connection, now)
            case Close(connection=connection):
                self.closed.append(connection)
            case PauseReading(connection=connection):
                self._paused.add(connection)
            case ResumeReading(connection=connection):
                self._paused.discard(connection)
                self.agent.received(connection, bytes(self._waiting.pop(connection, b"")), now)
            case Ended(output=output):
                self.ended = output

    def _dial(self, connection: int, now: float) -> None:
        if self.refuse:
            self.agent.dial_failed(connection, "connection refused", now)
            return
        self.written[connection] = bytearray()
        self.agent.dialled(connection, now)
        if self._greeting:
            self.agent.received(connection, self._greeting, now)


def _channel_closed(output: str) -> bytes:
    payload = json.dumps({"Output": output, "CreatedDate": "1"}).encode()
    return AgentMessage(
        MessageType.CHANNEL_CLOSED, payload, flags=3, created_date=CREATED
    ).serialize()


def _is_for_the_gateway(data: bytes) -> bool:
    return parse(data).message_type == MessageType.AGENT_SESSION_STATE
