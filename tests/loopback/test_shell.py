"""Sessions on a terminal, played by hand: no handshake, readiness, sizes, the end."""

import json

import pytest

from ssmnet.loopback import Agent, SessionRequest
from ssmnet.loopback.events import (
    STDOUT,
    Ended,
    HangUp,
    PauseReading,
    ResumeReading,
    SetSize,
    Spawn,
    Wiring,
    Write,
)
from ssmnet.loopback.pace import PACE
from ssmnet.loopback.pump import OUTPUT_LIMIT
from tests import wire
from tests.loopback.agents import (
    acknowledge_all,
    acknowledged,
    events,
    make_agent,
    output,
    request,
    sent,
    stream_data,
)

SHELL = request("SSM-SessionManagerRunShell")


def running(
    session: SessionRequest = SHELL,
    *,
    pace: bool = False,
    ideal: bool = False,
    first_output_delay: float = 0.0,
) -> Agent:
    """An agent whose shell runs, at time 0."""
    agent = make_agent(session, pace=pace, ideal=ideal, first_output_delay=first_output_delay)
    agent.start(0.0)
    agent.handle_timer(0.0)
    assert events(agent, Spawn)
    agent.spawned(0.0)
    agent.handle_timer(0.0)
    sent(agent, 0.0)
    return agent


def size(number: int, content: object) -> bytes:
    return wire.input_data(number, json.dumps(content).encode(), wire.SIZE)


def shows(agent: Agent, data: bytes, now: float = 0.0) -> bytes:
    agent.received(STDOUT, data, now)
    return output(sent(agent, now))


# The start.


def test_there_is_no_handshake() -> None:
    agent = make_agent(SHELL)
    agent.start(0.0)
    (state,) = sent(agent, 0.0)
    assert state.json()["SessionState"] == "Connected"
    agent.handle_timer(0.0)
    (spawn,) = agent.events()
    assert spawn == Spawn(("sh",), Wiring.TERMINAL)
    agent.spawned(0.0)
    agent.received(STDOUT, b"$ ", 0.0)
    agent.handle_timer(0.0)
    (prompt,) = sent(agent, 0.0)
    assert (prompt.number, prompt.flags, prompt.payload) == (0, 1, b"$ ")


def test_an_interactive_command_is_run_by_a_shell() -> None:
    agent = make_agent(request("AWS-StartInteractiveCommand", command="top -b | head"))
    agent.start(0.0)
    assert [message.type for message in sent(agent, 0.0)] == ["agent_session_state"]
    agent.handle_timer(0.0)
    assert events(agent) == [Spawn(("sh", "-c", "top -b | head"), Wiring.TERMINAL)]


def test_a_blank_command_ends_the_session() -> None:
    agent = make_agent(request("AWS-StartInteractiveCommand", command="  "))
    agent.start(0.0)
    assert [message.type for message in sent(agent, 0.0)] == ["agent_session_state"]
    assert events(agent) == [Ended("Commands cannot be empty for session type InteractiveCommands")]


def test_a_shell_that_cannot_be_ends_the_session() -> None:
    agent = make_agent(SHELL)
    agent.start(0.0)
    agent.handle_timer(0.0)
    agent.events()
    agent.spawn_failed("out of pty devices", 0.0)
    assert [m.json()["SessionState"] for m in sent(agent, 0.0)] == ["Connected"]
    (end,) = agent.events()
    assert isinstance(end, Ended)
    assert end.output.startswith("\n----------ERROR-------\nUnable to start command: ")
    assert "out of pty devices" in end.output


def test_the_first_output_is_held_back() -> None:
    agent = running(first_output_delay=1.0)
    assert agent.get_timer() == 1.0
    assert shows(agent, b"$ ", 0.2) == b""
    assert shows(agent, b"ls", 0.9) == b""
    agent.handle_timer(1.0)
    assert output(sent(agent, 1.0)) == b"$ ls"
    assert shows(agent, b"more", 1.1) == b"more"


def test_a_short_command_does_not_end_before_its_output_is_shown() -> None:
    agent = running(first_output_delay=1.0)
    agent.received(STDOUT, b"done", 0.1)
    agent.connection_lost(STDOUT, 0.1)
    agent.exited(0, 0.1)
    assert sent(agent, 0.1) == []
    agent.handle_timer(1.0)
    messages = sent(agent, 1.0)
    assert output(messages) == b"done"
    acknowledge_all(agent, messages, 1.1)
    sent(agent, 1.1)
    assert events(agent, Ended) == [Ended("")]


def test_a_silent_command_does_not_end_before_the_first_output_could_be() -> None:
    agent = running(first_output_delay=1.0)
    agent.connection_lost(STDOUT, 0.1)
    sent(agent, 0.1)
    assert events(agent, Ended) == []
    agent.handle_timer(1.0)
    sent(agent, 1.0)
    assert events(agent, Ended) == [Ended("")]


def test_an_ideal_agent_is_ready_at_once() -> None:
    agent = running(ideal=True, first_output_delay=1.0)
    assert shows(agent, b"$ ") == b"$ "


# Input.


def test_input_that_comes_before_the_shell_is_not_acknowledged() -> None:
    agent = make_agent(SHELL, setup_time=0.5)
    agent.start(0.0)
    agent.receive(size(0, {"cols": 80, "rows": 24}), 0.1)
    agent.handle_timer(0.5)
    agent.receive(size(0, {"cols": 80, "rows": 24}), 0.5)
    assert acknowledged(sent(agent, 0.5)) == []
    assert agent.not_ready == 2
    agent.events()
    agent.spawned(0.6)
    agent.receive(size(0, {"cols": 80, "rows": 24}), 0.6)
    assert acknowledged(sent(agent, 0.6)) == [0]
    assert events(agent) == [SetSize(80, 24)]


def test_what_is_typed_is_joined_and_sizes_come_between() -> None:
    agent = running()
    agent.receive(wire.input_data(0, b"l"), 0.0)
    agent.receive(wire.input_data(1, b"s"), 0.0)
    agent.receive(size(2, {"cols": 80, "rows": 24}), 0.0)
    agent.receive(wire.input_data(3, b"\x03"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [0, 1, 2, 3]
    assert events(agent) == [Write(STDOUT, b"ls"), SetSize(80, 24), Write(STDOUT, b"\x03")]


def test_sizes_are_cut_to_16_bits_and_may_lack_a_field() -> None:
    agent = running()
    agent.receive(size(0, {"cols": 65536 + 80, "rows": 24, "more": 1}), 0.0)
    agent.receive(size(1, {"rows": 50}), 0.0)
    assert events(agent) == [SetSize(80, 24), SetSize(0, 50)]


@pytest.mark.parametrize(
    "content", [{"cols": -1, "rows": 1}, {"cols": "wide"}, {"rows": 1 << 32}, 3]
)
def test_a_size_that_is_none_is_not_acknowledged(content: object) -> None:
    agent = running()
    agent.receive(size(0, content), 0.0)
    assert sent(agent, 0.0) == []
    assert (agent.invalid, agent.events()) == (1, [])


def test_flags_mean_nothing_to_a_shell() -> None:
    """Not even TerminateSession, which only ports know."""
    agent = running()
    agent.receive(wire.flag(0, wire.TERMINATE_SESSION), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [0]
    assert agent.events() == []
    assert shows(agent, b"still here") == b"still here"


def test_a_terminal_that_takes_nothing_stops_input() -> None:
    agent = running()
    agent.set_writable(STDOUT, False, 0.0)
    agent.receive(wire.input_data(0, b"a"), 0.0)
    agent.receive(wire.input_data(1, b"b"), 0.0)
    assert agent.blocked
    assert acknowledged(sent(agent, 0.0)) == []
    assert agent.events() == []
    agent.set_writable(STDOUT, True, 0.1)
    assert acknowledged(sent(agent, 0.1)) == [0, 1]
    assert events(agent) == [Write(STDOUT, b"a"), Write(STDOUT, b"b")]


def test_nothing_is_acknowledged_that_a_dead_terminal_cannot_take() -> None:
    agent = running()
    agent.received(STDOUT, b"logout", 0.0)
    agent.connection_lost(STDOUT, 0.0)
    agent.receive(wire.input_data(0, b"a"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == []


# Output.


def test_output_is_read_as_text() -> None:
    agent = running()
    assert shows(agent, "grün".encode()[:3]) == b"gr", "half a character waits"
    assert shows(agent, "grün".encode()[3:]) == "ün".encode()
    assert shows(agent, b"\xff") == b""
    assert stream_data(sent(agent, 0.0)) == [], "there are no empty messages"
    assert shows(agent, b"four") == b"\xfffour"


def test_an_ideal_agent_leaves_bytes_alone() -> None:
    agent = running(ideal=True)
    assert shows(agent, b"\xff\xfe\xef\xbf\xbd") == b"\xff\xfe\xef\xbf\xbd"


def test_the_terminal_is_not_read_while_the_client_takes_nothing() -> None:
    agent = running()
    agent.set_output_blocked(True, 0.0)
    agent.received(STDOUT, b"x" * OUTPUT_LIMIT, 0.0)
    assert agent.events() == []
    agent.received(STDOUT, b"x", 0.0)
    assert agent.events() == [PauseReading(STDOUT)]
    assert sent(agent, 0.0) == []
    agent.set_output_blocked(False, 1.0)
    assert len(output(sent(agent, 1.0))) == OUTPUT_LIMIT + 1
    assert agent.events() == [ResumeReading(STDOUT)]


def test_output_waits_for_the_client_to_come_back() -> None:
    agent = running()
    agent.receive(wire.encode(wire.PAUSE, b"", flags=3), 0.0)
    assert shows(agent, b"x") == b""
    agent.receive(wire.encode(wire.START, b"", flags=3), 1.0)
    assert output(sent(agent, 1.0)) == b"x"


def test_a_shell_is_paced() -> None:
    agent = running(pace=True)
    agent.received(STDOUT, b"x" * 2048, 0.0)
    assert len(output(sent(agent, 0.0))) == 1024
    assert agent.get_timer() == pytest.approx(PACE)
    assert len(output(sent(agent, PACE))) == 1024


# The end.


def test_the_end_of_the_terminal_ends_the_session_once_all_is_acknowledged() -> None:
    agent = running()
    agent.received(STDOUT, b"logout", 0.0)
    agent.exited(1, 0.0)
    sent(agent, 0.0)
    assert events(agent) == [], "what shows counts, not the process"
    agent.connection_lost(STDOUT, 0.1)
    assert sent(agent, 0.1) == []
    assert events(agent) == [HangUp()]
    agent.receive(wire.acknowledge(wire.Message(wire.OUTPUT_DATA, 0, 1, "0" * 32, 1, b"")), 0.2)
    (state,) = sent(agent, 0.2)
    assert state.json()["SessionState"] == "Terminating"
    assert events(agent) == [Ended("")]


def test_the_rest_of_the_output_is_sent_first() -> None:
    agent = running(pace=True)
    agent.received(STDOUT, b"x" * 3000, 0.0)
    agent.connection_lost(STDOUT, 0.0)
    got, now = b"", 0.0
    while not events(agent, Ended):
        messages = sent(agent, now)
        got += output(messages)
        acknowledge_all(agent, messages, now)
        sent(agent, now)
        now = agent.get_timer() or now
        assert now < 1.0
    assert got == b"x" * 3000


def test_a_session_that_is_ended_hangs_up() -> None:
    agent = running()
    agent.receive(wire.input_data(0, b"a"), 0.0)
    agent.stop()
    assert events(agent) == [HangUp()]
    agent.exited(-1, 0.1)
    agent.connection_lost(STDOUT, 0.1)
    assert events(agent) == []
