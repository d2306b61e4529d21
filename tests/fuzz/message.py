"""AgentMessage and its payloads against any bytes.

Each input is read as it is, and once more with the digest and the lengths put right: hardly any
bytes have a digest that fits, and behind that check is most of the parser.
"""

from __future__ import annotations

import hashlib
import json
import struct

from ssmnet.errors import RemoteProtocolError
from ssmnet.protocol import message
from ssmnet.protocol.message import (
    Acknowledge,
    AcknowledgedNumber,
    AgentMessage,
    ChannelClosed,
    MessageType,
    acknowledge,
    acknowledged_number,
    decode_flag,
    decode_json,
    parse,
)
from tests import wire
from tests.protocol import vectors

SUBJECTS = (message,)
PAYLOADS = (Acknowledge, AcknowledgedNumber, ChannelClosed)
UNVALIDATED = (MessageType.START_PUBLICATION, MessageType.PAUSE_PUBLICATION)
TOKENS = (
    *(kind.encode().ljust(32) for kind in MessageType),
    *(kind.encode().ljust(32, b"\0") for kind in MessageType),
    bytes(32),
    b" " * 32,
    struct.pack(">I", 116),
    struct.pack(">I", 120),
    b'"AcknowledgedMessageSequenceNumber":',
    b'"AcknowledgedMessageType":"output_stream_data"',
    b'"Output":',
    b'"IsSequentialMessage":true',
    b"null",
    b"9" * 25,
    b"9" * 4400,
    b"[" * 1200,
    b'{"a":' * 1200,
    b"1e999",
    b"\\ud800",
    b"\xff",
)


def seeds() -> list[bytes]:
    """The recorded messages, the shorter ones."""
    data = {line.data for name in vectors.NAMES for line in vectors.read(name) if line.data}
    payloads = {raw[120:] for raw in data if raw[120:121] == b"{"}
    return sorted(raw for raw in data | payloads if len(raw) < 700)


def fuzz(data: bytes) -> None:
    check_message(data)
    check_message(put_right(data))
    check_payload(data)


def put_right(data: bytes) -> bytes:
    """The same message with lengths and digest that fit; some have a longer or shorter header."""
    header_length = 112 + (data[3] - 112) % 12 if len(data) > 3 else 116
    right = bytearray(data)
    payload = data[header_length + 4 :]
    if len(data) >= max(120, header_length + 4):
        right[:4] = struct.pack(">I", header_length)
        right[80:112] = hashlib.sha256(payload).digest()
        right[header_length : header_length + 4] = struct.pack(">I", len(payload))
    return bytes(right)


def check_message(data: bytes) -> None:
    parsed = parsed_or_none(data)
    assert parsed == parsed_or_none(memoryview(data)), "a view reads otherwise"
    check_short_cut(parsed, data)
    strict = strictly_read(data)
    if parsed is None:
        assert strict is None, "the independent decoder takes it"
        return
    if parsed.message_type not in UNVALIDATED:
        check_fields(parsed, data)
        check_again(parsed)
    if strict is not None:
        check_agreement(parsed, strict, data)


def check_short_cut(parsed: AgentMessage | None, data: bytes) -> None:
    """The quick way through an acknowledgement reads what the long way does, or nothing."""
    number = acknowledged_number(data)
    assert number == acknowledged_number(memoryview(data)), "a view reads otherwise"
    if number is not None:
        assert parsed is not None
        assert parsed.message_type == MessageType.ACKNOWLEDGE
        content = decode_json(parsed.payload, AcknowledgedNumber)
        assert content.acknowledged_message_sequence_number == number


def parsed_or_none(data: bytes | memoryview) -> AgentMessage | None:
    try:
        return parse(data)
    except RemoteProtocolError:
        return None


def strictly_read(data: bytes) -> wire.Message | None:
    """As the independent decoder reads it; that one does not look for odd characters in a type."""
    try:
        strict = wire.decode(data)
    except (AssertionError, UnicodeDecodeError):
        return None
    return strict if strict.type.isidentifier() else None


def check_fields(parsed: AgentMessage, data: bytes) -> None:
    """What came out is what stands there, and it keeps the rules."""
    length, kind, _, created, number, flags, wire_id, digest, payload_type, _ = (
        wire.HEADER.unpack_from(data)
    )
    assert parsed.message_type == kind.strip(b" \0").decode("ascii")
    assert parsed.payload == data[length + 4 :]
    assert struct.unpack_from(">I", data, length) == (len(parsed.payload),)
    assert not parsed.payload or hashlib.sha256(parsed.payload).digest() == digest
    assert parsed.created_date == created
    assert (parsed.sequence_number, parsed.flags) == (number, flags)
    assert (parsed.message_id, parsed.payload_type) == (wire_id, payload_type)
    assert length >= 116
    assert created > 0
    assert number >= 0


STREAM_DATA = (MessageType.INPUT_STREAM_DATA, MessageType.OUTPUT_STREAM_DATA)


def check_again(parsed: AgentMessage) -> None:
    """What is read can be written, and read again; and stream data can be acknowledged."""
    assert parse(parsed.serialize()) == parsed
    if parsed.message_type not in STREAM_DATA:
        return
    acknowledgement = parse(acknowledge(parsed, bytes(16), 1_700_000_000_000))
    content = decode_json(acknowledgement.payload, Acknowledge)
    assert content.acknowledged_message_sequence_number == parsed.sequence_number
    assert content.acknowledged_message_type == parsed.message_type
    assert content.acknowledged_message_id == wire.uuid_text(parsed.message_id)


def check_agreement(parsed: AgentMessage, strict: wire.Message, data: bytes) -> None:
    """The independent decoder reads the same, and what it accepts is written in one way only."""
    assert parsed.message_type == strict.type
    if strict.type in UNVALIDATED:
        return
    assert (parsed.sequence_number, parsed.flags) == (strict.number, strict.flags)
    assert (parsed.payload_type, parsed.payload) == (strict.payload_type, strict.payload)
    assert parsed.serialize() == data


def check_payload(data: bytes) -> None:
    for kind in PAYLOADS:
        try:
            value = decode_json(data, kind)
        except RemoteProtocolError:
            continue
        if isinstance(value, AcknowledgedNumber):
            check_number(value.acknowledged_message_sequence_number, data)
        elif isinstance(value, ChannelClosed):
            assert value.output is None or len(value.output) <= len(data)
    try:
        flag = decode_flag(data)
    except RemoteProtocolError:
        assert len(data) != 4
    else:
        assert flag.to_bytes(4) == data


def check_number(number: int, data: bytes) -> None:
    """As Python's own JSON reads it, where that reads it."""
    assert isinstance(number, int)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    assert int(content["AcknowledgedMessageSequenceNumber"]) == number
