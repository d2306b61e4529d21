"""Non-interactive commands, played by hand: both ways of output, signals, what goes wrong."""

import pytest

from ssmnet.loopback import Agent
from ssmnet.loopback.events import (
    STDERR,
    STDOUT,
    Ended,
    HangUp,
    PauseReading,
    Signal,
    Spawn,
    Wiring,
)
from ssmnet.loopback.pace import PACE
from tests import wire
from tests.loopback.agents import (
    acknowledge_all,
    acknowledged,
    events,
    make_agent,
    output,
    request,
    sent,
    shake_hands,
    stream_data,
)

DOCUMENT = "AWS-StartNonInteractiveCommand"
EXIT_CODE = 12
Said = list[tuple[int, bytes]]


def started(
    command: str = "id", *, pace: bool = False, ideal: bool = False, **parameters: str
) -> Agent:
    """An agent that has asked for the process, at time 0."""
    session = request(DOCUMENT, command=command, **parameters)
    agent = make_agent(session, pace=pace, ideal=ideal, first_output_delay=1.0)
    shake_hands(agent)
    return agent


def running(command: str = "id", *, separate: bool = True, **options: object) -> Agent:
    flag = "True" if separate else "False"
    agent = started(command, separateOutputStream=flag, **options)  # type: ignore[arg-type]
    assert events(agent, Spawn)
    agent.spawned(0.0)
    assert sent(agent, 0.0) == []
    return agent


def said(agent: Agent, now: float = 0.0) -> Said:
    """What the client is told now; it acknowledges that."""
    messages = sent(agent, now)
    acknowledge_all(agent, messages, now)
    return [(message.payload_type, message.payload) for message in stream_data(messages)]


def paused(agent: Agent, away: bool) -> None:
    agent.receive(wire.encode(wire.PAUSE if away else wire.START, b"", flags=3), 0.0)


# The start.


def test_a_handshake_comes_first() -> None:
    agent = make_agent(request(DOCUMENT, command="id"))
    agent.start(0.0)
    hello = sent(agent, 0.0)[1]
    assert hello.payload_type == wire.HANDSHAKE_REQUEST
    (action,) = hello.json()["RequestedClientActions"]
    assert action["ActionParameters"] == {
        "SessionType": "NonInteractiveCommands",
        "Properties": None,
    }


@pytest.mark.parametrize(("separate", "wiring"), [("True", Wiring.PIPES), ("False", Wiring.FILE)])
def test_no_shell_runs_the_command(separate: str, wiring: Wiring) -> None:
    agent = started("echo 'a b' $HOME", separateOutputStream=separate)
    assert events(agent) == [Spawn(("echo", "a b", "$HOME"), wiring)]


def test_a_blank_command_ends_the_session() -> None:
    agent = started(" \t ")
    sent(agent, 0.0)
    reason = "Commands cannot be empty for session type NonInteractiveCommands"
    assert events(agent) == [Ended(reason)]


@pytest.mark.parametrize("prefix", ["O T", "x" * 31, "ü"])
@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ("stdOutSeparatorPrefix", "stdoutSeparatorPrefix"),
        ("stdErrSeparatorPrefix", "stderrSeparatorPrefix"),
    ],
)
def test_a_prefix_that_will_not_do(parameter: str, name: str, prefix: str) -> None:
    agent = started("id", separateOutputStream="True", **{parameter: prefix})  # type: ignore[arg-type]
    sent(agent, 0.0)
    assert events(agent) == [Ended(f"invalid {name} {prefix}")]


def test_a_prefix_without_separation_is_not_looked_at() -> None:
    agent = started("id", stdOutSeparatorPrefix="O T")
    assert events(agent, Spawn)


# Output.


def test_separated_output_comes_as_it_is_written_and_the_exit_code_last() -> None:
    agent = running()
    agent.received(STDERR, b"err\n", 0.0)
    agent.received(STDOUT, b"out\n", 0.0)
    assert said(agent) == [(wire.STDERR, b"err\n"), (wire.OUTPUT, b"out\n")]
    agent.exited(7, 0.1)
    agent.connection_lost(STDOUT, 0.1)
    assert said(agent, 0.1) == [], "standard error may still come"
    agent.received(STDERR, b"more", 0.2)
    agent.connection_lost(STDERR, 0.2)
    assert said(agent, 0.2) == [(wire.STDERR, b"more"), (EXIT_CODE, b"EXIT_CODE: 7")]
    (state,) = sent(agent, 0.2)
    assert state.json()["SessionState"] == "Terminating"
    assert events(agent) == [HangUp(), Ended("")]


def test_the_exit_code_waits_for_the_process() -> None:
    agent = running()
    agent.connection_lost(STDOUT, 0.0)
    agent.connection_lost(STDERR, 0.0)
    assert said(agent) == []
    agent.exited(-1, 0.1)
    assert said(agent, 0.1) == [(EXIT_CODE, b"EXIT_CODE: -1")]


def test_the_streams_take_turns() -> None:
    agent = running()
    agent.received(STDOUT, b"o" * 2048, 0.0)
    agent.received(STDERR, b"e" * 2048, 0.0)
    types = [payload_type for payload_type, _ in said(agent)]
    assert types == [wire.OUTPUT, wire.STDERR, wire.OUTPUT, wire.STDERR]


def test_prefixes() -> None:
    agent = running(stdOutSeparatorPrefix="OUT:", stdErrSeparatorPrefix="ERR:")
    agent.received(STDOUT, b"one\n", 0.0)
    agent.received(STDERR, b"err", 0.0)
    assert said(agent) == [(wire.OUTPUT, b"OUT:one\n"), (wire.STDERR, b"ERR:err")]
    agent.received(STDOUT, b"two\n", 0.0)
    agent.received(STDERR, b"or\n", 0.0)
    assert said(agent) == [(wire.OUTPUT, b"OUT:two\n"), (wire.STDERR, b"or\n")]


def test_separated_output_is_not_paced_and_the_other_is() -> None:
    agent = running(pace=True)
    agent.received(STDOUT, b"x" * 4096, 0.0)
    assert len(output(sent(agent, 0.0))) == 4096
    agent = running(separate=False, pace=True)
    agent.exited(0, 0.0)
    agent.received(STDOUT, b"x" * 4096, 0.0)
    assert len(output(sent(agent, 0.0))) == 1024
    assert agent.get_timer() == pytest.approx(PACE)


def test_without_separation_there_is_no_exit_code() -> None:
    agent = running(separate=False)
    agent.exited(7, 0.1)
    agent.received(STDOUT, b"out\nerr\n", 0.1)
    agent.connection_lost(STDOUT, 0.1)
    assert said(agent, 0.1) == [(wire.OUTPUT, b"out\nerr\n")]
    (state,) = sent(agent, 0.1)
    assert state.json()["SessionState"] == "Terminating"
    assert events(agent) == [HangUp(), Ended("")]


# A client that is away.


def test_separated_output_that_comes_meanwhile_is_lost_but_for_one_message() -> None:
    agent = running()
    paused(agent, True)
    agent.received(STDOUT, b"x" * 2000, 0.0)
    assert sent(agent, 0.0) == []
    assert events(agent) == [PauseReading(STDOUT)]
    paused(agent, False)
    agent.received(STDOUT, b"lost", 0.1)
    agent.received(STDERR, b"err", 0.1)
    assert said(agent, 0.1) == [(wire.STDERR, b"err")]
    agent.handle_timer(1.0)
    assert said(agent, 1.0) == [(wire.OUTPUT, b"x" * 1024)], "resent"
    agent.exited(4, 1.1)
    agent.connection_lost(STDERR, 1.1)
    assert said(agent, 1.1) == [(EXIT_CODE, b"EXIT_CODE: 4")]


def test_a_command_that_is_silent_meanwhile_loses_nothing() -> None:
    agent = running()
    paused(agent, True)
    sent(agent, 0.0)
    paused(agent, False)
    agent.received(STDOUT, b"one", 0.1)
    agent.received(STDOUT, b"two", 0.2)
    assert said(agent, 0.2) == [(wire.OUTPUT, b"onetwo")]


def test_there_is_no_exit_code_for_a_client_that_is_away() -> None:
    agent = running()
    paused(agent, True)
    agent.exited(0, 0.0)
    agent.connection_lost(STDOUT, 0.0)
    agent.connection_lost(STDERR, 0.0)
    (state,) = sent(agent, 0.0)
    assert state.json()["SessionState"] == "Terminating"
    assert events(agent) == [HangUp(), Ended("")]


@pytest.mark.parametrize("separate", [False, True])
def test_output_of_an_ideal_agent_waits(separate: bool) -> None:
    agent = running(separate=separate, ideal=True)
    paused(agent, True)
    agent.received(STDOUT, b"x" * 2000, 0.0)
    assert sent(agent, 0.0) == []
    paused(agent, False)
    assert b"".join(payload for _, payload in said(agent)) == b"x" * 2000


# Signals.


@pytest.mark.parametrize(("byte", "number"), [(b"\x03", 2), (b"\x1c", 3)])
def test_control_characters_become_signals(byte: bytes, number: int) -> None:
    agent = running()
    agent.receive(wire.input_data(1, b"ab" + byte + b"\x03\x1c"), 0.0)
    assert events(agent) == [Signal(number, group=False)]


def test_input_is_acknowledged_and_nothing_else() -> None:
    agent = running()
    agent.receive(wire.input_data(1, b"yes\n\x04\x1a"), 0.0)
    agent.receive(wire.input_data(2, b'{"cols":1,"rows":1}', wire.SIZE), 0.0)
    agent.receive(wire.flag(3, wire.TERMINATE_SESSION), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1, 2, 3]
    assert agent.events() == []


def test_input_is_acknowledged_even_before_there_is_a_process() -> None:
    agent = make_agent(request(DOCUMENT, command="id"), setup_time=5.0)
    shake_hands(agent)
    agent.receive(wire.input_data(1, b"\x03"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1]
    assert agent.events() == []


def test_the_agent_is_deaf_until_the_command_that_it_signalled_has_ended() -> None:
    agent = running()
    agent.receive(wire.input_data(1, b"\x03"), 0.0)
    agent.receive(wire.input_data(2, b"x"), 0.0)
    assert agent.blocked
    assert acknowledged(sent(agent, 0.0)) == []
    agent.exited(9, 1.0)
    agent.connection_lost(STDOUT, 1.0)
    agent.connection_lost(STDERR, 1.0)
    messages = sent(agent, 1.0)
    assert acknowledged(messages) == [1, 2]
    assert [message.payload for message in stream_data(messages)] == [b"EXIT_CODE: 9"]


@pytest.mark.parametrize(("ideal", "code"), [(False, b"EXIT_CODE: 1"), (True, b"EXIT_CODE: -1")])
def test_a_command_that_the_signal_kills(ideal: bool, code: bytes) -> None:
    agent = running(ideal=ideal)
    agent.receive(wire.input_data(1, b"\x03"), 0.0)
    assert events(agent) == [Signal(2, group=ideal)]
    assert agent.blocked is not ideal
    agent.exited(-1, 0.1)
    agent.connection_lost(STDOUT, 0.1)
    agent.connection_lost(STDERR, 0.1)
    assert (EXIT_CODE, code) in said(agent, 0.1)


# No process.


@pytest.mark.parametrize("separate", [False, True])
def test_a_command_that_is_not_there(separate: bool) -> None:
    agent = started("nosuch", separateOutputStream=str(separate))
    events(agent, Spawn)
    reason = 'exec: "nosuch": executable file not found in $PATH'
    agent.spawn_failed(reason, 0.0)
    assert said(agent) == ([(EXIT_CODE, b"EXIT_CODE: 1")] if separate else [])
    assert agent.get_timer() == 1.0
    agent.handle_timer(1.0)
    assert said(agent, 1.0) == [(wire.STDERR, reason.encode())]
    (state,) = sent(agent, 1.0)
    assert state.json()["SessionState"] == "Terminating"
    assert events(agent) == [Ended("")]


def test_a_command_that_makes_no_sense() -> None:
    agent = started("echo 'abc", separateOutputStream="True")
    assert events(agent) == []
    assert agent.get_timer() == 3.0
    agent.handle_timer(3.0)
    text = (
        "Unable to start command: Failed to parse commands input: "
        "EOF found when expecting closing quote\n\n"
    )
    assert said(agent, 3.0) == [(wire.STDERR, text.encode())]
    assert sent(agent, 3.0) == [], "the gateway is not told before"
    assert events(agent) == [Ended("\n----------ERROR-------\n" + text)]


def test_a_comment_is_no_command() -> None:
    agent = started("# nothing")
    sent(agent, 0.0)
    assert [type(event) for event in agent.events()] == [Ended]
