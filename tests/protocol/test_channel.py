import json
import uuid
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from ssmnet.protocol.channel import BURST, DataChannel
from ssmnet.protocol.events import ChannelEnded, DataKeyNeeded, ExitCode, SessionReady
from ssmnet.protocol.message import (
    PAYLOAD_SIZE,
    AgentMessage,
    Flag,
    MessageType,
    PayloadType,
    acknowledge,
    encode_flag,
    parse,
)
from ssmnet.protocol.opening import (
    ASSUME_SHELL_AFTER,
    HANDSHAKE_TIMEOUT,
    PROBE_AFTER,
    SETTLING_TIME,
)
from ssmnet.protocol.port import BasicPort
from ssmnet.protocol.shell import ShellPort
from ssmnet.protocol.smux import MAX_OPENING, Multiplexer, MuxStream
from ssmnet.protocol.stream import RESERVE
from ssmnet.protocol.version import CLIENT_VERSION
from ssmnet.testing.link import Path, harmful, losing
from tests.protocol import vectors
from tests.protocol.far_end import (
    CLIENT_ID,
    DATA_KEY,
    ENCRYPTED_KEY,
    FIN,
    FORWARD,
    NOP,
    PSH,
    RAW,
    Conversation,
    FarEnd,
    acknowledgements,
    control,
    feed,
    inputs,
    new_channel,
    open_stream,
    sent_by,
    smux_frame,
    smux_frames,
)
from tests.protocol.replay import Replay
from tests.protocol.simulation import CREATED

BASIC_VERSION = "3.0.196.0"
KEEP_ALIVE_VERSION = "3.1.1511.0"


def output(payload: bytes, number: int, payload_type: int = PayloadType.OUTPUT) -> bytes:
    return AgentMessage(
        MessageType.OUTPUT_STREAM_DATA, payload, number, payload_type, created_date=CREATED
    ).serialize()


def request(version: str = "3.3.0.0", **arguments: object) -> bytes:
    end = FarEnd(version=version, **arguments)  # type: ignore[arg-type]
    end.start(0.0)
    return end.data_to_send(0.0)[0]


def complete(number: int = 1) -> bytes:
    return output(b"{}", number, PayloadType.HANDSHAKE_COMPLETE)


def answer(*messages: AgentMessage) -> list[bytes]:
    """The acknowledgements of all that needs one."""
    return [
        acknowledge(message, bytes(16), CREATED)
        for message in messages
        if message.message_type == MessageType.INPUT_STREAM_DATA
    ]


def ready(
    version: str = "3.3.0.0", *, channel: DataChannel | None = None, **arguments: object
) -> DataChannel:
    """A channel after its handshake, whose data flows; next number of the agent: 2."""
    channel = channel or new_channel()
    channel.open("token", "id", 0.0)
    response = feed(channel, request(version, **arguments))
    feed(channel, *answer(*response), complete())
    channel.handle_timer(1.0)
    return channel


# --- the recorded sessions

REPLAYED = [
    "port_multiplexed_two_streams",
    "port_destination_refused",
    "port_remote_host_forbidden",
    "raw_stream_echo",
]


@pytest.mark.parametrize("name", REPLAYED)
def test_acknowledges_what_the_recorded_client_acknowledged(name: str) -> None:
    replay = Replay(name)
    replay.run()
    assert replay.acknowledged == replay.recorded
    assert replay.channel.invalid_messages == 0


def test_two_recorded_streams_get_their_bytes() -> None:
    replay = Replay("port_multiplexed_two_streams")
    replay.run()
    pattern = bytes(range(256)) * 12
    assert replay.received == [b"first stream" + pattern[:3000], b"second streamstill here"]
    assert all(stream.closed_by_peer and not stream.refused for stream in replay.streams)
    assert replay.channel.port is not None
    assert len(replay.channel.port) == 0
    assert replay.events[-1] == ChannelEnded("")
    assert replay.sent[-1].payload == encode_flag(Flag.TERMINATE_SESSION)


def test_the_recorded_refusal_is_seen() -> None:
    replay = Replay("port_destination_refused")
    replay.run()
    (stream,) = replay.streams
    assert stream.closed_by_peer
    assert stream.refused
    assert replay.received == [b""]


def test_the_recorded_forbidden_end_is_seen() -> None:
    replay = Replay("port_remote_host_forbidden")
    replay.run()
    ready_event, ended = replay.events
    assert isinstance(ready_event, SessionReady)
    assert ready_event.properties["host"] == "169.254.169.254"
    assert isinstance(ended, ChannelEnded)
    assert "forbidden" in ended.output
    assert replay.channel.closed


def test_the_recorded_raw_stream_is_echoed() -> None:
    replay = Replay("raw_stream_echo")
    replay.run()
    assert replay.received == [b"hello over a raw streambye"]
    assert [bytes(m.payload) for m in replay.sent[1:]] == [b"hello over a raw stream", b"bye"]
    assert replay.channel.idle


def recorded_download() -> bytes:
    """What the recorded agent sent, each message once and in order."""
    messages: dict[int, bytes] = {}
    for line in vectors.read("port_download_with_websocket_cut"):
        if line.way == "agent->gateway" and line.data:
            message = parse(line.data)
            if message.payload_type == PayloadType.OUTPUT:
                messages[message.sequence_number] = bytes(message.payload)
    frames = smux_frames(b"".join(messages[number] for number in sorted(messages)))
    return b"".join(data for command, _, data in frames if command == PSH)


def test_the_recorded_cut_is_survived() -> None:
    # Number 24 was on its way when the WebSocket was cut.
    replay = Replay("port_download_with_websocket_cut", lost=frozenset({24}))
    replay.run()
    assert replay.acknowledged == replay.recorded
    assert sum(json.loads(line.text) != {} for line in replay.lines if line.text) == 3
    assert replay.received == [recorded_download()]
    assert len(replay.received[0]) == 60_000
    assert replay.channel.invalid_messages == 0


def test_a_message_whose_acknowledgement_was_cut_off_is_acknowledged_again() -> None:
    replay = Replay("port_download_with_websocket_cut")
    replay.run()
    assert replay.acknowledged.count(24) == 2
    assert replay.received == [recorded_download()]


# --- opening


def test_the_first_message_opens_the_channel() -> None:
    first = json.loads(new_channel().open("the token", "the request", 0.0))
    assert first == {
        "MessageSchemaVersion": "1.0",
        "RequestId": "the request",
        "TokenValue": "the token",
        "ClientId": CLIENT_ID,
        "ClientVersion": CLIENT_VERSION,
    }


def test_the_client_stays_the_same_when_the_session_is_resumed() -> None:
    channel = new_channel()
    channel.open("one", "first", 0.0)
    second = json.loads(channel.open("two", "second", 5.0))
    assert second["ClientId"] == CLIENT_ID
    assert (second["TokenValue"], second["RequestId"]) == ("two", "second")


def test_two_channels_of_the_same_seed_send_the_same_bytes() -> None:
    def transcript() -> list[bytes]:
        conversation = Conversation(FarEnd(echo=True))
        conversation.run(1.0)
        open_stream(conversation.channel).write(b"hello")
        conversation.flush()
        conversation.run(2.0)
        return conversation.sent

    assert transcript() == transcript()


def test_the_messages_of_a_session_have_ids_of_their_own() -> None:
    conversation = Conversation(FarEnd(echo=True))
    conversation.run(1.0)
    stream = open_stream(conversation.channel)
    stream.write(bytes(100_000))
    conversation.flush()
    conversation.run(5.0)
    ids = [parse(data).message_id for data in conversation.sent]
    assert len(ids) >= 200
    assert len(set(ids)) == len(ids)
    assert {uuid.UUID(bytes=i[8:] + i[:8]).version for i in ids} == {4}


# --- the handshake


def test_answers_the_request_and_is_ready_at_the_end() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    acknowledgement, response = feed(channel, request())
    assert acknowledgements([acknowledgement]) == [0]
    assert (response.sequence_number, response.payload_type) == (0, PayloadType.HANDSHAKE_RESPONSE)
    assert not channel.ready
    assert channel.events() == []
    done = output(b'{"CustomerMessage":"hello"}', 1, PayloadType.HANDSHAKE_COMPLETE)
    assert acknowledgements(feed(channel, done)) == [1]
    assert channel.ready
    assert channel.events() == [SessionReady("Port", dict(FORWARD), "3.3.0.0", "hello")]
    assert channel.events() == []


@pytest.mark.parametrize(
    ("version", "properties", "kind", "reusable"),
    [
        ("3.3.0.0", FORWARD, Multiplexer, True),
        (BASIC_VERSION, FORWARD, BasicPort, True),
        ("3.3.0.0", RAW, BasicPort, False),
    ],
)
def test_a_port_is_of_the_kind_that_was_announced(
    version: str, properties: dict[str, str], kind: type, reusable: bool
) -> None:
    channel = ready(version, properties=properties)
    assert type(channel.port) is kind
    stream = open_stream(channel)
    stream.close()
    for message in (sent_by(channel, 1.0), sent_by(channel, 1.0)):
        feed(channel, *answer(*message), now=1.1)
    assert (channel.open_stream() is not None) is reusable


@pytest.mark.parametrize(
    "kind", ["Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"]
)
def test_what_is_no_port_has_a_shell_s(kind: str) -> None:
    channel = ready(session_type=kind, properties={})
    assert type(channel.port) is ShellPort
    assert [message.payload_type for message in sent_by(channel, 1.0)] == [PayloadType.SIZE]
    assert feed(channel, output(b"nobody takes this yet", 2)) == []
    stream = open_stream(channel)
    assert stream.take_received() == b"nobody takes this yet"
    assert channel.open_stream() is None


def test_no_stream_is_opened_before_the_handshake() -> None:
    channel = new_channel()
    with pytest.raises(LocalProtocolError):
        channel.open_stream()
    channel.open("token", "id", 0.0)
    feed(channel, request())
    with pytest.raises(LocalProtocolError):
        channel.open_stream()


def test_data_waits_a_moment_after_the_handshake() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    feed(channel, *answer(*feed(channel, request())), complete(), now=1.0)
    open_stream(channel).write(b"hello")
    assert sent_by(channel, 1.0) == []
    timer = channel.get_timer()
    assert timer == pytest.approx(1.0 + SETTLING_TIME)
    channel.handle_timer(1.0 + SETTLING_TIME / 2)
    assert sent_by(channel, 1.0 + SETTLING_TIME / 2) == []
    channel.handle_timer(1.0 + SETTLING_TIME)
    assert len(inputs(sent_by(channel, 1.0 + SETTLING_TIME))) == 1


def test_an_agent_that_does_not_begin_ends_the_session() -> None:
    channel = new_channel()
    channel.open("token", "id", 10.0)
    assert channel.get_timer() == 10.0 + HANDSHAKE_TIMEOUT
    channel.handle_timer(29.0)
    with pytest.raises(HandshakeError):
        channel.handle_timer(30.0)


def test_the_time_for_the_handshake_can_be_set_and_ends_with_it() -> None:
    channel = new_channel(handshake_timeout=2.0)
    channel.open("token", "id", 0.0)
    assert channel.get_timer() == 2.0
    feed(channel, *answer(*feed(channel, request())), complete())
    channel.handle_timer(3.0)
    assert channel.get_timer() is None


def test_the_handshake_has_one_deadline_for_all_its_connections() -> None:
    channel = new_channel(handshake_timeout=2.0)
    channel.open("token", "id", 0.0)
    channel.open("token", "id", 1.0)
    assert channel.get_timer() == 2.0


def test_a_lost_response_is_sent_again() -> None:
    conversation = Conversation(FarEnd(), there=Path(0.01, fate=losing({0, 1})))
    conversation.run(2.0)
    assert conversation.channel.ready


@pytest.mark.parametrize(
    "messages",
    [
        [output(b"no", 0, PayloadType.HANDSHAKE_REQUEST)],
        [complete(0)],
        [request(), output(b"no", 1, PayloadType.HANDSHAKE_COMPLETE)],
    ],
)
def test_a_handshake_that_can_not_be_read_ends_the_session(messages: list[bytes]) -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    with pytest.raises(HandshakeError):
        feed(channel, *messages)


def test_a_second_handshake_is_of_no_use_and_stops_nothing() -> None:
    channel = ready()
    answers = feed(channel, output(b"{}", 2, PayloadType.HANDSHAKE_REQUEST), complete(3))
    assert acknowledgements(answers) == [2, 3]
    assert len(answers) == 2
    assert channel.invalid_messages == 2


anything_early = st.lists(
    st.one_of(
        st.builds(
            output,
            st.binary(max_size=20),
            st.integers(0, 5),
            st.sampled_from([0, 1, 2, 3, 4, 8, 9, 10, 11, 12, 99]),
        ),
        st.builds(control, st.sampled_from([*MessageType, "other"])),
        st.just(request()),
        st.binary(max_size=130),
    ),
    max_size=20,
)


@given(anything_early)
def test_nothing_but_the_handshake_and_acknowledgements_is_sent_before_its_end(
    messages: list[bytes],
) -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    sent = []
    for data in messages:
        sent += feed(channel, data)
        assert not channel.terminate()
    assert not channel.ready
    assert {m.payload_type for m in inputs(sent)} <= {PayloadType.HANDSHAKE_RESPONSE}
    assert {m.message_type for m in sent} <= {"acknowledge", "input_stream_data"}


# --- shells and commands


def sizes(messages: list[AgentMessage]) -> list[tuple[int, int]]:
    found = [json.loads(bytes(m.payload)) for m in messages if m.payload_type == PayloadType.SIZE]
    return [(size["cols"], size["rows"]) for size in found]


def command(channel: DataChannel | None = None) -> DataChannel:
    """A command whose data flows, and which has been told its size."""
    channel = ready(channel=channel, session_type="NonInteractiveCommands", properties={})
    feed(channel, *answer(*sent_by(channel, 1.0)), now=1.0)
    return channel


def silent() -> DataChannel:
    """A session that may be a shell and has said nothing for two seconds; it has been asked."""
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    assert channel.get_timer() == PROBE_AFTER
    channel.handle_timer(PROBE_AFTER)
    return channel


def test_the_first_output_means_a_shell() -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    assert feed(channel, output(b"$ ", 0), now=1.0) == []
    assert channel.events() == [SessionReady("Standard_Stream", {}, "", "")]
    assert not channel.handshake.requested
    stream = open_stream(channel)
    assert stream.take_received() == b"$ "
    assert acknowledgements(sent_by(channel, 1.0)) == [0]
    stream.write(b"exit\r")
    assert inputs(sent_by(channel, 1.0)) == []
    assert channel.get_timer() == 1.0
    channel.handle_timer(1.0)
    size, text = inputs(sent_by(channel, 1.0))
    assert sizes([size]) == [(300, 100)]
    assert text.payload == b"exit\r"


def test_output_before_the_handshake_has_no_reader_where_there_can_be_no_shell() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    assert feed(channel, output(b"$ ", 0)) == []
    assert channel.events() == []
    assert channel.port is None


@pytest.mark.parametrize("kind", [PayloadType.STDERR, PayloadType.EXIT_CODE])
def test_whatever_a_command_says_first_is_its_beginning(kind: int) -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    feed(channel, output(b"EXIT_CODE: 7", 0, kind))
    assert channel.ready


def test_output_that_came_before_the_request_that_was_lost_is_no_shell() -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    feed(channel, complete(1), output(b"out", 2))
    assert not channel.ready
    feed(channel, request(session_type="NonInteractiveCommands"))
    (ready_event,) = channel.events()
    assert isinstance(ready_event, SessionReady)
    assert ready_event.session_type == "NonInteractiveCommands"
    assert open_stream(channel).take_received() == b"out"


def test_a_silent_shell_is_found_by_a_size_that_is_acknowledged() -> None:
    channel = silent()
    (probe,) = sent_by(channel, PROBE_AFTER)
    assert sizes([probe]) == [(300, 100)]
    channel.set_size(80, 24, 2.0)
    assert sent_by(channel, 2.0) == []
    feed(channel, *answer(probe), now=2.1)
    assert channel.get_timer() == pytest.approx(2.1 + ASSUME_SHELL_AFTER)
    channel.handle_timer(2.5)
    assert not channel.ready
    channel.handle_timer(2.6)
    assert channel.events() == [SessionReady("Standard_Stream", {}, "", "")]
    open_stream(channel).write(b"cat this")
    size, text = inputs(sent_by(channel, 2.6))
    assert sizes([size]) == [(80, 24)]
    assert text.payload == b"cat this"


def test_a_request_after_the_question_has_the_last_word() -> None:
    channel = silent()
    (probe,) = sent_by(channel, PROBE_AFTER)
    answers = feed(channel, *answer(probe), request(session_type="NonInteractiveCommands"), now=2.1)
    assert [m.payload_type for m in inputs(answers)] == [PayloadType.HANDSHAKE_RESPONSE]
    channel.handle_timer(3.0)
    assert channel.events() == []
    feed(channel, *answer(*answers), complete(), now=3.0)
    assert channel.handshake.session_type == "NonInteractiveCommands"


def test_the_question_is_sent_again_until_it_is_answered() -> None:
    channel = silent()
    (probe,) = sent_by(channel, PROBE_AFTER)
    channel.open("another token", "id", 5.0)
    (again,) = sent_by(channel, 5.0)
    assert again.payload == probe.payload
    feed(channel, *answer(again), now=5.1)
    channel.handle_timer(5.6)
    assert channel.ready


def test_no_port_is_asked_whether_it_is_a_shell() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    assert channel.get_timer() == HANDSHAKE_TIMEOUT
    channel.handle_timer(PROBE_AFTER)
    assert sent_by(channel, PROBE_AFTER) == []


def test_a_size_is_told_as_soon_as_it_can_be_and_whenever_it_changes() -> None:
    channel = new_channel()
    channel.set_size(80, 24, 0.0)
    channel.set_size(81, 25, 0.0)
    ready(channel=channel, session_type="Standard_Stream")
    first = sent_by(channel, 1.0)
    assert sizes(first) == [(81, 25)]
    feed(channel, *answer(*first), now=1.0)
    channel.set_size(132, 40, 2.0)
    second = sent_by(channel, 2.0)
    assert sizes(second) == [(132, 40)]
    feed(channel, *answer(*second), now=2.0)
    assert channel.get_timer() is None


@pytest.mark.parametrize("properties", [FORWARD, RAW])
def test_a_port_is_told_none(properties: dict[str, str]) -> None:
    channel = ready(channel=new_channel(keep_alive=60.0), properties=properties)
    channel.set_size(80, 24, 1.0)
    assert sizes(sent_by(channel, 1.0)) == []


def test_a_command_that_says_nothing_may_end_before_it_is_found() -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    feed(channel, closed_by(""), now=0.5)
    ready_event, *others = channel.events()
    assert isinstance(ready_event, SessionReady)
    stream = open_stream(channel)
    assert [*others, *channel.events()] == [ChannelEnded("")]
    channel.end()
    assert stream.closed_by_peer


@pytest.mark.parametrize(("shell", "reason"), [(True, "no such command"), (False, "")])
def test_a_session_that_ends_before_it_begins(shell: bool, reason: str) -> None:
    channel = new_channel(shell=shell)
    channel.open("token", "id", 0.0)
    feed(channel, closed_by(reason), now=0.5)
    assert channel.events() == [ChannelEnded(reason)]


def test_of_sizes_that_nobody_has_seen_only_the_last_is_told() -> None:
    channel = silent()
    feed(channel, output(b"$ ", 0), now=PROBE_AFTER)
    open_stream(channel)
    channel.burst_ended(PROBE_AFTER)
    channel.handle_timer(PROBE_AFTER)
    sent_by(channel, PROBE_AFTER)
    for columns in range(100, 1100):
        channel.set_size(columns, 40, PROBE_AFTER)
    told = sizes([parse(data) for data in channel.data_to_send(PROBE_AFTER)])
    assert told == [(1099, 40)]


def test_a_shell_is_kept_alive_by_its_size() -> None:
    channel = command(new_channel(keep_alive=60.0))
    assert channel.get_timer() == 61.0
    channel.handle_timer(60.9)
    assert sent_by(channel, 60.9) == []
    channel.handle_timer(61.0)
    again = sent_by(channel, 61.0)
    assert sizes(again) == [(300, 100)]
    feed(channel, *answer(*again), now=61.0)
    assert channel.get_timer() == 121.0
    channel.set_size(80, 24, 100.0)
    feed(channel, *answer(*sent_by(channel, 100.0)), now=100.0)
    assert channel.get_timer() == 160.0


def test_standard_error_and_the_exit_code_come_in_their_turn() -> None:
    channel = command()
    channel.events()
    errors = channel.open_error_stream()
    stream = open_stream(channel)
    burst = [
        output(b"EXIT_CODE: 7", 4, PayloadType.EXIT_CODE),
        output(b"out", 3),
        output(b"err", 2, PayloadType.STDERR),
    ]
    assert acknowledgements(feed(channel, *burst)) == [4, 3, 2]
    assert stream.take_received() == b"out"
    assert errors.take_received() == b"err"
    assert channel.events() == [ExitCode(7)]


def test_standard_error_that_is_not_apart_comes_between_the_output() -> None:
    channel = command()
    stream = open_stream(channel)
    feed(channel, output(b"out ", 2), output(b"err ", 3, PayloadType.STDERR), output(b"out", 4))
    assert stream.take_received() == b"out err out"


def test_only_commands_have_standard_error() -> None:
    for channel in (new_channel(), ready(), ready(properties=RAW)):
        with pytest.raises(LocalProtocolError):
            channel.open_error_stream()


def test_an_exit_code_that_can_not_be_read_is_counted() -> None:
    channel = command()
    open_stream(channel)
    channel.events()
    odd = output(b"EXIT_CODE: seven", 2, PayloadType.EXIT_CODE)
    assert acknowledgements(feed(channel, odd)) == [2]
    assert channel.events() == []
    assert channel.invalid_messages == 1


@pytest.mark.parametrize("properties", [FORWARD, RAW])
@pytest.mark.parametrize("kind", [PayloadType.STDERR, PayloadType.EXIT_CODE])
def test_what_commands_say_is_of_no_use_to_a_port(kind: int, properties: dict[str, str]) -> None:
    channel = ready(properties=properties)
    stream = open_stream(channel)
    channel.events()
    assert 2 in acknowledgements(feed(channel, output(b"EXIT_CODE: 7", 2, kind)))
    assert stream.take_received() == b""
    assert channel.events() == []
    assert channel.invalid_messages == 1


def test_the_exit_code_waits_for_the_reader_of_what_came_before() -> None:
    channel = command()
    channel.events()
    feed(channel, output(b"out", 2), output(b"EXIT_CODE: 7", 3, PayloadType.EXIT_CODE))
    assert channel.events() == []
    assert open_stream(channel).take_received() == b"outEXIT_CODE: 7"
    assert channel.events() == [ExitCode(7)]


def closed_by(reason: str) -> bytes:
    return control(MessageType.CHANNEL_CLOSED, {"Output": reason})


@pytest.mark.parametrize("end_comes", ["first", "last"])
def test_a_session_that_ends_as_soon_as_it_has_begun_loses_nothing(end_comes: str) -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    feed(channel, request(session_type="NonInteractiveCommands"))
    burst = [
        complete(1),
        output(b"err", 2, PayloadType.STDERR),
        output(b"out", 3),
        output(b"EXIT_CODE: 7", 4, PayloadType.EXIT_CODE),
    ]
    end = closed_by("done")
    feed(channel, *([end, *burst] if end_comes == "first" else [*burst, end]))
    (ready_event,) = channel.events()
    assert isinstance(ready_event, SessionReady)
    errors = channel.open_error_stream()
    stream = open_stream(channel)
    assert (stream.take_received(), errors.take_received()) == (b"out", b"err")
    assert channel.events() == [ExitCode(7)]
    assert channel.events() == [ChannelEnded("done")]
    assert channel.events() == []
    channel.end()
    assert channel.port is not None
    assert set(channel.port.touched()) == {stream, errors}
    assert stream.closed_by_peer
    assert errors.closed_by_peer


def test_a_shell_that_ends_in_its_first_burst_loses_nothing() -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    feed(channel, output(b"one ", 0), output(b"two", 1), closed_by(""))
    assert channel.events() == [SessionReady("Standard_Stream", {}, "", "")]
    assert open_stream(channel).take_received() == b"one two"
    assert channel.events() == [ChannelEnded("")]


def test_what_is_missing_at_the_end_is_no_end_in_order() -> None:
    channel = command()
    stream = open_stream(channel)
    feed(channel, output(b"one ", 2), output(b"three", 4), closed_by(""))
    channel.end()
    assert not stream.closed_by_peer
    feed(channel, output(b"two ", 3))
    channel.end()
    assert stream.closed_by_peer
    assert stream.take_received() == b"one two three"


def test_nothing_is_told_after_the_end() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    with pytest.raises(HandshakeError):
        feed(channel, request(**KMS), complete(1))
    channel.receive_message(closed_by("over"))
    channel.end()
    assert channel.events() == []


def test_a_session_that_was_not_closed_has_not_ended_in_order() -> None:
    channel = command()
    stream = open_stream(channel)
    channel.end()
    assert not stream.closed_by_peer


def test_the_streams_of_a_multiplexed_port_have_ends_of_their_own() -> None:
    channel = ready()
    stream = open_stream(channel)
    feed(channel, closed_by(""))
    channel.end()
    assert not stream.closed_by_peer


@pytest.mark.parametrize("kind", ["Standard_Stream", "InteractiveCommands"])
def test_no_flag_ends_a_shell(kind: str) -> None:
    channel = ready(session_type=kind)
    assert not channel.terminate()
    assert sizes(sent_by(channel, 1.0)) == [(300, 100)]


# --- encryption


KMS: dict[str, Any] = {"data_key": DATA_KEY, "session_type": "Standard_Stream", "properties": {}}


def encrypting(**arguments: Any) -> tuple[Conversation, FarEnd]:
    far_end = FarEnd(**{**KMS, "echo": True, **arguments})
    conversation = Conversation(far_end, channel=new_channel(shell=True))
    conversation.run(1.0)
    return conversation, far_end


def test_a_data_key_is_asked_for_and_the_session_encrypted() -> None:
    conversation, far_end = encrypting(challenge="random")
    needed, begun = conversation.events
    assert needed == DataKeyNeeded("key", "random")
    assert begun == SessionReady("Standard_Stream", {}, "3.3.0.0", "hello")
    stream = open_stream(conversation.channel)
    stream.write(b"the secret" * 500)
    conversation.flush()
    conversation.run(5.0)
    assert far_end.input == conversation.received[stream] == b"the secret" * 500
    assert far_end.sizes == [(300, 100)]
    assert far_end.thrown_away == []
    on_the_wire = b"".join(conversation.sent) + b"".join(far_end.sent)
    assert b"secret" not in on_the_wire


def test_the_key_is_asked_for_however_often_events_were_looked_at_before() -> None:
    channel = new_channel(shell=True)
    channel.open("token", "id", 0.0)
    assert channel.events() == []
    assert feed(channel, request(**KMS))[1:] == []
    assert channel.events() == [DataKeyNeeded("key", "")]
    channel.data_key_received(DATA_KEY, ENCRYPTED_KEY)
    (response,) = sent_by(channel)
    assert response.payload_type == PayloadType.HANDSHAKE_RESPONSE


def test_a_data_key_of_another_size_ends_the_session() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    feed(channel, request(**KMS))
    with pytest.raises(HandshakeError):
        channel.data_key_received(DATA_KEY[1:], ENCRYPTED_KEY)
    assert sent_by(channel) == []


@pytest.mark.parametrize("kind", [PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE])
def test_what_comes_in_the_clear_ends_an_encrypted_session(kind: int) -> None:
    conversation, far_end = encrypting()
    stream = open_stream(conversation.channel)
    conversation.flush()
    conversation.run(2.0)
    number = len(far_end.sent)
    with pytest.raises(RemoteProtocolError) as caught:
        feed(conversation.channel, output(b"in the clear, as long as it may be", number, kind))
    assert "clear" not in str(caught.value)
    assert stream.take_received() == b""
    assert conversation.channel.events() == []


def test_what_has_waited_for_its_reader_is_decrypted_only_then() -> None:
    conversation, far_end = encrypting()
    feed(conversation.channel, output(bytes(40), len(far_end.sent)))
    with pytest.raises(RemoteProtocolError):
        conversation.channel.open_stream()


def test_what_was_changed_on_its_way_ends_an_encrypted_session() -> None:
    conversation, far_end = encrypting()
    stream = open_stream(conversation.channel)
    message = parse(far_end.send(PayloadType.OUTPUT, b"hello", 1.0))
    payload = bytearray(message.payload)
    payload[-20] ^= 1
    with pytest.raises(RemoteProtocolError):
        feed(conversation.channel, output(bytes(payload), message.sequence_number))
    assert stream.take_received() == b""


def test_another_key_than_the_agent_s_ends_the_session_at_its_challenge() -> None:
    with pytest.raises(HandshakeError, match="another data key"):
        Conversation(FarEnd(**KMS), data_key=DATA_KEY[::-1]).run(1.0)


def test_commands_are_encrypted_with_all_they_say() -> None:
    conversation, far_end = encrypting(session_type="NonInteractiveCommands")
    errors = conversation.channel.open_error_stream()
    stream = open_stream(conversation.channel)
    far_end.send(PayloadType.STDERR, b"err", 1.0)
    far_end.send(PayloadType.OUTPUT, b"out", 1.0)
    far_end.send(PayloadType.EXIT_CODE, b"EXIT_CODE: 7", 1.0)
    conversation.flush()
    conversation.run(2.0)
    assert conversation.received == {stream: b"out", errors: b"err"}
    assert conversation.events[-1] == ExitCode(7)


@pytest.mark.parametrize(
    ("properties", "version"), [(FORWARD, "3.3.0.0"), (FORWARD, BASIC_VERSION), (RAW, "3.3.0.0")]
)
def test_a_port_is_encrypted_where_its_agent_asks_for_it(
    properties: dict[str, str], version: str
) -> None:
    conversation, far_end = encrypting(session_type="Port", properties=properties, version=version)
    stream = open_stream(conversation.channel)
    data = bytes(range(256)) * 300
    stream.write(data)
    conversation.flush()
    conversation.run(5.0)
    assert conversation.received[stream] == data
    assert far_end.duplicates == 0
    assert conversation.channel.idle


BEGINNINGS: dict[str, dict[str, Any]] = {
    "handshake": {**KMS, "data_key": b""},
    "encrypted": KMS,
    "output": {**KMS, "data_key": b"", "handshake": False},
    "silent": {**KMS, "data_key": b"", "handshake": False},
}


@pytest.mark.parametrize("cut", [number / 200 for number in range(30)])
@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_session_that_is_cut_while_it_begins_loses_nothing(kind: str, cut: float) -> None:
    far_end = FarEnd(**BEGINNINGS[kind])
    conversation = Conversation(far_end, channel=new_channel(shell=True))
    said = b""
    if kind == "silent":
        conversation.run(1.99)
    elif kind == "output":
        said = b"$ "
        far_end.output(said, 0.0)
        conversation.flush()
    conversation.run(conversation.now + cut)
    conversation.cut()
    conversation.reconnect()
    conversation.run(6.0)
    stream = open_stream(conversation.channel)
    data = bytes(range(256)) * 8
    stream.write(data)
    far_end.output(data, 6.0)
    conversation.flush()
    conversation.run(6.0 + cut / 3)
    conversation.cut()
    conversation.reconnect()
    conversation.run(9.0)
    assert far_end.thrown_away == []
    assert far_end.input == data
    assert conversation.received == {stream: said + data}
    assert conversation.channel.idle


# --- what can not be used


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 200,
        output(b"x", 2)[:-1],
        control("something_new"),
        control(MessageType.AGENT_SESSION_STATE),
        control(MessageType.INPUT_STREAM_DATA),
        control(MessageType.ACKNOWLEDGE, {"AcknowledgedMessageSequenceNumber": "x"}),
        control(MessageType.CHANNEL_CLOSED, [1]),
    ],
)
def test_an_invalid_or_unknown_message_is_counted_and_survived(data: bytes) -> None:
    channel = ready()
    assert feed(channel, data) == []
    assert channel.invalid_messages == 1
    assert not channel.closed
    assert acknowledgements(feed(channel, output(smux_frame(NOP, 0), 2))) == [2]


@pytest.mark.parametrize(
    "data",
    [
        output(b"x", 2, PayloadType.PARAMETER),
        output(b"x", 2, 99),
        output(b"x", 2, PayloadType.FLAG),
    ],
)
def test_what_is_of_no_use_in_its_turn_does_not_stop_what_follows(data: bytes) -> None:
    channel = ready()
    assert acknowledgements(feed(channel, data, output(smux_frame(NOP, 0), 3))) == [2, 3]
    assert channel.invalid_messages == 1


def test_broken_framing_ends_the_session() -> None:
    channel = ready()
    with pytest.raises(RemoteProtocolError):
        feed(channel, output(bytes(8), 2))


FLAGS = [encode_flag(flag) for flag in Flag]
noise = st.one_of(
    st.binary(max_size=200),
    st.builds(
        output,
        st.one_of(
            st.binary(max_size=40),
            st.sampled_from([b"{}", b"[" * 5000, *FLAGS, smux_frame(PSH, 3, b"x")]),
            st.builds(
                lambda properties: json.dumps(
                    {
                        "AgentVersion": "3.3.0.0",
                        "RequestedClientActions": [
                            {
                                "ActionType": "SessionType",
                                "ActionParameters": {
                                    "SessionType": "Port",
                                    "Properties": properties,
                                },
                            }
                        ],
                    }
                ).encode(),
                st.sampled_from([None, dict(FORWARD), {}, [], {"type": [[]]}]),
            ),
        ),
        st.one_of(st.integers(0, 6), st.integers(0, 2**63 - 1)),
        st.integers(0, 13),
    ),
    st.builds(
        control,
        st.sampled_from(sorted(MessageType)),
        st.one_of(
            st.none(),
            st.dictionaries(
                st.sampled_from(["AcknowledgedMessageSequenceNumber", "Output"]),
                st.one_of(st.integers(), st.text(max_size=5), st.none(), st.floats()),
            ),
        ),
    ),
)


@settings(max_examples=300)
@given(st.lists(noise, max_size=25), st.booleans())
def test_whatever_comes_is_survived_or_one_of_two_errors(
    messages: list[bytes], begun: bool
) -> None:
    channel = ready() if begun else new_channel()
    if not begun:
        channel.open("token", "id", 0.0)
    for data in messages:
        try:
            channel.receive_message(data)
        except (RemoteProtocolError, HandshakeError):
            return
        channel.burst_ended(0.5)
        if channel.ready and channel.port is not None and not len(channel.port):
            channel.open_stream()
        sent_by(channel, 0.5)


def test_memory_is_bounded_whatever_comes_before_a_gap_is_closed() -> None:
    channel = ready()
    refused = 0
    payload = bytes(1_000_000)
    digest = output(payload, 3)
    for number in range(3, 200):
        data = bytearray(digest)
        data[48:56] = number.to_bytes(8)
        channel.receive_message(bytes(data))
        refused += not acknowledgements(sent_by(channel))
    assert refused > 60  # of 197 MB no more than 128 MiB are kept
    assert feed(channel, output(b"x", 10**9)) == []


# --- acknowledgements


def test_every_message_is_acknowledged_also_a_second_time() -> None:
    channel = ready()
    nop = smux_frame(NOP, 0)
    assert acknowledgements(feed(channel, output(nop, 4), output(nop, 3))) == [4, 3]
    assert acknowledgements(feed(channel, output(nop, 2))) == [2]
    assert acknowledgements(feed(channel, *(output(nop, n) for n in range(5)))) == [0, 1, 2, 3, 4]


def test_acknowledgements_go_out_even_when_nothing_else_may() -> None:
    channel = ready()
    open_stream(channel).write(b"hello")
    channel.writable = False
    answers = feed(channel, output(smux_frame(NOP, 0), 2), now=1.0)
    assert [m.message_type for m in answers] == ["acknowledge"]
    channel.writable = True
    assert len(inputs(sent_by(channel, 1.0))) == 1


def test_acknowledgements_are_not_acknowledged() -> None:
    channel = ready()
    assert feed(channel, control("acknowledge", {"AcknowledgedMessageSequenceNumber": 77})) == []


@pytest.mark.parametrize("number", [-1, 5, 2**40, "12", "1e3"])
def test_an_acknowledgement_of_what_was_never_sent_means_nothing(number: object) -> None:
    channel = ready()
    feed(channel, control("acknowledge", {"AcknowledgedMessageSequenceNumber": number}))
    assert channel.idle
    assert channel.invalid_messages == 0


def test_while_nobody_reads_nothing_is_processed_or_acknowledged() -> None:
    channel = ready(properties=RAW)
    assert feed(channel, output(b"banner", 2)) == []
    assert feed(channel, output(b"banner", 2)) == []
    stream = open_stream(channel)
    assert acknowledgements(sent_by(channel)) == [2]
    assert stream.take_received() == b"banner"
    assert acknowledgements(feed(channel, output(b"banner", 2))) == [2]


def test_what_came_early_is_read_once_there_is_a_reader() -> None:
    channel = ready(properties=RAW)
    feed(channel, output(b"first ", 2), output(b"second", 3))
    stream = open_stream(channel)
    feed(channel, output(b"first ", 2))
    assert stream.take_received() == b"first second"


def test_what_was_acknowledged_early_is_read_as_soon_as_there_is_a_reader() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    answers = feed(channel, request(properties=RAW), output(b"banner", 2), complete())
    assert acknowledgements(answers) == [0, 2, 1]
    assert open_stream(channel).take_received() == b"banner"


def test_no_byte_of_a_talkative_destination_is_lost_before_there_is_a_reader() -> None:
    far_end = FarEnd(properties=RAW)
    conversation = Conversation(far_end)
    conversation.run(0.1)
    far_end.output(bytes(range(256)) * 40, conversation.now)
    conversation.run(1.0)
    stream = open_stream(conversation.channel)
    conversation.run(2.0)
    assert conversation.received[stream] == bytes(range(256)) * 40
    assert not far_end.unacknowledged


# --- the end


def test_the_gateways_reason_is_told() -> None:
    channel = ready()
    channel.events()
    feed(channel, control(MessageType.CHANNEL_CLOSED, {"Output": "timed out", "CreatedDate": "1"}))
    assert channel.closed
    assert channel.events() == [ChannelEnded("timed out")]


@pytest.mark.parametrize("content", [{}, {"Output": None}, {"Output": ""}])
def test_there_need_not_be_a_reason(content: object) -> None:
    channel = ready()
    channel.events()
    feed(channel, control(MessageType.CHANNEL_CLOSED, content))
    assert channel.events() == [ChannelEnded("")]


def test_the_agent_is_asked_to_end_the_session() -> None:
    channel = ready()
    assert channel.terminate()
    (flag,) = sent_by(channel, 1.0)
    assert (flag.payload_type, flag.payload) == (PayloadType.FLAG, b"\0\0\0\2")


def test_the_agent_is_asked_even_when_nothing_else_may_be_sent() -> None:
    channel = ready()
    open_stream(channel).write(bytes(1_000_000))
    sent_by(channel, 1.0)
    channel.writable = False
    assert channel.terminate()
    assert [m.payload for m in sent_by(channel, 1.0)] == [b"\0\0\0\2"]


def test_an_agent_that_would_not_understand_is_not_asked() -> None:
    assert not ready("2.3.722.0").terminate()
    channel = ready()
    feed(channel, control(MessageType.CHANNEL_CLOSED, {}))
    assert not channel.terminate()


# --- streams


def test_many_streams_are_echoed() -> None:
    conversation = Conversation(FarEnd(echo=True))
    conversation.run(0.1)
    streams = [open_stream(conversation.channel) for _ in range(20)]
    for n, stream in enumerate(streams):
        stream.write(bytes([n]) * 5000)
        stream.close() if n == 7 else None
    conversation.flush()
    conversation.run(3.0)
    for n, stream in enumerate(streams):
        if n != 7:
            assert conversation.received[stream] == bytes([n]) * 5000
    assert conversation.channel.idle
    assert streams[7].closed_by_peer
    assert conversation.channel.retransmissions == 0
    assert conversation.channel.round_trip_time == pytest.approx(0.02, rel=0.1)


def test_connections_follow_one_another_in_basic_mode() -> None:
    far_end = FarEnd(version=BASIC_VERSION, echo=True)
    conversation = Conversation(far_end)
    conversation.run(0.1)
    for text in (b"one", b"two", b"three"):
        stream = open_stream(conversation.channel)
        assert conversation.channel.open_stream() is None
        stream.write(text)
        conversation.flush()
        conversation.run(conversation.now + 0.1)
        assert bytes(conversation.received[stream]) == text
        stream.close()
        conversation.flush()
        assert conversation.channel.open_stream() is None
        conversation.run(conversation.now + 0.1)
    assert far_end.flags == [Flag.DISCONNECT_TO_PORT] * 3
    kinds = [kind for kind, _ in far_end.inputs[1:]]
    assert kinds == [PayloadType.OUTPUT, PayloadType.FLAG] * 3


def test_what_closes_a_gap_is_not_for_the_next_connection() -> None:
    channel = ready(BASIC_VERSION)
    stream = open_stream(channel)
    sent_by(channel, 1.0)
    feed(channel, output(b"later", 3), now=1.0)  # 2 was lost
    stream.abort()
    feed(channel, *answer(*sent_by(channel, 1.0)), now=1.1)
    assert channel.open_stream() is None
    feed(channel, output(b"sooner", 2), now=1.2)
    following = open_stream(channel)
    assert following.take_received() == b""
    feed(channel, output(b"new", 4), now=1.3)
    assert following.take_received() == b"new"


def test_a_refusal_is_told_to_its_stream() -> None:
    channel = ready()
    stream = open_stream(channel)
    sent_by(channel, 1.0)
    failed = output(encode_flag(Flag.CONNECT_TO_PORT_ERROR), 2, PayloadType.FLAG)
    feed(channel, failed, output(smux_frame(FIN, 3), 3), now=1.0)
    assert stream.refused


def test_flags_that_mean_nothing_to_a_client_change_nothing() -> None:
    channel = ready()
    stream = open_stream(channel)
    sent_by(channel, 1.0)
    flags = [output(bytes((0, 0, 0, flag)), 2 + flag, PayloadType.FLAG) for flag in (0, 1, 2)]
    assert acknowledgements(feed(channel, *flags, now=1.0)) == [2, 3, 4]
    feed(channel, output(smux_frame(FIN, 3), 5), now=1.0)
    assert not stream.refused


def test_a_refusal_before_the_handshake_changes_nothing() -> None:
    channel = new_channel()
    channel.open("token", "id", 0.0)
    failed = output(encode_flag(Flag.CONNECT_TO_PORT_ERROR), 0, PayloadType.FLAG)
    assert acknowledgements(feed(channel, failed)) == [0]


def test_what_was_written_is_delivered_when_the_agent_is_done_with_it() -> None:
    channel = ready()
    assert channel.delivered
    stream = open_stream(channel)
    stream.write(b"x")
    stream.close()
    feed(channel, *answer(*sent_by(channel, 1.0)), now=1.1)
    assert channel.idle
    assert not channel.delivered  # the agent may hold it
    feed(channel, output(smux_frame(FIN, 3), 2), now=1.2)
    assert channel.delivered
    assert new_channel().delivered


def test_a_gap_in_what_the_agent_sent_counts_as_stalled() -> None:
    """The agent repairs one message in 100 ms: what comes behind may have to wait for minutes."""
    channel = ready()
    assert channel.stalled_for(1.0) == 0.0
    feed(channel, *(output(b"", number) for number in (4, 5)), now=2.0)
    assert channel.has_gap
    feed(channel, output(b"", 2), now=3.0)
    assert channel.stalled_for(5.0) == 3.0
    feed(channel, output(b"", 3), now=6.0)
    assert not channel.has_gap
    assert channel.stalled_for(7.0) == 0.0


def test_a_session_may_be_kept_alive() -> None:
    channel = ready(channel=new_channel(keep_alive=60.0))
    sent_by(channel, 100.0)
    assert channel.get_timer() == 160.0
    (nop,) = inputs(sent_by(channel, 160.0))
    assert list(smux_frames(bytes(nop.payload))) == [(NOP, 0, b"")]


def test_by_default_it_is_not() -> None:
    channel = ready()
    sent_by(channel, 100.0)
    assert channel.get_timer() is None


def test_an_old_agent_is_kept_alive_at_its_own_pace_at_least() -> None:
    for wanted, due in ((60.0, 110.0), (5.0, 105.0)):
        channel = ready(KEEP_ALIVE_VERSION, channel=new_channel(keep_alive=wanted))
        sent_by(channel, 100.0)
        assert channel.get_timer() == due


def test_there_is_room_until_the_window_is_full_or_the_path_is() -> None:
    channel = new_channel()
    assert not channel.has_room
    channel = ready()
    stream = open_stream(channel)
    assert channel.has_room
    channel.writable = False
    assert not channel.has_room
    channel.writable = True
    stream.write(bytes(10_000_000))
    messages = sent_by(channel, 1.0)
    assert not channel.has_room
    for acknowledgement in answer(*messages):
        channel.receive_message(acknowledgement)
    channel.burst_ended(1.1)
    assert channel.has_room


def test_a_keystroke_does_not_wait_for_the_window_that_others_have_filled() -> None:
    channel = ready()
    bulk, typist = open_stream(channel), open_stream(channel)
    assert isinstance(typist, MuxStream)
    bulk.write(bytes(10_000_000))
    sent_by(channel, 1.0)
    assert not channel.has_room
    typist.write(b"k")
    (message,) = inputs(sent_by(channel, 1.1))
    assert list(smux_frames(bytes(message.payload))) == [(PSH, typist.id, b"k")]
    # But not one after the other, while others have no turn.
    typist.write(b"k")
    assert inputs(sent_by(channel, 1.2)) == []


def test_beginners_exceed_the_window_by_no_more_than_the_reserve() -> None:
    channel = ready()
    bulk = open_stream(channel)
    bulk.write(bytes(10_000_000))
    sent_by(channel, 1.0)
    window = channel._sender.window
    for _ in range(30):
        open_stream(channel).write(bytes(1000))
        sent_by(channel, 1.1)
    assert RESERVE <= window.in_flight - window.limit < RESERVE + 3000


def test_openings_that_have_to_wait_do_not_open_the_window_for_others() -> None:
    channel = ready()
    bulk = open_stream(channel)
    for _ in range(MAX_OPENING + 10):
        channel.open_stream()
    bulk.write(bytes(10_000_000))
    sent_by(channel, 1.0)
    window = channel._sender.window
    assert window.in_flight < window.limit + 2000
    assert sent_by(channel, 1.1) == []


def test_what_has_come_in_order_is_counted() -> None:
    channel = ready()
    before = channel.received
    feed(channel, output(smux_frame(NOP, 0), before))
    assert channel.received == before + 1
    feed(channel, output(smux_frame(NOP, 0), before + 2))
    assert channel.received == before + 1


def test_a_burst_has_a_bound_and_the_next_goes_on() -> None:
    channel = ready()
    stream = open_stream(channel)
    channel._sender.window.limit = 4 * BURST * 1024
    stream.write(bytes(3 * BURST * 1024))
    assert [len(channel.data_to_send(1.0)) for _ in range(3)] == [BURST, BURST, BURST]


def test_an_old_agent_is_kept_alive() -> None:
    far_end = FarEnd(version=KEEP_ALIVE_VERSION)
    conversation = Conversation(far_end)
    conversation.run(65.0)
    nops = [payload for _, payload in far_end.inputs if payload == smux_frame(NOP, 0)]
    assert len(nops) == 6


def test_a_new_agent_is_left_in_peace() -> None:
    far_end = FarEnd()
    conversation = Conversation(far_end)
    conversation.run(3600.0)
    assert [kind for kind, _ in far_end.inputs] == [PayloadType.HANDSHAKE_RESPONSE]
    assert conversation.channel.get_timer() is None


# --- what may be sent, and when


def test_messages_come_in_bursts_of_bounded_size() -> None:
    channel = ready()
    open_stream(channel).write(bytes(10_000_000))
    first = channel.data_to_send(1.0)
    assert 0 < len(first) <= BURST
    assert all(len(parse(data).payload) <= PAYLOAD_SIZE for data in first)
    rest = sent_by(channel, 1.0)
    assert len(first) + len(rest) < 40  # the first window


def test_a_keystroke_passes_a_bulk_transfer_in_the_same_session() -> None:
    far_end = FarEnd()
    conversation = Conversation(far_end, there=Path(0.01, rate=1e6, queue=1 << 20))
    conversation.run(0.1)
    bulk, key = open_stream(conversation.channel), open_stream(conversation.channel)
    bulk.write(bytes(20_000_000))
    conversation.flush()
    conversation.run(3.0)
    for n in range(10):
        key.write(b"k")
        written = conversation.now
        while len(far_end.streams[5]) <= n:
            conversation.run(conversation.now + 0.002)
        assert conversation.now - written < 0.1
        conversation.run(written + 0.2)


def test_nothing_is_sent_while_the_window_is_closed_and_no_timer_is_in_the_past() -> None:
    channel = ready(KEEP_ALIVE_VERSION)
    streams = [open_stream(channel) for _ in range(400)]
    streams[0].write(bytes(10_000_000))
    sent_by(channel, 1.0)
    assert sent_by(channel, 1.0) == []
    now = 1.0
    for _ in range(50):  # the agent acknowledges nothing: stalled
        timer = channel.get_timer()
        assert timer is not None
        assert timer > now
        now = timer
        channel.handle_timer(now)
        sent_by(channel, now)
    assert now > 100.0
    assert channel.stalled_for(now) > 100.0


@pytest.mark.parametrize("state", ["paused", "not writable", "settling"])
def test_no_timer_is_due_that_nothing_can_be_done_about(state: str) -> None:
    channel = ready(KEEP_ALIVE_VERSION)
    stream = open_stream(channel)
    now = 1.0
    sent_by(channel, now)
    if state == "paused":
        feed(channel, control(MessageType.PAUSE_PUBLICATION), now=now)
    elif state == "not writable":
        channel.writable = False
    stream.write(b"x")
    for _ in range(30):
        now += 1.0
        while (timer := channel.get_timer()) is not None and timer <= now:
            channel.handle_timer(timer)
            sent_by(channel, timer)
            later = channel.get_timer()
            assert later is None or later > timer


def test_not_writable_means_that_nothing_is_repeated_either() -> None:
    channel = ready()
    open_stream(channel)
    sent_by(channel, 1.0)
    channel.writable = False
    channel.handle_timer(2.0)
    assert sent_by(channel, 2.0) == []
    channel.writable = True
    assert len(inputs(sent_by(channel, 3.0))) == 1
    assert channel.retransmissions == 1
    timer = channel.get_timer()
    assert timer is not None
    assert timer > 3.0


def test_time_spent_not_reading_is_no_loss() -> None:
    channel = ready()
    open_stream(channel)
    sent_by(channel, 1.0)
    channel.reading_resumed(60.0)
    timer = channel.get_timer()
    assert timer is not None
    assert timer > 60.0
    channel.handle_timer(60.0)
    assert sent_by(channel, 60.0) == []


def test_is_idle_when_all_is_sent_and_acknowledged() -> None:
    channel = new_channel()
    assert channel.idle
    channel = ready()
    assert channel.idle
    assert channel.stalled_for(100.0) == 0.0
    open_stream(channel).write(b"x")
    assert not channel.idle
    messages = sent_by(channel, 1.0)
    assert not channel.idle
    assert channel.stalled_for(3.0) == 2.0
    feed(channel, *answer(*messages), now=3.0)
    assert channel.idle
    assert channel.round_trip_time is not None


# --- pauses and resumes


def test_a_pause_holds_new_data_back_but_for_one_message() -> None:
    channel = ready()
    feed(channel, control(MessageType.PAUSE_PUBLICATION), now=1.0)
    stream = open_stream(channel)
    stream.write(bytes(50_000))
    (probe,) = inputs(sent_by(channel, 1.0))
    assert sent_by(channel, 1.0) == []
    assert len(inputs(feed(channel, *answer(probe), now=2.0))) > 5


@pytest.mark.parametrize(
    "message",
    [
        control(MessageType.START_PUBLICATION),
        control("acknowledge", {"AcknowledgedMessageSequenceNumber": 0}),
        output(smux_frame(NOP, 0), 2),
    ],
)
def test_whatever_the_agent_sends_ends_a_pause(message: bytes) -> None:
    channel = ready()
    feed(channel, control(MessageType.PAUSE_PUBLICATION), now=1.0)
    stream = open_stream(channel)
    stream.write(bytes(50_000))
    assert len(inputs(sent_by(channel, 1.0))) == 1
    assert len(inputs(feed(channel, message, now=1.0))) > 5


def test_a_resume_ends_a_pause() -> None:
    channel = ready()
    feed(channel, control(MessageType.PAUSE_PUBLICATION), now=1.0)
    stream = open_stream(channel)
    stream.write(bytes(2_000))
    assert len(inputs(sent_by(channel, 1.0))) == 1
    channel.open("token", "id", 2.0)
    assert len(inputs(sent_by(channel, 2.0))) == 2


def test_pauses_lose_nothing() -> None:
    far_end = FarEnd(echo=True)
    conversation = Conversation(far_end)
    conversation.run(0.1)
    stream = open_stream(conversation.channel)
    data = bytes(range(256)) * 400
    for start in range(0, len(data), 10_240):
        stream.write(data[start : start + 10_240])
        kind = "pause_publication" if start // 10_240 % 2 else "start_publication"
        conversation.back.send(control(kind), conversation.now)
        conversation.flush()
        conversation.run(conversation.now + 0.015)
    conversation.run(conversation.now + 5.0)
    assert far_end.streams[3] == data
    assert conversation.received[stream] == data


@pytest.mark.parametrize("away", [0.0, 0.5, 60.0])
def test_a_cut_loses_nothing(away: float) -> None:
    far_end = FarEnd(echo=True)
    conversation = Conversation(far_end, there=Path(0.01, rate=1e6), back=Path(0.01, rate=1e6))
    conversation.run(0.1)
    stream = open_stream(conversation.channel)
    data = bytes(range(256)) * 2000
    stream.write(data)
    conversation.flush()
    for _ in range(3):
        conversation.run(conversation.now + 0.1)
        conversation.cut()
        conversation.run(conversation.now + away)
        conversation.reconnect()
    conversation.run(conversation.now + 20.0)
    assert far_end.streams[3] == data
    assert conversation.received[stream] == data
    assert conversation.channel.idle


def test_a_cut_in_the_handshake_is_survived() -> None:
    conversation = Conversation(FarEnd(echo=True))
    conversation.run(0.015)
    conversation.cut()
    conversation.reconnect()
    conversation.run(3.0)
    assert conversation.channel.ready


def test_all_that_was_in_flight_goes_out_again_after_a_resume() -> None:
    channel = ready()
    open_stream(channel).write(bytes(10_000))
    before = [m.sequence_number for m in inputs(sent_by(channel, 1.0))]
    channel.open("token", "id", 2.0)
    now, again = 2.0, list[int]()
    while messages := inputs(sent_by(channel, now)):
        again += [m.sequence_number for m in messages]
        now += 0.05
        for data in answer(*messages):
            channel.receive_message(data)
        channel.burst_ended(now)
    assert again == before
    assert channel.idle


# --- whatever the path does


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.05, 0.3, 0.6]),
    spread=st.sampled_from([0.0, 0.05]),
    duplication=st.sampled_from([0.0, 0.3]),
    properties=st.sampled_from([FORWARD, RAW]),
    cuts=st.lists(st.floats(0.05, 3.0), max_size=3),
    sizes=st.lists(st.integers(1, 30_000), min_size=1, max_size=4),
)
def test_every_byte_goes_there_and_back_once_in_order(
    seed: int,
    loss: float,
    spread: float,
    duplication: float,
    properties: dict[str, str],
    cuts: list[float],
    sizes: list[int],
) -> None:
    def path(salt: int) -> Path:
        fate = harmful(seed + salt, loss=loss, duplication=duplication, spread=spread, end=4.0)
        return Path(0.01, fate=fate, reordering=True)

    far_end = FarEnd(properties=properties, echo=True)
    conversation = Conversation(far_end, there=path(0), back=path(1))
    while not conversation.channel.ready:
        conversation.run(conversation.now + 0.5)
    streams = [open_stream(conversation.channel) for _ in sizes if far_end.multiplexed] or [
        open_stream(conversation.channel)
    ]
    written = [bytes([n + 1]) * size for n, size in enumerate(sizes[: len(streams)])]
    for stream, data in zip(streams, written, strict=True):
        stream.write(data)
    conversation.flush()
    for time in sorted(cuts):
        conversation.run(max(time, conversation.now))
        conversation.cut()
        conversation.run(conversation.now + 0.2)
        conversation.reconnect()
    conversation.run(max(conversation.now, 4.0) + 12.0)
    for stream, data in zip(streams, written, strict=True):
        assert conversation.received[stream] == data
    assert conversation.channel.idle
    assert not far_end.unacknowledged


def test_tells_how_much_was_sent_and_has_arrived() -> None:
    conversation = Conversation(FarEnd())
    conversation.run(1.0)
    channel = conversation.channel
    before = channel.sent
    assert channel.acknowledged == before
    stream = open_stream(channel)
    stream.write(b"x")
    conversation.flush()
    conversation.run(2.0)
    assert channel.sent > before
    assert channel.acknowledged == channel.sent


def test_an_acknowledgement_that_is_written_otherwise_counts_as_well() -> None:
    channel = new_channel()
    channel.open("token", "request", 0.0)
    assert len(feed(channel, request())) == 2
    usual = control("acknowledge", {"AcknowledgedMessageSequenceNumber": 0})
    padded_otherwise = usual[:4] + b"acknowledge".ljust(32, b"\0") + usual[36:]
    feed(channel, padded_otherwise)
    assert channel.acknowledged == 1
    malformed = control("acknowledge", {"AcknowledgedMessageSequenceNumber": []})
    feed(channel, malformed)
    assert channel.invalid_messages == 1
