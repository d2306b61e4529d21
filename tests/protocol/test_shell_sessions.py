"""Whole sessions with shells and commands: the recorded ones, and random ones in virtual time."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.protocol.events import ChannelEnded, DataKeyNeeded, ExitCode, SessionReady
from ssmnet.protocol.message import MessageType, PayloadType
from ssmnet.testing.link import Path, harmful
from tests.protocol import vectors
from tests.protocol.far_end import (
    DATA_KEY,
    Conversation,
    FarEnd,
    control,
    new_channel,
    open_stream,
)
from tests.protocol.replay import Replay

SHELL, COMMAND = "Standard_Stream", "NonInteractiveCommands"
# What came, in all; and the kind of session that was announced.
OUTPUT = {
    "shell": b"$ echo hi; stty size; exit\r\nhi\r\n40 132\r\n",
    "interactive_command": b"0 0\r\ndone\r\n",
    "shell_kms_encrypted": b"$ echo secret-$((40+2)); exit\r\nsecret-42\r\n",
    "noninteractive_command": b"out\nerr\n",
    "noninteractive_command_separate_output": b"err\nout\nEXIT_CODE: 7",
}
SILENT = ("shell", "interactive_command")


def replay(name: str, **arguments: Any) -> Replay:
    """Run one to its end, on a terminal of the recorded size."""
    # Where there is no handshake its agent acknowledges our Size at the recorded time.
    played = Replay(name, shell=True, slowness=1.0 if name in SILENT else 20.0, **arguments)
    played.channel.set_size(132, 40, 0.0)
    played.run()
    played.channel.end()
    return played


@pytest.mark.parametrize("name", OUTPUT)
def test_a_recorded_session_is_had_again(name: str) -> None:
    played = replay(name)
    assert played.received == [OUTPUT[name]]
    assert played.acknowledged == played.recorded
    assert played.channel.invalid_messages == 0
    assert played.streams[0].closed_by_peer
    assert not played.streams[0].refused
    assert played.channel.idle


@pytest.mark.parametrize("name", OUTPUT)
def test_we_send_what_the_recorded_client_sent(name: str) -> None:
    played = replay(name)
    # Each once: a size that comes before there is a terminal is not acknowledged.
    ours = {message.sequence_number: message for message in played.sent}
    assert [(m.sequence_number, m.payload_type) for m in ours.values()] == [
        (m.sequence_number, m.payload_type) for m in played.recorded_inputs
    ]
    for mine, theirs in zip(ours.values(), played.recorded_inputs, strict=True):
        if mine.payload_type == PayloadType.SIZE:
            assert json.loads(bytes(mine.payload)) == json.loads(bytes(theirs.payload))
        elif mine.payload_type == PayloadType.OUTPUT:
            assert played.input_of(mine) == played.input_of(theirs)
            assert (mine.payload != theirs.payload) is (name == "shell_kms_encrypted")


@pytest.mark.parametrize("name", OUTPUT)
def test_what_happens_is_told_in_its_order(name: str) -> None:
    events = replay(name).events
    kind = COMMAND if name.startswith("non") else SHELL
    version = "" if name in SILENT else "3.3.0.0"
    message = "This session is encrypted using AWS KMS." if "kms" in name else ""
    expected: list[object] = [SessionReady(kind, {}, version, message)]
    if name == "noninteractive_command_separate_output":
        expected.append(ExitCode(7))
    if "kms" in name:
        needed = events.pop(0)
        assert isinstance(needed, DataKeyNeeded)
        assert needed.key_id == "arn:aws:kms:us-east-1:111122223333:key/abc"
    assert events == [*expected, ChannelEnded("")]


def test_the_recorded_command_s_standard_error_is_apart() -> None:
    played = replay("noninteractive_command_separate_output", errors_apart=True)
    assert played.received == [b"err\n", b"out\n"]
    assert played.acknowledged == played.recorded
    assert all(stream.closed_by_peer for stream in played.streams)


def test_a_recorded_command_without_it_has_an_empty_one() -> None:
    played = replay("noninteractive_command", errors_apart=True)
    assert played.received == [b"", b"out\nerr\n"]
    assert all(stream.closed_by_peer for stream in played.streams)


@pytest.mark.parametrize("name", OUTPUT)
def test_a_recorded_session_that_is_cut_anywhere_goes_on(name: str) -> None:
    uncut = replay(name)
    for place, line in enumerate(uncut.lines):
        if place == 0 or line.way == "kms->client":
            continue
        played = replay(name, cut=frozenset({place}))
        assert played.received == [OUTPUT[name]]
        assert played.channel.invalid_messages == 0
        assert [e for e in played.events if not isinstance(e, ChannelEnded)] == uncut.events[:-1]
        assert isinstance(played.events[-1], ChannelEnded)


def test_the_recorded_raw_stream_goes_on_after_any_cut() -> None:
    for place in range(1, len(vectors.read("raw_stream_echo"))):
        played = Replay("raw_stream_echo", cut=frozenset({place}))
        played.run()
        assert played.received == [b"hello over a raw streambye"]


# --- in virtual time


KINDS: dict[str, dict[str, Any]] = {
    "shell": {"session_type": SHELL, "handshake": False},
    "encrypted shell": {"session_type": SHELL, "data_key": DATA_KEY, "challenge": "random"},
    "command": {"session_type": COMMAND},
    "encrypted command": {"session_type": COMMAND, "data_key": DATA_KEY},
}
# What the agent sends, in its order.
said = st.lists(
    st.tuples(
        st.sampled_from([PayloadType.OUTPUT, PayloadType.STDERR]),
        st.binary(min_size=1, max_size=1024),
    ),
    max_size=30,
)


@settings(max_examples=150)
@given(
    kind=st.sampled_from(list(KINDS)),
    said=said,
    typed=st.lists(st.binary(min_size=1, max_size=3000), max_size=5),
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.1, 0.3]),
    spread=st.sampled_from([0.0, 0.03]),
    cuts=st.lists(st.floats(0.0, 4.0), max_size=3),
    errors_apart=st.booleans(),
    code=st.integers(0, 255),
)
def test_whatever_the_path_does_all_comes_whole_in_its_order_and_then_the_end(
    kind: str,
    said: list[tuple[PayloadType, bytes]],
    typed: list[bytes],
    seed: int,
    loss: float,
    spread: float,
    cuts: list[float],
    errors_apart: bool,
    code: int,
) -> None:
    def path(salt: int) -> Path:
        fate = harmful(seed + salt, loss=loss, duplication=0.1, spread=spread, end=5.0)
        return Path(0.01, fate=fate, reordering=True)

    def run(until: float) -> None:
        while pending and pending[0] <= until:
            conversation.run(pending.pop(0))
            conversation.cut()
            conversation.reconnect()
        conversation.run(until)

    pending = sorted(cuts)
    far_end = FarEnd(properties={}, **KINDS[kind])
    channel = new_channel(shell=True)
    conversation = Conversation(far_end, there=path(0), back=path(1), channel=channel)
    run(1.0)
    prompt = b"$ " if kind == "shell" else b""
    far_end.output(prompt, 1.0)
    conversation.flush()
    run(12.0)
    errors = channel.open_error_stream() if errors_apart else None
    stream = open_stream(channel)
    for payload_type, payload in said:
        far_end.send(payload_type, payload, 12.0)
    far_end.send(PayloadType.EXIT_CODE, f"EXIT_CODE: {code}".encode(), 12.0)
    for payload in typed:
        stream.write(payload)
        channel.set_size(len(payload), 24, 12.0)
    conversation.flush()
    run(50.0)

    out = b"".join(data for kind, data in said if errors is None or kind == PayloadType.OUTPUT)
    ending = f"EXIT_CODE: {code}".encode() if errors is None else b""
    assert conversation.received.get(stream, b"") == prompt + out + ending
    if errors is not None:
        err = b"".join(data for kind, data in said if kind == PayloadType.STDERR)
        assert conversation.received.get(errors, b"") == err
    assert far_end.input == b"".join(typed)
    assert far_end.thrown_away == []
    assert far_end.sizes[-1] == ((len(typed[-1]), 24) if typed else (300, 100))
    assert conversation.events[-1] == ExitCode(code)
    assert far_end.unacknowledged == {}
    assert channel.idle
    channel.receive_message(control(MessageType.CHANNEL_CLOSED, {"Output": "over"}))
    assert channel.events() == [ChannelEnded("over")]
    channel.end()
    assert stream.closed_by_peer
