from ssmnet.protocol.window import MAX_BYTES, MAX_MESSAGES, Window


def test_is_open_until_the_limit_is_in_flight() -> None:
    window = Window(1000)
    window.in_flight = 999
    assert window.is_open
    window.in_flight = 1000
    assert not window.is_open


def test_a_limit_above_the_maximum_does_not_count() -> None:
    window = Window(1000, max_bytes=500)
    window.in_flight = 500
    assert not window.is_open


def test_a_new_message_may_not_run_too_far_ahead_of_the_oldest() -> None:
    window = Window(1000, max_messages=10)
    assert window.room(9) == 1
    assert not window.room(10)


def test_a_new_message_needs_room() -> None:
    window = Window(1000)
    window.in_flight = 1000
    assert not window.room(0)


def test_room_counts_full_messages_of_which_the_last_may_overshoot() -> None:
    window = Window(3 * 1144)
    assert window.room(0) == 3
    window.in_flight = 1
    assert window.room(0) == 3
    window.in_flight = 1144
    assert window.room(0) == 2
    assert window.room(10**6) == 0
    window.in_flight = 10**6
    assert window.room(0) == 0


def test_a_reserve_is_room_beyond_the_limit_but_not_beyond_the_maximum() -> None:
    window = Window(1000, max_bytes=5000)
    window.in_flight = 1000
    assert (window.room(0), window.room(0, 1145)) == (0, 2)
    window.in_flight = 5000
    assert window.room(0, 1145) == 0


def test_never_runs_further_ahead_than_the_smallest_far_end_keeps() -> None:
    assert MAX_MESSAGES < 10_000


def test_the_bounds_hold_by_default() -> None:
    window = Window(1 << 40)
    window.in_flight = MAX_BYTES
    assert not window.is_open
    window.in_flight = 0
    assert not window.room(MAX_MESSAGES)
