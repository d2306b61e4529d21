import pytest

from ssmnet.loopback import Agent
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
from ssmnet.loopback.port_mux import RECEIVE_BUDGET
from tests import wire
from tests.loopback.agents import (
    acknowledge_all,
    acknowledged,
    events,
    output,
    request,
    sent,
    set_up,
    stream_data,
)

REMOTE = "AWS-StartPortForwardingSessionToRemoteHost"


class Far:
    """An agent and the next input number; everything it sends is acknowledged at once."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.number = 0
        self.frames = wire.Frames()
        self.flags: list[int] = []

    def push(self, *frames: bytes) -> list[int]:
        """Send each as one message; the numbers that were acknowledged."""
        for data in frames:
            self.number += 1
            self.agent.receive(wire.input_data(self.number, data), 0.0)
        return self.run()

    def run(self, now: float = 0.0) -> list[int]:
        messages = sent(self.agent, now)
        self.frames.feed(output(messages))
        self.flags += [m.flag for m in stream_data(messages) if m.payload_type == wire.FLAG]
        acknowledge_all(self.agent, messages, now)
        return acknowledged(messages)

    def events(self) -> list[Event]:
        self.run()
        return events(self.agent)

    def open(self, *streams: int) -> None:
        self.push(*(wire.frame(wire.SYN, stream) for stream in streams))
        for stream in streams:
            self.agent.dialled(stream, 0.0)
        self.events()


def far(*, ideal: bool = False) -> Far:
    return Far(set_up(ideal=ideal))


def test_a_stream_is_dialled_and_carries_bytes_both_ways() -> None:
    end = far()
    end.push(wire.frame(wire.SYN, 3), wire.frame(wire.PSH, 3, b"early"))
    assert end.events() == [Dial(3, ("127.0.0.1", "::1"), 8080)]
    end.agent.dialled(3, 0.0)
    assert end.events() == [Write(3, b"early")]
    end.push(wire.frame(wire.PSH, 3, b"a"), wire.frame(wire.PSH, 3, b"b"))
    assert end.events() == [Write(3, b"ab")]
    end.agent.received(3, b"answer", 0.0)
    end.run()
    assert end.frames.frames == [(wire.PSH, 3, b"answer")]


def test_dials_go_one_after_the_other() -> None:
    end = far()
    end.push(*(wire.frame(wire.SYN, stream) for stream in (3, 5, 7)))
    assert [event.connection for event in events(end.agent, Dial)] == [3]  # type: ignore[union-attr]
    end.agent.dialled(3, 0.0)
    assert [event.connection for event in events(end.agent, Dial)] == [5]  # type: ignore[union-attr]
    end.agent.dial_failed(5, "refused", 0.0)
    assert [event.connection for event in events(end.agent, Dial)] == [7]  # type: ignore[union-attr]


def test_an_ideal_agent_dials_at_once() -> None:
    end = far(ideal=True)
    end.push(*(wire.frame(wire.SYN, stream) for stream in (3, 5, 7)))
    assert len(events(end.agent, Dial)) == 3


def test_the_backlog_of_syns_blocks_the_session() -> None:
    end = far()
    streams = range(3, 3 + 2 * 1026, 2)
    syns = [wire.frame(wire.SYN, stream) for stream in streams]
    assert len(end.push(*syns)) == 1026
    assert not end.agent.blocked
    assert end.push(wire.frame(wire.NOP, 0)) == []
    assert end.agent.blocked
    end.agent.dialled(3, 0.0)
    assert end.run() == [1027]
    assert not end.agent.blocked


def test_refusal_is_a_flag_and_then_fin() -> None:
    end = far()
    end.push(wire.frame(wire.SYN, 3), wire.frame(wire.PSH, 3, b"x"))
    end.agent.dial_failed(3, "refused", 0.0)
    messages = stream_data(sent(end.agent, 0.0))
    assert messages[0].flag == wire.CONNECT_TO_PORT_ERROR
    assert messages[1].payload == wire.frame(wire.FIN, 3)
    end.push(wire.frame(wire.PSH, 3, b"x"), wire.frame(wire.FIN, 3))
    assert [type(event) for event in end.events()] == [Dial], "dropped silently"


def test_a_question_for_reachability() -> None:
    end = far()
    end.push(wire.frame(wire.SYN, 3) + wire.frame(wire.FIN, 3))
    end.agent.dialled(3, 0.0)
    assert [type(event) for event in end.events()] == [Dial, Close]
    assert end.frames.frames == [(wire.FIN, 3, b"")]
    assert end.flags == []


def test_the_clients_fin_closes_both_directions() -> None:
    end = far()
    end.open(3)
    end.agent.received(3, b"before", 0.0)
    end.push(wire.frame(wire.PSH, 3, b"request") + wire.frame(wire.FIN, 3))
    assert end.events() == [Write(3, b"request"), Close(3)]
    end.agent.received(3, b"the tail is lost", 0.0)
    end.run()
    assert end.frames.frames == [(wire.PSH, 3, b"before"), (wire.FIN, 3, b"")]


@pytest.mark.parametrize("lost", [False, True], ids=["end", "reset"])
def test_the_destinations_end_closes_both_directions(lost: bool) -> None:
    end = far()
    end.open(3)
    end.agent.received(3, b"last words", 0.0)
    if lost:
        end.agent.connection_lost(3, 0.0)
    else:
        end.agent.connection_ended(3, 0.0)
    assert end.events() == [Close(3)]
    assert end.frames.frames == [(wire.PSH, 3, b"last words"), (wire.FIN, 3, b"")]
    end.push(wire.frame(wire.PSH, 3, b"for nobody"), wire.frame(wire.FIN, 3))
    assert end.events() == []


def test_an_ideal_agent_keeps_half_closed_connections() -> None:
    end = far(ideal=True)
    end.open(3, 5)
    end.push(wire.frame(wire.PSH, 3, b"request") + wire.frame(wire.FIN, 3))
    assert end.events() == [Write(3, b"request"), WriteEof(3)]
    end.agent.received(3, b"answer", 0.0)
    end.agent.connection_ended(3, 0.0)
    assert end.events() == [Close(3)]
    assert end.frames.frames == [(wire.PSH, 3, b"answer"), (wire.FIN, 3, b"")]
    end.agent.connection_ended(5, 0.0)
    end.push(wire.frame(wire.PSH, 5, b"still read"))
    assert end.events() == [Write(5, b"still read")]
    end.push(wire.frame(wire.FIN, 5))
    assert end.events() == [Close(5)]
    assert end.frames.frames[-1] == (wire.FIN, 5, b"")


def fill(end: Far, stream: int, size: int) -> int:
    """Push until nothing is acknowledged any more, or ``size`` bytes have gone."""
    total = 0
    while total < size and end.push(wire.frame(wire.PSH, stream, bytes(32768))):
        total += 32768
    return total


def test_one_destination_that_does_not_read_stops_the_whole_session() -> None:
    end = far()
    end.open(3, 5)
    end.agent.set_writable(3, False, 0.0)
    total = fill(end, 3, 2 * RECEIVE_BUDGET)
    assert total == RECEIVE_BUDGET
    assert end.agent.blocked
    assert end.push(wire.frame(wire.PSH, 5, b"other")) == []
    end.number += 1
    end.agent.receive(wire.flag(end.number, wire.TERMINATE_SESSION), 0.0)
    assert end.run() == [], "even this is stuck"
    end.agent.set_writable(3, True, 0.0)
    assert len(end.run()) == 3
    kinds = [(type(event), getattr(event, "connection", 0)) for event in events(end.agent)]
    assert kinds[0] == (Write, 3)
    assert (Write, 5) in kinds
    assert kinds[-1][0] is Ended


def test_the_end_of_the_lazy_destination_frees_the_session() -> None:
    end = far()
    end.open(3, 5)
    end.agent.set_writable(3, False, 0.0)
    fill(end, 3, 2 * RECEIVE_BUDGET)
    end.push(wire.frame(wire.PSH, 5, b"other"))
    end.agent.connection_lost(3, 0.0)
    assert not end.agent.blocked
    assert Write(5, b"other") in end.events()


def test_a_slow_dial_is_charged_too() -> None:
    end = far()
    end.push(wire.frame(wire.SYN, 3))
    fill(end, 3, 2 * RECEIVE_BUDGET)
    assert end.agent.blocked
    end.agent.dialled(3, 0.0)
    assert not end.agent.blocked


def test_an_ideal_agent_has_a_budget_for_each_stream() -> None:
    end = far(ideal=True)
    end.open(3, 5, 7)
    for stream in (3, 5, 7):
        end.agent.set_writable(stream, False, 0.0)
        assert fill(end, stream, 15 * 1024 * 1024) == 15 * 1024 * 1024
    assert not end.agent.blocked
    assert fill(end, 7, 2 * RECEIVE_BUDGET) < 2 * RECEIVE_BUDGET
    assert end.agent.blocked


def test_reading_pauses_while_output_waits() -> None:
    end = far()
    end.open(3, 5)
    end.agent.receive(wire.encode(wire.PAUSE, b"", flags=3), 0.0)
    end.agent.received(3, bytes(65536), 0.0)
    end.agent.received(3, bytes(100), 0.0)
    assert events(end.agent) == [PauseReading(3)]
    end.agent.receive(wire.encode(wire.START, b"", flags=3), 0.0)
    assert end.events() == [ResumeReading(3)]
    assert len(end.frames.data(3)) == 65636


def test_a_remote_host_is_looked_up_once() -> None:
    end = Far(set_up(request(REMOTE, host="db.example", portNumber="5432")))
    assert end.events() == [Resolve("db.example")]
    assert end.push(wire.frame(wire.SYN, 3)) == [], "not ready"
    end.agent.resolved(("10.0.0.1", "10.0.0.2"), 0.0)
    end.agent.handle_timer(0.0)
    end.number -= 1
    assert end.push(wire.frame(wire.SYN, 3), wire.frame(wire.SYN, 5)) == [1, 2]
    assert end.events() == [Dial(3, ("10.0.0.1", "10.0.0.2"), 5432)]
    end.agent.dialled(3, 0.0)
    assert end.events() == [Dial(5, ("10.0.0.1", "10.0.0.2"), 5432)]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("169.254.169.254", "169.254.169.254"),
        ("metadata.internal", "169.254.169.253"),
        ("fd00:ec2::254", "fd00:0ec2:0::254"),
    ],
)
def test_forbidden_hosts(host: str, address: str) -> None:
    end = Far(set_up(request(REMOTE, host=host, portNumber="80")))
    end.agent.resolved(("10.0.0.1", address), 0.0)
    message = f"Forwarding to IP address {host} is forbidden."
    assert end.events() == [Resolve(host), Ended(message)]


def test_an_unresolvable_host_ends_the_session() -> None:
    end = Far(set_up(request(REMOTE, host="nowhere.invalid", portNumber="80")))
    end.agent.resolve_failed("no such host", 0.0)
    assert end.events()[-1] == Ended("lookup nowhere.invalid: no such host")


def test_what_is_no_smux_ends_the_session() -> None:
    end = far()
    end.push(b"GET / HTTP/1.1\r\n\r\n")
    assert end.events() == [Ended("")]


def test_keep_alive_of_old_agents_and_old_clients() -> None:
    assert set_up().get_timer() is None
    old_agent = Far(set_up(agent_version="3.1.1511.0"))
    old_client = Far(set_up(client="1.2.331.0"))
    for end in (old_agent, old_client):
        now = 0.0
        while not end.agent.ended:
            due = end.agent.get_timer()
            assert due is not None
            now = due
            end.agent.handle_timer(now)
            end.run(now)
        assert now == 30.0
        assert end.frames.frames == [(wire.NOP, 0, b"")] * 2


def test_frames_keep_an_old_agent_alive() -> None:
    end = Far(set_up(agent_version="3.1.1511.0"))
    for now in (10.0, 20.0, 30.0, 40.0):
        end.push(wire.frame(wire.NOP, 0))
        end.agent.handle_timer(now)
    end.run(40.0)
    assert not end.agent.ended
