from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.reconnect import (
    FIRST_DELAY,
    FIRST_REPLACEMENT_DELAY,
    MAX_DELAY,
    MAX_REPLACEMENT_DELAY,
    PATIENCE_AFTER_SLEEP,
    PING_INTERVAL,
    SHORT_LIFE,
    SILENT_INTERVALS,
    SLEPT,
    STALL_ROUND_TRIPS,
    STALL_TIME,
    WORKING_TIME,
    BackOff,
    Liveness,
    Restarts,
    Resumption,
    Verdict,
    is_stalled,
)


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


# Liveness.


def test_a_far_end_that_is_heard_is_left_alone() -> None:
    liveness = Liveness(0.0, 1000.0)
    for n in range(1, 5):
        assert liveness.due == n * PING_INTERVAL
        now = n * PING_INTERVAL
        assert liveness.check(True, now, 1000.0 + now) is Verdict.ALIVE


def test_a_silent_far_end_is_asked_and_then_given_up_within_half_a_minute() -> None:
    liveness = Liveness(0.0, 0.0)
    verdicts = []
    while Verdict.LOST not in verdicts:
        verdicts.append(liveness.check(False, liveness.due, liveness.due))
    assert verdicts == [Verdict.ASK] * (SILENT_INTERVALS - 1) + [Verdict.LOST]
    assert liveness.due - PING_INTERVAL <= 30


def test_a_pong_is_enough() -> None:
    liveness = Liveness(0.0, 0.0)
    for heard in (False, False, True) * 5:
        assert liveness.check(heard, liveness.due, liveness.due) is not Verdict.LOST


def test_what_was_not_read_is_no_silence() -> None:
    liveness = Liveness(0.0, 0.0)
    for _ in range(SILENT_INTERVALS - 1):
        assert liveness.check(False, liveness.due, liveness.due) is Verdict.ASK
    liveness.postpone(500.0, 500.0)
    assert liveness.due == 500.0 + PING_INTERVAL
    assert liveness.check(False, liveness.due, liveness.due) is Verdict.ASK


@pytest.mark.parametrize("now_runs_on", [False, True], ids=["as on Linux", "as on Windows"])
def test_after_a_sleep_there_is_little_patience(now_runs_on: bool) -> None:
    liveness = Liveness(0.0, 0.0)
    asleep = 3600.0
    now = PING_INTERVAL + (asleep if now_runs_on else 0.0)
    assert liveness.check(True, now, PING_INTERVAL + asleep) is Verdict.ASK
    assert liveness.due == now + PATIENCE_AFTER_SLEEP
    due = liveness.due
    wall = asleep + PING_INTERVAL + PATIENCE_AFTER_SLEEP
    assert liveness.check(False, due, wall) is Verdict.LOST


def test_a_connection_that_outlived_a_sleep_goes_on_as_before() -> None:
    liveness = Liveness(0.0, 0.0)
    assert liveness.check(False, PING_INTERVAL, 5000.0) is Verdict.ASK
    assert liveness.check(True, liveness.due, 5000.0 + PATIENCE_AFTER_SLEEP) is Verdict.ALIVE
    before = liveness.due
    for _ in range(SILENT_INTERVALS - 1):
        assert liveness.check(False, liveness.due, 5003.0) is Verdict.ASK
    assert liveness.due - before == (SILENT_INTERVALS - 1) * PING_INTERVAL


@pytest.mark.parametrize("step", [-86400.0, -1.0, SLEPT / 2])
def test_a_wall_clock_that_is_set_back_or_a_little_forward_is_no_sleep(step: float) -> None:
    liveness = Liveness(0.0, 0.0)
    assert liveness.check(True, PING_INTERVAL, PING_INTERVAL + step) is Verdict.ALIVE
    assert liveness.due == 2 * PING_INTERVAL


# Resumption.


def certain() -> float:
    return 0.0


def test_a_connection_that_worked_is_resumed_at_once() -> None:
    resumption = Resumption(certain)
    assert resumption.lost(heard=True, now=5.0) == 0.0
    assert resumption.failed(6.0) == FIRST_DELAY
    assert resumption.failed(7.0) == 2 * FIRST_DELAY
    assert resumption.lasted(7.0) == 2.0
    resumption.connected(8.0)
    assert resumption.lost(heard=True, now=100.0) == 0.0
    assert resumption.failed(100.0) == FIRST_DELAY
    assert resumption.lasted(101.0) == 1.0


def test_a_connection_on_which_nothing_came_was_a_try_that_failed() -> None:
    resumption = Resumption(certain, timeout=10.0)
    assert resumption.lasted(0.0) == 0.0
    assert resumption.lost(heard=False, now=0.0) == 0.0
    resumption.connected(0.5)
    assert resumption.lost(heard=False, now=1.0) == FIRST_DELAY
    resumption.connected(1.5)
    assert resumption.lost(heard=False, now=2.0) == 2 * FIRST_DELAY
    assert resumption.lasted(3.0) == 3.0


def test_unless_it_lasted_though_nobody_had_anything_to_say() -> None:
    resumption = Resumption(certain, timeout=10.0)
    resumption.connected(0.0)
    for hour in range(1, 4):
        now = 3600.0 * hour
        assert resumption.lost(heard=False, now=now) == 0.0
        assert resumption.failed(now + 1.0) == FIRST_DELAY
        resumption.connected(now + 2.0)
        assert resumption.lasted(now + 2.0) == 2.0
    soon = now + 2.0 + WORKING_TIME / 2
    assert resumption.lost(heard=False, now=soon) == 2 * FIRST_DELAY


def test_there_is_no_end_of_trying() -> None:
    resumption = Resumption(certain)
    resumption.lost(heard=True, now=0.0)
    assert all(resumption.failed(3600.0 * n) is not None for n in range(100))


def test_but_a_deadline_may_be_set() -> None:
    resumption = Resumption(certain, timeout=10.0)
    resumption.lost(heard=True, now=0.0)
    assert resumption.failed(9.9) is not None
    assert resumption.failed(10.0) is None
    resumption.connected(11.0)
    assert resumption.lost(heard=False, now=12.0) is None
    assert resumption.lost(heard=True, now=13.0) == 0.0


def test_a_cause_is_news_once_in_a_row() -> None:
    resumption = Resumption(certain)
    assert [resumption.is_news(cause) for cause in "aabba"] == [True, False, True, False, True]
    resumption.connected(1.0)
    assert not resumption.is_news("a")
    resumption.settled()
    assert resumption.is_news("a")


# Restarts.


def test_a_session_that_is_over_is_followed_at_once() -> None:
    restarts = Restarts(certain)
    for _ in range(100):
        assert restarts.after(3600.0, for_a_reason=True) == 0.0
        restarts.started()


def test_sessions_that_die_at_once_are_followed_ever_more_slowly() -> None:
    restarts = Restarts(certain)
    delays = [restarts.after(0.1, for_a_reason=False) for _ in range(3)]
    assert delays == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert restarts.failed() == 8 * FIRST_DELAY
    assert restarts.after(SHORT_LIFE, for_a_reason=False) == 0.0
    assert restarts.failed() == FIRST_DELAY


def test_one_that_is_given_up_at_once_for_a_reason_would_be_again() -> None:
    restarts = Restarts(certain)
    assert restarts.after(SHORT_LIFE / 2, for_a_reason=True) is None


def test_unless_there_was_one_that_worked() -> None:
    """After a reboot, an agent may be up before it can look up names."""
    restarts = Restarts(certain)
    assert restarts.after(SHORT_LIFE, for_a_reason=True) == 0.0
    assert restarts.after(0.1, for_a_reason=True) == FIRST_DELAY
    others = Restarts(certain)
    others.lasted(SHORT_LIFE)  # beside its successor
    assert others.after(0.1, for_a_reason=True) == FIRST_DELAY


def test_restarts_are_counted() -> None:
    restarts = Restarts(certain, limit=2)
    for _ in range(2):
        assert restarts.may_replace(0.0, refused=False)
        assert restarts.after(100.0, for_a_reason=False) == 0.0
        restarts.started()
    assert restarts.after(100.0, for_a_reason=False) is None
    assert not restarts.may_replace(0.0, refused=False)


def test_a_destination_that_is_down_is_looked_up_again_ever_more_rarely() -> None:
    restarts = Restarts(certain)
    now, times = 0.0, []
    while now < 3600:
        if restarts.may_replace(now, refused=True):
            restarts.replaced(now, refused=True)
            times.append(now)
        now += 1.0
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] == FIRST_REPLACEMENT_DELAY
    assert gaps[-1] == MAX_REPLACEMENT_DELAY
    assert len(times) < 15


def test_and_soon_again_when_it_has_been_up_for_long() -> None:
    restarts = Restarts(certain)
    for _ in range(3):
        restarts.replaced(0.0, refused=True)
    later = 10 * MAX_REPLACEMENT_DELAY
    restarts.replaced(later, refused=True)
    assert restarts.may_replace(later + FIRST_REPLACEMENT_DELAY, refused=True)


def test_a_stalled_session_does_not_wait_for_that() -> None:
    restarts = Restarts(certain)
    restarts.replaced(0.0, refused=True)
    assert not restarts.may_replace(1.0, refused=True)
    assert restarts.may_replace(1.0, refused=False)
    restarts.replaced(1.0, refused=False)
    assert not restarts.may_replace(2.0, refused=True)


def test_what_is_stalled_on_a_long_path_is_not_stalled_on_a_short_one() -> None:
    assert not is_stalled(STALL_TIME, None)
    assert is_stalled(STALL_TIME + 0.1, None)
    assert is_stalled(STALL_TIME + 0.1, 0.05)
    assert not is_stalled(STALL_TIME + 0.1, 1.0)
    assert is_stalled(STALL_ROUND_TRIPS + 0.1, 1.0)
