"""An ideal far end for a DataChannel, and the virtual time in which the two talk.

FarEnd is the plainest agent that keeps every promise: it acknowledges what it gets, puts it in
order, and sends again what is not acknowledged. It shares the message codec with the client and
nothing else. ``Conversation`` also takes any other agent with the same five methods.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Protocol

from ssmnet.loopback.encryption import Cipher
from ssmnet.protocol.channel import DataChannel
from ssmnet.protocol.events import DataKeyNeeded, Event
from ssmnet.protocol.message import (
    PAYLOAD_SIZE,
    AgentMessage,
    MessageType,
    PayloadType,
    acknowledge,
    decode_flag,
    message_ids,
    parse,
)
from ssmnet.protocol.port import PortStream
from ssmnet.protocol.smux import MuxStream
from ssmnet.testing.link import Path
from tests.protocol.simulation import CREATED, acknowledged_number

CLIENT_ID = "2e6344f8-0803-4417-820c-3d42b88d4127"
FORWARD: Mapping[str, str] = {"portNumber": "80", "type": "LocalPortForwarding"}
RAW: Mapping[str, str] = {"portNumber": "22"}
SYN, FIN, PSH, NOP = 0, 1, 2, 3

# A data key, and how KMS gives it to who can't read it.
DATA_KEY = bytes(range(64))
ENCRYPTED_KEY = b"as KMS has encrypted it"
SECRETS = (PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE)

RESEND_AFTER = 0.3


def new_channel(**arguments: Any) -> DataChannel:
    """A DataChannel whose messages are the same in each run."""
    nonces = (number.to_bytes(12) for number in count())
    return DataChannel(
        client_id=CLIENT_ID,
        seed=bytes(range(16)),
        nonce=nonces.__next__,
        wall_clock=lambda: CREATED,
        **arguments,
    )


def smux_frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(command, stream id, data) of the complete frames, read field by field."""
    while len(data) >= 8:
        version, command, length, stream_id = struct.unpack_from("<BBHI", data)
        assert version == 1
        if len(data) < 8 + length:
            return
        yield command, stream_id, data[8 : 8 + length]
        data = data[8 + length :]


def smux_frame(command: int, stream_id: int, data: bytes = b"") -> bytes:
    """One frame, written field by field."""
    return struct.pack("<BBHI", 1, command, len(data), stream_id) + data


class Agent(Protocol):
    """What a Conversation asks of an agent's core."""

    def start(self, now: float) -> None:
        """The channel to the gateway is open."""

    def receive(self, data: bytes, now: float) -> None:
        """One binary message from the gateway."""

    def data_to_send(self, now: float) -> list[bytes]:
        """The messages that go out now, in order."""

    def get_timer(self) -> float | None:
        """When handle_timer is due."""

    def handle_timer(self, now: float) -> None:
        """Do what is due."""


class FarEnd:
    """``inputs`` holds what was processed in order: (payload type, payload); ``input`` the bytes.

    With ``echo`` each byte of a stream goes back, and so does its end. With ``handshake`` false
    there is none, as with shells; with ``data_key`` the session is encrypted by it. ``thrown_away``
    holds what came before the agent takes data, ``sent`` all its messages.
    """

    def __init__(
        self,
        *,
        version: str = "3.3.0.0",
        properties: Mapping[str, str] = FORWARD,
        session_type: str = "Port",
        echo: bool = False,
        handshake: bool = True,
        data_key: bytes = b"",
        challenge: str | None = None,
    ) -> None:
        self.sent: list[bytes] = []
        self.thrown_away: list[bytes] = []
        self.sizes: list[tuple[int, int]] = []
        self.inputs: list[tuple[int, bytes]] = []
        self.input = bytearray()
        self.flags: list[int] = []
        self.ended: list[int] = []
        self.streams: dict[int, bytearray] = {}
        self.duplicates = 0
        self.unacknowledged: dict[int, tuple[bytes, float]] = {}
        self.multiplexed = properties.get("type") == "LocalPortForwarding" and version >= "3.1"
        self._request: dict[str, Any] = {
            "AgentVersion": version,
            "RequestedClientActions": [
                {
                    "ActionType": "SessionType",
                    "ActionParameters": {"SessionType": session_type, "Properties": properties},
                }
            ],
        }
        if data_key:
            parameters = {"KMSKeyId": "key", "Challenge": challenge}
            encryption = {"ActionType": "KMSEncryption", "ActionParameters": parameters}
            self._request["RequestedClientActions"].append(encryption)
        self._cipher = Cipher(data_key, bytes(12)) if data_key else None
        self._begins = handshake
        self._taking = not handshake
        self._echo = echo
        self._ids = message_ids(bytes(16))
        self._numbers = count()
        self._expected = 0
        self._early: dict[int, AgentMessage] = {}
        self._parsed = 0
        self._out: list[bytes] = []

    def start(self, now: float) -> None:
        """Begin the handshake, if there is one."""
        if self._begins:
            self.send(PayloadType.HANDSHAKE_REQUEST, json.dumps(self._request).encode(), now)

    def send(self, payload_type: int, payload: bytes, now: float) -> bytes:
        """Send one message of the agent's stream."""
        number = next(self._numbers)
        if self._cipher is not None and payload_type in SECRETS:
            payload = self._cipher.encrypt(payload)
        data = AgentMessage(
            MessageType.OUTPUT_STREAM_DATA,
            payload,
            number,
            payload_type,
            message_id=next(self._ids),
            created_date=CREATED,
        ).serialize()
        self.unacknowledged[number] = (data, now)
        self.sent.append(data)
        self._out.append(data)
        return data

    def output(self, data: bytes, now: float) -> None:
        """Send bytes, in messages of the usual size."""
        for start in range(0, len(data), PAYLOAD_SIZE):
            self.send(PayloadType.OUTPUT, data[start : start + PAYLOAD_SIZE], now)

    def receive(self, data: bytes, now: float) -> None:
        """One binary message of the client."""
        message = parse(data)
        if message.message_type == MessageType.ACKNOWLEDGE:
            self.unacknowledged.pop(acknowledged_number(data), None)
            return
        assert message.message_type == MessageType.INPUT_STREAM_DATA
        self._out.append(acknowledge(message, next(self._ids), CREATED))
        if message.sequence_number < self._expected:
            self.duplicates += 1
            return
        self._early[message.sequence_number] = message
        while (next_message := self._early.pop(self._expected, None)) is not None:
            self._expected += 1
            self._process(next_message.payload_type, bytes(next_message.payload), now)

    def data_to_send(self, now: float) -> list[bytes]:
        """The messages that go out now, in order."""
        out, self._out = self._out, []
        return out

    def get_timer(self) -> float | None:
        """When something has to be sent again."""
        sent = [at for _, at in self.unacknowledged.values()]
        return min(sent) + RESEND_AFTER if sent else None

    def handle_timer(self, now: float) -> None:
        """Send again what is overdue."""
        for number, (data, at) in self.unacknowledged.items():
            if at + RESEND_AFTER <= now:
                self.unacknowledged[number] = (data, now)
                self._out.append(data)

    def _process(self, payload_type: int, payload: bytes, now: float) -> None:
        if self._cipher is not None and payload_type == PayloadType.OUTPUT:
            payload = self._cipher.decrypt(payload)
        self.inputs.append((payload_type, payload))
        match payload_type:
            case PayloadType.HANDSHAKE_RESPONSE:
                self._receive_response(payload, now)
            case PayloadType.ENC_CHALLENGE_RESPONSE:
                self._receive_challenge(payload, now)
            case PayloadType.FLAG:
                self.flags.append(decode_flag(payload))
            case PayloadType.SIZE:
                size = json.loads(payload)
                self.sizes.append((size["cols"], size["rows"]))
            case _ if not self._taking:
                self.thrown_away.append(payload)
            case _:
                self._receive_input(payload, now)

    def _receive_response(self, payload: bytes, now: float) -> None:
        if self._cipher is None:
            self._complete(now)
            return
        actions = json.loads(payload)["ProcessedClientActions"]
        assert b64decode(actions[1]["ActionResult"]["KMSCipherTextKey"]) == ENCRYPTED_KEY
        challenge = b64encode(self._cipher.encrypt(b"challenge")).decode()
        text = json.dumps({"Challenge": challenge})
        self.send(PayloadType.ENC_CHALLENGE_REQUEST, text.encode(), now)

    def _receive_challenge(self, payload: bytes, now: float) -> None:
        assert self._cipher is not None
        assert self._cipher.decrypt(b64decode(json.loads(payload)["Challenge"])) == b"challenge"
        self._complete(now)

    def _complete(self, now: float) -> None:
        self._taking = True
        self.send(PayloadType.HANDSHAKE_COMPLETE, b'{"CustomerMessage":"hello"}', now)

    def _receive_input(self, payload: bytes, now: float) -> None:
        self.input += payload
        if self.multiplexed:
            self._receive_frames(now)
        elif self._echo:
            self.output(payload, now)

    def _receive_frames(self, now: float) -> None:
        for command, stream_id, data in smux_frames(bytes(self.input[self._parsed :])):
            self._parsed += 8 + len(data)
            if command == SYN:
                self.streams[stream_id] = bytearray()
            elif command == FIN:
                self.ended.append(stream_id)
            elif command == PSH:
                self.streams[stream_id] += data
            if self._echo and command in (PSH, FIN):
                self.output(smux_frame(command, stream_id, data), now)


class Conversation:
    """A DataChannel and an agent, with a Path each way.

    ``received`` holds the bytes of each of the client's streams, in the order of their opening.
    ``sent`` holds every message of the client, ``events`` all that has happened. KMS has
    ``data_key`` for whoever needs one.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        there: Path | None = None,
        back: Path | None = None,
        channel: DataChannel | None = None,
        data_key: bytes = DATA_KEY,
    ) -> None:
        self.events: list[Event] = []
        self._data_key = data_key
        self.agent = agent
        self.channel = channel or new_channel()
        self.there = there or Path(0.01)
        self.back = back or Path(0.01)
        self.now = 0.0
        self.sent: list[bytes] = []
        self.received: dict[object, bytearray] = {}
        self.connected = True
        self.channel.open("token", "request-id", self.now)
        agent.start(self.now)
        self._exchange()

    def run(self, until: float) -> None:
        """Let time pass until ``until``."""
        while (now := self._next_event()) is not None and now <= until:
            self.now = max(self.now, now)
            self._deliver()
            for end in (self.channel, self.agent):
                timer = end.get_timer()
                if timer is not None and timer <= self.now:
                    end.handle_timer(self.now)
            self._exchange()
        self.now = until

    def flush(self) -> None:
        """Send what was written since."""
        self._exchange()

    def cut(self) -> None:
        """The WebSocket is lost, with all that was on its way."""
        self.connected = False
        self.channel.interrupted()
        self.there.cut()
        self.back.cut()

    def reconnect(self) -> None:
        """The session is resumed over a new WebSocket."""
        self.connected = True
        self.channel.open("another token", "another-request-id", self.now)
        self._exchange()

    def _next_event(self) -> float | None:
        times = [self.there.next_event(), self.back.next_event(), self.agent.get_timer()]
        if self.connected:
            times.append(self.channel.get_timer())
        return min((time for time in times if time is not None), default=None)

    def _deliver(self) -> None:
        for data in self.there.arrived(self.now):
            self.agent.receive(data, self.now)
        burst = self.back.arrived(self.now)
        for data in burst:
            self.channel.receive_message(memoryview(data))
        if burst:
            self.channel.burst_ended(self.now)

    def _exchange(self) -> None:
        self._read()
        self._look_at_events()
        if self.connected:
            while messages := self.channel.data_to_send(self.now):
                self.sent += messages
                for data in messages:
                    self.there.send(data, self.now)
        for data in self.agent.data_to_send(self.now):
            if self.connected:
                self.back.send(data, self.now)

    def _read(self) -> None:
        if self.channel.port is not None:
            for stream in self.channel.port.touched():
                self.received.setdefault(stream, bytearray()).extend(stream.take_received())

    def _look_at_events(self) -> None:
        found = all_events(self.channel)
        for event in found:
            if isinstance(event, DataKeyNeeded):
                self.channel.data_key_received(self._data_key, ENCRYPTED_KEY)
        self.events += found


def feed(channel: DataChannel, *messages: bytes, now: float = 0.0) -> list[AgentMessage]:
    """Give the channel a burst; what it answers."""
    for data in messages:
        channel.receive_message(data)
    channel.burst_ended(now)
    return sent_by(channel, now)


def sent_by(channel: DataChannel, now: float = 0.0) -> list[AgentMessage]:
    """All that the channel has to send."""
    out = []
    while messages := channel.data_to_send(now):
        out += [parse(data) for data in messages]
    return out


def all_events(channel: DataChannel) -> list[Event]:
    """What has happened, the end of the session last."""
    found: list[Event] = []
    while events := channel.events():
        found += events
    return found


def acknowledgements(messages: list[AgentMessage]) -> list[int]:
    """The numbers that these messages acknowledge, in order."""
    return [
        json.loads(bytes(message.payload))["AcknowledgedMessageSequenceNumber"]
        for message in messages
        if message.message_type == MessageType.ACKNOWLEDGE
    ]


def open_stream(channel: DataChannel) -> MuxStream | PortStream:
    """The next stream of a session that can have one."""
    stream = channel.open_stream()
    assert stream is not None
    return stream


def inputs(messages: list[AgentMessage]) -> list[AgentMessage]:
    """Those of the client's stream."""
    return [m for m in messages if m.message_type == MessageType.INPUT_STREAM_DATA]


def control(message_type: str, content: object = None) -> bytes:
    """A message of the gateway's own."""
    payload = b"" if content is None else json.dumps(content).encode()
    return AgentMessage(message_type, payload, flags=3, created_date=CREATED).serialize()
