"""A network in virtual time, and one direction of a session driven over it.

Nothing here reads a clock: ``now`` is a number that runs from one event to the next.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Container, Iterator
from heapq import heappop, heappush
from itertools import count, repeat
from random import Random

from ssmnet.protocol.message import (
    AgentMessage,
    MessageType,
    PayloadType,
    acknowledge,
    message_ids,
    parse,
)
from ssmnet.protocol.stream import StreamReceiver, StreamSender

CREATED = 1_700_000_000_000

# Of the n-th message sent, and the time: the extra delays of its copies. None is a loss, two are a
# duplicate.
Fate = Callable[[int, float], tuple[float, ...]]


def unharmed(n: int, now: float) -> tuple[float, ...]:
    """Every message arrives once and in order."""
    return (0.0,)


def losing(numbers: Container[int]) -> Fate:
    """The messages of these numbers, counted in the order of sending, never arrive."""
    return lambda n, now: () if n in numbers else (0.0,)


def losing_between(start: float, end: float) -> Fate:
    """Nothing that is sent in this time arrives."""
    return lambda n, now: () if start <= now < end else (0.0,)


def harmful(seed: int, *, loss: float, duplication: float, spread: float, end: float) -> Fate:
    """Loss, duplication and reordering of these shares and this width, until ``end``."""
    random = Random(seed)

    def fate(n: int, now: float) -> tuple[float, ...]:
        if now >= end:
            return (0.0,)
        if random.random() < loss:
            return ()
        copies = 2 if random.random() < duplication else 1
        return tuple(random.random() * spread for _ in range(copies))

    return fate


class Path:
    """One direction: a bottleneck of ``rate`` (bytes/s) with a queue, then a constant ``delay``.

    Without a rate there is no bottleneck. ``peak`` is the most that ever was in the queue, ``lost``
    counts what ``fate`` or a full queue dropped. Messages stay in order, as over TCP, whatever
    extra delay ``fate`` gives them, unless the path is ``reordering``.
    """

    def __init__(
        self,
        delay: float,
        *,
        rate: float | None = None,
        queue: float = float("inf"),
        fate: Fate = unharmed,
        reordering: bool = False,
    ) -> None:
        self.delay = delay
        self.rate = rate
        self.queue = queue
        self.fate = fate
        self.queued = 0
        self.peak = 0
        self.lost = 0
        self.stopped = False
        self._reordering = reordering
        self._latest = 0.0
        self._sent = count()
        self._order = count()
        self._queue: deque[tuple[bytes, tuple[float, ...]]] = deque()
        self._head_leaves = 0.0
        self._flying: list[tuple[float, int, bytes]] = []

    def send(self, data: bytes, now: float) -> None:
        """Put one message on its way."""
        copies = self.fate(next(self._sent), now)
        if not copies or self.queued + len(data) > self.queue:
            self.lost += 1
            return
        if self.rate is None:
            self._fly(data, now, copies)
            return
        if not self._queue:
            self._head_leaves = now + len(data) / self.rate
        self._queue.append((data, copies))
        self.queued += len(data)
        self.peak = max(self.peak, self.queued)

    def next_event(self) -> float | None:
        """When something leaves the queue or arrives."""
        if self.stopped:
            return None
        times = [self._head_leaves] if self._queue else []
        if self._flying:
            times.append(self._flying[0][0])
        return min(times, default=None)

    def arrived(self, now: float) -> list[bytes]:
        """What has arrived by ``now``."""
        if self.stopped:
            return []
        while self._queue and self._head_leaves <= now:
            data, copies = self._queue.popleft()
            self.queued -= len(data)
            self._fly(data, self._head_leaves, copies)
            if self._queue and self.rate is not None:
                self._head_leaves += len(self._queue[0][0]) / self.rate
        here = []
        while self._flying and self._flying[0][0] <= now:
            here.append(heappop(self._flying)[2])
        return here

    def stop(self) -> None:
        """Hold everything, as TCP does while it repairs a loss of its own."""
        self.stopped = True

    def go_on(self, now: float) -> None:
        """What was held arrives at once."""
        self.stopped = False
        self._head_leaves = max(self._head_leaves, now)

    def cut(self) -> None:
        """What is on its way is lost."""
        self._queue.clear()
        self._flying.clear()
        self.queued = 0

    def _fly(self, data: bytes, now: float, copies: tuple[float, ...]) -> None:
        for extra in copies:
            arrival = now + self.delay + extra
            if not self._reordering:
                arrival = self._latest = max(self._latest, arrival)
            heappush(self._flying, (arrival, next(self._order), data))


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
        while self._next is not None and self.sender.can_send():
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
