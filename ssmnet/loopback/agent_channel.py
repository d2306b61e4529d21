"""The agent's half of the reliable message channel: order, acknowledgement, resending, pausing.

What a message of input means is for the session to say: ``deliver`` is called for each in order.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from enum import Enum

from ..errors import RemoteProtocolError
from ..protocol.message import (
    AcknowledgedNumber,
    AgentMessage,
    MessageType,
    PayloadType,
    acknowledge,
    decode_json,
    parse,
)
from .byte_queue import Buffer
from .receiver import Arrival, Receiver
from .sender import IdealSender, Sender


class Delivery(Enum):
    """What became of a message of input."""

    DONE = "acknowledge it"
    NOT_READY = "nobody takes it: say nothing, it will come again"
    WAITING = "it is not written to the far side yet: acknowledge it when it is"


class AgentChannel:
    """Messages of the gateway in, messages for the gateway out.

    ``closed()`` is called for a channel_closed message. ``wall_clock`` gives milliseconds since the
    epoch, ``message_id`` ids as they go over the wire.
    """

    def __init__(
        self,
        *,
        deliver: Callable[[AgentMessage], Delivery],
        closed: Callable[[], None],
        wall_clock: Callable[[], int],
        message_id: Callable[[], bytes],
        ideal: bool,
    ) -> None:
        self.invalid = 0
        self.not_ready = 0
        self.paused = False
        self.output_blocked = False
        self.inbox_size = 0
        self.sender: Sender | IdealSender = IdealSender() if ideal else Sender()
        self._deliver = deliver
        self._closed = closed
        self._wall_clock = wall_clock
        self._message_id = message_id
        self._receiver = Receiver()
        self._number = 0
        self._out: list[bytes] = []
        # Input that has come and may not be looked at, and the message that is being written.
        self._inbox: deque[Buffer] = deque()
        self._waiting: tuple[AgentMessage, bool] | None = None

    @property
    def blocked(self) -> bool:
        """Whether input waits: the far side takes nothing, or our own output is stuck."""
        return self._waiting is not None or self.output_blocked

    @property
    def may_send(self) -> bool:
        """Whether new output may be sent now."""
        return not (self.paused or self.output_blocked) and self.sender.has_room

    # Input.

    def receive(self, data: Buffer, now: float) -> None:
        """One binary message from the gateway, which must not change afterwards."""
        if self.blocked:
            self._inbox.append(data)
            self.inbox_size += len(data)
        else:
            self._receive(data, now)

    def go_on(self, now: float, *, written: bool) -> None:
        """Look at what had to wait; ``written`` says that the far side took the last message."""
        if self._waiting is not None and written:
            (message, acknowledged), self._waiting = self._waiting, None
            following = self._done(message, acknowledged)
            if following is not None:
                self._process(following, acknowledged=True)
        while self._inbox and not self.blocked:
            data = self._inbox.popleft()
            self.inbox_size -= len(data)
            self._receive(data, now)

    def _receive(self, data: Buffer, now: float) -> None:
        try:
            self._dispatch(parse(data), now)
        except RemoteProtocolError:
            self.invalid += 1

    def _dispatch(self, message: AgentMessage, now: float) -> None:
        kind = message.message_type
        if kind == MessageType.INPUT_STREAM_DATA:
            self._unpause(now)
            self._receive_stream_data(message)
        elif kind == MessageType.ACKNOWLEDGE:
            self._unpause(now)
            acknowledged = decode_json(message.payload, AcknowledgedNumber)
            self.sender.acknowledge(acknowledged.acknowledged_message_sequence_number, now)
        elif kind == MessageType.START_PUBLICATION:
            self._unpause(now)
        elif kind == MessageType.PAUSE_PUBLICATION:
            self.paused = True
        elif kind == MessageType.CHANNEL_CLOSED:
            self._closed()
        else:
            self.invalid += 1

    def _unpause(self, now: float) -> None:
        if self.paused:
            self.paused = False
            self.sender.unpaused(now)

    def _receive_stream_data(self, message: AgentMessage) -> None:
        arrival = self._receiver.place(message)
        if arrival is Arrival.EXPECTED:
            self._process(message, acknowledged=False)
        elif arrival is not Arrival.REFUSED:
            self._acknowledge(message)

    def _process(self, message: AgentMessage, *, acknowledged: bool) -> None:
        """Deliver the expected message and those that came early, until one has to wait."""
        following: AgentMessage | None = message
        while following is not None:
            try:
                delivery = self._deliver(following)
            except RemoteProtocolError:
                self.invalid += 1
                return
            if delivery is Delivery.NOT_READY:
                self.not_ready += 1
                return
            if delivery is Delivery.WAITING:
                self._waiting = (following, acknowledged)
                return
            following = self._done(following, acknowledged)
            acknowledged = True

    def _done(self, message: AgentMessage, acknowledged: bool) -> AgentMessage | None:
        if not acknowledged:
            self._acknowledge(message)
        return self._receiver.advance()

    # Output.

    def take_messages(self) -> list[bytes]:
        """The messages that go out now, in order."""
        out, self._out = self._out, []
        return out

    def send(self, payload_type: PayloadType, payload: Buffer, now: float) -> None:
        """Number a stream data message, list it, and send it unless the client is away."""
        number = self._number
        self._number += 1
        data = AgentMessage(
            MessageType.OUTPUT_STREAM_DATA,
            payload,
            number,
            payload_type,
            # The agent marks its first message, and no other.
            0 if number else 1,
            self._message_id(),
            self._wall_clock(),
        ).serialize()
        self.sender.add(number, data, now)
        if not self.paused:
            self._out.append(data)

    def send_state(self, session_id: str, state: str) -> None:
        """Tell the gateway about the session; no client ever sees that."""
        content = {"SchemaVersion": 1, "SessionState": state, "SessionId": session_id}
        self._out.append(
            AgentMessage(
                MessageType.AGENT_SESSION_STATE,
                json.dumps(content, separators=(",", ":")).encode(),
                flags=3,
                message_id=self._message_id(),
                created_date=self._wall_clock(),
            ).serialize()
        )

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return None if self.paused or self.output_blocked else self.sender.get_timer()

    def handle_timer(self, now: float) -> None:
        """Resend what is due."""
        if not self.paused and not self.output_blocked:
            self._out += self.sender.handle_timer(now)

    def _acknowledge(self, message: AgentMessage) -> None:
        self._out.append(acknowledge(message, self._message_id(), self._wall_clock()))
