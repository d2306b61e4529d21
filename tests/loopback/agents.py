"""An agent's core with everything reproducible, and how to lead it to where a test begins."""

from __future__ import annotations

from itertools import count

from ssmnet.loopback import Agent, SessionRequest, session_request
from ssmnet.loopback.events import Event
from tests import wire

WALL_CLOCK = 1_750_000_000_000


def request(document: str = "AWS-StartPortForwardingSession", **parameters: str) -> SessionRequest:
    return session_request(document, {name: [value] for name, value in parameters.items()})


def make_agent(
    session: SessionRequest | None = None,
    *,
    agent_version: str = "3.3.0.0",
    pace: bool = False,
    ideal: bool = False,
    setup_time: float = 0.0,
    first_output_delay: float = 0.0,
) -> Agent:
    ids = count(1)
    return Agent(
        session or request(portNumber="8080"),
        session_id="session-1",
        wall_clock=lambda: WALL_CLOCK,
        message_id=lambda: next(ids).to_bytes(16),
        agent_version=agent_version,
        pace=pace,
        ideal=ideal,
        setup_time=setup_time,
        first_output_delay=first_output_delay,
    )


def sent(agent: Agent, now: float) -> list[wire.Message]:
    """Everything that the agent sends now."""
    return [wire.decode(data) for data in agent.data_to_send(now)]


def acknowledged(messages: list[wire.Message]) -> list[int]:
    """The numbers acknowledged among ``messages``, in order."""
    return [wire.acknowledged(message) for message in messages if message.type == wire.ACKNOWLEDGE]


def stream_data(messages: list[wire.Message]) -> list[wire.Message]:
    return [message for message in messages if message.type == wire.OUTPUT_DATA]


def output(messages: list[wire.Message]) -> bytes:
    """The Output payloads among ``messages``, joined."""
    return b"".join(m.payload for m in messages if m.payload_type == wire.OUTPUT)


def events(agent: Agent, kind: type[Event] | None = None) -> list[Event]:
    return [event for event in agent.events() if kind is None or isinstance(event, kind)]


def acknowledge_all(agent: Agent, messages: list[wire.Message], now: float) -> None:
    for message in stream_data(messages):
        agent.receive(wire.acknowledge(message), now)


def shake_hands(agent: Agent, now: float = 0.0, *, client: str = "1.2.764.0") -> None:
    """From nothing to a session that takes input number 1; all output is acknowledged."""
    agent.start(now)
    acknowledge_all(agent, sent(agent, now), now)
    response = wire.handshake_response(client)
    agent.receive(wire.input_data(0, response, wire.HANDSHAKE_RESPONSE), now)
    acknowledge_all(agent, sent(agent, now), now)
    agent.handle_timer(now)


def set_up(
    session: SessionRequest | None = None,
    *,
    client: str = "1.2.764.0",
    agent_version: str = "3.3.0.0",
    pace: bool = False,
    ideal: bool = False,
) -> Agent:
    """An agent that takes input number 1 at time 0."""
    agent = make_agent(session, agent_version=agent_version, pace=pace, ideal=ideal)
    shake_hands(agent, client=client)
    return agent
