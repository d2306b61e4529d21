"""AgentMessage: the one binary message of the data channel, and the JSON that rides in it.

Layout, all integers big-endian::

      0  u32  HeaderLength (116: the offset of PayloadLength)
      4  32s  MessageType, padded with spaces
     36  u32  SchemaVersion (1)
     40  u64  CreatedDate, ms since the epoch
     48  i64  SequenceNumber
     56  u64  Flags
     64  16s  MessageId, a UUID with its 8-byte halves swapped
     80  32s  PayloadDigest, SHA-256
    112  u32  PayloadType
    116  u32  PayloadLength
    120       Payload
"""

from __future__ import annotations

import re
from binascii import hexlify
from collections.abc import Iterator
from enum import IntEnum, StrEnum
from hashlib import sha256
from itertools import count
from struct import Struct
from struct import error as struct_error
from typing import Any, TypeVar

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .buffer import Buffer

# Without SchemaVersion, which nothing depends on.
_HEADER = Struct(">I32s4xQqQ16s32sII")
_HEADER_LENGTH = 116
_UINT32 = Struct(">I")
_SCHEMA_VERSION = 1
# What follows the first three fields, which are the same in all messages of a type.
_FIELDS = Struct(">QqQ16s32sII")
# Of these CreatedDate, PayloadDigest and PayloadLength.
_ACKNOWLEDGE_FIELDS = Struct(">Q32x32s4xI")

# Cuts a payload at what both reference ends send; what the gateway takes beyond is not documented.
PAYLOAD_SIZE = 1024
# What comes before the payload.
HEADER_SIZE = _HEADER_LENGTH + _UINT32.size


class MessageType(StrEnum):
    """What a message is for."""

    INPUT_STREAM_DATA = "input_stream_data"
    OUTPUT_STREAM_DATA = "output_stream_data"
    ACKNOWLEDGE = "acknowledge"
    CHANNEL_CLOSED = "channel_closed"
    START_PUBLICATION = "start_publication"
    PAUSE_PUBLICATION = "pause_publication"
    AGENT_SESSION_STATE = "agent_session_state"


class PayloadType(IntEnum):
    """What a stream data message carries."""

    NONE = 0
    OUTPUT = 1
    ERROR = 2
    SIZE = 3
    PARAMETER = 4
    HANDSHAKE_REQUEST = 5
    HANDSHAKE_RESPONSE = 6
    HANDSHAKE_COMPLETE = 7
    ENC_CHALLENGE_REQUEST = 8
    ENC_CHALLENGE_RESPONSE = 9
    FLAG = 10
    STDERR = 11
    EXIT_CODE = 12


class Flag(IntEnum):
    """The payload of a FLAG message."""

    DISCONNECT_TO_PORT = 1
    TERMINATE_SESSION = 2
    CONNECT_TO_PORT_ERROR = 3


# The parts of a UUID in hexadecimal, its halves swapped.
_UUID = Struct("4s12s8s4s4s")
# The names, not the members: those are slow to format.
_TYPE_OF_WIRE: dict[bytes, str] = {kind.encode().ljust(32): kind.value for kind in MessageType}
_TYPE_NAME = re.compile(rb"[!-~]{1,32}")


def _prefix(wire_type: bytes) -> bytes:
    return b"".join(
        (_UINT32.pack(_HEADER_LENGTH), wire_type, _UINT32.pack(_SCHEMA_VERSION)),
    )


_PREFIX: dict[str, bytes] = {kind: _prefix(wire) for wire, kind in _TYPE_OF_WIRE.items()}
_ACKNOWLEDGE_PREFIX = _PREFIX[MessageType.ACKNOWLEDGE]
_MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_UNVALIDATED = (MessageType.START_PUBLICATION, MessageType.PAUSE_PUBLICATION)


class AgentMessage(msgspec.Struct, gc=False):
    """One message of the data channel.

    ``message_type`` is a MessageType, or the text of a type that we do not know.
    ``message_id`` is kept as it is on the wire; see uuid_text.
    ``created_date`` is in milliseconds since the epoch.
    ``payload`` may be a view into what was parsed.
    """

    message_type: str
    payload: Buffer = b""
    sequence_number: int = 0
    payload_type: int = PayloadType.NONE
    flags: int = 0
    message_id: bytes = bytes(16)
    created_date: int = 0

    def __repr__(self) -> str:
        """Without the payload, which is somebody's."""
        kind, number, size = self.message_type, self.sequence_number, len(self.payload)
        return f"AgentMessage({kind}, {number=}, payload_type={self.payload_type}, {size=})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("message_type", self.message_type), ("sequence_number", self.sequence_number)]

    def serialize(self) -> bytes:
        """The message as it goes over the wire."""
        return serialize(
            self.message_type,
            self.payload,
            self.sequence_number,
            self.payload_type,
            self.flags,
            self.message_id,
            self.created_date,
        )


def serialize(
    message_type: str,
    payload: Buffer,
    sequence_number: int,
    payload_type: int,
    flags: int,
    message_id: bytes,
    created_date: int,
) -> bytes:
    """The wire form of the message with these fields; see AgentMessage."""
    fields = _FIELDS.pack(
        created_date,
        sequence_number,
        flags,
        message_id,
        sha256(payload).digest(),
        payload_type,
        len(payload),
    )
    prefix = _PREFIX.get(message_type) or _prefix(_wire_type(message_type))
    return b"".join((prefix, fields, payload))


def parse(data: Buffer) -> AgentMessage:
    """Read one message; its payload is a slice of ``data``, so a view costs no copy.

    Raises RemoteProtocolError, and nothing else, for whatever is not a valid message.
    """
    try:
        (
            header_length,
            wire_type,
            created_date,
            sequence_number,
            flags,
            message_id,
            digest,
            payload_type,
            payload_length,
        ) = _HEADER.unpack_from(data)
    except struct_error:
        raise RemoteProtocolError("a message is shorter than its header") from None
    message_type = _TYPE_OF_WIRE.get(wire_type) or _type_name(wire_type)
    if message_type in _UNVALIDATED:
        return AgentMessage(message_type)
    if header_length != _HEADER_LENGTH:
        payload_length = _payload_length(data, header_length)
    payload = data[header_length + _UINT32.size :]
    if len(payload) != payload_length:
        raise RemoteProtocolError("a message's payload does not have the length it names")
    if payload_length and sha256(payload).digest() != digest:
        raise RemoteProtocolError("a message's payload does not match its digest")
    if not created_date or sequence_number < 0:
        raise RemoteProtocolError("a message has no date, or a negative sequence number")
    return AgentMessage(
        message_type,
        payload,
        sequence_number,
        payload_type,
        flags,
        message_id,
        created_date,
    )


def _wire_type(message_type: str) -> bytes:
    name = message_type.encode()
    if not _TYPE_NAME.fullmatch(name):
        raise LocalProtocolError(f"no message can have the type {message_type!r}")
    return name.ljust(32)


def _type_name(wire_type: bytes) -> str:
    """The text of a type that is padded otherwise than we do, or that we do not know."""
    name = wire_type.strip(b" \0")
    if not _TYPE_NAME.fullmatch(name):
        raise RemoteProtocolError("a message has no readable type")
    return name.decode()


def _payload_length(data: Buffer, header_length: int) -> int:
    """Where HeaderLength is not 116, PayloadLength stands elsewhere."""
    if header_length < _HEADER_LENGTH:
        raise RemoteProtocolError("a message names a header shorter than its fields")
    try:
        length: int = _UINT32.unpack_from(data, header_length)[0]
    except struct_error:
        raise RemoteProtocolError("a message is shorter than its header") from None
    return length


def message_ids(seed: bytes) -> Iterator[bytes]:
    """Ids for the messages of one session, as they go over the wire: version 4 UUIDs to look at.

    ``seed`` is 16 random bytes. The last 61 bits count, which is as unique within a session as
    random bits are, at a tenth of the cost.
    """
    high = seed[:6] + bytes((0x40 | seed[6] & 0x0F, seed[7]))
    # The variant's two bits, and a zero so that counting never reaches them.
    first = 1 << 63 | int.from_bytes(seed[8:]) & (1 << 61) - 1
    return (number.to_bytes(8) + high for number in count(first))


def uuid_text(message_id: bytes) -> str:
    """The text of an id as it is on the wire: its two halves are swapped there."""
    return _uuid(message_id).decode()


def _uuid(message_id: bytes) -> bytes:
    sequence, node, low, middle, high = _UUID.unpack(hexlify(message_id))
    return b"-".join((low, middle, high, sequence, node))


class Acknowledge(msgspec.Struct, rename="pascal", gc=False):
    """The payload of an acknowledge message: exactly one message, by its number."""

    acknowledged_message_type: str
    acknowledged_message_id: str
    acknowledged_message_sequence_number: int
    is_sequential_message: bool = True


class AcknowledgedNumber(msgspec.Struct, rename="pascal", gc=False):
    """What a sender needs of an Acknowledge."""

    acknowledged_message_sequence_number: int


class ChannelClosed(msgspec.Struct, rename="pascal"):
    """The payload of a channel_closed message; ``output`` is the reason, for the user."""

    output: str | None = None


class OpenDataChannel(msgspec.Struct, rename="pascal"):
    """The first message after the WebSocket opens, as text."""

    message_schema_version: str
    request_id: str
    token_value: str
    client_id: str
    client_version: str

    def __repr__(self) -> str:
        """Without the token, which is a secret."""
        return f"OpenDataChannel(client_id={self.client_id!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("client_id", self.client_id)]


_ACKNOWLEDGED = {
    kind.value: f'{{"AcknowledgedMessageType":"{kind}","AcknowledgedMessageId":"'.encode()
    for kind in (MessageType.INPUT_STREAM_DATA, MessageType.OUTPUT_STREAM_DATA)
}


def acknowledge(message: AgentMessage, message_id: bytes, created_date: int) -> bytes:
    """The wire form of the acknowledgement of ``message``, a stream data message.

    The JSON is that of Acknowledge, written out: there is one for each message that comes.
    """
    payload = b"".join(
        (
            _ACKNOWLEDGED[message.message_type],
            _uuid(message.message_id),
            b'","AcknowledgedMessageSequenceNumber":%d' % message.sequence_number,
            b',"IsSequentialMessage":true}',
        )
    )
    # Both reference ends set these flags (SYN and FIN) and number 0 on every acknowledgement.
    return serialize(MessageType.ACKNOWLEDGE, payload, 0, 0, 3, message_id, created_date)


_T = TypeVar("_T")
_decode_acknowledged = msgspec.json.Decoder(AcknowledgedNumber, strict=False).decode


def acknowledged_number(data: Buffer) -> int | None:
    """Which message the acknowledgement ``data`` names; None for whatever else is there.

    One message in two is an acknowledgement: this reads no more of it than it takes to check it.
    """
    if data[: len(_ACKNOWLEDGE_PREFIX)] != _ACKNOWLEDGE_PREFIX or len(data) <= HEADER_SIZE:
        return None
    created_date, digest, length = _ACKNOWLEDGE_FIELDS.unpack_from(data, len(_ACKNOWLEDGE_PREFIX))
    payload = data[HEADER_SIZE:]
    if len(payload) != length or sha256(payload).digest() != digest or not created_date:
        return None
    try:
        return _decode_acknowledged(payload).acknowledged_message_sequence_number
    except _MALFORMED:
        return None


def decode_json(payload: Buffer, kind: type[_T]) -> _T:
    """Read a JSON payload leniently: unknown fields are ignored, numbers may be strings.

    Raises RemoteProtocolError, and nothing else.
    """
    try:
        return msgspec.json.decode(payload, type=kind, strict=False)
    except _MALFORMED:
        raise RemoteProtocolError(f"a message has a malformed {kind.__name__} payload") from None


def encode_flag(flag: Flag) -> bytes:
    """The payload of a FLAG message."""
    return _UINT32.pack(flag)


def decode_flag(payload: Buffer) -> int:
    """The flag in a FLAG message's payload, known to us or not."""
    if len(payload) != _UINT32.size:
        raise RemoteProtocolError("a flag does not have four bytes")
    flag: int = _UINT32.unpack(payload)[0]
    return flag
