from ssmnet.testing.link import Path, losing


def test_messages_arrive_after_the_delay_in_their_order() -> None:
    path = Path(0.5)
    path.send(b"a", 0.0)
    path.send(b"b", 0.1)
    assert path.next_event() == 0.5
    assert path.arrived(0.4) == []
    assert path.arrived(0.5) == [b"a"]
    assert path.arrived(1.0) == [b"b"]
    assert path.next_event() is None


def test_a_rate_makes_a_queue_and_its_limit_drops() -> None:
    path = Path(0.0, rate=10.0, queue=25)
    for data in (b"0123456789", b"abcdefghij", b"klmnopqrst"):
        path.send(data, 0.0)
    assert (path.queued, path.lost) == (20, 1)
    assert path.arrived(1.0) == [b"0123456789"]
    assert path.arrived(2.0) == [b"abcdefghij"]


def test_what_fate_takes_is_lost_and_what_is_sure_is_not() -> None:
    path = Path(0.0, fate=losing({0, 1}))
    path.send(b"sure", 0.0, sure=True)
    path.send(b"lost", 0.0)
    path.send(b"lost", 0.0, sure=False)
    path.send(b"third", 0.0)
    assert path.lost == 2
    assert path.arrived(0.0) == [b"sure", b"third"]


def test_bytes_under_way_are_counted_until_they_arrive() -> None:
    path = Path(1.0, rate=10.0, fate=lambda n, now: (0.0, 2.0))
    path.send(b"0123456789", 0.0)
    assert path.under_way == 20
    assert path.arrived(2.0) == [b"0123456789"]
    assert path.under_way == 10
    path.cut()
    assert path.under_way == 0
    assert path.next_event() is None


def test_a_path_that_is_held_delivers_all_when_it_goes_on() -> None:
    path = Path(0.1)
    path.send(b"a", 0.0)
    path.stop()
    path.send(b"b", 1.0)
    assert path.next_event() is None
    assert path.arrived(5.0) == []
    path.go_on(6.0)
    assert path.arrived(6.0) == [b"a", b"b"]


def test_what_a_full_queue_drops_is_counted_by_itself() -> None:
    path = Path(0.0, rate=10.0, queue=15, fate=losing({0}))
    for data in (b"lost by fate", b"0123456789", b"abcdefghij"):
        path.send(data, 0.0)
    assert (path.lost, path.overflowed) == (2, 1)


def test_a_changed_rate_holds_for_what_is_half_out_of_the_queue() -> None:
    path = Path(0.0, rate=10.0)
    path.set_rate(1.0, 0.0)
    for data in (b"0123456789", b"abcdefghij"):
        path.send(data, 0.0)
    path.set_rate(10.0, 5.0)  # half of the first is left
    assert path.next_event() == 5.5
    assert path.arrived(6.5) == [b"0123456789", b"abcdefghij"]
