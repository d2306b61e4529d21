from collections.abc import Iterable, Iterator
from itertools import repeat
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.protocol.congestion import MIN_WINDOW
from ssmnet.protocol.message import (
    HEADER_SIZE,
    AgentMessage,
    MessageType,
    PayloadType,
    message_ids,
    parse,
)
from ssmnet.protocol.recovery import INITIAL_TIMEOUT, MAX_TIMEOUT
from ssmnet.protocol.stream import MAX_QUANTUM, RESERVE, StreamReceiver, StreamSender
from ssmnet.testing.link import Path, harmful, losing, losing_between
from tests.protocol.simulation import CREATED, Transfer

RTT = 0.1


def new_sender(**bounds: int) -> StreamSender:
    return StreamSender(MessageType.INPUT_STREAM_DATA, message_ids(bytes(16)), **bounds)


def send(sender: StreamSender, amount: int, now: float = 0.0) -> list[bytes]:
    return [sender.send(PayloadType.OUTPUT, b"x", CREATED, now) for _ in range(amount)]


def acknowledge(sender: StreamSender, numbers: Iterable[int], now: float) -> None:
    for number in numbers:
        sender.acknowledge(number)
    sender.settle(now)


def resend_all(sender: StreamSender, now: float) -> list[int]:
    """The numbers that go out again; whatever the window lets go."""
    numbers = []
    while (wire := sender.resend(now)) is not None:
        numbers.append(parse(wire).sequence_number)
    return numbers


def numbered(amount: int, size: int = 8) -> Iterator[bytes]:
    return iter([n.to_bytes(4) + bytes(size - 4) for n in range(amount)])


# --- the sender's list


def test_messages_are_numbered_from_zero() -> None:
    wires = send(new_sender(), 3)
    messages = [parse(wire) for wire in wires]
    assert [m.sequence_number for m in messages] == [0, 1, 2]
    assert {m.message_type for m in messages} == {MessageType.INPUT_STREAM_DATA}
    assert len({m.message_id for m in messages}) == 3
    assert {(m.created_date, m.payload_type, m.flags) for m in messages} == {(CREATED, 1, 0)}


def test_an_acknowledgement_frees_exactly_one_message() -> None:
    sender = new_sender()
    assert sender.idle
    send(sender, 2)
    acknowledge(sender, [1], 0.1)
    assert not sender.idle
    acknowledge(sender, [0], 0.1)
    assert sender.idle
    assert sender.window.in_flight == 0
    assert sender.get_timer() is None


def test_an_acknowledgement_of_what_was_never_sent_or_twice_changes_nothing() -> None:
    sender = new_sender()
    send(sender, 2)
    acknowledge(sender, [0, 0, 7, -1, 2**70], 0.1)
    acknowledge(sender, [0], 0.2)
    assert not sender.idle
    assert sender.window.in_flight == len(send(new_sender(), 1)[0])
    assert sender.round_trip_time.smoothed == 0.1


def test_the_round_trip_is_measured() -> None:
    sender = new_sender()
    send(sender, 1, 5.0)
    acknowledge(sender, [0], 5.25)
    assert sender.round_trip_time.smoothed == 0.25


def test_a_message_goes_out_again_as_it_was() -> None:
    sender = new_sender()
    (wire,) = send(sender, 1)
    sender.handle_timer(INITIAL_TIMEOUT)
    assert sender.resend(INITIAL_TIMEOUT) == wire
    assert sender.resend(INITIAL_TIMEOUT) is None
    assert sender.retransmissions == 1


# --- loss


def test_what_three_later_messages_have_overtaken_is_lost() -> None:
    sender = new_sender()
    send(sender, 6)
    acknowledge(sender, [1, 2], 0.1)
    assert resend_all(sender, 0.1) == []
    acknowledge(sender, [3], 0.1)
    assert resend_all(sender, 0.1) == [0]


def test_it_counts_what_was_sent_later_in_whatever_order_that_is_acknowledged() -> None:
    sender = new_sender()
    send(sender, 6)
    acknowledge(sender, [3, 1], 0.1)
    assert resend_all(sender, 0.1) == [0]


def test_what_one_later_message_has_overtaken_is_lost_after_about_a_round_trip() -> None:
    sender = new_sender()
    send(sender, 1, 0.0)
    acknowledge(sender, [0], 0.1)
    send(sender, 2, 1.0)
    acknowledge(sender, [2], 1.1)
    timer = sender.get_timer()
    assert timer is not None
    assert 1.1 < timer < 1.15
    sender.handle_timer(timer - 0.001)
    assert resend_all(sender, timer) == []
    sender.handle_timer(timer)
    assert resend_all(sender, timer) == [1]


def test_an_acknowledgement_that_comes_late_is_told_by_the_clock() -> None:
    sender = new_sender()
    send(sender, 1, 0.0)
    acknowledge(sender, [0], 0.1)
    send(sender, 1, 1.0)
    send(sender, 1, 1.15)
    acknowledge(sender, [2], 1.25)
    assert resend_all(sender, 1.25) == [1]


def test_the_loss_timer_ends_with_the_acknowledgement() -> None:
    sender = new_sender()
    send(sender, 2)
    acknowledge(sender, [1], 0.1)
    acknowledge(sender, [0], 0.105)
    assert sender.get_timer() is None
    assert sender.retransmissions == 0


def test_a_repeated_message_is_not_lost_again_by_acknowledgements_of_older_ones() -> None:
    sender = new_sender()
    send(sender, 10)
    acknowledge(sender, [1, 2, 3], 0.1)
    assert resend_all(sender, 0.1) == [0]
    acknowledge(sender, [4, 5, 6, 7, 8, 9], 0.11)
    assert resend_all(sender, 0.11) == []
    assert not sender.idle


def test_a_lost_message_may_arrive_after_all() -> None:
    sender = new_sender()
    send(sender, 4)
    acknowledge(sender, [1, 2, 3], 0.1)
    acknowledge(sender, [0], 0.11)
    assert sender.idle
    assert resend_all(sender, 0.2) == []


def test_the_oldest_of_the_lost_goes_first_whenever_it_was_lost() -> None:
    sender = new_sender()
    send(sender, 12)
    acknowledge(sender, [5, 6, 7], 0.1)
    sender.acknowledge(1)
    assert resend_all(sender, 0.1) == [0, 2, 3, 4]


@pytest.mark.parametrize("lost", [{3}, {3, 4, 5, 6, 7}, {0, 9, 14, 21}, set(range(0, 24, 3))])
def test_several_losses_are_repaired_within_one_more_round_trip(lost: set[int]) -> None:
    transfer = Transfer(Path(RTT / 2, fate=losing(lost)), Path(RTT / 2), numbered(28))
    transfer.run(10.0)
    assert transfer.done
    assert transfer.now < 2.3 * RTT
    assert transfer.sender.retransmissions == len(lost)


def test_losses_in_a_long_transfer_cost_their_repair_and_nothing_else() -> None:
    lost = set(range(500, 1500, 100)) | set(range(700, 720))
    there = Path(RTT / 2, rate=1e6, fate=losing(lost))
    transfer = Transfer(there, Path(RTT / 2), numbered(2000, 1024), keep=True)
    transfer.run(20.0)
    assert transfer.done
    assert transfer.received == list(numbered(2000, 1024))
    assert transfer.sender.retransmissions == len(lost)
    # A burst that goes missing beside a window that shrinks: no more than a few round trips.
    assert transfer.now < 2000 * 1144 / 1e6 + 10 * RTT


@pytest.mark.parametrize("messages", [30, 200, 1000, 3000])
def test_a_lost_window_is_repaired_in_round_trips_by_its_logarithm(messages: int) -> None:
    outage = [float("inf"), float("inf")]
    there = Path(RTT / 2, fate=lambda n, now: () if outage[0] <= now < outage[1] else (0.0,))
    transfer = Transfer(there, Path(RTT / 2))
    while transfer.sender.window.limit < messages * 1144 and transfer.now < 60:
        transfer.run(transfer.now + RTT)
    outage[:] = transfer.now, transfer.now + 1.5 * RTT  # longer than the window, and the timeout
    transfer.run(outage[1])
    in_flight = transfer.sender.next_number
    started = transfer.now
    while transfer.delivered < in_flight * 1024 and transfer.now < started + 60:
        transfer.run(transfer.now + RTT / 4)
    rounds = (transfer.now - started) / RTT
    assert rounds < 8 + messages.bit_length()


def test_a_timeout_takes_back_all_that_is_in_flight_and_starts_small() -> None:
    sender = new_sender()
    send(sender, 20)
    timer = sender.get_timer()
    assert timer is not None
    sender.handle_timer(timer)
    again = resend_all(sender, timer)
    assert again == list(range(len(again)))
    assert 2 <= len(again) <= 20
    assert sender.window.limit <= 4096
    assert sender.get_timer() == pytest.approx(timer + 2 * INITIAL_TIMEOUT)


def test_a_timer_that_is_not_due_does_nothing() -> None:
    sender = new_sender()
    sender.handle_timer(0.0)
    send(sender, 2, 1.0)
    sender.handle_timer(1.1)
    assert resend_all(sender, 1.1) == []


def test_nothing_new_goes_before_what_is_lost() -> None:
    sender = new_sender()
    send(sender, 5)
    assert sender.room()
    acknowledge(sender, [2, 3, 4], 0.1)
    assert not sender.room()
    assert resend_all(sender, 0.1) == [0, 1]
    assert sender.room()


def test_time_counts_from_the_repetition_when_nothing_else_is_in_flight() -> None:
    sender = new_sender()
    send(sender, 1)
    sender.handle_timer(INITIAL_TIMEOUT)
    sender.resend(10.0)
    timer = sender.get_timer()
    assert timer is not None
    assert timer > 10.0


def test_no_sample_is_taken_of_a_repeated_message_once_there_was_a_good_one() -> None:
    sender = new_sender()
    send(sender, 1)
    acknowledge(sender, [0], 0.1)
    send(sender, 1, 1.0)
    sender.handle_timer(2.0)
    resend_all(sender, 2.0)
    acknowledge(sender, [1], 2.01)
    assert sender.round_trip_time.smoothed == 0.1


# --- clean paths


@pytest.mark.parametrize("rtt", [0.0003, 0.001, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("jitter", [0.0, 0.004, 0.009])
def test_nothing_is_repeated_on_a_clean_path(rtt: float, jitter: float) -> None:
    # What goes out before the first acknowledgement can't know that a path is slow.
    initial = 2 * 28 if rtt > INITIAL_TIMEOUT else 0
    random = Random(1)
    back = Path(rtt / 2, fate=lambda n, now: (random.random() * jitter,))
    transfer = Transfer(Path(rtt / 2, rate=1e6), back)
    transfer.run(5.0)
    assert transfer.delivered > 100_000
    assert transfer.sender.retransmissions <= initial


@pytest.mark.parametrize("delay", [0.001, 0.05, 0.15])
def test_keystrokes_are_not_repeated_on_a_clean_path(delay: float) -> None:
    random = Random(2)
    sender = new_sender()
    for n in range(300):
        now = n * 0.5
        send(sender, 1, now)
        back = now + delay + random.random() * 0.009
        timer = sender.get_timer()
        assert timer is not None
        if timer <= back:
            sender.handle_timer(timer)
        acknowledge(sender, [n], back)
    assert resend_all(sender, 1000.0) == []
    assert sender.retransmissions == 0


@given(st.permutations(range(8)))
def test_small_reordering_is_no_loss(order: list[int]) -> None:
    sender = new_sender()
    send(sender, 1)
    acknowledge(sender, [0], 0.1)
    send(sender, 8, 1.0)
    for place, number in enumerate(order):
        overtaken = max((n for n in order[:place] if n > number), default=number) - number
        sender.acknowledge(1 + number)
        sender.settle(1.1)
        if overtaken < 3:
            assert 1 + number not in resend_all(sender, 1.1)


@pytest.mark.parametrize("side", ["there", "back"])
@pytest.mark.parametrize(
    ("rtt", "rate", "held_up"), [(0.1, 4e6, 0.2), (0.04, 2e6, 0.1), (0.001, 10e6, 0.05)]
)
def test_a_hold_up_is_no_loss(rtt: float, rate: float, held_up: float, side: str) -> None:
    # As TCP holds everything up while it repairs a loss of its own.
    transfer = Transfer(Path(rtt / 2, rate=rate), Path(rtt / 2))
    transfer.run(2.0 if rtt > 0.01 else 0.3)
    before = transfer.sender.window.limit
    path = {"there": transfer.there, "back": transfer.back}[side]
    path.stop()
    transfer.run(transfer.now + held_up)
    path.go_on(transfer.now)
    transfer.run(transfer.now + 2 * rtt + 0.02)
    assert transfer.sender.retransmissions <= 64
    assert transfer.sender.window.limit > before / 2


# --- the window


def test_the_window_says_when_a_new_message_may_go() -> None:
    sender = new_sender()
    while sender.room():
        send(sender, 1)
    assert not sender.has_room
    limit = sender.window.limit
    assert limit <= sender.window.in_flight <= limit + 200
    acknowledge(sender, [0, 1], 0.1)
    assert sender.room()
    assert sender.has_room


def test_never_runs_further_ahead_than_the_bound() -> None:
    sender = new_sender(max_messages=10)
    while sender.room():
        send(sender, 1)
    assert sender.next_number == 10
    acknowledge(sender, range(1, 10), 0.1)
    assert not sender.has_room
    assert resend_all(sender, 0.1) == [0]
    assert not sender.has_room
    acknowledge(sender, [0], 0.2)
    assert sender.room()


def test_a_window_may_be_bounded_in_bytes() -> None:
    sender = new_sender(max_bytes=500)
    while sender.room():
        send(sender, 1)
    assert sender.window.in_flight < 500 + 200


def test_late_acknowledgements_of_lost_messages_open_the_window() -> None:
    sender = new_sender(max_messages=10)
    while sender.room():
        send(sender, 1)
    sender.restart(1.0)
    acknowledge(sender, range(10), 1.1)
    assert sender.idle
    assert sender.room()
    assert sender.progress_at == 1.1


# --- restarts and pauses


def test_a_resumed_session_repeats_all_that_is_unacknowledged() -> None:
    sender = new_sender()
    send(sender, 20)
    acknowledge(sender, [0, 3, 4], 0.1)
    expected = [n for n in range(20) if n not in (0, 3, 4)]
    sender.restart(5.0)
    assert sender.window.in_flight == 0
    again: list[int] = []
    now = 5.0
    while numbers := resend_all(sender, now):
        again += numbers
        now += 0.1
        acknowledge(sender, numbers, now)
    assert again == expected
    assert sender.idle


def test_the_window_grows_while_a_resumed_session_repeats_though_nothing_new_is_written() -> None:
    sender = new_sender()
    send(sender, 200)
    sender.restart(1.0)
    first = resend_all(sender, 1.0)
    acknowledge(sender, first, 1.1)
    assert len(resend_all(sender, 1.1)) > 1.5 * len(first)


def test_a_resume_with_thousands_in_flight_is_quick() -> None:
    transfer = Transfer(Path(RTT / 2), Path(RTT / 2), repeat(bytes(8)))
    while (in_flight := transfer.sender.window.in_flight // 128) < 2000:
        transfer.run(transfer.now + RTT)
    cut = transfer.now
    transfer.end()
    transfer.reconnect()
    transfer.run(20.0)
    assert transfer.done
    assert transfer.sender.retransmissions == in_flight
    assert transfer.now < cut + 30 * RTT


def test_a_late_acknowledgement_brings_nothing_back_that_went_with_the_last_connection() -> None:
    sender = new_sender()
    wires = send(sender, 200)
    sender.restart(1.0)
    again = resend_all(sender, 1.0)
    timer = sender.get_timer()
    assert timer is not None
    sender.handle_timer(timer)
    acknowledge(sender, again[:1], timer + 0.1)
    # Of those that went out since, it undoes the timeout; the others have not been sent again.
    assert sender.window.in_flight == sum(len(wires[number]) for number in again[1:])
    assert sender.window.limit < 2 * MIN_WINDOW
    acknowledge(sender, again[1:], timer + 0.1)
    assert resend_all(sender, timer + 0.1)[0] == again[-1] + 1


def test_a_timeout_of_the_last_connection_is_not_undone_on_the_next() -> None:
    sender = new_sender()
    send(sender, 20)
    sender.handle_timer(INITIAL_TIMEOUT)
    sender.acknowledge(0)  # and the connection is lost before the end of the burst
    sender.restart(1.0)
    sender.settle(1.0)
    assert sender.window.in_flight == 0
    assert resend_all(sender, 1.0)[0] == 1


def test_an_acknowledgement_that_the_last_connection_left_behind_undoes_nothing() -> None:
    sender = new_sender()
    send(sender, 200)
    sender.restart(1.0)
    assert len(resend_all(sender, 1.0)) < 100
    timer = sender.get_timer()
    assert timer is not None
    sender.handle_timer(timer)
    acknowledge(sender, [100], timer)
    assert sender.window.in_flight == 0


def test_the_round_trip_is_not_measured_over_a_reconnect() -> None:
    sender = new_sender()
    send(sender, 1)
    sender.restart(30.0)
    resend_all(sender, 30.0)
    acknowledge(sender, [0], 30.1)
    assert sender.round_trip_time.smoothed == pytest.approx(0.1)


def test_time_spent_not_reading_is_no_sign_of_loss() -> None:
    sender = new_sender()
    send(sender, 1)
    acknowledge(sender, [0], 0.1)
    send(sender, 1, 1.0)
    sender.postpone(60.0)
    timer = sender.get_timer()
    assert timer is not None
    assert timer > 60.0
    sender.handle_timer(60.0)
    assert resend_all(sender, 60.0) == []
    acknowledge(sender, [1], 60.1)
    assert sender.round_trip_time.smoothed == 0.1


def test_progress_is_the_last_acknowledgement_or_the_first_message_in_flight() -> None:
    sender = new_sender()
    send(sender, 1, 5.0)
    send(sender, 1, 6.0)
    assert sender.progress_at == 5.0
    acknowledge(sender, [0], 7.0)
    assert sender.progress_at == 7.0
    sender.settle(8.0)
    assert sender.progress_at == 7.0
    sender.handle_timer(20.0)
    resend_all(sender, 20.0)
    assert sender.progress_at == 7.0


# --- the receiver


def new_receiver(**bounds: int) -> tuple[StreamReceiver, list[int]]:
    processed: list[int] = []

    def process(message: AgentMessage) -> bool:
        processed.append(message.sequence_number)
        return True

    return StreamReceiver(process, **bounds), processed


def message(number: int, payload: bytes = b"x") -> AgentMessage:
    return AgentMessage(MessageType.OUTPUT_STREAM_DATA, payload, number, PayloadType.OUTPUT)


def test_messages_in_order_are_processed_at_once() -> None:
    receiver, processed = new_receiver()
    assert all(receiver.receive(message(n)) for n in range(3))
    assert processed == [0, 1, 2]
    assert receiver.expected == 3


def test_early_messages_are_acknowledged_and_wait() -> None:
    receiver, processed = new_receiver()
    assert receiver.receive(message(2))
    assert receiver.receive(message(1))
    assert processed == []
    assert receiver.receive(message(0))
    assert processed == [0, 1, 2]


def test_duplicates_are_acknowledged_again_and_not_processed() -> None:
    receiver, processed = new_receiver()
    for n in (0, 0, 2, 2, 1, 1, 0):
        assert receiver.receive(message(n))
    assert processed == [0, 1, 2]
    assert receiver.duplicates == 4


def test_an_early_message_owns_its_bytes() -> None:
    processed: list[bytes] = []

    def process(message: AgentMessage) -> bool:
        processed.append(bytes(message.payload))
        return True

    receiver = StreamReceiver(process)
    chunk = bytearray(b"abc")
    early = message(1)
    early.payload = memoryview(chunk)
    receiver.receive(early)
    chunk[:] = b"xyz"
    receiver.receive(message(0, b"0"))
    assert processed == [b"0", b"abc"]


def test_what_is_not_taken_is_neither_processed_nor_acknowledged() -> None:
    ready = False
    processed: list[int] = []

    def process(message: AgentMessage) -> bool:
        if ready:
            processed.append(message.sequence_number)
        return ready

    receiver = StreamReceiver(process)
    assert not receiver.receive(message(0))
    assert receiver.receive(message(1))
    receiver.drain()
    assert processed == []
    assert not receiver.receive(message(0))
    ready = True
    taken = receiver.drain()
    assert taken is not None  # but to be acknowledged
    assert taken.sequence_number == 0
    assert processed == [0, 1]
    assert receiver.drain() is None
    assert receiver.receive(message(0))  # the repetition, which need not be waited for
    assert processed == [0, 1]


def test_what_waited_for_a_consumer_is_drained() -> None:
    ready = True
    processed: list[int] = []

    def process(message: AgentMessage) -> bool:
        if ready:
            processed.append(message.sequence_number)
        return ready

    receiver = StreamReceiver(process)
    receiver.receive(message(1))
    receiver.receive(message(2))
    refusals = iter([True, False, False])
    receiver._process = lambda message: next(refusals)
    assert receiver.receive(message(0))  # 1 is refused now, though it was acknowledged
    assert receiver.expected == 1
    receiver._process = process
    assert receiver.drain() is None
    assert processed == [1, 2]
    assert receiver.expected == 3


def test_a_refused_message_may_come_again_after_it_was_kept() -> None:
    taken: list[int] = []
    refuse = {1}

    def process(message: AgentMessage) -> bool:
        if message.sequence_number in refuse:
            return False
        taken.append(message.sequence_number)
        return True

    receiver = StreamReceiver(process)
    receiver.receive(message(1))
    receiver.receive(message(2))
    receiver.receive(message(0))
    refuse.clear()
    assert receiver.receive(message(1))
    assert taken == [0, 1, 2]


def test_early_messages_are_bounded_in_number_and_bytes() -> None:
    receiver, processed = new_receiver(max_messages=10, max_bytes=25)
    assert receiver.receive(message(10, b"x" * 10))
    assert not receiver.receive(message(11))
    assert receiver.receive(message(3, b"x" * 10))
    assert not receiver.receive(message(4, b"x" * 6))
    assert receiver.receive(message(3, b"x" * 10))
    assert receiver.receive(message(4, b"x" * 5))
    for n in (0, 1, 2):
        receiver.receive(message(n))
    assert processed == [0, 1, 2, 3, 4]
    assert receiver.receive(message(6, b"x" * 15))  # what was drained has made room


def test_a_gap_as_long_as_the_agents_list_can_be_waited_for() -> None:
    receiver, processed = new_receiver()
    for n in range(1, 20_000):
        assert receiver.receive(message(n))
    assert receiver.receive(message(0))
    assert len(processed) == 20_000


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 1000))
def test_any_order_with_duplicates_is_processed_once_in_order(
    numbers: list[int], seed: int
) -> None:
    random = Random(seed)
    receiver, processed = new_receiver(max_messages=6)
    for number in numbers:
        acknowledged = receiver.receive(message(number))
        assert acknowledged or number > receiver.expected + 5
    assert processed == list(range(len(processed)))
    while len(processed) < 13:
        receiver.receive(message(random.randrange(13)))
    assert processed == list(range(13))


def test_tells_up_to_where_everything_has_arrived() -> None:
    sender = new_sender()
    send(sender, 4)
    acknowledge(sender, [0, 2], 0.1)
    assert sender.acknowledged_below == 1
    acknowledge(sender, [1], 0.2)
    assert sender.acknowledged_below == 3


# --- whatever the path does

UNTIL = 4.0


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32),
    loss=st.sampled_from([0.0, 0.02, 0.2, 0.5, 0.9]),
    lost_acknowledgements=st.sampled_from([0.0, 0.02, 0.2, 0.5, 0.9]),
    duplication=st.sampled_from([0.0, 0.3]),
    spread=st.sampled_from([0.0, 0.02, 0.3]),
    rtt=st.sampled_from([0.001, 0.05, 0.25]),
    size=st.sampled_from([8, 1024]),
    restarts=st.lists(st.floats(0.0, UNTIL), max_size=3),
    burst=st.one_of(st.none(), st.tuples(st.floats(0, UNTIL), st.floats(0, 1))),
)
def test_every_byte_arrives_once_in_order_and_soon_after_the_last_fault(
    seed: int,
    loss: float,
    lost_acknowledgements: float,
    duplication: float,
    spread: float,
    rtt: float,
    size: int,
    restarts: list[float],
    burst: tuple[float, float] | None,
) -> None:
    there_fate = harmful(seed, loss=loss, duplication=duplication, spread=spread, end=UNTIL)
    if burst is not None:
        outage, rest = losing_between(burst[0], min(UNTIL, burst[0] + burst[1])), there_fate
        there_fate = lambda n, now: rest(n, now) if outage(n, now) else ()  # noqa: E731
    back_fate = harmful(
        seed + 1, loss=lost_acknowledgements, duplication=duplication, spread=spread, end=UNTIL
    )
    transfer = Transfer(
        Path(rtt / 2, fate=there_fate, reordering=True),
        Path(rtt / 2, fate=back_fate, reordering=True),
        numbered(400, size),
        keep=True,
    )
    for time in sorted(restarts):
        transfer.run(time)
        transfer.reconnect()
    transfer.run(UNTIL + MAX_TIMEOUT + 20 * rtt + 1.0)
    assert transfer.done
    assert transfer.received == list(numbered(400, size))
    assert transfer.sender.window.in_flight == 0
    assert transfer.overshoot <= size + 120


class Outstanding:
    """What a sender has sent and nobody has acknowledged, counted by the rules."""

    def __init__(self) -> None:
        self.sender = new_sender(max_messages=40)
        self.numbers: set[int] = set()
        self.now = 0.0

    def send(self, amount: int) -> None:
        for _ in range(amount):
            if self.sender.room():
                self._sent(self.sender.send(PayloadType.OUTPUT, b"x", CREATED, self.now))

    def acknowledge(self, choice: int) -> None:
        number = sorted(self.numbers)[choice % len(self.numbers)] if self.numbers else choice
        self.numbers.discard(number)
        acknowledge(self.sender, [number], self.now)

    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000
        if (timer := self.sender.get_timer()) is not None and timer <= self.now:
            self.sender.handle_timer(self.now)
            assert (later := self.sender.get_timer()) is None or later > self.now

    def restart(self, _: int) -> None:
        self.sender.restart(self.now)

    def postpone(self, _: int) -> None:
        self.sender.postpone(self.now)

    def check(self) -> None:
        while (wire := self.sender.resend(self.now)) is not None:
            self._sent(wire)
        assert self.sender.idle is (not self.numbers)
        assert (self.sender.get_timer() is None) is (self.sender.window.in_flight == 0)

    def _sent(self, wire: bytes) -> None:
        number = parse(wire).sequence_number
        self.numbers.add(number)
        assert self.sender.window.in_flight <= self.sender.window.limit + len(wire)
        assert number - min(self.numbers) < 40


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 30)),
            st.tuples(st.just("acknowledge"), st.integers(0, 60)),
            st.tuples(st.just("wait"), st.integers(1, 400)),
            st.tuples(st.sampled_from(["restart", "postpone"]), st.just(0)),
        ),
        max_size=60,
    )
)
def test_the_window_counts_what_is_in_flight_whatever_happens(
    steps: list[tuple[str, int]],
) -> None:
    outstanding = Outstanding()
    for verb, amount in steps:
        getattr(outstanding, verb)(amount)
        outstanding.check()
    sender = outstanding.sender
    acknowledge(sender, outstanding.numbers, outstanding.now)
    assert sender.idle
    assert sender.window.in_flight == 0
    assert sender.room()


def test_an_acknowledgement_of_what_was_never_sent_is_no_sign_of_life() -> None:
    sender = new_sender()
    send(sender, 1)
    due = sender.get_timer()
    acknowledge(sender, [17], 0.1)
    assert sender.get_timer() == due
    acknowledge(sender, [0], 0.1)
    send(sender, 1, 0.1)
    due = sender.get_timer()
    acknowledge(sender, [0], 0.15)  # a duplicate's is
    assert sender.get_timer() != due


def test_a_gap_lasts_until_it_is_closed() -> None:
    receiver, _ = new_receiver()
    assert not receiver.has_gap
    receiver.receive(message(1))
    assert receiver.has_gap
    receiver.receive(message(0))
    assert not receiver.has_gap


def test_acknowledgements_that_trickle_in_do_not_make_small_writes() -> None:
    sender = new_sender()
    numbers: list[int] = []

    def fill() -> int:
        sent = len(numbers)
        while room := sender.room():
            for _ in range(room):
                numbers.append(sender.next_number)
                sender.send(PayloadType.OUTPUT, bytes(1024), CREATED, now)
        return len(numbers) - sent

    now = 0.0
    fill()
    for step in range(400):
        now += 0.00001
        sender.acknowledge(numbers[step])
        sender.settle(now)
        sent = fill()
        if step > 50:
            assert sent == 0 or sent >= min(MAX_QUANTUM, sender._quantum) > 4
    # With nothing in flight whatever there is room for may go.
    for number in numbers[400:]:
        sender.acknowledge(number)
    sender.settle(now)
    assert sender.room() > 0


def test_on_a_slow_path_nothing_is_put_off() -> None:
    sender = new_sender()
    for _ in range(20):
        sender.send(PayloadType.OUTPUT, bytes(1024), CREATED, 0.0)
    for number in range(19):
        sender.acknowledge(number)
        sender.settle(0.3)
        assert sender._quantum == 0


def test_what_is_in_a_hurry_has_a_reserve_beyond_the_window() -> None:
    sender = new_sender()
    while sender.may_send:
        sender.send(PayloadType.OUTPUT, bytes(1024), CREATED, 0.0)
    assert not sender.room()
    beyond = 0
    while sender.has_reserve:
        sender.send(PayloadType.OUTPUT, bytes(100), CREATED, 0.0)
        beyond += HEADER_SIZE + 100
    assert RESERVE - 1200 <= beyond <= RESERVE + 1200
    sender.handle_timer(1.0)
    assert sender._lost
    assert not sender.has_reserve


def test_a_message_sent_while_all_others_are_lost_is_no_progress() -> None:
    sender = new_sender()
    send(sender, 3)
    progress = sender.progress_at
    sender.handle_timer(10.0)
    assert not sender._in_flight
    sender.send(PayloadType.FLAG, b"x", CREATED, 11.0)
    assert sender.progress_at == progress
    assert sender.get_timer() == pytest.approx(11.0 + sender.round_trip_time.timeout)
