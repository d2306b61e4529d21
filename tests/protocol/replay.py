"""A recorded session, played to a DataChannel."""

from __future__ import annotations

import json
from base64 import b64decode

from ssmnet.loopback.encryption import Cipher
from ssmnet.protocol.events import Event, SessionReady
from ssmnet.protocol.message import AgentMessage, MessageType, PayloadType, parse
from ssmnet.protocol.port import BasicPort, PortStream
from ssmnet.protocol.shell import ShellPort
from ssmnet.protocol.smux import MuxStream
from tests.protocol import vectors
from tests.protocol.far_end import (
    ENCRYPTED_KEY,
    PSH,
    SYN,
    acknowledgements,
    all_events,
    inputs,
    new_channel,
    open_stream,
    sent_by,
    smux_frames,
)
from tests.protocol.simulation import acknowledged_number


class Replay:
    """The recorded agent's messages, and at the recorded places what the recorded user did.

    Time runs ``slowness`` times slower than it did, where the recorded client did not wait until
    data may flow. The messages of the agent's whose numbers are ``lost`` come only when it sends
    them again; before each of the lines ``cut`` the WebSocket is lost and another one opened, over
    which that line comes twice.
    """

    def __init__(
        self,
        name: str,
        *,
        lost: frozenset[int] = frozenset(),
        cut: frozenset[int] = frozenset(),
        slowness: float = 20.0,
        shell: bool = False,
        errors_apart: bool = False,
    ) -> None:
        self.lines = vectors.read(name)
        self.channel = new_channel(shell=shell)
        self.events: list[Event] = []
        self.acknowledged: list[int] = []
        self.recorded: list[int] = []
        self.recorded_inputs: list[AgentMessage] = []
        self.sent: list[AgentMessage] = []
        self.received: list[bytearray] = []
        self.streams: list[MuxStream | PortStream] = []
        self.cipher: Cipher | None = None  # the agent's
        self._slowness = slowness
        self._errors_apart = errors_apart
        self._lost = set(lost)
        self._cut = cut
        self._now = 0.0
        self._position = 0  # in what the recorded client sent
        self._frames = recorded_frames(self.lines)

    def run(self) -> None:
        for place, line in enumerate(self.lines):
            self._now = line.at * self._slowness
            if place in self._cut:
                self.channel.open("another token", "another-request-id", self._now)
                self._play(line)
            self._play(line)

    def input_of(self, message: AgentMessage) -> bytes:
        """What a client has sent, as the agent reads it."""
        payload = bytes(message.payload)
        return self.cipher.decrypt(payload) if self.cipher else payload

    def _play(self, line: vectors.Line) -> None:
        if line.way == "kms->client":
            data_key = b64decode(json.loads(line.text)["Plaintext"])
            self.cipher = Cipher(data_key, bytes(12))
            self.channel.data_key_received(data_key, ENCRYPTED_KEY)
        elif line.way == "client->gateway":
            self._client_did(line)
        elif line.data and not self._is_lost(line.data):
            self.channel.receive_message(memoryview(line.data))
            self.channel.burst_ended(self._now)
            self._read()
        self._look_at_events()
        if (timer := self.channel.get_timer()) is not None and timer <= self._now:
            self.channel.handle_timer(self._now)
        self._send()

    def _look_at_events(self) -> None:
        found = all_events(self.channel)
        self.events += found
        for event in found:
            if isinstance(event, SessionReady) and isinstance(self.channel.port, ShellPort):
                if self._errors_apart:
                    self.streams.append(self.channel.open_error_stream())
                    self.received.append(bytearray())
                self._open()
                self._read()

    def _is_lost(self, data: bytes) -> bool:
        message = parse(data)
        if message.message_type == MessageType.AGENT_SESSION_STATE:
            return True  # for the gateway alone
        number = message.sequence_number
        if message.message_type == MessageType.OUTPUT_STREAM_DATA and number in self._lost:
            self._lost.discard(number)
            return True
        return False

    def _client_did(self, line: vectors.Line) -> None:
        if line.text:
            first = json.loads(line.text)
            text = self.channel.open(first["TokenValue"], first["RequestId"], self._now)
            ours = json.loads(text)
            assert ours | {"ClientId": "", "ClientVersion": ""} == first | {
                "ClientId": "",
                "ClientVersion": "",
            }
            return
        message = parse(line.data)
        if message.message_type == MessageType.ACKNOWLEDGE:
            self.recorded.append(acknowledged_number(line.data))
            return
        if message.sequence_number < len(self.recorded_inputs):
            return
        self.recorded_inputs.append(message)
        if message.payload_type == PayloadType.FLAG:
            assert self.channel.terminate()
        elif message.payload_type == PayloadType.OUTPUT:
            self._user_did(self.input_of(message))

    def _user_did(self, payload: bytes) -> None:
        if isinstance(self.channel.port, BasicPort):
            if not self.streams:
                self._open()
            self.streams[0].write(payload)
            return
        self._position += len(payload)
        while self._frames and self._frames[0][0] < self._position:
            _, command, stream_id, data = self._frames.pop(0)
            if command == SYN:
                self._open()
                continue
            stream = next(s for s in self.streams if isinstance(s, MuxStream) and s.id == stream_id)
            if command == PSH:
                stream.write(data)
            else:
                stream.close()

    def _open(self) -> None:
        self.streams.append(open_stream(self.channel))
        self.received.append(bytearray())

    def _read(self) -> None:
        if self.channel.port is not None:
            for stream in self.channel.port.touched():
                self.received[self.streams.index(stream)] += stream.take_received()

    def _send(self) -> None:
        messages = sent_by(self.channel, self._now)
        self.acknowledged += acknowledgements(messages)
        self.sent += inputs(messages)


def recorded_frames(lines: list[vectors.Line]) -> list[tuple[int, int, int, bytes]]:
    """What the recorded client sent: (where it begins, command, stream id, data)."""
    messages = [parse(line.data) for line in lines if line.data and line.way == "client->gateway"]
    payloads = [bytes(m.payload) for m in messages if m.payload_type == PayloadType.OUTPUT]
    if not payloads or payloads[0][:1] != b"\x01":
        return []  # a raw stream
    found, position = [], 0
    for command, stream_id, data in smux_frames(b"".join(payloads)):
        found.append((position, command, stream_id, data))
        position += 8 + len(data)
    return found
