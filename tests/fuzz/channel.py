"""A whole DataChannel against any sequence of messages, valid, mutated and of no sense at all.

An input is a program: what the agent sends, what the owners of streams do, time, reconnects. Only
RemoteProtocolError and HandshakeError may come out; only valid stream data within reach is
acknowledged; all that goes out is read by the independent decoder.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from base64 import b64encode

from ssmnet.errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from ssmnet.loopback.encryption import Cipher
from ssmnet.protocol import channel, encryption, opening, port, shell, smux, stream
from ssmnet.protocol.events import ChannelEnded, DataKeyNeeded, SessionReady
from ssmnet.protocol.port import PortStream
from ssmnet.protocol.smux import MuxStream
from ssmnet.protocol.stream import MAX_REORDERED_MESSAGES
from tests import wire
from tests.fuzz.program import Program, chunk
from tests.protocol import vectors
from tests.protocol.far_end import DATA_KEY, ENCRYPTED_KEY, FORWARD, RAW, new_channel

SUBJECTS = (channel, opening, encryption, port, shell, smux, stream)
MAX_STREAMS = 8
MAX_ROUNDS = 2000  # of sending without an answer, far more than any window
KINDS = (
    ("3.3.0.0", "Port", FORWARD),
    ("3.1.1511.0", "Port", FORWARD),
    ("3.0.196.0", "Port", FORWARD),
    ("3.3.0.0", "Port", RAW),
    ("3.3.0.0", "NonInteractiveCommands", None),
    ("3.3.0.0", "Standard_Stream", None),
)
# What else the first byte of a program says: that all is acknowledged and a stream opened, that the
# session may be a shell, that its agent wants it encrypted.
ACKNOWLEDGED, OPENED, MAY_BE_SHELL, ENCRYPTED = 0x10, 0x20, 0x40, 0x80
SECRET = (wire.OUTPUT, wire.STDERR, 12)
NONCE_AND_TAG = 28
TYPES = (
    wire.OUTPUT_DATA,
    wire.OUTPUT_DATA,
    wire.ACKNOWLEDGE,
    wire.CHANNEL_CLOSED,
    wire.PAUSE,
    wire.START,
    wire.INPUT,
    "agent_session_state",
    "unknown",
)
TOKENS = tuple(
    b"\1" + chunk(wire.frame(command, 3, data))
    for command, data in ((wire.FIN, b""), (wire.PSH, b"data"), (wire.NOP, b""))
)


def request(
    version: str, session_type: str, properties: object, *, encrypted: bool = False
) -> bytes:
    parameters = {"SessionType": session_type, "Properties": properties}
    actions = [{"ActionType": "SessionType", "ActionParameters": parameters}]
    if encrypted:
        actions.append({"ActionType": "KMSEncryption", "ActionParameters": {"KMSKeyId": "key"}})
    content = {"AgentVersion": version, "RequestedClientActions": actions}
    return json.dumps(content).encode()


class Life:
    """One life of a channel."""

    def __init__(self, data: bytes) -> None:
        self._program = Program(data)
        self._kind = self._program.byte()
        self._may_be_shell = bool(self._kind & MAY_BE_SHELL)
        self._channel = new_channel(shell=self._may_be_shell)
        self._cipher = Cipher(DATA_KEY, bytes(12))  # the agent's
        self._encrypts = False
        self._encrypted = 0  # bytes that the agent did encrypt
        self._given = 0  # bytes that came out of streams since
        self._told: list[type] = []
        self._now = 0.0
        self._next = 0  # the agent's number
        self._heard: dict[int, bytes] = {}  # the client's stream data, by number
        self._streams: list[MuxStream | PortStream] = []
        self._taken: set[int] = set()  # numbers that were acknowledged
        self._fed = self._got = 0
        self._flushed = False
        self._steps = 0

    def run(self) -> None:
        try:
            self._begin(self._kind)
            while self._program.goes_on():
                self._flushed = False
                self.STEPS[self._program.byte() % len(self.STEPS)](self)
                if not self._flushed:
                    self._flush()
                self._steps += 1
                if self._steps % 8 == 0:
                    self._check_state()
        except (RemoteProtocolError, HandshakeError) as error:
            told = str(error)
            assert 0 < len(told) < 200
            assert "\n" not in told
        self._check_state()

    def _begin(self, kind: int) -> None:
        """Shake hands, unless the program is to do it, or not to."""
        self._channel.open("token", "request-id", self._now)
        if kind % 8 >= len(KINDS):
            return
        encrypted = bool(kind & ENCRYPTED)
        self._send(wire.HANDSHAKE_REQUEST, request(*KINDS[kind % 8], encrypted=encrypted))
        if encrypted:
            self._give_key()
            self._challenge()
        self._send(wire.HANDSHAKE_COMPLETE, b"{}")
        if kind & ACKNOWLEDGED:
            self._acknowledge_all()
        if kind & OPENED:
            self._now = 1.0
            self._channel.handle_timer(self._now)
            self._open()

    # What the agent does.

    def _send(self, payload_type: int, payload: bytes, number: int | None = None) -> None:
        if number is None:
            number = self._next
        data = wire.encode(
            wire.OUTPUT_DATA,
            payload,
            number=number,
            payload_type=payload_type,
            message_id=number.to_bytes(16),
        )
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        """One message, and its acknowledgement, or none, as it deserves."""
        self._fed += len(data)
        before = self._channel._receiver.expected
        invalid = self._channel.invalid_messages
        number = number_of(data)
        waited = number in self._channel._receiver._waiting
        try:
            self._channel.receive_message(memoryview(data))
        except (RemoteProtocolError, HandshakeError):
            assert number == before, "only what is processed can end a session"
            raise
        after = self._next = self._channel._receiver.expected
        self._channel.burst_ended(self._now)
        due = []
        if number is not None and number - before <= MAX_REORDERED_MESSAGES:
            # In its turn it may have to come again: nobody was there to take it.
            due = [number] if number != before or after > before else []
            due = [number] if waited and number != before else due
        assert after >= before
        assert number is not None or after == before
        assert not due or self._channel.invalid_messages - invalid <= after - before
        assert self._flush() == due
        self._taken.update(due)

    def _raw(self) -> None:
        self._receive(self._program.chunk())

    def _output(self) -> None:
        self._send(wire.OUTPUT, self._program.chunk())

    def _secret(self) -> None:
        """What a session carries, as the agent encrypts it, whether it was asked to or not."""
        kind, payload = SECRET[self._program.byte() % len(SECRET)], self._program.chunk()
        if payload:
            self._encrypted += len(payload)
            self._send(kind, self._cipher.encrypt(payload))

    def _exit_code(self) -> None:
        self._send(12, b"EXIT_CODE: %d" % self._program.byte())

    def _challenge(self) -> None:
        challenge = b64encode(self._cipher.encrypt(b"challenge")).decode()
        self._send(8, json.dumps({"Challenge": challenge}).encode())

    def _request(self) -> None:
        kind = self._program.byte()
        encrypted = bool(kind & ENCRYPTED)
        self._send(5, request(*KINDS[kind % len(KINDS)], encrypted=encrypted))

    def _complete(self) -> None:
        self._send(7, b"{}")

    def _any_type(self) -> None:
        self._send(self._program.byte() % 16, self._program.chunk())

    def _out_of_order(self) -> None:
        number = max(0, self._next + self._program.byte() - 64)
        self._send(wire.OUTPUT, self._program.chunk(), number)

    def _far_ahead(self) -> None:
        number = self._next + MAX_REORDERED_MESSAGES + self._program.byte() % 4 - 1
        self._send(wire.OUTPUT, b"far ahead", number)

    def _frame(self) -> None:
        command, place = self._program.byte() % 4, self._program.byte()
        data = self._program.chunk() if command == wire.PSH else b""
        self._send(wire.OUTPUT, wire.frame(command, 3 + 2 * (place % MAX_STREAMS), data))

    def _flag(self) -> None:
        self._send(wire.FLAG, struct.pack(">I", self._program.byte() % 5))

    def _any_message(self) -> None:
        kind = TYPES[self._program.byte() % len(TYPES)]
        number, flags = self._program.byte(), self._program.byte()
        self._receive(wire.encode(kind, self._program.chunk(), number=number, flags=flags))

    def _corrupted(self) -> None:
        """The next message, a few bits of it wrong."""
        data = bytearray(wire.encode(wire.OUTPUT_DATA, b"data", number=self._next, payload_type=1))
        for place in self._program.chunk()[:4]:
            data[place % len(data)] ^= 1 << (place & 7)
        self._receive(bytes(data))

    def _pause(self) -> None:
        self._receive(wire.encode(wire.PAUSE, b""))

    def _start(self) -> None:
        self._receive(wire.encode(wire.START, b""))

    def _acknowledge(self) -> None:
        """Something that was sent, most of the time."""
        number = self._program.byte()
        if self._heard and number < 240:
            number = max(self._heard) - number % len(self._heard)
        content = {"AcknowledgedMessageSequenceNumber": number - (number == 255) * 300}
        self._receive(wire.encode(wire.ACKNOWLEDGE, json.dumps(content).encode(), flags=3))

    def _acknowledge_all(self) -> None:
        for data in list(self._heard.values())[-300:]:
            self._receive(wire.acknowledge(wire.decode(data)))

    def _acknowledge_oddly(self) -> None:
        payload = b'{"AcknowledgedMessageSequenceNumber":' + self._program.chunk() + b"}"
        self._receive(wire.encode(wire.ACKNOWLEDGE, payload, flags=3))

    def _close_channel(self) -> None:
        payload = b'{"Output":' + self._program.chunk() + b"}"
        self._receive(wire.encode(wire.CHANNEL_CLOSED, payload, flags=3))

    # What the owner does.

    def _give_key(self) -> None:
        """As KMS does; who has not asked for a key is given none."""
        if self._told.count(DataKeyNeeded) and not self._encrypts:
            self._encrypts = True
            self._channel.data_key_received(DATA_KEY, ENCRYPTED_KEY)

    def _set_size(self) -> None:
        self._channel.set_size(self._program.byte(), self._program.byte(), self._now)

    def _open_errors(self) -> None:
        try:
            opened = self._channel.open_error_stream()
        except LocalProtocolError:
            return
        self._streams += [opened] if len(self._streams) < MAX_STREAMS else []

    def _end_session(self) -> None:
        self._channel.end()

    def _open(self) -> None:
        try:
            opened = self._channel.open_stream()
        except LocalProtocolError:
            assert self._channel.port is None or not self._channel.ready
        else:
            self._streams += [opened] if opened and len(self._streams) < MAX_STREAMS else []
            self._next = self._channel._receiver.expected

    def _write(self) -> None:
        place, data = self._program.byte(), self._program.chunk()
        if self._streams:
            try:
                self._streams[place % len(self._streams)].write(data * (1 + place // 64))
            except LocalProtocolError:
                assert place % len(self._streams) < len(self._streams), "closed before"

    def _end(self) -> None:
        place = self._program.byte()
        if self._streams and place & 1:
            self._streams[place // 2 % len(self._streams)].close()
        elif self._streams:
            self._streams[place // 2 % len(self._streams)].abort()

    def _reconnect(self) -> None:
        self._channel.open("another token", "request-id", self._now)

    def _toggle_writable(self) -> None:
        self._channel.writable = not self._channel.writable

    def _terminate(self) -> None:
        self._channel.terminate()

    def _read_late(self) -> None:
        self._channel.reading_resumed(self._now)

    def _wait(self) -> None:
        self._now += (self._program.byte() + 1) / 64
        self._channel.handle_timer(self._now)

    def _wait_for_timer(self) -> None:
        """A timer that was handled is over: a driver would spin otherwise."""
        for _ in range(50):
            timer = self._channel.get_timer()
            if timer is None:
                return
            self._now = max(self._now, timer)
            self._channel.handle_timer(self._now)
            self._flush()
            timer = self._channel.get_timer()
            if timer is None or timer > self._now:
                return
        raise AssertionError("a timer is due for ever")

    # What holds after each step.

    def _flush(self) -> list[int]:
        """Send all there is; the numbers that are acknowledged."""
        acknowledged: list[int] = []
        for _ in range(MAX_ROUNDS):
            messages = self._channel.data_to_send(self._now)
            if not messages:
                break
            for data in messages:
                self._look_at(data, acknowledged)
        else:
            raise AssertionError("there is always more to send")
        self._read()
        self._flushed = True
        return acknowledged

    def _look_at(self, data: bytes, acknowledged: list[int]) -> None:
        message = wire.decode(data)
        most = 1024 + NONCE_AND_TAG * self._encrypts
        assert len(message.payload) <= most or message.payload_type == wire.HANDSHAKE_RESPONSE
        if message.type == wire.ACKNOWLEDGE:
            acknowledged.append(wire.acknowledged(message))
            return
        assert message.type == wire.INPUT
        if message.number in self._heard:
            assert self._heard[message.number] == data, "sent again, and not the same"
        else:
            assert message.number == len(self._heard), "a number is left out"
            self._heard[message.number] = data

    def _read(self) -> None:
        self._look_at_events()
        if self._channel.port is not None:
            for touched in self._channel.port.touched():
                taken = touched.take_received()
                self._got += len(taken)
                self._given += len(taken) * self._encrypts
            for relieved in self._channel.port.relieved():
                assert relieved.low_water is None
        assert self._got <= self._fed
        assert self._given <= self._encrypted, "something in the clear was given out"

    def _look_at_events(self) -> None:
        told: list[type] = []
        while events := self._channel.events():
            told += map(type, events)
        assert ChannelEnded not in told[:-1], "the end comes last"
        self._told += told
        assert self._told.count(SessionReady) == int(self._channel.ready)
        assert self._told.count(DataKeyNeeded) <= 1
        assert self._channel.ready or not self._channel._opening.flowing

    def _check_state(self) -> None:
        """Not after each step, for it takes as long as the step: what goes wrong here stays so."""
        sender, receiver = self._channel._sender, self._channel._receiver
        timer = self._channel.get_timer()
        assert timer is None or math.isfinite(timer)
        assert self._channel.stalled_for(self._now) >= 0.0
        assert self._channel.idle <= sender.idle
        assert self._channel.acknowledged <= self._channel.sent == len(self._heard)
        assert sender.window.in_flight == sum(len(m.wire) for m in sender._in_flight.values())
        assert not set(sender._in_flight) & set(sender._lost)
        assert len(sender._in_flight) + len(sender._lost) <= sender.next_number
        kept = sum(len(message.payload) for message in receiver._waiting.values())
        assert kept == receiver._waiting_bytes <= self._fed
        assert all(number >= receiver.expected for number in receiver._waiting)

    STEPS = (
        _raw,
        _output,
        _any_type,
        _out_of_order,
        _far_ahead,
        _frame,
        _frame,
        _frame,
        _flag,
        _any_message,
        _corrupted,
        _pause,
        _start,
        _acknowledge,
        _acknowledge,
        _acknowledge_all,
        _acknowledge_oddly,
        _close_channel,
        _open,
        _write,
        _write,
        _end,
        _reconnect,
        _toggle_writable,
        _terminate,
        _read_late,
        _wait,
        _wait_for_timer,
        _secret,
        _secret,
        _exit_code,
        _challenge,
        _request,
        _complete,
        _give_key,
        _set_size,
        _open_errors,
        _end_session,
    )


def number_of(data: bytes) -> int | None:
    """The number of a valid message of the agent's stream, read by the rules alone."""
    if len(data) < 120:
        return None
    length, kind, _, created, number, _, _, digest, _, _ = wire.HEADER.unpack_from(data)
    if kind.strip(b" \0").decode("latin-1") != wire.OUTPUT_DATA or length < 116:
        return None
    size, payload = data[length : length + 4], data[length + 4 :]
    if size != len(payload).to_bytes(4) or not created or number < 0:
        return None
    if payload and hashlib.sha256(payload).digest() != digest:
        return None
    return int(number)


def fuzz(data: bytes) -> None:
    Life(data).run()


def step(name: str, *rest: int) -> bytes:
    names = [method.__name__ for method in Life.STEPS]
    return bytes((names.index(name), *rest))


def seeds() -> list[bytes]:
    """What recorded agents sent, as raw messages; and lives with everything in them."""
    found = []
    for name in vectors.NAMES:
        lines = vectors.read(name)
        messages = [line.data for line in lines if line.way.endswith("->client") and line.data]
        messages = messages or [line.data for line in lines if line.way == "agent->gateway"]
        steps = [step("_raw") + chunk(data) for data in messages if 0 < len(data) < 900]
        found.append(b"\6" + step("_open").join(steps[:5]))
    hello = chunk(b"hello")
    for kind in (0x35, 0x36, 0x30, 0x33):
        odd = [step("_any_type", number) for number in range(16)]
        found += [bytes((kind,)) + (chunk(data)).join([*odd, b""]) for data in (b"", b"\0\0\3")]
    for kind in range(0x30, 0x38):
        found.append(
            bytes((kind,))
            + step("_write", 0) + hello
            + step("_wait_for_timer") * 2
            + step("_acknowledge_all")
            + step("_frame", 2, 0) + hello
            + step("_flag", 3)
            + step("_frame", 1, 0)
            + step("_open")
            + step("_write", 255) + chunk(bytes(1000))
            + step("_acknowledge", 0) * 2
            + step("_wait_for_timer") * 3
            + step("_acknowledge", 3)
            + step("_out_of_order", 66) + hello
            + step("_output") + hello
            + step("_end", 1)
            + step("_terminate")
        )  # fmt: skip
        found.append(
            bytes((kind,))
            + step("_pause")
            + step("_write", 64) + chunk(bytes(700))
            + step("_start")
            + step("_reconnect")
            + step("_wait_for_timer")
            + step("_acknowledge_all")
            + step("_toggle_writable")
            + step("_write", 64) + chunk(bytes(700))
            + step("_read_late")
            + step("_toggle_writable")
            + step("_any_message", 3) + hello
            + step("_acknowledge_oddly") + chunk(b"1.5")
            + step("_corrupted") + chunk(bytes((3, 50)))
            + step("_far_ahead", 2)
            + step("_end", 0)
            + step("_close_channel") + chunk(b'"over"')
        )  # fmt: skip
    return found + shells()


def shells() -> list[bytes]:
    """Lives of shells and commands, with a handshake and without."""
    secret = step("_secret", 0) + chunk(b"hello") + step("_secret", 1) + chunk(b"oh no")
    life = (
        step("_set_size", 80, 24)
        + step("_write", 0) + chunk(b"exit\r")
        + step("_wait_for_timer") * 2
        + step("_acknowledge_all")
        + step("_reconnect")
        + step("_open_errors")
        + step("_any_type", 11) + chunk(b"oh no")
        + step("_output") + chunk(b"$ ")
        + step("_exit_code", 7)
        + step("_close_channel") + chunk(b'"over"')
        + step("_end_session")
        + step("_wait_for_timer")
    )  # fmt: skip
    found = [bytes((kind | extra,)) + life for kind in (4, 5) for extra in (0x30, 0x70, 0x40)]
    for kind in (0x80, 0x83, 0x84, 0x85, 0xC5):
        found += [bytes((kind | 0x30,)) + secret + life, bytes((kind | 0x10,)) + secret + life]
        late = step("_request", kind) + step("_give_key") + step("_challenge") + step("_complete")
        found.append(b"\x47" + late + step("_open") + secret + step("_acknowledge_all") + life)
    silent = step("_wait_for_timer") + step("_acknowledge_all") + step("_wait_for_timer")
    found += [b"\x47" + silent + step("_open") + life, b"\x07" + silent + life]
    found.append(b"\x47" + silent[:3] + step("_request", 4) + step("_complete") + life)
    found.append(b"\x47" + step("_output") + chunk(b"$ ") + step("_open") + life)
    return found
