"""One direction of a session, driven over a network in virtual time.

Nothing here reads a clock: ``now`` is a number that runs from one event to the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import repeat

from ..protocol.message import (
    AgentMessage,
    MessageType,
    PayloadType,
    acknowledge,
    message_ids,
    parse,
)
from ..protocol.stream import StreamReceiver, StreamSender
from .link import Path

CREATED = 1_700_000_000_000


class Transfer:
    """A StreamSender, a Path each way and a StreamReceiver.

    ``source`` gives the payloads: 1,024 bytes for ever if it is left out. ``delivered`` counts the
    bytes that the receiver processed in order, and ``received`` holds them if ``keep`` is set.
    ``overshoot`` is the most by which a message went beyond the window, in bytes.
    """

    def __init__(
        self,
        there: Path,
        back: Path,
        source: Iterator[bytes] | None = None,
        *,
        keep: bool = False,
    ) -> None:
        self.there = there
        self.back = back
        self.now = 0.0
        self.delivered = 0
        self.received: list[bytes] = []
        self.overshoot = 0
        self._keep = keep
        self._source = repeat(bytes(1024)) if source is None else source
        self._ids = message_ids(bytes(16))
        self._next: bytes | None = next(self._source, None)
        self.sender = StreamSender(MessageType.INPUT_STREAM_DATA, self._ids)
        self.receiver = StreamReceiver(self._process)
        self.flush()

    @property
    def done(self) -> bool:
        """Whether everything was sent and acknowledged."""
        return self._next is None and self.sender.idle

    def run(self, until: float) -> None:
        """Let time pass until ``until``, or until there is nothing more to happen."""
        while not self.done:
            now = self._next_event()
            if now is None or now > until:
                self.now = until
                return
            self.step(now)

    def step(self, now: float) -> None:
        """Do what is due at ``now``."""
        self.now = max(self.now, now)
        for data in self.there.arrived(self.now):
            self._arrive(parse(data))
        acknowledgements = self.back.arrived(self.now)
        for data in acknowledgements:
            self.sender.acknowledge(acknowledged_number(data))
        if acknowledgements:
            self.sender.settle(self.now)
        timer = self.sender.get_timer()
        if timer is not None and timer <= self.now:
            self.sender.handle_timer(self.now)
        self.flush()

    def end(self) -> None:
        """Nothing more is written."""
        self._next = None

    def reconnect(self) -> None:
        """What is on its way is lost; both ends carry on at once."""
        self.there.cut()
        self.back.cut()
        self.sender.restart(self.now)
        self.flush()

    def flush(self) -> None:
        """Send what may be sent."""
        while (wire := self.sender.resend(self.now)) is not None:
            self._transmit(wire)
        while self._next is not None and self.sender.room():
            payload, self._next = self._next, next(self._source, None)
            self._transmit(self.sender.send(PayloadType.OUTPUT, payload, CREATED, self.now))

    def _transmit(self, wire: bytes) -> None:
        window = self.sender.window
        self.overshoot = max(self.overshoot, window.in_flight - window.limit)
        self.there.send(wire, self.now)

    def _next_event(self) -> float | None:
        times = (self.there.next_event(), self.back.next_event(), self.sender.get_timer())
        return min((time for time in times if time is not None), default=None)

    def _arrive(self, message: AgentMessage) -> None:
        if self.receiver.receive(message):
            self.back.send(acknowledge(message, bytes(16), CREATED), self.now)

    def _process(self, message: AgentMessage) -> bool:
        self.delivered += len(message.payload)
        if self._keep:
            self.received.append(bytes(message.payload))
        return True


def acknowledged_number(data: bytes) -> int:
    """Which message an acknowledge message names."""
    number: int = json.loads(bytes(parse(data).payload))["AcknowledgedMessageSequenceNumber"]
    return number
