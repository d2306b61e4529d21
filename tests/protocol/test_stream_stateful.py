"""StreamSender and StreamReceiver against models, in any order of events.

A sender alone, whose acknowledgements name anything; a receiver alone, fed anything; and the two
with an adversary in between who delivers, loses and repeats what is in transit in any order, until
it stops: then everything has to arrive, soon.
"""

import sys
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.protocol.congestion import MIN_WINDOW
from ssmnet.protocol.message import AgentMessage, MessageType, PayloadType, message_ids, parse
from ssmnet.protocol.stream import MAX_REORDERING, MIN_REORDERING, StreamReceiver, StreamSender
from ssmnet.protocol.window import MAX_BYTES
from tests.protocol.simulation import CREATED

SIZES = st.sampled_from([1024, 100, 1])
CHOICES = st.integers(0, 10_000)  # of one among however many there are
OFTEN = st.sampled_from([True, True, False])
ROUND_TRIPS = st.sampled_from([0, 1, 20, 20, 300])  # ms
MILLISECONDS = st.sampled_from([0, 1, 10, 50, 200, 1000, 10_000])


def new_sender(max_bytes: int = MAX_BYTES, max_messages: int = 50) -> StreamSender:
    return StreamSender(
        MessageType.INPUT_STREAM_DATA,
        message_ids(bytes(16)),
        max_bytes=max_bytes,
        max_messages=max_messages,
    )


class Sender(RuleBasedStateMachine):
    """One that is told anything about what has arrived, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.max_messages = 50
        # How many messages are written whenever it may send some, and how large they are.
        self.greed = self.size = 1
        self.sender = new_sender()
        self.wires: dict[int, bytes] = {}  # all that ever was sent
        self.outstanding: set[int] = set()
        self.acknowledged: set[int] = set()
        # Of each message the transmissions, counted over all; and who was sent on this connection.
        self.transmissions: dict[int, list[int]] = {}
        self.sent_at: dict[int, float] = {}
        self.transmitted = self.transmitted_before = 0  # in all, and on earlier connections
        self.on_this_connection: set[int] = set()
        self.below = 0
        # Since the last conclusions: whether anything was heard, and whether it was news.
        self.heard = self.news = False
        self.quiet_since = 0.0
        # Whether, since the last time that all had arrived, all acknowledgements were of what was
        # in flight, with no timeout and no cut: then it is certain what they answer.
        self.certain = True
        self.reordering = MIN_REORDERING

    @initialize(
        max_bytes=st.sampled_from([MAX_BYTES, MAX_BYTES, MAX_BYTES, 5000, 600]),
        max_messages=st.sampled_from([50, 50, 50, 7, 1]),
        greed=st.sampled_from([3, 10, 50]),
        size=SIZES,
    )
    def start(self, max_bytes: int, max_messages: int, greed: int, size: int) -> None:
        self.max_messages, self.greed, self.size = max_messages, greed, size
        self.sender = new_sender(max_bytes, max_messages)
        self.send(greed, size)

    # --- out

    @rule(amount=st.integers(1, 20), size=SIZES)
    def send(self, amount: int, size: int) -> None:
        for _ in range(amount):
            if not self.sender.room():
                self.check_refusal()
                return
            assert self.has_room()
            assert not self.sender._lost
            assert self.ahead < self.max_messages
            self.send_one(size)

    @rule(size=SIZES)
    def send_without_asking(self, size: int) -> None:
        """As control messages are."""
        self.send_one(size)

    @rule(most=st.sampled_from([1, 3, 1000]))
    def resend(self, most: int) -> None:
        for _ in range(most):
            lost, has_room = dict(self.sender._lost), self.has_room()
            wire = self.sender.resend(self.now)
            if wire is None:
                assert not lost or not has_room
                return
            assert has_room
            number = parse(wire).sequence_number
            assert number == min(lost)
            assert wire == self.wires[number]
            self.was_transmitted(number)

    def flush(self) -> None:
        """As the channel does after whatever may have made room."""
        self.resend(1000)
        self.send(self.greed, self.size)

    # --- acknowledgements

    @rule(
        after=ROUND_TRIPS,
        oldest=st.sampled_from([0, 0, 1, 5, 30]),
        choices=st.lists(CHOICES, max_size=4),
        settle=OFTEN,
        flush=OFTEN,
    )
    @precondition(lambda self: self.outstanding)
    def acknowledge(
        self, after: int, oldest: int, choices: list[int], settle: bool, flush: bool
    ) -> None:
        self.wait(after)
        for number in sorted(self.outstanding)[:oldest]:
            self.acknowledge_one(number)
        for choice in choices:
            if self.outstanding:
                self.acknowledge_one(sorted(self.outstanding)[choice % len(self.outstanding)])
        if settle:
            self.settle()
        if flush:
            self.flush()

    @rule(choice=CHOICES, known=st.booleans())
    def acknowledge_again_or_what_was_never_sent(self, choice: int, known: bool) -> None:
        others = (-1, -(2**70), self.sender.next_number, 2**70)
        numbers = sorted(self.acknowledged) if known and self.acknowledged else others
        number = numbers[choice % len(numbers)]
        self.sender.acknowledge(number)
        self.heard |= number < self.sender.next_number

    @rule(amount=st.integers(1, 5))
    @precondition(lambda self: self.sender._in_flight)
    def acknowledge_late(self, amount: int) -> None:
        """What was in flight has arrived, but the timeout comes first."""
        arrived = sorted(self.sender._in_flight)[:amount]
        self.wait_for_the_timer(flush=False)
        for number in arrived:
            self.acknowledge_one(number)
        self.settle()

    @rule()
    def settle(self) -> None:
        in_flight = set(self.sender._in_flight)
        self.sender.settle(self.now)
        self.check_given_up(in_flight)
        if self.heard or self.news:
            self.quiet_since = self.now
        if self.heard:
            self.reordering = min(2 * self.reordering, MAX_REORDERING)
        if self.certain and self.news:
            self.check_reordering(in_flight)
        self.certain |= not self.outstanding
        self.heard = self.news = False

    # --- time

    @rule(milliseconds=MILLISECONDS)
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000

    @rule(flush=st.booleans())
    @precondition(lambda self: self.sender._in_flight)
    def wait_for_the_timer(self, flush: bool) -> None:
        timer, lost = self.sender.get_timer(), len(self.sender._lost)
        assert timer is not None
        self.now = max(self.now, timer)
        self.handle_timer()
        later = self.sender.get_timer()
        assert later is None or later > self.now
        # Something is given up, unless patience has grown since the timer was set.
        grown = self.reordering > MIN_REORDERING
        assert self.news or grown or len(self.sender._lost) > lost
        if flush:
            self.flush()

    @rule()
    def handle_timer(self) -> None:
        """Due or not."""
        in_flight, retransmission = dict(self.sender._in_flight), self.retransmission_timer
        timer = self.sender.get_timer()
        self.sender.handle_timer(self.now)
        if timer is None or self.now < timer:
            assert self.sender._in_flight == in_flight
            assert self.sender.get_timer() == timer
        elif self.now < retransmission:
            self.check_given_up(in_flight)
        else:
            assert not self.sender._in_flight
            assert self.sender.window.limit == MIN_WINDOW
            self.quiet_since = self.now
            self.certain = False

    @rule()
    def postpone(self) -> None:
        self.sender.postpone(self.now)
        self.quiet_since = self.now

    @rule(flush=OFTEN)
    def cut(self, flush: bool) -> None:
        self.sender.restart(self.now)
        assert not self.sender._in_flight
        assert self.sender.window.limit == MIN_WINDOW
        self.on_this_connection.clear()
        self.transmitted_before = self.transmitted
        self.quiet_since = self.now
        self.certain = False
        if flush:
            self.flush()

    # --- what always holds

    @invariant()
    def every_message_is_acknowledged_or_in_flight_or_lost(self) -> None:
        in_flight, lost = self.sender._in_flight, self.sender._lost
        assert not in_flight.keys() & lost.keys()
        assert in_flight.keys() | lost.keys() == self.outstanding
        for number, sent in (*in_flight.items(), *lost.items()):
            assert sent.wire == self.wires[number]
        assert self.sender.idle is (not self.outstanding)
        assert self.sender.next_number == len(self.wires)

    @invariant()
    def the_window_counts_what_is_in_flight(self) -> None:
        in_flight = self.sender._in_flight
        assert self.sender.window.in_flight == sum(len(self.wires[number]) for number in in_flight)

    @invariant()
    def what_is_in_flight_was_sent_on_this_connection(self) -> None:
        assert self.sender._in_flight.keys() <= self.on_this_connection

    @invariant()
    def what_is_in_flight_is_in_order_of_transmission(self) -> None:
        orders = [sent.order for sent in self.sender._in_flight.values()]
        assert orders == sorted(orders)

    @invariant()
    def the_heap_has_all_that_is_lost(self) -> None:
        heap, lost = self.sender._lost_numbers, self.sender._lost
        assert all(heap[(i - 1) // 2] <= heap[i] for i in range(1, len(heap)))
        assert len(set(heap)) == len(heap)
        # One that was acknowledged meanwhile may still be there.
        assert lost.keys() <= set(heap) <= lost.keys() | self.acknowledged

    @invariant()
    def the_timer_runs_while_something_is_in_flight(self) -> None:
        timer = self.sender.get_timer()
        assert (timer is None) is (not self.sender._in_flight)
        assert timer is None or timer <= self.retransmission_timer

    @invariant()
    def what_has_arrived_is_told_and_never_taken_back(self) -> None:
        below = self.sender.acknowledged_below
        lowest = min(self.outstanding, default=len(self.wires))
        assert self.below <= below <= lowest
        if not self.news:
            assert below == lowest
        self.below = below

    def teardown(self) -> None:
        """When all that is sent from now on arrives, everything has arrived soon."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        self.settle()
        for _ in range(2 * len(self.wires) + 10):
            if not self.outstanding:
                break
            before = self.transmitted
            self.resend(1000)
            arrived = [n for n in self.outstanding if self.transmissions[n][-1] >= before]
            self.now += 0.05
            for number in arrived:
                self.acknowledge_one(number)
            self.settle()
            if not arrived:
                self.wait_for_the_timer(flush=False)
        assert self.sender.idle
        assert self.sender.window.in_flight == 0
        assert self.sender.room()
        assert self.sender.get_timer() is None

    # --- the model

    @property
    def retransmission_timer(self) -> float:
        return self.quiet_since + self.sender.round_trip_time.timeout

    def send_one(self, size: int) -> None:
        number = self.sender.next_number
        wire = self.sender.send(PayloadType.OUTPUT, bytes(size), CREATED, self.now)
        assert parse(wire).sequence_number == number
        assert number not in self.wires
        self.wires[number] = wire
        self.outstanding.add(number)
        self.was_transmitted(number)

    def was_transmitted(self, number: int) -> None:
        if self.sender._in_flight.keys() == {number}:
            self.quiet_since = self.now
        self.transmissions.setdefault(number, []).append(self.transmitted)
        self.transmitted += 1
        self.sent_at[number] = self.now
        self.on_this_connection.add(number)

    def acknowledge_one(self, number: int) -> None:
        self.certain &= number in self.sender._in_flight
        self.sender.acknowledge(number)
        self.outstanding.remove(number)
        self.acknowledged.add(number)
        self.news = True

    def has_room(self) -> bool:
        window = self.sender.window
        return window.in_flight < min(window.limit, window.max_bytes)

    @property
    def ahead(self) -> int:
        """Of the oldest message that has not arrived, by how many the next one is."""
        return len(self.wires) - min(self.outstanding, default=len(self.wires))

    def check_refusal(self) -> None:
        # Messages that have arrived count until the end of the burst that tells it.
        ahead = len(self.wires) - self.below
        worth_it = self.sender.window.room(ahead) >= self.sender._quantum
        assert (
            self.sender._lost
            or not self.has_room()
            or ahead >= self.max_messages
            or (self.sender._in_flight and not worth_it)
        )

    def check_reordering(self, in_flight: Iterable[int]) -> None:
        """It takes so many that were sent later; or one, and more than a round trip."""
        newest = max(self.transmissions[number][-1] for number in self.acknowledged)
        rtt = self.sender.round_trip_time
        for number in self.outstanding:
            overtaken_by = newest - self.transmissions[number][-1]
            if number in self.sender._in_flight:
                assert overtaken_by < self.reordering
            elif number in in_flight and overtaken_by < self.reordering:
                assert self.now - self.sent_at[number] >= (rtt.smoothed or 0.0)

    def check_given_up(self, in_flight: Iterable[int]) -> None:
        """Nothing counts as lost unless something that was sent later has arrived."""
        newest = max((max(self.transmissions[n]) for n in self.acknowledged), default=-1)
        for number in self.sender._lost.keys() & set(in_flight):
            here = (n for n in self.transmissions[number] if n >= self.transmitted_before)
            assert next(here) < newest


class Receiver(RuleBasedStateMachine):
    """One that gets any messages in any order, for a reader who does not always take them."""

    def __init__(self) -> None:
        super().__init__()
        self.processed: list[bytes] = []
        self.room: int | None = None  # how many more the reader takes
        self.kept: dict[int, int] = {}  # the sizes of those that wait, by number
        self.acknowledged: set[int] = set()
        self.duplicates = 0
        self.set_bounds(5, 100)

    @initialize(
        max_messages=st.sampled_from([0, 1, 5, 30]), max_bytes=st.sampled_from([0, 60, 500])
    )
    def set_bounds(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages, self.max_bytes = max_messages, max_bytes
        self.receiver = StreamReceiver(self.process, max_messages=max_messages, max_bytes=max_bytes)

    @rule(amount=st.integers(1, 6))
    def receive_in_order(self, amount: int) -> None:
        for _ in range(amount):
            self.receive(self.receiver.expected)

    @rule(ahead=st.integers(1, 8))
    def receive_early(self, ahead: int) -> None:
        self.receive(self.receiver.expected + ahead)

    @rule(beyond=st.integers(-1, 2))
    def receive_at_the_limit(self, beyond: int) -> None:
        self.receive(max(0, self.receiver.expected + self.max_messages + beyond))

    @rule(choice=CHOICES)
    @precondition(lambda self: self.processed)
    def receive_again(self, choice: int) -> None:
        self.receive(choice % len(self.processed))

    @rule(room=st.one_of(st.none(), st.integers(0, 4)))
    def change_the_reader(self, room: int | None) -> None:
        self.room = room

    @rule()
    def drain(self) -> None:
        takes = self.takes_of_those_that_wait(len(self.processed))
        self.receiver.drain()
        self.were_taken(takes)

    @invariant()
    def what_was_processed_is_the_beginning_in_order_and_once(self) -> None:
        assert self.receiver.expected == len(self.processed)
        assert self.processed == [payload(n) for n in range(len(self.processed))]

    @invariant()
    def what_was_acknowledged_is_processed_or_waits(self) -> None:
        waiting = self.receiver._waiting
        assert all(n < len(self.processed) or n in waiting for n in self.acknowledged)

    @invariant()
    def what_waits_is_bounded_and_adds_up(self) -> None:
        waiting = self.receiver._waiting
        assert {n: len(message.payload) for n, message in waiting.items()} == self.kept
        assert self.receiver._waiting_bytes == sum(self.kept.values()) <= self.max_bytes
        assert all(0 <= n - self.receiver.expected <= self.max_messages for n in waiting)
        assert self.receiver.duplicates == self.duplicates

    def teardown(self) -> None:
        """Whatever was refused is taken when it comes again."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        self.room = None
        last = max(self.acknowledged | self.kept.keys(), default=-1)
        for number in range(self.receiver.expected, last + 2):
            self.receive(number)
            assert self.receiver.expected > number
        self.what_was_processed_is_the_beginning_in_order_and_once()
        assert not self.receiver._waiting
        assert self.receiver._waiting_bytes == 0

    # --- the model

    def process(self, message: AgentMessage) -> bool:
        if self.room is not None:
            if self.room == 0:
                return False
            self.room -= 1
        self.processed.append(bytes(message.payload))
        return True

    def receive(self, number: int) -> None:
        expected, room = len(self.processed), self.room
        chunk = bytearray(payload(number))
        message = AgentMessage(
            MessageType.OUTPUT_STREAM_DATA, memoryview(chunk), number, PayloadType.OUTPUT
        )
        fits = self.fits(number, expected)
        takes = 0
        if number == expected and room != 0:
            takes = 1 + self.takes_of_those_that_wait(
                number + 1, None if room is None else room - 1
            )
        acknowledged = self.receiver.receive(message)
        chunk[:] = bytes(len(chunk))  # as the chunk of a socket is used again
        if number == expected:
            assert acknowledged is (takes > 0)
        else:
            assert acknowledged is (number < expected or fits)
        self.duplicates += number < expected or (not takes and number in self.kept)
        if fits and not takes:
            self.kept[number] = len(payload(number))
        self.were_taken(takes)
        if acknowledged:
            self.acknowledged.add(number)

    def fits(self, number: int, expected: int) -> bool:
        if number < expected:
            return False
        size = len(payload(number))
        return number in self.kept or (
            number - expected <= self.max_messages
            and sum(self.kept.values()) + size <= self.max_bytes
        )

    def takes_of_those_that_wait(self, number: int, room: int | None = -1) -> int:
        room = self.room if room == -1 else room
        takes = 0
        while number + takes in self.kept and (room is None or takes < room):
            takes += 1
        return takes

    def were_taken(self, amount: int) -> None:
        first = len(self.processed) - amount
        for number in range(first, first + amount):
            self.kept.pop(number, None)


def payload(number: int) -> bytes:
    """Of different sizes, the larger ones at odd places."""
    return number.to_bytes(4) + b"x" * (number * 7 % 11 * 3)


class Transfer(RuleBasedStateMachine):
    """A sender, a receiver, and what is in transit between them."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.sender = new_sender()
        self.receiver = StreamReceiver(self.process)
        self.written: list[bytes] = []
        self.processed: list[bytes] = []
        self.ready = True
        self.there: list[bytes] = []
        self.back: list[int] = []

    @initialize(
        ahead=st.sampled_from([1, 7, 50]),
        most=st.sampled_from([3, 20, 100]),
        size=st.sampled_from([200, 100_000]),
    )
    def start(self, ahead: int, most: int, size: int) -> None:
        self.sender = new_sender(max_messages=ahead)
        self.receiver = StreamReceiver(self.process, max_messages=most, max_bytes=size)

    @rule(amount=st.integers(1, 20), size=SIZES)
    def write(self, amount: int, size: int) -> None:
        for _ in range(amount):
            if not self.sender.room():
                return
            data = len(self.written).to_bytes(4) + bytes(size)
            self.written.append(data)
            self.there.append(self.sender.send(PayloadType.OUTPUT, data, CREATED, self.now))

    @rule(choice=CHOICES, again=st.booleans())
    @precondition(lambda self: self.there)
    def deliver(self, choice: int, again: bool) -> None:
        index = choice % len(self.there)
        self.arrive(self.there[index] if again else self.there.pop(index))

    @rule(amount=st.integers(1, 10))
    @precondition(lambda self: self.there)
    def deliver_in_order(self, amount: int) -> None:
        arrived, self.there = self.there[:amount], self.there[amount:]
        for wire in arrived:
            self.arrive(wire)

    @rule(choice=CHOICES)
    @precondition(lambda self: self.there)
    def lose(self, choice: int) -> None:
        del self.there[choice % len(self.there)]

    @rule(choices=st.lists(CHOICES, min_size=1, max_size=10), again=st.booleans())
    @precondition(lambda self: self.back)
    def acknowledge(self, choices: list[int], again: bool) -> None:
        for choice in choices:
            if self.back:
                index = choice % len(self.back)
                self.sender.acknowledge(self.back[index] if again else self.back.pop(index))
        self.sender.settle(self.now)
        self.resend()

    @rule(choice=CHOICES)
    @precondition(lambda self: self.back)
    def lose_acknowledgement(self, choice: int) -> None:
        del self.back[choice % len(self.back)]

    @rule(ready=st.booleans())
    def change_the_reader(self, ready: bool) -> None:
        self.ready = ready

    @rule()
    def drain(self) -> None:
        self.receiver.drain()

    @rule(milliseconds=MILLISECONDS)
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000
        timer = self.sender.get_timer()
        if timer is not None and timer <= self.now:
            self.sender.handle_timer(self.now)
            self.resend()

    @rule()
    @precondition(lambda self: self.sender.get_timer() is not None)
    def wait_for_the_timer(self) -> None:
        timer = self.sender.get_timer()
        assert timer is not None
        self.now = max(self.now, timer)
        self.sender.handle_timer(self.now)
        self.resend()

    @rule()
    def cut(self) -> None:
        self.there.clear()
        self.back.clear()
        self.sender.restart(self.now)
        self.resend()

    @invariant()
    def what_was_processed_is_the_beginning_of_what_was_written(self) -> None:
        assert self.processed == self.written[: len(self.processed)]

    @invariant()
    def what_the_sender_forgot_has_arrived(self) -> None:
        kept = self.sender._in_flight.keys() | self.sender._lost.keys()
        for number in set(range(len(self.written))) - kept:
            assert number < self.receiver.expected or number in self.receiver._waiting

    @invariant()
    def what_has_arrived_is_told(self) -> None:
        waiting = self.receiver._waiting
        assert all(
            number < self.receiver.expected or number in waiting
            for number in range(self.sender.acknowledged_below)
        )

    def teardown(self) -> None:
        """The adversary stops: everything arrives, within a few rounds."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        self.ready = True
        self.receiver.drain()
        self.resend()
        for _ in range(3 * len(self.written) + 20):
            if self.sender.idle:
                break
            if not self.there and not self.back:
                self.wait_for_the_timer()
            self.now += 0.02
            self.deliver_all()
            self.now += 0.02
            self.acknowledge_all()
        assert self.sender.idle
        assert self.sender.get_timer() is None
        assert self.processed == self.written
        assert self.sender.acknowledged_below == len(self.written)
        assert not self.receiver._waiting

    def deliver_all(self) -> None:
        there, self.there = self.there, []
        for wire in there:
            self.arrive(wire)

    def acknowledge_all(self) -> None:
        back, self.back = self.back, []
        for number in back:
            self.sender.acknowledge(number)
        self.sender.settle(self.now)
        self.resend()

    def resend(self) -> None:
        while (wire := self.sender.resend(self.now)) is not None:
            self.there.append(wire)

    def arrive(self, wire: bytes) -> None:
        message = parse(wire)
        if self.receiver.receive(message):
            self.back.append(message.sequence_number)

    def process(self, message: AgentMessage) -> bool:
        if self.ready:
            self.processed.append(bytes(message.payload))
        return self.ready


TestSender = Sender.TestCase
TestReceiver = Receiver.TestCase
TestTransfer = Transfer.TestCase
TestSender.settings = TestReceiver.settings = TestTransfer.settings = settings(
    max_examples=max(300, settings().max_examples), stateful_step_count=60
)
