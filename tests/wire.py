"""An independent reading of the wire protocol: raw bytes, checked strictly.

Knows nothing of ssmnet, on purpose: what both ends of the project might get wrong in the same way
shows here.
"""

from __future__ import annotations

import hashlib
import json
import struct
import time
from dataclasses import dataclass, field
from typing import Any

HEADER = struct.Struct(">I32sIQqQ16s32sII")
OUTPUT, STDERR, SIZE = 1, 11, 3
HANDSHAKE_REQUEST, HANDSHAKE_RESPONSE, HANDSHAKE_COMPLETE, FLAG = 5, 6, 7, 10
DISCONNECT_TO_PORT, TERMINATE_SESSION, CONNECT_TO_PORT_ERROR = 1, 2, 3

INPUT, OUTPUT_DATA, ACKNOWLEDGE = "input_stream_data", "output_stream_data", "acknowledge"
CHANNEL_CLOSED = "channel_closed"
PAUSE, START = "pause_publication", "start_publication"

SYN, FIN, PSH, NOP = 0, 1, 2, 3


@dataclass
class Message:
    type: str
    number: int
    flags: int
    id: str
    payload_type: int
    payload: bytes
    created: int = 0

    def json(self) -> Any:
        return json.loads(self.payload)

    @property
    def flag(self) -> int:
        assert self.payload_type == FLAG
        assert len(self.payload) == 4
        return int(struct.unpack(">I", self.payload)[0])


def decode(raw: bytes) -> Message:
    """Read a message and insist on every rule that the reference ends keep."""
    assert len(raw) >= 120, "shorter than a header"
    (length, kind, schema, created, number, flags, wire_id, digest, payload_type, size) = (
        HEADER.unpack(raw[:120])
    )
    payload = raw[120:]
    assert length == 116
    assert schema == 1
    assert size == len(payload)
    assert kind == kind.rstrip(b" ").ljust(32), "the type is padded with spaces"
    name = kind.rstrip(b" ").decode("ascii")
    assert name
    assert name.replace("_", "").islower()
    assert digest == hashlib.sha256(payload).digest()
    assert abs(created / 1000 - time.time()) < 60 or created < 1_900_000_000_000
    assert created > 1_500_000_000_000, "milliseconds since the epoch"
    assert number >= 0
    if name in (INPUT, OUTPUT_DATA):
        assert payload, "stream data is never empty"
        assert flags in (0, 1)
        assert payload_type in range(1, 13)
    else:
        assert (number, payload_type) == (0, 0)
        assert flags == 3
    return Message(name, number, flags, uuid_text(wire_id), payload_type, payload, created)


def uuid_text(wire_id: bytes) -> str:
    """Least significant half first on the wire."""
    text = (wire_id[8:] + wire_id[:8]).hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def check_version_4(text: str) -> None:
    assert text[14] == "4"
    assert text[19] in "89ab"


def encode(
    kind: str,
    payload: bytes,
    *,
    number: int = 0,
    payload_type: int = 0,
    flags: int = 0,
    message_id: bytes = bytes(range(16)),
    created: int = 1_750_000_000_000,
) -> bytes:
    return (
        HEADER.pack(
            116,
            kind.encode().ljust(32),
            1,
            created,
            number,
            flags,
            message_id,
            hashlib.sha256(payload).digest(),
            payload_type,
            len(payload),
        )
        + payload
    )


def input_data(number: int, payload: bytes, payload_type: int = OUTPUT) -> bytes:
    message_id = number.to_bytes(16)
    return encode(INPUT, payload, number=number, payload_type=payload_type, message_id=message_id)


def flag(number: int, value: int) -> bytes:
    return input_data(number, struct.pack(">I", value), FLAG)


def acknowledge(message: Message) -> bytes:
    content = {
        "AcknowledgedMessageType": message.type,
        "AcknowledgedMessageId": message.id,
        "AcknowledgedMessageSequenceNumber": message.number,
        "IsSequentialMessage": True,
    }
    return encode(ACKNOWLEDGE, json.dumps(content).encode(), flags=3)


def acknowledged(message: Message) -> int:
    """The number that an acknowledgement names, its other fields checked."""
    content = message.json()
    assert set(content) == {
        "AcknowledgedMessageType",
        "AcknowledgedMessageId",
        "AcknowledgedMessageSequenceNumber",
        "IsSequentialMessage",
    }
    assert content["IsSequentialMessage"] is True
    assert content["AcknowledgedMessageType"] in (INPUT, OUTPUT_DATA)
    assert len(content["AcknowledgedMessageId"]) == 36
    return int(content["AcknowledgedMessageSequenceNumber"])


def handshake_response(version: str = "1.2.764.0", status: int = 1) -> bytes:
    action = {
        "ActionType": "SessionType",
        "ActionStatus": status,
        "ActionResult": None,
        "Error": "" if status == 1 else "no",
    }
    content = {"ClientVersion": version, "ProcessedClientActions": [action], "Errors": None}
    return json.dumps(content).encode()


def frame(command: int, stream: int, data: bytes = b"") -> bytes:
    return struct.pack("<BBHI", 1, command, len(data), stream) + data


@dataclass
class Frames:
    """Collects a smux byte stream and gives its whole frames."""

    rest: bytes = b""
    frames: list[tuple[int, int, bytes]] = field(default_factory=list)

    def feed(self, data: bytes) -> None:
        self.rest += data
        while len(self.rest) >= 8:
            version, command, length, stream = struct.unpack("<BBHI", self.rest[:8])
            assert version == 1
            assert command in (SYN, FIN, PSH, NOP)
            assert command == PSH or not length
            assert length <= 32768
            if len(self.rest) < 8 + length:
                return
            self.frames.append((command, stream, self.rest[8 : 8 + length]))
            self.rest = self.rest[8 + length :]

    def data(self, stream: int) -> bytes:
        """All whole and partial data of one stream so far."""
        whole = b"".join(
            data for command, number, data in self.frames if (command, number) == (PSH, stream)
        )
        if len(self.rest) > 8:
            _, command, _, number = struct.unpack("<BBHI", self.rest[:8])
            if (command, number) == (PSH, stream):
                whole += self.rest[8:]
        return whole

    def ended(self, stream: int) -> bool:
        return (FIN, stream, b"") in self.frames
