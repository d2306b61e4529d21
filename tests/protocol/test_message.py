import json
import struct
import uuid
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.errors import LocalProtocolError, RemoteProtocolError
from ssmnet.protocol.message import (
    PAYLOAD_SIZE,
    Acknowledge,
    AcknowledgedNumber,
    AgentMessage,
    ChannelClosed,
    Flag,
    MessageType,
    OpenDataChannel,
    PayloadType,
    acknowledge,
    acknowledged_number,
    decode_flag,
    decode_json,
    encode_flag,
    message_ids,
    parse,
    uuid_text,
)
from tests.protocol import vectors

STRUCTS = (Acknowledge, AcknowledgedNumber, ChannelClosed, OpenDataChannel)


def wire(
    *,
    header_length: int = 116,
    message_type: bytes = b"output_stream_data".ljust(32),
    created_date: int = 1,
    number: int = 0,
    extension: bytes = b"",
    payload: bytes = b"x",
    digest: bytes | None = None,
    length: int | None = None,
) -> bytes:
    """A message written down field by field, right or wrong."""
    return (
        struct.pack(">I32sIQqQ", header_length, message_type, 1, created_date, number, 0)
        + bytes(16)
        + (sha256(payload).digest() if digest is None else digest)
        + struct.pack(">I", PayloadType.OUTPUT)
        + extension
        + struct.pack(">I", len(payload) if length is None else length)
        + payload
    )


# --- the recorded transcripts


@pytest.mark.parametrize("name", vectors.NAMES)
def test_recorded_messages_are_read_and_written_byte_for_byte(name: str) -> None:
    messages = [line.data for line in vectors.read(name) if line.data]
    assert messages
    for data in messages:
        assert parse(data).serialize() == data


@pytest.mark.parametrize("name", vectors.NAMES)
def test_recorded_acknowledgements_name_the_recorded_messages(name: str) -> None:
    ids: dict[tuple[str, int], str] = {}
    checked = 0
    for line in vectors.read(name):
        message = parse(line.data) if line.data else None
        if message is None:
            continue
        if message.message_type != MessageType.ACKNOWLEDGE:
            ids[message.message_type, message.sequence_number] = uuid_text(message.message_id)
            continue
        content = decode_json(message.payload, Acknowledge)
        number = content.acknowledged_message_sequence_number
        assert ids[content.acknowledged_message_type, number] == content.acknowledged_message_id
        assert decode_json(message.payload, AcknowledgedNumber) == AcknowledgedNumber(number)
        assert acknowledged_number(line.data) == number
        checked += 1
    assert checked


def test_our_acknowledgement_is_the_recorded_one_but_for_its_id_and_date() -> None:
    lines = [line for line in vectors.read("raw_stream_echo") if line.data]
    messages = [(line.way, parse(line.data)) for line in lines]
    output = next(m for _, m in messages if m.message_type == MessageType.OUTPUT_STREAM_DATA)
    way, recorded = next(
        (way, m) for way, m in messages if m.message_type == MessageType.ACKNOWLEDGE
    )
    assert way == "client->gateway"
    ours = acknowledge(output, recorded.message_id, recorded.created_date)
    assert json.loads(bytes(parse(ours).payload)) == json.loads(bytes(recorded.payload))
    assert ours[:80] == recorded.serialize()[:80]


# --- the layout


def test_every_field_has_its_place() -> None:
    message = AgentMessage(
        MessageType.INPUT_STREAM_DATA,
        b"hello",
        sequence_number=7,
        payload_type=PayloadType.SIZE,
        flags=3,
        message_id=bytes(range(16)),
        created_date=1_700_000_000_000,
    )
    data = message.serialize()
    assert struct.unpack_from(">I", data, 0) == (116,)
    assert data[4:36] == b"input_stream_data               "
    assert struct.unpack_from(">IQqQ", data, 36) == (1, 1_700_000_000_000, 7, 3)
    assert data[64:80] == bytes(range(16))
    assert data[80:112] == sha256(b"hello").digest()
    assert struct.unpack_from(">II", data, 112) == (3, 5)
    assert data[120:] == b"hello"


def test_a_payload_is_a_view_into_what_was_parsed() -> None:
    data = memoryview(wire(payload=b"abc"))
    payload = parse(data).payload
    assert isinstance(payload, memoryview)
    assert payload.obj is data.obj


@pytest.mark.parametrize("padding", [b" ", b"\0"])
def test_a_type_may_be_padded_with_spaces_or_nuls(padding: bytes) -> None:
    data = wire(message_type=b"acknowledge".ljust(32, padding))
    assert parse(data).message_type == MessageType.ACKNOWLEDGE


def test_a_type_that_is_not_known_is_kept_as_text() -> None:
    assert parse(wire(message_type=b"something_new".ljust(32))).message_type == "something_new"


def test_the_payload_begins_where_the_header_says() -> None:
    message = parse(wire(header_length=124, extension=bytes(8), payload=b"abc"))
    assert message.payload == b"abc"


@pytest.mark.parametrize("kind", [b"start_publication", b"pause_publication"])
def test_publication_messages_are_not_validated(kind: bytes) -> None:
    data = wire(
        header_length=0, message_type=kind.ljust(32), created_date=0, digest=bytes(32), length=9
    )
    assert parse(data).message_type == kind.decode()


def test_an_empty_payload_needs_no_digest() -> None:
    assert parse(wire(payload=b"", digest=bytes(32))).payload == b""


INVALID = {
    "nothing": b"",
    "a header cut short": wire()[:119],
    "no header length": wire(header_length=0),
    "a header shorter than its fields": wire(header_length=115),
    "a header longer than the message": wire(header_length=0xFFFFFFFF),
    "a header that ends where the message ends": wire(header_length=120, payload=b""),
    "no type": wire(message_type=bytes(32)),
    "a type of spaces": wire(message_type=b" " * 32),
    "a type that is no text": wire(message_type=b"\xff" * 32),
    "a type of two words": wire(message_type=b"two words".ljust(32)),
    "no date": wire(created_date=0),
    "a negative number": wire(number=-1),
    "a wrong digest": wire(digest=bytes(32)),
    "a payload cut short": wire(payload=b"abc")[:-1],
    "more than the payload": wire() + b"y",
    "a payload of 4 GiB": wire(length=0xFFFFFFFF),
}


@pytest.mark.parametrize("data", INVALID.values(), ids=INVALID)
def test_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse(data)


@pytest.mark.parametrize("name", ["", "two words", "x" * 33, "é", "\n"])
def test_no_message_is_made_of_a_type_that_could_not_be_read(name: str) -> None:
    with pytest.raises(LocalProtocolError):
        AgentMessage(name).serialize()


def test_an_unknown_type_can_be_written() -> None:
    message = AgentMessage("something_new", b"x", created_date=1)
    assert parse(message.serialize()) == message


messages = st.builds(
    AgentMessage,
    message_type=st.one_of(
        st.sampled_from(
            [
                kind.value
                for kind in MessageType
                if kind not in (MessageType.START_PUBLICATION, MessageType.PAUSE_PUBLICATION)
            ]
        ),
        st.from_regex(r"[a-z_]{1,32}", fullmatch=True),
    ),
    payload=st.binary(max_size=2000),
    sequence_number=st.integers(0, 2**63 - 1),
    payload_type=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 2**64 - 1),
    message_id=st.binary(min_size=16, max_size=16),
    created_date=st.integers(1, 2**64 - 1),
)


@given(messages)
def test_reading_undoes_writing(message: AgentMessage) -> None:
    data = message.serialize()
    assert parse(data) == message
    assert parse(memoryview(data)).serialize() == data


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), st.binary(min_size=120, max_size=200)))
def test_any_bytes_are_a_message_or_an_error_of_the_far_end(data: bytes) -> None:
    try:
        message = parse(data)
    except RemoteProtocolError:
        return
    assert isinstance(message, AgentMessage)


@settings(max_examples=300)
@given(messages, st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4))
def test_a_damaged_message_is_a_message_or_an_error_of_the_far_end(
    message: AgentMessage, damage: list[tuple[int, int]]
) -> None:
    data = bytearray(message.serialize())
    for position, value in damage:
        data[position % len(data)] = value
    with suppress(RemoteProtocolError):
        parse(bytes(data)).serialize()


# --- ids


def test_ids_are_uuids_to_look_at_and_all_different() -> None:
    ids = list(islice(message_ids(bytes(range(16))), 1000))
    assert len(set(ids)) == 1000
    for message_id in ids[:10]:
        text = uuid_text(message_id)
        assert uuid.UUID(text).version == 4
        assert uuid.UUID(text).variant == uuid.RFC_4122
        assert str(uuid.UUID(text)) == text


def test_ids_of_two_sessions_differ() -> None:
    first = set(islice(message_ids(bytes(16)), 100))
    second = set(islice(message_ids(bytes(range(16))), 100))
    assert not first & second


def test_ids_go_on_after_the_last_number() -> None:
    first, second = islice(message_ids(b"\xff" * 16), 2)
    assert first != second
    assert len(first) == len(second) == 16


@given(st.uuids())
def test_the_halves_of_an_id_are_swapped_on_the_wire(value: uuid.UUID) -> None:
    assert uuid_text(value.bytes[8:] + value.bytes[:8]) == str(value)


# --- the JSON payloads


def test_the_acknowledgement_names_one_message_exactly() -> None:
    message = AgentMessage(
        MessageType.OUTPUT_STREAM_DATA, b"x", 41, message_id=bytes(range(16)), created_date=1
    )
    answer = parse(acknowledge(message, bytes(16), 2))
    assert (answer.message_type, answer.sequence_number, answer.flags) == ("acknowledge", 0, 3)
    assert (answer.payload_type, answer.created_date) == (PayloadType.NONE, 2)
    assert json.loads(bytes(answer.payload)) == {
        "AcknowledgedMessageType": "output_stream_data",
        "AcknowledgedMessageId": "08090a0b-0c0d-0e0f-0001-020304050607",
        "AcknowledgedMessageSequenceNumber": 41,
        "IsSequentialMessage": True,
    }


def test_json_is_read_leniently() -> None:
    closed = decode_json(b'{"Output":"over","CreatedDate":"1","New":[{}]}', ChannelClosed)
    assert closed == ChannelClosed("over")
    assert decode_json(b'{"Output":null}', ChannelClosed) == ChannelClosed(None)
    assert decode_json(b"{}", ChannelClosed) == ChannelClosed(None)
    assert decode_json(
        memoryview(b'{"AcknowledgedMessageSequenceNumber":"12"}'), AcknowledgedNumber
    ) == AcknowledgedNumber(12)


def number(text: str) -> bytes:
    return f'{{"AcknowledgedMessageSequenceNumber":{text}}}'.encode()


MALFORMED = {
    "nothing": b"",
    "half an object": b'{"Output":',
    "an array": b"[]",
    "null": b"null",
    "bytes that are no text": b'{"Output":"\xff","AcknowledgedMessageSequenceNumber":"\xff"}',
    "half a surrogate pair": (
        b'{"Output":"\\ud800","AcknowledgedMessageSequenceNumber":"\\ud800"}'
    ),
    "deep arrays": b"[" * 200_000,
    "deep objects": b'{"a":' * 200_000,
    "deep and closed": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "a byte-order mark": b"\xef\xbb\xbf{}",
}


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED)
def test_malformed_json_is_an_error_of_the_far_end(payload: bytes, kind: type[Any]) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_json(payload, kind)
    assert kind.__name__ in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 5000, '"' + "9" * 5000 + '"', "1e999", "1.5", "null", "{}"])
def test_a_number_that_is_none_is_an_error_of_the_far_end(text: str) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_json(number(text), AcknowledgedNumber)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)
field_names = st.sampled_from(
    [
        "Output",
        "AcknowledgedMessageType",
        "AcknowledgedMessageId",
        "AcknowledgedMessageSequenceNumber",
        "IsSequentialMessage",
        "MessageSchemaVersion",
        "RequestId",
        "TokenValue",
        "ClientId",
        "ClientVersion",
    ]
)


@settings(max_examples=200)
@given(
    st.sampled_from(STRUCTS),
    st.one_of(
        st.binary(max_size=60),
        st.dictionaries(field_names, json_values).map(lambda value: json.dumps(value).encode()),
    ),
)
def test_any_payload_is_a_value_or_an_error_of_the_far_end(kind: type[Any], payload: bytes) -> None:
    try:
        value = decode_json(payload, kind)
    except RemoteProtocolError:
        return
    assert isinstance(value, kind)


# --- flags


@pytest.mark.parametrize("flag", Flag)
def test_a_flag_is_four_bytes(flag: Flag) -> None:
    assert encode_flag(flag) == bytes((0, 0, 0, flag))
    assert decode_flag(encode_flag(flag)) == flag


@given(st.binary(max_size=8))
def test_any_payload_is_a_flag_or_an_error_of_the_far_end(payload: bytes) -> None:
    if len(payload) == 4:
        assert decode_flag(memoryview(payload)) == int.from_bytes(payload)
    else:
        with pytest.raises(RemoteProtocolError):
            decode_flag(payload)


def test_payloads_are_as_large_as_both_reference_ends_send() -> None:
    assert PAYLOAD_SIZE == 1024


def test_what_is_shown_of_a_message_holds_no_payload_and_no_token() -> None:
    message = AgentMessage(MessageType.OUTPUT_STREAM_DATA, b"secret", 7, PayloadType.OUTPUT)
    assert repr(message) == "AgentMessage(output_stream_data, number=7, payload_type=1, size=6)"
    assert "secret" not in str(message.__rich_repr__())
    opening = OpenDataChannel("1.0", "request", "secret", "client", "1.2.3.4")
    assert repr(opening) == "OpenDataChannel(client_id='client')"
    assert "secret" not in str(opening.__rich_repr__())


def test_the_short_cut_reads_a_sound_acknowledgement_and_nothing_else() -> None:
    message = AgentMessage("output_stream_data", b"x", 41, message_id=bytes(range(16)))
    data = acknowledge(message, bytes(16), 5)
    assert acknowledged_number(data) == 41
    assert acknowledged_number(data + b" ") is None
    assert acknowledged_number(data[:-1]) is None
    assert acknowledged_number(data[:100]) is None
    assert acknowledged_number(b"") is None
    for place in (0, 4, 36, 80, 116, 130):
        spoiled = bytearray(data)
        spoiled[place] ^= 1
        assert acknowledged_number(bytes(spoiled)) is None, place
    undated = acknowledge(message, bytes(16), 0)
    assert acknowledged_number(undated) is None
    for payload in (b"{}", b"[", b'"x"', b"\xff"):
        odd = AgentMessage("acknowledge", payload, created_date=5).serialize()
        assert acknowledged_number(odd) is None
    assert acknowledged_number(AgentMessage("output_stream_data", b"x").serialize()) is None
