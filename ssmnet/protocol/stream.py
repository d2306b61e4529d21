"""StreamSender and StreamReceiver: every message once, in order, over a path that loses some.

Each direction numbers its stream data messages from 0. An acknowledgement names exactly one
message, so the sender knows what is missing and repairs several losses in one round trip:

- a message is *in flight* from its transmission to its acknowledgement, or until it is given up;
- it is given up when messages sent three or more after it have been acknowledged, or one sent
  after it and the time a round trip takes has passed (more of both where that turns out to be too
  early); or, with nothing acknowledged at all for a retransmission timeout, together with all that
  is in flight;
- what is given up waits as *lost*, goes out again before anything new, and still counts as
  acknowledged if the first transmission turns out to have arrived. After a timeout that shows that
  nothing was lost but time, and the timeout is undone. What went with a connection stays lost.

A message is on the sender's list before its bytes leave, so no acknowledgement can come too early,
and nothing is ever dropped from the list: who has more to send waits for the window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heappop, heappush

import msgspec

from .buffer import Buffer
from .congestion import CongestionControl
from .message import AgentMessage, MessageType, serialize
from .recovery import RoundTripTime
from .window import MAX_BYTES, MAX_MESSAGES, MESSAGE_SIZE, Window

# By how many messages one may be overtaken before it counts as lost; and by this many times an
# eighth of a round trip, over one, divided by three (RFC 9002).
MIN_REORDERING = 3
MAX_REORDERING = 48

# Acknowledgements open the window little by little. What may be sent is put off until it is worth a
# write: so much of a second's worth, as the kernel does for large segments, or half of the window.
QUANTUM_TIME = 0.001
MAX_QUANTUM = 32  # messages

# What is in a hurry may exceed the window by so many bytes: it need not wait for what is in flight,
# and is little enough for any queue.
RESERVE = 8 * 1024

# The agent repairs one loss per 100 ms while it runs on at 700 messages a second, so a burst of
# losses needs as large a buffer as the agent's own.
MAX_REORDERED_MESSAGES = 100_000
MAX_REORDERED_BYTES = 128 * 1024 * 1024


class _Sent(msgspec.Struct, gc=False):
    """A message that has not been acknowledged."""

    sequence_number: int
    wire: bytes
    order: int  # of this transmission among all
    sent_at: float
    first_order: int  # of its transmissions on this connection
    first_sent_at: float
    repeated: bool = False  # or read late: its acknowledgement does not tell the round trip


class StreamSender:
    """Numbers, keeps and repeats the messages of one direction. Times are in seconds.

    ``progress_at`` is when something was last acknowledged, or sent with nothing in flight.
    """

    def __init__(
        self,
        message_type: MessageType,
        message_ids: Iterator[bytes],
        *,
        max_bytes: int = MAX_BYTES,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        self._message_type = message_type
        self._message_ids = message_ids
        self._congestion = CongestionControl(max_bytes)
        self.window = Window(
            self._congestion.window, max_bytes=max_bytes, max_messages=max_messages
        )
        self.round_trip_time = RoundTripTime()
        self.next_number = 0
        self.retransmissions = 0
        self.progress_at = self._waiting_since = float("-inf")
        self._lowest = 0
        self._order = 0
        self._first_order = 0  # of this connection
        self._highest_acknowledged = -1  # order of transmission
        self._in_flight: dict[int, _Sent] = {}  # in order of transmission
        self._lost: dict[int, _Sent] = {}
        self._lost_numbers: list[int] = []  # a heap
        self._loss_timer: float | None = None
        self._timed_out = False  # and nothing since shows whether rightly
        self._came_late = False
        self._heard = False
        self._reordering = MIN_REORDERING
        self._acknowledged_bytes = 0
        self._newest: _Sent | None = None
        self._quantum = 0  # messages

    @property
    def idle(self) -> bool:
        """Whether everything that was sent has been acknowledged."""
        return not self._in_flight and not self._lost

    @property
    def acknowledged_below(self) -> int:
        """All messages below this number have arrived."""
        return self._lowest

    @property
    def has_room(self) -> bool:
        """Whether the window lets a new message go."""
        return self._free() > 0

    def room(self) -> int:
        """How many full messages may be sent now. Asked by one who has them: none is noted."""
        room = self._worthwhile_room()
        if not room:
            self._congestion.limited()
        return room

    @property
    def may_send(self) -> bool:
        """Whether there is ``room``."""
        return self._worthwhile_room() > 0

    def _worthwhile_room(self) -> int:
        room = self._free()
        return 0 if room < self._quantum and self._in_flight else room

    def _free(self, reserve: int = 0) -> int:
        """How many full messages the window takes; none before those that are lost."""
        return 0 if self._lost else self.window.room(self.next_number - self._lowest, reserve)

    @property
    def has_reserve(self) -> bool:
        """Whether a message that is in a hurry may be sent though there is no room."""
        return self._free(RESERVE) > 0

    def send(self, payload_type: int, payload: Buffer, created_date: int, now: float) -> bytes:
        """The next message, now in flight. The window is the caller's to ask; see ``room``."""
        (wire,) = self.send_all(payload_type, (payload,), created_date, now)
        return wire

    def send_all(
        self, payload_type: int, payloads: Iterable[Buffer], created_date: int, now: float
    ) -> list[bytes]:
        """As ``send``, a message for each payload."""
        message_type, ids = self._message_type, self._message_ids
        in_flight, number, order = self._in_flight, self.next_number, self._order
        if not in_flight:
            self._waiting_since = now
            if not self._lost:
                self.progress_at = now
        wires = []
        size = 0
        for payload in payloads:
            wire = serialize(
                message_type, payload, number, payload_type, 0, next(ids), created_date
            )
            in_flight[number] = _Sent(number, wire, order, now, order, now)
            wires.append(wire)
            size += len(wire)
            number += 1
            order += 1
        self.window.in_flight += size
        self.next_number, self._order = number, order
        return wires

    def resend(self, now: float) -> bytes | None:
        """The oldest lost message, in flight again; None when there is none, or no room."""
        if not self._lost:
            return None
        if not self.window.is_open:
            self._congestion.limited()
            return None
        # Those that were acknowledged meanwhile are still in the heap.
        while (number := heappop(self._lost_numbers)) not in self._lost:
            pass
        sent = self._lost.pop(number)
        if sent.order < self._first_order:
            sent.first_order, sent.first_sent_at = self._order, now
        sent.order, sent.sent_at = self._order, now
        sent.repeated = True
        if not self._in_flight:
            self._waiting_since = now
        self._in_flight[number] = sent
        self._order += 1
        self.window.in_flight += len(sent.wire)
        self.retransmissions += 1
        return sent.wire

    def acknowledge(self, number: int) -> None:
        """One message has arrived. Call ``settle`` after the last of a burst."""
        sent = self._in_flight.pop(number, None)
        if sent is not None:
            size = len(sent.wire)
            self.window.in_flight -= size
        elif (sent := self._lost.pop(number, None)) is not None:
            size = len(sent.wire)
            self._came_late |= self._timed_out and sent.order >= self._first_order
        else:
            # A duplicate's: nothing new, but the path lives.
            self._heard = self._heard or number < self.next_number
            return
        self._acknowledged_bytes += size
        # While a timeout is in doubt this may be the first transmission's acknowledgement.
        order = sent.first_order if self._timed_out else sent.order
        if order > self._highest_acknowledged:
            self._highest_acknowledged = order
        if not sent.repeated or self.round_trip_time.smoothed is None:
            self._newest = sent

    def settle(self, now: float) -> None:
        """Draw the conclusions from the acknowledgements of a burst."""
        if self._heard:
            # Something was sent again too early.
            self._heard = False
            self._waiting_since = now
            self._reordering = min(2 * self._reordering, MAX_REORDERING)
        if not self._acknowledged_bytes:
            return
        self.progress_at = self._waiting_since = now
        if self._came_late:
            self._undo_timeout()
        self._congestion.acknowledged(self._acknowledged_bytes, self._take_sample(now), now)
        self._acknowledged_bytes = 0
        self._find_losses(now)
        self._follow()

    def postpone(self, now: float) -> None:
        """Acknowledgements were not read for a while: count the time from ``now``."""
        self._waiting_since = now
        for sent in self._in_flight.values():
            sent.repeated = True

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        if not self._in_flight:
            return None
        timeout = self._waiting_since + self.round_trip_time.timeout
        return timeout if self._loss_timer is None else min(timeout, self._loss_timer)

    def handle_timer(self, now: float) -> None:
        """Give up what is overdue; ``resend`` has it then."""
        if self._in_flight and now >= self._waiting_since + self.round_trip_time.timeout:
            self.round_trip_time.back_off()
            self._give_up_all(now)
            self._timed_out = True
        elif self._loss_timer is not None and now >= self._loss_timer:
            self._find_losses(now)
            self._follow()

    def restart(self, now: float) -> None:
        """On a new connection: give up all that is in flight and start with a small window."""
        self._give_up_all(now)
        self._timed_out = self._came_late = False
        self._first_order = self._order
        self._congestion.forget_restart()

    def _give_up_all(self, now: float) -> None:
        self._lost.update(self._in_flight)
        self._in_flight.clear()
        self._lost_numbers = sorted(self._lost)
        self._loss_timer = None
        self.window.in_flight = 0
        self._waiting_since = now
        self._congestion.restart()
        self._follow()

    def _take_sample(self, now: float) -> float | None:
        newest, self._newest = self._newest, None
        if newest is None:
            return None
        # Karn's rule: the acknowledgement of a repeated message does not tell which of its
        # transmissions it answers. The first is an upper bound, better than no idea at all.
        sample = now - newest.first_sent_at
        self.round_trip_time.update(sample)
        if newest.repeated:
            return None
        self._timed_out = False
        return sample

    def _undo_timeout(self) -> None:
        """What was given up arrives without a second transmission: it was only held up."""
        self._timed_out = self._came_late = False
        outstanding = [*self._in_flight.values(), *self._lost.values()]
        outstanding = [sent for sent in outstanding if sent.order >= self._first_order]
        outstanding.sort(key=lambda sent: sent.first_order)
        for sent in outstanding:
            sent.order, sent.sent_at = sent.first_order, sent.first_sent_at
            self._lost.pop(sent.sequence_number, None)
        self._in_flight = {sent.sequence_number: sent for sent in outstanding}
        self._lost_numbers = sorted(self._lost)
        self.window.in_flight = sum(len(sent.wire) for sent in outstanding)
        self._congestion.undo_restart()

    def _follow(self) -> None:
        limit = self.window.limit = self._congestion.window
        worth = limit * min(0.5, QUANTUM_TIME / (self.round_trip_time.smoothed or 1.0))
        self._quantum = min(MAX_QUANTUM, int(worth / MESSAGE_SIZE))
        lowest, end, in_flight, lost = self._lowest, self.next_number, self._in_flight, self._lost
        while lowest < end and lowest not in in_flight and lowest not in lost:
            lowest += 1
        self._lowest = lowest

    def _find_losses(self, now: float) -> None:
        self._loss_timer = None
        round_trip = max(self.round_trip_time.smoothed or 0.0, self.round_trip_time.latest)
        patience = round_trip * (1 + self._reordering / (8 * MIN_REORDERING))
        for number, sent in tuple(self._overtaken()):
            overtaken_by = self._highest_acknowledged - sent.order
            if overtaken_by >= self._reordering or now >= sent.sent_at + patience:
                self._give_up(number, now)
            elif self._loss_timer is None:
                self._loss_timer = sent.sent_at + patience

    def _overtaken(self) -> Iterator[tuple[int, _Sent]]:
        for number, sent in self._in_flight.items():
            if sent.order > self._highest_acknowledged:
                return
            yield number, sent

    def _give_up(self, number: int, now: float) -> None:
        sent = self._lost[number] = self._in_flight.pop(number)
        heappush(self._lost_numbers, number)
        self.window.in_flight -= len(sent.wire)
        self._congestion.lost(sent.sent_at, now)


class StreamReceiver:
    """Puts the far end's messages in order.

    ``process`` is called for each message in order, and answers whether it took it. What it does
    not take is neither processed nor acknowledged: the far end sends it again.
    """

    def __init__(
        self,
        process: Callable[[AgentMessage], bool],
        *,
        max_messages: int = MAX_REORDERED_MESSAGES,
        max_bytes: int = MAX_REORDERED_BYTES,
    ) -> None:
        self._process = process
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._waiting: dict[int, AgentMessage] = {}
        self._waiting_bytes = 0
        self._untaken: int | None = None
        self.expected = 0
        self.duplicates = 0

    @property
    def has_gap(self) -> bool:
        """Whether something waits for what was sent before it."""
        return bool(self._waiting)

    def receive(self, message: AgentMessage) -> bool:
        """Take a message; whether it must be acknowledged.

        A duplicate must: the far end sends it again because its acknowledgement was lost.
        """
        number = message.sequence_number
        if number != self.expected:
            return self._receive_other(message)
        if not self._process(message):
            # Kept, so that it need not wait for its repetition.
            self._keep(message)
            self._untaken = number
            return False
        self.expected = number + 1
        if self._waiting:
            self._discard(number)
            self.drain()
        return True

    def drain(self) -> AgentMessage | None:
        """Process what has waited for a gap to close, or for ``process`` to be ready.

        What was not taken in its turn is not acknowledged either: it is to be now, and returned.
        """
        untaken: AgentMessage | None = None
        while (message := self._waiting.get(self.expected)) and self._process(message):
            if self.expected == self._untaken:
                untaken, self._untaken = message, None
            self._discard(self.expected)
            self.expected += 1
        return untaken

    def _receive_other(self, message: AgentMessage) -> bool:
        if message.sequence_number > self.expected:
            return self._keep(message)
        self.duplicates += 1
        return True

    def _keep(self, message: AgentMessage) -> bool:
        number = message.sequence_number
        if number in self._waiting:
            self.duplicates += 1
            return True
        size = len(message.payload)
        if number - self.expected > self._max_messages:
            return False
        if self._waiting_bytes + size > self._max_bytes:
            return False
        # A view would keep alive the whole chunk that was read from the socket.
        message.payload = bytes(message.payload)
        self._waiting[number] = message
        self._waiting_bytes += size
        return True

    def _discard(self, number: int) -> None:
        message = self._waiting.pop(number, None)
        if message is not None:
            self._waiting_bytes -= len(message.payload)
