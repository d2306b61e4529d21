"""DataChannel against the loopback agent's core, with the real agent's habits and without."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.protocol.events import ChannelEnded
from ssmnet.protocol.message import AgentMessage, MessageType
from ssmnet.protocol.port import PortStream
from ssmnet.protocol.smux import MuxStream
from ssmnet.testing.link import Path, harmful, losing
from tests.protocol.far_end import FORWARD, RAW, Conversation
from tests.protocol.loopback_far_end import LoopbackFarEnd
from tests.protocol.simulation import CREATED

KINDS = [
    pytest.param(FORWARD, "3.3.0.0", id="multiplexed"),
    pytest.param(FORWARD, "3.1.1511.0", id="multiplexed with keep-alive"),
    pytest.param(FORWARD, "3.0.196.0", id="basic"),
    pytest.param(RAW, "3.3.0.0", id="raw"),
]
PATTERN = bytes(range(256)) * 1000


def begin(
    far_end: LoopbackFarEnd, *, there: Path | None = None, back: Path | None = None
) -> Conversation:
    """A conversation after its handshake."""
    conversation = Conversation(far_end, there=there, back=back)
    while not conversation.channel.ready:
        assert conversation.now < 15.0
        conversation.run(conversation.now + 0.05)
    return conversation


def open_stream(conversation: Conversation, data: bytes = b"") -> MuxStream | PortStream:
    stream = conversation.channel.open_stream()
    assert stream is not None
    if data:
        stream.write(data)
    conversation.flush()
    return stream


def publication(message_type: MessageType) -> bytes:
    return AgentMessage(message_type, created_date=CREATED).serialize()


@pytest.mark.parametrize("ideal", [False, True])
@pytest.mark.parametrize(("properties", "version"), KINDS)
def test_bytes_go_there_and_back(properties: dict[str, str], version: str, ideal: bool) -> None:
    far_end = LoopbackFarEnd(properties=properties, version=version, ideal=ideal)
    conversation = begin(far_end)
    stream = open_stream(conversation, PATTERN)
    conversation.run(conversation.now + 10.0)
    assert conversation.received[stream] == PATTERN
    assert conversation.channel.idle
    assert conversation.channel.invalid_messages == far_end.agent.invalid == 0
    assert far_end.agent.unacknowledged == far_end.agent.resent == 0


def test_a_thousand_streams_go_there_and_back() -> None:
    far_end = LoopbackFarEnd()
    conversation = begin(far_end)
    streams = [open_stream(conversation, b"%d" % n) for n in range(1000)]
    conversation.run(conversation.now + 20.0)
    for n, stream in enumerate(streams):
        assert conversation.received[stream] == b"%d" % n
        stream.close()
    conversation.flush()
    conversation.run(conversation.now + 2.0)
    assert len(conversation.channel.port or ()) == 0
    assert len(far_end.closed) == 1000


@pytest.mark.parametrize(("properties", "version"), KINDS)
def test_input_that_comes_before_the_agent_is_ready_is_repaired_at_once(
    properties: dict[str, str], version: str
) -> None:
    far_end = LoopbackFarEnd(properties=properties, version=version)
    conversation = begin(far_end, there=Path(0.0001), back=Path(0.0001))
    stream = open_stream(conversation, b"hello")
    written = conversation.now
    while stream not in conversation.received:
        conversation.run(conversation.now + 0.001)
    assert conversation.now - written < 0.1


def test_a_raw_destination_that_speaks_first_is_heard() -> None:
    far_end = LoopbackFarEnd(properties=RAW, greeting=b"SSH-2.0-server\r\n")
    conversation = begin(far_end)
    conversation.run(1.0)
    stream = open_stream(conversation)
    conversation.run(conversation.now + 1.5)
    assert conversation.received[stream] == b"SSH-2.0-server\r\n"


def test_connections_follow_one_another_in_basic_mode() -> None:
    far_end = LoopbackFarEnd(version="3.0.196.0")
    conversation = begin(far_end)
    for text in (b"one", b"two", b"three"):
        stream = open_stream(conversation, text)
        conversation.run(conversation.now + 1.0)
        assert bytes(conversation.received[stream]) == text
        stream.close()
        conversation.flush()
        conversation.run(conversation.now + 1.0)


@pytest.mark.parametrize("ideal", [False, True])
def test_a_refusal_is_of_one_stream_and_the_session_stays(ideal: bool) -> None:
    far_end = LoopbackFarEnd(ideal=ideal)
    conversation = begin(far_end)
    good = open_stream(conversation, b"good")
    conversation.run(conversation.now + 1.0)
    far_end.refuse = True
    refused = open_stream(conversation, b"x")
    conversation.run(conversation.now + 1.0)
    assert refused.refused
    assert refused.closed_by_peer
    far_end.refuse = False
    third = open_stream(conversation, b"third")
    good.write(b" again")
    conversation.flush()
    conversation.run(conversation.now + 1.0)
    assert conversation.received[good] == b"good again"
    assert conversation.received[third] == b"third"


def test_a_forbidden_destination_ends_the_session() -> None:
    properties = {**FORWARD, "host": "metadata"}
    far_end = LoopbackFarEnd(properties=properties, addresses=("169.254.169.254",))
    conversation = begin(far_end)
    conversation.run(5.0)
    assert conversation.channel.closed
    ended = conversation.events[-1]
    assert ended == ChannelEnded("Forwarding to IP address metadata is forbidden.")


@pytest.mark.parametrize(("properties", "version"), KINDS)
def test_the_agent_ends_the_session_when_asked(properties: dict[str, str], version: str) -> None:
    conversation = begin(LoopbackFarEnd(properties=properties, version=version))
    conversation.run(conversation.now + 0.5)
    assert conversation.channel.terminate()
    conversation.flush()
    conversation.run(conversation.now + 3.0)
    assert conversation.channel.closed


def test_an_old_agent_keeps_an_idle_session() -> None:
    far_end = LoopbackFarEnd(version="3.1.1511.0")
    conversation = begin(far_end)
    conversation.run(200.0)
    assert far_end.ended is None
    stream = open_stream(conversation, b"still here")
    conversation.run(202.0)
    assert conversation.received[stream] == b"still here"


# --- a far side that does not read


def test_a_destination_that_does_not_read_stalls_the_session_and_nothing_is_lost() -> None:
    far_end = LoopbackFarEnd(echo=False)
    conversation = begin(far_end)
    slow = open_stream(conversation, b"x")
    conversation.run(1.0)
    far_end.set_writable(3, False, conversation.now)
    data = bytes(6 * 1024 * 1024)
    slow.write(data)
    other = open_stream(conversation, b"other")
    conversation.run(conversation.now + 120.0)
    assert conversation.channel.stalled_for(conversation.now) > 60.0
    assert conversation.channel.retransmissions < 400
    far_end.set_writable(3, True, conversation.now)
    conversation.flush()
    conversation.run(conversation.now + 30.0)
    assert far_end.written[3] == b"x" + data
    assert far_end.written[other.id] == b"other"  # type: ignore[union-attr]
    assert conversation.channel.idle
    assert conversation.channel.stalled_for(conversation.now) == 0.0


# --- faults


@pytest.mark.parametrize("ideal", [False, True])
def test_losses_both_ways_are_repaired(ideal: bool) -> None:
    lost = {30, 31, 50, 77, 120, 121, 122}
    far_end = LoopbackFarEnd(ideal=ideal)
    conversation = begin(
        far_end, there=Path(0.01, fate=losing(lost)), back=Path(0.01, fate=losing(lost))
    )
    stream = open_stream(conversation, PATTERN)
    conversation.run(conversation.now + 20.0)
    assert conversation.received[stream] == PATTERN
    assert conversation.channel.idle
    assert far_end.agent.unacknowledged == 0


@pytest.mark.parametrize("ideal", [False, True])
@pytest.mark.parametrize("away", [0.0, 1.0, 10.0])
def test_cuts_lose_nothing(away: float, ideal: bool) -> None:
    far_end = LoopbackFarEnd(ideal=ideal, pace=True)
    conversation = begin(far_end)
    stream = open_stream(conversation, PATTERN)
    for _ in range(3):
        conversation.run(conversation.now + 0.1)
        conversation.cut()
        conversation.run(conversation.now + away)
        conversation.reconnect()
    conversation.run(conversation.now + 60.0)
    assert conversation.received[stream] == PATTERN
    assert conversation.channel.idle
    assert far_end.agent.unacknowledged == 0


@pytest.mark.parametrize("ideal", [False, True])
def test_pauses_of_either_side_lose_nothing(ideal: bool) -> None:
    far_end = LoopbackFarEnd(ideal=ideal, pace=True)
    conversation = begin(far_end)
    stream = open_stream(conversation)
    for start in range(0, len(PATTERN), 16_000):
        stream.write(PATTERN[start : start + 16_000])
        toggle = (MessageType.PAUSE_PUBLICATION, MessageType.START_PUBLICATION)
        conversation.back.send(publication(toggle[start // 16_000 % 2]), conversation.now)
        conversation.there.send(publication(toggle[start // 32_000 % 2]), conversation.now)
        conversation.flush()
        conversation.run(conversation.now + 0.03)
    conversation.run(conversation.now + 60.0)
    assert conversation.received[stream] == PATTERN


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
    spread=st.sampled_from([0.0, 0.03]),
    duplication=st.sampled_from([0.0, 0.2]),
    kind=st.sampled_from([kind.values for kind in KINDS]),
    ideal=st.booleans(),
    pace=st.booleans(),
    cuts=st.lists(st.floats(0.0, 3.0), max_size=2),
    size=st.integers(1, 60_000),
)
def test_whatever_the_path_does_every_byte_goes_there_and_back(
    seed: int,
    loss: float,
    spread: float,
    duplication: float,
    kind: tuple[dict[str, str], str],
    ideal: bool,
    pace: bool,
    cuts: list[float],
    size: int,
) -> None:
    def path(salt: int) -> Path:
        fate = harmful(seed + salt, loss=loss, duplication=duplication, spread=spread, end=5.0)
        return Path(0.01, fate=fate, reordering=True)

    properties, version = kind
    far_end = LoopbackFarEnd(properties=properties, version=version, ideal=ideal, pace=pace)
    conversation = begin(far_end, there=path(0), back=path(1))
    stream = open_stream(conversation, PATTERN[:size])
    for time in sorted(cuts):
        conversation.run(max(time, conversation.now))
        conversation.cut()
        conversation.run(conversation.now + 0.3)
        conversation.reconnect()
    # The agent repairs one loss per 100 ms.
    conversation.run(max(conversation.now, 5.0) + 30.0)
    assert conversation.received[stream] == PATTERN[:size]
    assert conversation.channel.idle
    assert far_end.agent.unacknowledged == 0
