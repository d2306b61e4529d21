import pytest

from ssmnet.loopback import Agent
from ssmnet.loopback.events import Close, Dial, Ended, PauseReading, ResumeReading, Write
from tests import wire
from tests.loopback.agents import (
    acknowledge_all,
    acknowledged,
    events,
    output,
    request,
    sent,
    set_up,
)

ADDRESSES = ("127.0.0.1", "::1")
OLD = "3.0.161.0"


def basic() -> Agent:
    agent = set_up(agent_version=OLD)
    assert events(agent) == [Dial(1, ADDRESSES, 8080)]
    return agent


def raw() -> Agent:
    agent = set_up(request("AWS-StartSSHSession"))
    assert events(agent) == [Dial(1, ADDRESSES, 22)]
    return agent


def data(number: int, payload: bytes) -> bytes:
    return wire.input_data(number, payload)


@pytest.mark.parametrize(
    ("agent_version", "client"),
    [(OLD, "1.2.764.0"), ("3.0.196.0", "1.2.764.0"), ("3.3.0.0", "1.1.69")],
)
def test_who_gets_basic_mode(agent_version: str, client: str) -> None:
    agent = set_up(agent_version=agent_version, client=client)
    assert events(agent) == [Dial(1, ADDRESSES, 8080)], "it dials at the start"


def test_who_gets_smux() -> None:
    assert events(set_up(agent_version="3.0.196.1", client="1.1.70")) == []


@pytest.mark.parametrize("make", [basic, raw])
def test_bytes_both_ways_once_connected(make: type) -> None:
    agent = make()
    agent.receive(data(1, b"too early"), 0.0)
    assert sent(agent, 0.0) == []
    agent.dialled(1, 0.0)
    agent.receive(data(1, b"a"), 0.0)
    agent.receive(data(2, b"b"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1, 2]
    assert events(agent) == [Write(1, b"ab")]
    agent.received(1, b"x" * 1500, 0.0)
    messages = sent(agent, 0.0)
    assert [len(message.payload) for message in messages] == [1024, 476]
    assert output(messages) == b"x" * 1500


@pytest.mark.parametrize("make", [basic, raw])
def test_a_destination_that_does_not_read_stops_input(make: type) -> None:
    agent = make()
    agent.dialled(1, 0.0)
    agent.set_writable(1, False, 0.0)
    agent.receive(data(1, b"a"), 0.0)
    agent.receive(data(2, b"b"), 0.0)
    assert sent(agent, 0.0) == []
    assert agent.blocked
    agent.set_writable(1, True, 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1, 2]
    assert b"".join(e.data for e in events(agent, Write)) == b"ab"  # type: ignore[union-attr]


@pytest.mark.parametrize("make", [basic, raw])
def test_a_refused_first_dial_ends_the_session(make: type) -> None:
    agent = make()
    agent.dial_failed(1, "connection refused", 0.0)
    sent(agent, 0.0)
    assert events(agent) == [Ended("Unable to connect to specified port: connection refused")]


def test_reading_pauses_while_output_waits() -> None:
    agent = raw()
    agent.dialled(1, 0.0)
    agent.set_output_blocked(True, 0.0)
    agent.received(1, bytes(70_000), 0.0)
    assert events(agent) == [PauseReading(1)]
    agent.set_output_blocked(False, 0.0)
    assert len(output(sent(agent, 0.0))) == 70_000
    assert events(agent) == [ResumeReading(1)]


# The raw stream.


def test_the_raw_connections_end_is_the_sessions() -> None:
    agent = raw()
    agent.dialled(1, 0.0)
    agent.received(1, b"bye", 0.0)
    agent.connection_ended(1, 0.0)
    messages = sent(agent, 0.0)
    assert output(messages) == b"bye"
    assert events(agent) == [Close(1)], "the last bytes are not acknowledged yet"
    acknowledge_all(agent, messages, 0.1)
    sent(agent, 0.1)
    assert events(agent) == [Ended("")]


def test_disconnect_ends_a_raw_session() -> None:
    agent = raw()
    agent.dialled(1, 0.0)
    agent.receive(data(1, b"last"), 0.0)
    agent.receive(wire.flag(2, wire.DISCONNECT_TO_PORT), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1, 2]
    assert events(agent) == [Write(1, b"last"), Close(1), Ended("")]


# Basic mode.


def test_disconnect_closes_and_the_next_output_dials_again() -> None:
    agent = basic()
    agent.dialled(1, 0.0)
    agent.receive(data(1, b"one"), 0.0)
    agent.receive(wire.flag(2, wire.DISCONNECT_TO_PORT), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1, 2]
    assert events(agent) == [Write(1, b"one"), Close(1)]
    agent.connection_lost(1, 0.0)
    agent.received(1, b"news of the old one", 0.0)
    agent.receive(data(3, b"two"), 1.0)
    agent.receive(data(4, b"three"), 1.0)
    assert sent(agent, 1.0) == [], "the dial holds up input"
    assert events(agent) == [Dial(2, ADDRESSES, 8080)]
    agent.dialled(2, 1.0)
    assert acknowledged(sent(agent, 1.0)) == [3, 4]
    assert b"".join(e.data for e in events(agent, Write)) == b"twothree"  # type: ignore[union-attr]
    agent.received(2, b"answer", 1.0)
    assert output(sent(agent, 1.0)) == b"answer"


def test_nobody_is_told_that_the_destination_ended() -> None:
    agent = basic()
    agent.dialled(1, 0.0)
    agent.received(1, b"bye", 0.0)
    agent.connection_ended(1, 0.0)
    messages = sent(agent, 0.0)
    assert output(messages) == b"bye"
    acknowledge_all(agent, messages, 0.0)
    assert sent(agent, 0.0) == []
    assert events(agent) == [Close(1)]
    agent.receive(data(1, b"again"), 0.0)
    sent(agent, 0.0)
    assert events(agent) == [Dial(2, ADDRESSES, 8080)]


def test_a_refused_second_dial_ends_the_session_without_a_word() -> None:
    agent = basic()
    agent.dialled(1, 0.0)
    agent.receive(wire.flag(1, wire.DISCONNECT_TO_PORT), 0.0)
    agent.receive(data(2, b"two"), 0.0)
    agent.dial_failed(2, "refused", 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1]
    assert events(agent, Ended) == [Ended("")]
