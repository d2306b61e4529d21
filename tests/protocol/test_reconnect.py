from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.reconnect import FIRST_DELAY, MAX_DELAY, BackOff


def test_delays_double_up_to_the_maximum() -> None:
    back_off = BackOff(lambda: 0.0, first=1.0, maximum=5.0)
    assert [back_off.next_delay() for _ in range(5)] == [1.0, 2.0, 4.0, 5.0, 5.0]


def test_chance_takes_off_up_to_half() -> None:
    back_off = BackOff(lambda: 1.0, first=1.0, maximum=4.0)
    assert [back_off.next_delay() for _ in range(4)] == [0.5, 1.0, 2.0, 2.0]


def test_the_first_try_comes_soon_and_a_late_one_within_seconds() -> None:
    back_off = BackOff(lambda: 0.0)
    delays = [back_off.next_delay() for _ in range(20)]
    assert delays[0] == FIRST_DELAY <= 0.2
    assert delays[-1] == MAX_DELAY <= 30


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_is_always_between_half_and_all_of_what_is_due(chances: list[float]) -> None:
    luck = iter(chances)
    back_off, certain = BackOff(luck.__next__), BackOff(lambda: 0.0)
    due = [certain.next_delay() for _ in chances]
    assert all(early <= late for early, late in pairwise(due))
    for delay in due:
        assert delay / 2 <= back_off.next_delay() <= delay
