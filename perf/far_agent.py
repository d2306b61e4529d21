"""The agent's end of one session, made to be fast and nothing else: see far_end.py.

It has its own codec and no faults to repair: its WebSocket loses nothing. What comes is held to
its digest and its number; what is not as it should be ends the far end, and so the measurement.

Each stream takes orders, nine bytes long: a letter and a u64. ``U`` n: n bytes come, and are
answered with one. ``D`` n: send n bytes. ``E`` n: send the next n bytes back.
"""

import json
import time
from collections import deque
from hashlib import sha256
from itertools import count
from struct import Struct

PAYLOAD_SIZE = 1024
# How many messages may be unacknowledged. Enough that both ends are always busy.
WINDOW = 1024
AGENT_VERSION = "3.3.0.0"
ORDER = Struct(">cQ")
DONE = b"!"

_HEADER = Struct(">I32sI")
_FIELDS = Struct(">QqQ16s32sII")
_NUMBER = Struct(">q")
_UINT32 = Struct(">I")
_SMUX = Struct("<BBHI")
# With its header, 32 messages. The agent's own frames have 8 bytes more.
_FRAME_SIZE = 32 * PAYLOAD_SIZE - _SMUX.size
_ZEROS = bytes(_FRAME_SIZE)
_OUTPUT, _HANDSHAKE_REQUEST, _HANDSHAKE_RESPONSE, _HANDSHAKE_COMPLETE, _FLAG = 1, 5, 6, 7, 10
_TERMINATE = _UINT32.pack(2)


def _prefix(message_type: str) -> bytes:
    return _HEADER.pack(116, message_type.encode().ljust(32), 1)


_INPUT = _prefix("input_stream_data")
_OUTPUT_DATA = _prefix("output_stream_data")
_ACKNOWLEDGE = _prefix("acknowledge")
_CHANNEL_CLOSED = _prefix("channel_closed")
_ACKNOWLEDGEMENT = (
    b'{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":'
    b'"%s-%s-%s-%s-%s","AcknowledgedMessageSequenceNumber":%d,"IsSequentialMessage":true}'
)


class Stream:
    """One connection at its destination, which does what it is ordered to."""

    __slots__ = ("_echo", "_order", "_upload", "answer", "to_send")

    def __init__(self) -> None:
        self._order = b""
        self._upload = 0
        self._echo = 0
        self.answer = b""
        self.to_send = 0

    def receive(self, data: memoryview) -> None:
        """Bytes of an upload, or of an order."""
        if len(data) < self._upload:
            self._upload -= len(data)
            return
        while data:
            data = data[self._take(data) :]

    def take(self, size: int) -> bytes:
        """What it says, at most ``size`` bytes."""
        if self.answer:
            taken, self.answer = self.answer[:size], self.answer[size:]
            return taken
        size = min(size, self.to_send)
        self.to_send -= size
        return _ZEROS[:size]

    def _take(self, data: memoryview) -> int:
        if self._upload:
            size = min(len(data), self._upload)
            self._upload -= size
            if not self._upload:
                self.answer += DONE
        elif self._echo:
            size = min(len(data), self._echo)
            self._echo -= size
            self.answer += data[:size]
        else:
            size = min(len(data), ORDER.size - len(self._order))
            self._order += data[:size]
            if len(self._order) == ORDER.size:
                self._obey()
        return size

    def _obey(self) -> None:
        letter, size = ORDER.unpack(self._order)
        self._order = b""
        if letter == b"U":
            self._upload = size
        elif letter == b"D":
            self.to_send = size
        elif letter == b"E":
            self._echo = size
        else:
            raise ValueError("an order that is none: bytes were lost, or came twice")


class RawPort:
    """The session's payload is one stream."""

    def __init__(self) -> None:
        self._stream = Stream()
        self.receive = self._stream.receive

    def take(self) -> bytes:
        """The next message's payload."""
        return self._stream.take(PAYLOAD_SIZE)


class MuxPort:
    """smux version 1; streams that have something to say take turns of one frame."""

    def __init__(self) -> None:
        self._streams: dict[int, Stream] = {}
        self._turns: deque[int] = deque()
        self._waiting: set[int] = set()
        self._header = b""
        self._current: Stream | None = None
        self._current_id = 0
        self._left = 0  # of the frame that comes
        self._out = memoryview(b"")

    def receive(self, data: memoryview) -> None:
        """Any piece of the client's byte stream."""
        while data:
            if self._left:
                piece = data[: self._left]
                self._left -= len(piece)
                self._receive_data(piece)
                data = data[len(piece) :]
                continue
            needed = _SMUX.size - len(self._header)
            self._header += data[:needed]
            data = data[needed:]
            if len(self._header) == _SMUX.size:
                self._receive_header()

    def take(self) -> bytes:
        """The next message's payload."""
        if len(self._out) < PAYLOAD_SIZE and self._turns:
            frames = [bytes(self._out)]
            size = len(self._out)
            while size < PAYLOAD_SIZE and self._turns:
                frames.append(self._take_turn())
                size += len(frames[-1])
            self._out = memoryview(b"".join(frames))
        taken, self._out = bytes(self._out[:PAYLOAD_SIZE]), self._out[PAYLOAD_SIZE:]
        return taken

    def _take_turn(self) -> bytes:
        number = self._turns.popleft()
        stream = self._streams.get(number)
        data = b"" if stream is None else stream.take(_FRAME_SIZE)
        if not data:
            self._waiting.discard(number)
            return _SMUX.pack(1, 1, 0, number) if stream is None else b""
        self._turns.append(number)
        return _SMUX.pack(1, 2, len(data), number) + data

    def _receive_header(self) -> None:
        version, command, self._left, number = _SMUX.unpack(self._header)
        self._header = b""
        if version != 1:
            raise ValueError("a frame that is none: bytes were lost, or came twice")
        if command == 0:
            self._streams[number] = Stream()
        elif command == 1:
            # The agent answers a FIN with its own.
            del self._streams[number]
            self._wait_for_turn(number)
        elif command == 2:
            self._current, self._current_id = self._streams[number], number

    def _receive_data(self, data: memoryview) -> None:
        stream = self._current
        if stream is not None:
            stream.receive(data)
            if stream.answer or stream.to_send:
                self._wait_for_turn(self._current_id)

    def _wait_for_turn(self, number: int) -> None:
        if number not in self._waiting:
            self._waiting.add(number)
            self._turns.append(number)


class Agent:
    """One session at the agent. ``kind`` is raw or mux."""

    def __init__(self, kind: str) -> None:
        self._properties = {"portNumber": "1"}
        if kind == "mux":
            self._properties["type"] = "LocalPortForwarding"
        self._port = MuxPort() if kind == "mux" else RawPort()
        self._ready = False
        self._expected = 0
        self._number = 0
        self._unacknowledged: set[int] = set()
        self._ids = count(1)
        self._out: list[bytes] = []
        self._date = 0
        self.ended = False

    def receive_text(self, text: bytearray) -> None:
        """The token, which opens the session."""
        parameters = {"SessionType": "Port", "Properties": self._properties}
        action = {"ActionType": "SessionType", "ActionParameters": parameters}
        request = {"AgentVersion": AGENT_VERSION, "RequestedClientActions": [action]}
        self._send(_HANDSHAKE_REQUEST, json.dumps(request).encode())

    def receive(self, data: bytearray) -> None:
        """One message."""
        _, number, _, message_id, digest, payload_type, size = _FIELDS.unpack_from(data, 40)
        payload = memoryview(data)[120:]
        if len(payload) != size or sha256(payload).digest() != digest:
            raise ValueError("a message does not match its digest")
        if data.startswith(_INPUT):
            self._acknowledge(message_id, number)
            if number == self._expected:
                self._expected += 1
                self._process(payload_type, payload)
            elif number > self._expected:
                raise ValueError("a message was lost")
        elif data.startswith(_ACKNOWLEDGE):
            text = bytes(payload)
            start = text.index(b"SequenceNumber") + 16
            self._unacknowledged.discard(int(text[start : text.index(b",", start)]))

    def take(self) -> list[bytes]:
        """Messages to send, after a burst of those received."""
        if self._ready:
            while len(self._unacknowledged) < WINDOW and (payload := self._port.take()):
                self._send(_OUTPUT, payload)
        out, self._out = self._out, []
        self._date = 0
        return out

    def _process(self, payload_type: int, payload: memoryview) -> None:
        if payload_type == _OUTPUT:
            self._port.receive(payload)
        elif payload_type == _HANDSHAKE_RESPONSE:
            complete = {"HandshakeTimeToComplete": 1, "CustomerMessage": ""}
            self._send(_HANDSHAKE_COMPLETE, json.dumps(complete).encode())
            self._ready = True
        elif payload_type == _FLAG and payload == _TERMINATE:
            self._out.append(self._message(_CHANNEL_CLOSED, 0, 0, b'{"Output":""}', 0))
            self.ended = True

    def _acknowledge(self, message_id: bytes, number: int) -> None:
        name = (message_id[8:] + message_id[:8]).hex().encode()
        parts = name[:8], name[8:12], name[12:16], name[16:20], name[20:]
        payload = _ACKNOWLEDGEMENT % (*parts, number)
        self._out.append(self._message(_ACKNOWLEDGE, 0, 3, payload, 0))

    def _send(self, payload_type: int, payload: bytes) -> None:
        number = self._number
        self._number += 1
        self._unacknowledged.add(number)
        message = self._message(_OUTPUT_DATA, number, not number, payload, payload_type)
        self._out.append(message)

    def _message(
        self, prefix: bytes, number: int, flags: int, payload: bytes, payload_type: int
    ) -> bytes:
        # The clock is read once a burst.
        self._date = self._date or time.time_ns() // 1_000_000
        name = next(self._ids).to_bytes(16)
        digest = sha256(payload).digest()
        fields = _FIELDS.pack(self._date, number, flags, name, digest, payload_type, len(payload))
        return b"".join((prefix, fields, payload))
