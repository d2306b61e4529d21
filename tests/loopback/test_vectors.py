"""The recorded client drives our agent to what the recorded agent did.

Each of the client's messages goes in at its time; the destination of the recording is played by
hand. What our agent sends must be what the recorded one sent: types, order within each kind,
numbers, flags, payloads. Acknowledgements and stream data were sent by different threads there, so
how those two interleave is no rule.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ssmnet.loopback import Agent, SessionRequest, session_request
from ssmnet.loopback.agent import LINGER
from ssmnet.loopback.events import (
    STDERR,
    STDOUT,
    Close,
    Dial,
    Ended,
    Event,
    Resolve,
    SetSize,
    Spawn,
    Wiring,
    Write,
)
from tests import wire
from tests.loopback.agents import make_agent

VECTORS = Path(__file__).parent.parent / "vectors"
Answer = Callable[[Agent, Event, float], None]


def records(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (VECTORS / f"{name}.jsonl").read_text().splitlines()]


def recorded_agent(name: str) -> list[wire.Message]:
    return [
        wire.decode(bytes.fromhex(record["hex"]))
        for record in records(name)
        if record["way"] == "agent->gateway" and record["kind"] == "binary"
    ]


def recorded_output(name: str) -> str | None:
    for record in records(name):
        if record["way"] == "gateway->client" and record["kind"] == "binary":
            return str(wire.decode(bytes.fromhex(record["hex"])).json()["Output"])
    return None


def recorded_request(name: str) -> SessionRequest:
    hello = next(m for m in recorded_agent(name) if m.payload_type == wire.HANDSHAKE_REQUEST)
    (action,) = hello.json()["RequestedClientActions"]
    parameters = action["ActionParameters"]
    return SessionRequest(parameters["SessionType"], parameters["Properties"])


class Replay:
    """Feeds the client's recorded messages, and a destination's answers, to an agent."""

    def __init__(
        self,
        name: str,
        answer: Answer,
        *,
        pace: bool,
        request: SessionRequest | None = None,
        setup_time: float = 0.0,
    ) -> None:
        self.name = name
        self.answer = answer
        self.agent = make_agent(
            request or recorded_request(name),
            pace=pace,
            setup_time=setup_time,
            first_output_delay=1.0,
        )
        self.sent: list[wire.Message] = []
        self.events: list[Event] = []

    def run(self) -> None:
        start = next(r["ms"] / 1000 for r in records(self.name) if r["way"] == "agent->gateway")
        self.agent.start(start)
        self._settle(start)
        away = False
        for recorded_at, record in self._client():
            now = max(recorded_at, start)
            self._timers(now)
            if record["kind"] == "text":
                if away:
                    self.agent.receive(wire.encode(wire.START, b"", flags=3), now)
                away = True
            else:
                self.agent.receive(bytes.fromhex(record["hex"]), now)
            self._settle(now)
        # The recorded agent's last FIN went under in the end of the session.
        self._timers(now + LINGER)

    def _client(self) -> Iterator[tuple[float, dict[str, Any]]]:
        for record in records(self.name):
            if record["way"] == "client->gateway":
                yield record["ms"] / 1000, record

    def _timers(self, until: float) -> None:
        while (due := self.agent.get_timer()) is not None and due <= until:
            self.agent.handle_timer(due)
            self._settle(due)

    def _settle(self, now: float) -> None:
        """Let agent and destination talk until both are silent."""
        while True:
            messages = [wire.decode(data) for data in self.agent.data_to_send(now)]
            events = self.agent.events()
            self.sent += messages
            self.events += events
            for event in events:
                self.answer(self.agent, event, now)
            if not messages and not events:
                return


def echo(agent: Agent, event: Event, now: float) -> None:
    if isinstance(event, Dial):
        agent.dialled(event.connection, now)
    elif isinstance(event, Write):
        agent.received(event.connection, event.data, now)


def refuse(agent: Agent, event: Event, now: float) -> None:
    if isinstance(event, Dial):
        agent.dial_failed(event.connection, "connection refused", now)


def resolve(agent: Agent, event: Event, now: float) -> None:
    if isinstance(event, Resolve):
        agent.resolved((event.host,), now)


def download(agent: Agent, event: Event, now: float) -> None:
    """'d' and a big-endian length ask for that many bytes, which count up modulo 256."""
    if isinstance(event, Dial):
        agent.dialled(event.connection, now)
    elif isinstance(event, Write):
        assert event.data[:1] == b"d"
        size = int.from_bytes(event.data[1:])
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        agent.received(event.connection, data, now)


def type_to_shell(agent: Agent, event: Event, now: float) -> None:
    if isinstance(event, Spawn):
        agent.spawned(now)
        agent.received(STDOUT, b"$ ", now)
    elif isinstance(event, Write):
        assert event.data == b"echo hi; stty size; exit\n"
        agent.received(STDOUT, b"echo hi; stty size; exit\r\nhi\r\n40 132\r\n", now)
        agent.connection_lost(STDOUT, now)
        agent.exited(0, now)


def show_size(agent: Agent, event: Event, now: float) -> None:
    if isinstance(event, Spawn):
        agent.spawned(now)
        agent.received(STDOUT, b"0 0\r\ndone\r\n", now)
    elif isinstance(event, SetSize):
        # There, the command ended when it was told of its size.
        agent.connection_lost(STDOUT, now)


def write_both(agent: Agent, event: Event, now: float) -> None:
    """Write to standard error first, as it happened to be read."""
    if isinstance(event, Spawn) and event.wiring is Wiring.PIPES:
        agent.spawned(now)
        agent.received(STDERR, b"err\n", now)
        agent.received(STDOUT, b"out\n", now)
        agent.connection_lost(STDERR, now)
        agent.connection_lost(STDOUT, now)
        agent.exited(7, now)
    elif isinstance(event, Spawn):
        agent.spawned(now)
        agent.exited(7, now)
        agent.received(STDOUT, b"out\nerr\n", now)
        agent.connection_lost(STDOUT, now)


def check_stream_data(ours: list[wire.Message], recorded: list[wire.Message]) -> None:
    """The same messages, once each; times taken and versions are each agent's own."""
    assert [m.number for m in ours] == [m.number for m in recorded]
    for mine, theirs in zip(ours, recorded, strict=True):
        assert (mine.flags, mine.payload_type) == (theirs.flags, theirs.payload_type)
        if mine.payload_type == wire.HANDSHAKE_COMPLETE:
            assert list(mine.json()) == list(theirs.json())
            assert mine.json()["CustomerMessage"] == theirs.json()["CustomerMessage"]
        else:
            assert mine.payload == theirs.payload


def first_sent(messages: list[wire.Message]) -> list[wire.Message]:
    """Stream data without what was resent, in order of numbers."""
    first: dict[int, wire.Message] = {}
    for message in messages:
        if message.type == wire.OUTPUT_DATA:
            assert first.setdefault(message.number, message).payload == message.payload
    return [first[number] for number in sorted(first)]


def states(messages: list[wire.Message]) -> list[str]:
    return [m.json()["SessionState"] for m in messages if m.type == "agent_session_state"]


def acknowledged(messages: list[wire.Message]) -> list[tuple[int, str]]:
    """Numbers and ids, in order."""
    return [
        (wire.acknowledged(m), m.json()["AcknowledgedMessageId"])
        for m in messages
        if m.type == wire.ACKNOWLEDGE
    ]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("port_multiplexed_two_streams", echo),
        ("raw_stream_echo", echo),
        ("port_destination_refused", refuse),
        ("port_remote_host_forbidden", resolve),
    ],
)
def test_a_recorded_client_meets_our_agent(name: str, answer: Answer) -> None:
    replay = Replay(name, answer, pace=True)
    replay.run()
    recorded = recorded_agent(name)
    assert states(replay.sent) == states(recorded)
    assert acknowledged(replay.sent) == acknowledged(recorded)
    check_stream_data(first_sent(replay.sent), first_sent(recorded))
    ends = [event.output for event in replay.events if isinstance(event, Ended)]
    expected = recorded_output(name)
    assert ends == ([] if expected is None else [expected])


def command(document: str, **parameters: str) -> SessionRequest:
    return session_request(document, {name: [value] for name, value in parameters.items()})


@pytest.mark.parametrize(
    ("name", "answer", "request_"),
    [
        (
            "interactive_command",
            show_size,
            command("AWS-StartInteractiveCommand", command="stty size; echo done"),
        ),
        (
            "noninteractive_command",
            write_both,
            command("AWS-StartNonInteractiveCommand", command="both"),
        ),
        (
            "noninteractive_command_separate_output",
            write_both,
            command("AWS-StartNonInteractiveCommand", command="both", separateOutputStream="True"),
        ),
    ],
)
def test_a_recorded_client_meets_our_command(
    name: str, answer: Answer, request_: SessionRequest
) -> None:
    # The command ended after its size came: so long it takes from the handshake to its start.
    replay = Replay(name, answer, pace=True, request=request_, setup_time=0.005)
    replay.run()
    recorded = recorded_agent(name)
    assert states(replay.sent) == states(recorded) == ["Connected", "Terminating"]
    assert acknowledged(replay.sent) == acknowledged(recorded)
    check_stream_data(first_sent(replay.sent), first_sent(recorded))
    assert [event.output for event in replay.events if isinstance(event, Ended)] == [""]


def test_a_recorded_client_meets_our_shell() -> None:
    """What its terminal shows came in pieces there, as it happened."""
    name = "shell"
    replay = Replay(name, type_to_shell, pace=True, request=session_request(None, {}))
    replay.run()
    recorded = recorded_agent(name)
    assert states(replay.sent) == states(recorded) == ["Connected", "Terminating"]
    assert acknowledged(replay.sent) == acknowledged(recorded)
    ours, theirs = first_sent(replay.sent), first_sent(recorded)
    check_stream_data(ours[:1], theirs[:1])
    assert {message.payload_type for message in ours} == {wire.OUTPUT}
    assert b"".join(m.payload for m in ours) == b"".join(m.payload for m in theirs)
    assert [event for event in replay.events if isinstance(event, SetSize)] == [SetSize(132, 40)]
    assert [event.output for event in replay.events if isinstance(event, Ended)] == [""]


def test_the_order_of_the_first_messages_is_the_recorded_one() -> None:
    name = "port_multiplexed_two_streams"
    replay = Replay(name, echo, pace=True)
    replay.run()

    def shape(messages: list[wire.Message]) -> list[tuple[str, int]]:
        return [(message.type, message.payload_type) for message in messages[:6]]

    assert shape(replay.sent) == shape(recorded_agent(name))


def test_a_recorded_download_survives_the_cut() -> None:
    """The WebSocket was cut in mid-transfer: one message was lost, and resent."""
    name = "port_download_with_websocket_cut"
    replay = Replay(name, download, pace=True)
    replay.run()
    recorded = recorded_agent(name)
    ours = wire.Frames()
    for message in first_sent(replay.sent):
        if message.payload_type == wire.OUTPUT:
            ours.feed(message.payload)
    theirs = wire.Frames()
    for message in first_sent(recorded):
        if message.payload_type == wire.OUTPUT:
            theirs.feed(message.payload)
    assert ours.data(3) == theirs.data(3)
    assert len(ours.data(3)) == 60_000
    assert acknowledged(replay.sent) == acknowledged(recorded)
    numbers = [m.number for m in replay.sent if m.type == wire.OUTPUT_DATA]
    assert numbers.count(24) == 2, "lost with the WebSocket, acknowledged after it came again"
    assert [type(event) for event in replay.events][-2:] == [Close, Ended]
