"""Order, acknowledgement, resending, pausing and pacing: what every kind of session shares."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.loopback import Agent
from ssmnet.loopback.events import Dial, Ended, Write
from ssmnet.loopback.handshake import FAILED
from ssmnet.loopback.pace import MAX_LATENESS, PACE
from tests import wire
from tests.loopback.agents import (
    acknowledge_all,
    acknowledged,
    events,
    make_agent,
    output,
    request,
    sent,
    set_up,
    shake_hands,
    stream_data,
)


def with_stream(*, pace: bool = False, ideal: bool = False) -> Agent:
    """An agent with one connected stream, number 3, that takes input number 2."""
    agent = set_up(pace=pace, ideal=ideal)
    agent.receive(wire.input_data(1, wire.frame(wire.SYN, 3)), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1]
    assert [event.connection for event in events(agent, Dial)] == [3]  # type: ignore[union-attr]
    agent.dialled(3, 0.0)
    return agent


def written(agent: Agent) -> bytes:
    return b"".join(event.data for event in events(agent, Write))  # type: ignore[union-attr]


def push(number: int, data: bytes) -> bytes:
    return wire.input_data(number, wire.frame(wire.PSH, 3, data))


# The handshake.


def test_the_first_words() -> None:
    agent = make_agent()
    agent.start(0.0)
    raw = agent.data_to_send(0.0)
    state, hello = [wire.decode(data) for data in raw]
    assert state.type == "agent_session_state"
    assert state.json() == {
        "SchemaVersion": 1,
        "SessionState": "Connected",
        "SessionId": "session-1",
    }
    assert (hello.number, hello.flags, hello.payload_type) == (0, 1, wire.HANDSHAKE_REQUEST)
    action = {
        "ActionType": "SessionType",
        "ActionParameters": {
            "SessionType": "Port",
            "Properties": {
                "localPortNumber": "0",
                "portNumber": "8080",
                "type": "LocalPortForwarding",
            },
        },
    }
    assert hello.json() == {"AgentVersion": "3.3.0.0", "RequestedClientActions": [action]}


def test_handshake_complete_follows_the_acknowledgement() -> None:
    agent = make_agent()
    agent.start(1.0)
    sent(agent, 1.0)
    agent.receive(wire.input_data(0, wire.handshake_response(), wire.HANDSHAKE_RESPONSE), 1.25)
    first, second = sent(agent, 1.25)
    assert wire.acknowledged(first) == 0
    assert second.payload_type == wire.HANDSHAKE_COMPLETE
    assert second.json() == {"HandshakeTimeToComplete": 250_000_000, "CustomerMessage": ""}


def test_data_before_handshake_complete_is_acknowledged_and_discarded() -> None:
    agent = make_agent()
    agent.start(0.0)
    acknowledge_all(agent, sent(agent, 0.0), 0.0)
    agent.receive(wire.input_data(0, wire.frame(wire.SYN, 3)), 0.0)
    response = wire.handshake_response()
    agent.receive(wire.input_data(1, response, wire.HANDSHAKE_RESPONSE), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [0, 1]
    agent.handle_timer(0.0)
    agent.receive(push(2, b"lost"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2]
    assert events(agent) == [], "SYN was thrown away, so nobody is dialled"


def test_a_client_that_says_no_ends_the_session() -> None:
    agent = make_agent()
    agent.start(0.0)
    acknowledge_all(agent, sent(agent, 0.0), 0.0)
    response = wire.handshake_response(status=3)
    agent.receive(wire.input_data(0, response, wire.HANDSHAKE_RESPONSE), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [0]
    (end,) = events(agent)
    assert isinstance(end, Ended)
    assert end.output == FAILED + "SessionType failed on client with status 3 error: no"


def test_the_handshake_has_a_deadline() -> None:
    agent = make_agent()
    agent.start(100.0)
    acknowledge_all(agent, sent(agent, 100.0), 100.0)
    assert agent.get_timer() == 115.0
    agent.handle_timer(115.0)
    (end,) = events(agent, Ended)
    assert isinstance(end, Ended)
    assert end.output.startswith(FAILED + "Handshake timed out. ")
    assert agent.get_timer() is None


def test_input_is_dropped_until_the_port_is_ready() -> None:
    agent = make_agent(setup_time=0.5)
    shake_hands(agent, 0.0)
    assert agent.get_timer() == 0.5
    agent.receive(wire.input_data(1, wire.frame(wire.SYN, 3)), 0.4)
    assert sent(agent, 0.4) == []
    assert agent.not_ready == 1
    agent.handle_timer(0.5)
    agent.receive(wire.input_data(1, wire.frame(wire.SYN, 3)), 0.6)
    assert acknowledged(sent(agent, 0.6)) == [1]


# Input.


def test_input_is_put_in_order_and_acknowledged_at_once() -> None:
    agent = with_stream()
    agent.receive(push(4, b"c"), 0.0)
    agent.receive(push(3, b"b"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [4, 3]
    assert written(agent) == b""
    agent.receive(push(2, b"a"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2]
    assert written(agent) == b"abc"


def test_a_duplicate_is_acknowledged_again_and_not_processed() -> None:
    agent = with_stream()
    for _ in range(3):
        agent.receive(push(2, b"a"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2, 2, 2]
    assert written(agent) == b"a"


def test_what_is_no_message_is_counted_and_dropped() -> None:
    agent = with_stream()
    bad_digest = bytearray(push(2, b"a"))
    bad_digest[-1] ^= 1
    unknown = wire.encode("no_such_type", b"", flags=3)
    no_ack = wire.encode(wire.ACKNOWLEDGE, b"{", flags=3)
    for data in (b"", b"x" * 50, bytes(bad_digest), unknown, no_ack):
        agent.receive(data, 0.0)
    assert agent.invalid == 5
    assert sent(agent, 0.0) == []
    agent.receive(push(2, b"a"), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2]


def test_input_waits_for_a_gateway_that_takes_nothing() -> None:
    agent = with_stream()
    agent.set_output_blocked(True, 0.0)
    assert agent.blocked
    agent.receive(push(2, b"a"), 0.0)
    assert agent.inbox_size > 120
    assert sent(agent, 0.0) == []
    agent.set_output_blocked(False, 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2]
    assert written(agent) == b"a"
    assert agent.inbox_size == 0


# Output.


def test_output_is_cut_at_1024_bytes_and_numbered() -> None:
    agent = with_stream()
    agent.received(3, b"x" * 3000, 0.0)
    messages = stream_data(sent(agent, 0.0))
    assert [len(message.payload) for message in messages] == [1024, 1024, 960]
    assert [message.number for message in messages] == [2, 3, 4]
    assert [message.flags for message in messages] == [0, 0, 0]
    assert output(messages) == wire.frame(wire.PSH, 3, b"x" * 3000)


def test_a_lost_acknowledgement_is_repaired_by_resending_the_head() -> None:
    agent = with_stream()
    agent.received(3, b"x" * 3000, 0.0)
    messages = stream_data(sent(agent, 0.0))
    acknowledge_all(agent, messages[1:], 0.01)
    resent: list[wire.Message] = []
    while not resent:
        due = agent.get_timer()
        assert due is not None
        agent.handle_timer(due)
        resent = sent(agent, due)
    assert [(message.number, message.id) for message in resent] == [(2, messages[0].id)]
    assert resent[0] == messages[0]
    assert agent.resent == 1
    acknowledge_all(agent, resent, 1.0)
    assert agent.unacknowledged == 0
    assert agent.get_timer() is None


def paced(agent: Agent, late: float) -> list[float]:
    """When the messages go out that there are from second 10 on, if each timer is late."""
    times = []
    now = 10.0
    while True:
        messages = stream_data(sent(agent, now))
        times += [now] * len(messages)
        acknowledge_all(agent, messages, now)
        due = agent.get_timer()
        if due is None:
            return times
        now = max(now, due) + late
        agent.handle_timer(now)


def test_pace_sends_one_message_after_the_other() -> None:
    agent = with_stream(pace=True)
    agent.received(3, b"x" * 3000, 10.0)
    assert paced(agent, 0.0) == pytest.approx([10.0, 10.0 + PACE, 10.0 + 2 * PACE])


@pytest.mark.parametrize("late", [0.0, 0.0004, 0.0015, 0.0091])
def test_a_timer_that_is_late_does_not_change_the_pace(late: float) -> None:
    agent = with_stream(pace=True)
    agent.received(3, bytes(1000 * 1012), 10.0)
    times = paced(agent, late)
    assert len(times) > 900
    assert times[-1] - times[0] == pytest.approx((len(times) - 1) * PACE, abs=late + PACE)


def test_a_time_without_output_is_not_made_up_for() -> None:
    agent = with_stream(pace=True)
    agent.received(3, b"x", 9.0)
    acknowledge_all(agent, sent(agent, 9.0), 9.0)
    agent.received(3, b"x" * 3000, 10.0)
    assert paced(agent, 0.0) == pytest.approx([10.0, 10.0 + PACE, 10.0 + 2 * PACE])


def test_nor_is_a_time_in_which_nothing_ran() -> None:
    agent = with_stream(pace=True)
    agent.received(3, bytes(1000 * 1012), 10.0)
    sent(agent, 10.0)
    assert len(stream_data(sent(agent, 11.0))) == MAX_LATENESS // PACE + 1


def test_a_paused_agent_neither_reads_nor_resends() -> None:
    agent = with_stream()
    agent.received(3, b"x", 0.0)
    sent(agent, 0.0)
    agent.receive(wire.encode(wire.PAUSE, b"", flags=3), 0.0)
    assert agent.paused
    agent.received(3, b"y", 1.0)
    agent.handle_timer(5.0)
    assert sent(agent, 5.0) == []
    assert agent.get_timer() is None


@pytest.mark.parametrize("what", ["input", "acknowledgement", "start_publication"])
def test_what_ends_a_pause(what: str) -> None:
    agent = with_stream()
    agent.receive(wire.encode(wire.PAUSE, b"", flags=3), 0.0)
    agent.received(3, b"y", 0.0)
    old = wire.Message(wire.OUTPUT_DATA, 0, 1, "0" * 36, 1, b"x")
    unpause = {
        "input": push(2, b"a"),
        "acknowledgement": wire.acknowledge(old),
        "start_publication": wire.encode(wire.START, b"", flags=3),
    }
    agent.receive(unpause[what], 0.0)
    assert not agent.paused
    assert output(sent(agent, 0.0)) == wire.frame(wire.PSH, 3, b"y")


def test_what_was_sent_while_paused_comes_by_resending_one_by_one() -> None:
    agent = set_up()
    for number, stream in enumerate((3, 5, 7), 1):
        agent.receive(wire.input_data(number, wire.frame(wire.SYN, stream)), 0.0)
    sent(agent, 0.0)
    agent.receive(wire.encode(wire.PAUSE, b"", flags=3), 0.0)
    for stream in (3, 5, 7):
        agent.dial_failed(stream, "refused", 0.0)
    assert sent(agent, 0.0) == []
    agent.receive(wire.encode(wire.START, b"", flags=3), 1.0)
    fins = output(sent(agent, 1.0))
    assert fins == b"".join(wire.frame(wire.FIN, stream) for stream in (3, 5, 7))
    flags: list[float] = []
    now = 1.0
    while len(flags) < 3:
        now = agent.get_timer() or now
        agent.handle_timer(now)
        for message in sent(agent, now):
            assert message.flag == wire.CONNECT_TO_PORT_ERROR
            flags.append(now)
            acknowledge_all(agent, [message], now)
    assert flags[1] - flags[0] == pytest.approx(0.1, abs=0.01)


def test_an_ideal_agent_has_a_window_and_repairs_all_at_once() -> None:
    agent = with_stream(ideal=True)
    agent.received(3, b"x" * 1024 * 5000, 0.0)
    first = stream_data(sent(agent, 0.0))
    assert len(first) == 4096
    agent.handle_timer(0.5)
    assert len(stream_data(sent(agent, 0.5))) == 256
    acknowledge_all(agent, first, 0.6)
    rest = stream_data(sent(agent, 0.6))
    assert len(output(first + rest)) == 1024 * 5000 + 157 * 8


# The end.


def test_terminate_is_acknowledged_and_ends_the_session() -> None:
    agent = with_stream()
    agent.receive(wire.flag(2, wire.TERMINATE_SESSION), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2]
    assert [type(event).__name__ for event in events(agent)] == ["Close", "Ended"]
    assert agent.ended
    assert agent.get_timer() is None
    agent.receive(push(3, b"late"), 0.0)
    assert sent(agent, 0.0) == []


def test_the_end_waits_two_seconds_for_acknowledgements() -> None:
    agent = with_stream()
    agent.received(3, b"x", 0.0)
    sent(agent, 0.0)
    agent.receive(wire.flag(2, wire.TERMINATE_SESSION), 1.0)
    sent(agent, 1.0)
    assert events(agent, Ended) == []
    agent.handle_timer(2.9)
    assert events(agent, Ended) == []
    agent.handle_timer(3.0)
    assert events(agent, Ended) == [Ended("")]


def test_an_old_agent_does_not_know_the_flag() -> None:
    agent = set_up(request("AWS-StartSSHSession"), agent_version="2.3.722.0")
    agent.dialled(1, 0.0)
    agent.receive(wire.flag(1, wire.TERMINATE_SESSION), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [1]
    assert events(agent, Ended) == []


def test_channel_closed_ends_the_session() -> None:
    agent = with_stream()
    content = json.dumps({"Output": "", "SessionId": "session-1"}).encode()
    agent.receive(wire.encode(wire.CHANNEL_CLOSED, content, flags=3), 0.0)
    sent(agent, 0.0)
    assert events(agent, Ended) == [Ended("")]


# Whatever comes.


def test_a_flag_that_is_none_is_acknowledged_and_ignored() -> None:
    agent = with_stream()
    agent.receive(wire.input_data(2, b"xy", wire.FLAG), 0.0)
    agent.receive(wire.flag(3, 99), 0.0)
    assert acknowledged(sent(agent, 0.0)) == [2, 3]
    assert not agent.ended


def test_a_handshake_response_may_wait_for_the_gateway() -> None:
    agent = make_agent()
    agent.start(0.0)
    acknowledge_all(agent, sent(agent, 0.0), 0.0)
    agent.set_output_blocked(True, 0.0)
    response = wire.handshake_response()
    agent.receive(wire.input_data(0, response, wire.HANDSHAKE_RESPONSE), 0.0)
    assert sent(agent, 0.0) == []
    agent.set_output_blocked(False, 0.0)
    _, complete = sent(agent, 0.0)
    assert complete.payload_type == wire.HANDSHAKE_COMPLETE


def test_nothing_is_resent_into_a_gateway_that_takes_nothing() -> None:
    agent = with_stream()
    agent.received(3, b"x", 0.0)
    sent(agent, 0.0)
    agent.set_output_blocked(True, 0.0)
    assert agent.get_timer() is None
    agent.handle_timer(5.0)
    assert sent(agent, 5.0) == []


FRAMES = st.builds(
    wire.frame,
    st.integers(0, 5),
    st.integers(0, 9),
    st.binary(max_size=40),
)
INPUT = st.one_of(
    st.binary(max_size=200),
    st.builds(wire.input_data, st.integers(0, 12), st.binary(min_size=1), st.integers(0, 13)),
    st.builds(wire.input_data, st.integers(0, 12), FRAMES),
    st.builds(
        wire.encode, st.sampled_from([wire.PAUSE, wire.START, wire.ACKNOWLEDGE]), st.binary()
    ),
)
NEWS = st.tuples(
    st.sampled_from(["dialled", "connection_ended", "connection_lost", "received"]),
    st.integers(0, 9),
)


@pytest.mark.parametrize("ideal", [False, True])
@pytest.mark.parametrize("document", ["AWS-StartPortForwardingSession", "AWS-StartSSHSession"])
@given(steps=st.lists(st.one_of(INPUT, NEWS), max_size=40))
def test_no_input_breaks_an_agent(
    document: str, ideal: bool, steps: list[bytes | tuple[str, int]]
) -> None:
    """Only its own bugs raise; and what it says stays well-formed."""
    agent = set_up(request(document, portNumber="22"), ideal=ideal)
    dialling: set[int] = set()
    for now, step in enumerate(steps):
        if isinstance(step, bytes):
            agent.receive(step, now)
        elif step[0] != "dialled":
            arguments = (b"data",) if step[0] == "received" else ()
            getattr(agent, step[0])(step[1], *arguments, now)
        elif step[1] in dialling:
            dialling.discard(step[1])
            agent.dialled(step[1], now)
        due = agent.get_timer()
        if due is not None and due <= now:
            agent.handle_timer(now)
        for message in sent(agent, now):
            assert message.type in (wire.OUTPUT_DATA, wire.ACKNOWLEDGE)
        for event in events(agent):
            if isinstance(event, Dial):
                dialling.add(event.connection)
