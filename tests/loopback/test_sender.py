import pytest

from ssmnet.loopback.sender import IdealSender, RoundTrip, Sender


def test_round_trip_follows_the_agents_formula() -> None:
    trip = RoundTrip()
    assert (trip.rtt, trip.timeout) == (0.1, 0.2)
    trip.sample(0.02)
    assert trip.rtt == pytest.approx(0.09)
    assert trip.variation == pytest.approx(0.02)
    assert trip.timeout == pytest.approx(0.17)
    for _ in range(100):
        trip.sample(0.02)
    assert trip.timeout == pytest.approx(0.03, abs=1e-3)
    trip.sample(60.0)
    assert trip.timeout == 1.0


def run(sender: Sender | IdealSender, until: float) -> list[tuple[float, bytes]]:
    """What is resent and when, if nothing is acknowledged."""
    resent = []
    while (due := sender.get_timer()) is not None and due <= until:
        resent += [(round(due, 3), data) for data in sender.handle_timer(due)]
    return resent


def test_only_the_head_is_resent_and_only_every_100_ms() -> None:
    sender = Sender()
    sender.start(0.0)
    sender.add(0, b"zero", 0.0)
    sender.add(1, b"one", 0.0)
    # The timeout starts at 200 ms, which the poll at 0.2 s has not passed yet.
    assert run(sender, 0.95) == [(0.3, b"zero"), (0.6, b"zero"), (0.9, b"zero")]
    sender.acknowledge(0, 1.0)
    sender.acknowledge(0, 1.0)
    assert run(sender, 1.3) == [(1.0, b"one"), (1.2, b"one")]
    assert sender.resent == 5


def test_losses_are_repaired_one_every_100_ms() -> None:
    sender = Sender()
    for number in range(100):
        sender.add(number, b"%d" % number, 0.001 * number)
    for number in range(20, 100):
        sender.acknowledge(number, 0.001 * number + 0.002)
    repaired = []
    while len(sender):
        due = sender.get_timer()
        assert due is not None
        for data in sender.handle_timer(due):
            repaired.append(round(due, 1))
            sender.acknowledge(int(data), due + 0.002)
    assert len(repaired) == 20
    assert repaired[-1] - repaired[0] == pytest.approx(1.9)


def test_a_full_list_does_not_keep_the_new_message() -> None:
    sender = Sender(capacity=2)
    for number in range(3):
        sender.add(number, b"x", 0.0)
    assert len(sender) == 2
    assert sender.not_kept == 1
    assert sender.has_room


def test_no_timer_without_anything_to_resend() -> None:
    sender = Sender()
    assert sender.get_timer() is None
    assert sender.handle_timer(5.0) == []
    sender.add(0, b"x", 5.03)
    assert sender.get_timer() == pytest.approx(5.1)
    sender.acknowledge(0, 5.05)
    assert sender.get_timer() is None


def test_ideal_resends_all_that_is_overdue() -> None:
    sender = IdealSender()
    for number in range(3):
        sender.add(number, b"%d" % number, 0.0)
    assert sender.handle_timer(0.1) == []
    assert sender.get_timer() == 0.2
    assert sender.handle_timer(0.2) == [b"0", b"1", b"2"]
    assert sender.get_timer() == pytest.approx(0.4)
    sender.acknowledge(0, 0.21)
    assert sender.round_trip.rtt == 0.1, "a resent message says nothing of the round trip"
    assert len(sender) == 2


def test_ideal_has_a_window() -> None:
    sender = IdealSender(window=2)
    sender.add(0, b"0", 0.0)
    assert sender.has_room
    sender.add(1, b"1", 0.0)
    assert not sender.has_room
    sender.acknowledge(1, 0.01)
    assert sender.has_room
    assert sender.round_trip.rtt < 0.1


def test_ideal_resends_everything_after_a_pause() -> None:
    sender = IdealSender()
    sender.add(0, b"0", 10.0)
    sender.unpaused(10.01)
    assert sender.handle_timer(10.01) == [b"0"]
