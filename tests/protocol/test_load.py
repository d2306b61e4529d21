"""How much sessions carry, and how many there should be."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.load import (
    BUSY_RATE,
    FIRST_START_DELAY,
    IDLE_TIME,
    MAX_START_DELAY,
    MEMORY,
    Traffic,
    Width,
)
from ssmnet.protocol.reconnect import SHORT_LIFE


def traffic(*, rate: float, seconds: float = 10 * MEMORY) -> Traffic:
    """As if for a long time, by default."""
    made = Traffic(0, 0.0)
    made.look(int(rate * seconds), seconds)
    return made


def width(most: int = 8) -> Width:
    return Width(most, lambda: 0.0)


@given(
    looks=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=50), rate=st.sampled_from([0, 7, 900])
)
def test_how_often_it_is_looked_at_does_not_change_the_rate(looks: list[float], rate: int) -> None:
    often, once = Traffic(0, 100.0), Traffic(0, 100.0)
    now = 100.0
    for elapsed in looks:
        now += elapsed
        often.look(int((now - 100.0) * rate), now)
    once.look(int((now - 100.0) * rate), now)
    assert often.rate == pytest.approx(once.rate, abs=2 * len(looks) / MEMORY)


def test_a_rate_is_reached_soon_and_soon_forgotten() -> None:
    it = traffic(rate=0)
    now, messages, rates = 10 * MEMORY, 0, []
    for step in range(20):
        now += MEMORY / 4
        messages += int(900 * MEMORY / 4) if step < 10 else 0
        it.look(messages, now)
        rates.append(it.rate)
        assert it.moves == (step < 10)
    assert all(a < b for a, b in pairwise(rates[:10]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 800 < rates[9] < 900
    assert rates[19] < BUSY_RATE


def test_messages_at_one_moment_count() -> None:
    it = Traffic(0, 5.0)
    it.look(100, 5.0)
    assert it.rate == pytest.approx(100 / MEMORY)
    it.look(100, 5.0)
    assert it.rate == pytest.approx(100 / MEMORY)
    assert not it.moves


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    it = Traffic(0, 5.0)
    it.look(100, 4.0)
    assert it.rate == pytest.approx(100 / MEMORY)


def test_the_load_is_what_comes_and_goes_and_then_the_streams() -> None:
    quiet, chatting, busy = traffic(rate=0), traffic(rate=20), traffic(rate=900)
    assert quiet.load(1) < quiet.load(2) < chatting.load(1) < busy.load(1)
    assert busy.load(0) == quiet.load(0) == 0.0, "without streams nothing will come any more"


def test_there_is_one_to_spare() -> None:
    quiet, busy = traffic(rate=0), traffic(rate=2 * BUSY_RATE)
    assert width().wanted([]) == 1
    assert width().wanted([(quiet, 0)]) == 1
    assert width().wanted([(busy, 0)]) == 1, "whoever was busy is gone"
    assert width().wanted([(quiet, 1), (quiet, 0)]) == 2
    assert width().wanted([(quiet, 1), (busy, 1), (quiet, 0)]) == 3


def test_quiet_streams_share_a_session_and_each_of_a_busy_one_may_need_its_own() -> None:
    assert width().wanted([(traffic(rate=0), 6)]) == 2
    assert width().wanted([(traffic(rate=2 * BUSY_RATE), 6)]) == 7
    assert width(4).wanted([(traffic(rate=2 * BUSY_RATE), 6)]) == 4
    assert width(1).wanted([(traffic(rate=2 * BUSY_RATE), 6)]) == 1


def test_starts_that_fail_are_tried_again_ever_more_rarely() -> None:
    it = width()
    assert it.start_at <= 0.0
    delays = []
    for _ in range(10):
        it.failed(100.0)
        delays.append(it.start_at - 100.0)
    assert delays[:2] == [FIRST_START_DELAY, 2 * FIRST_START_DELAY]
    assert delays[-1] == MAX_START_DELAY
    it.started()
    it.failed(100.0)
    assert it.start_at == 100.0 + FIRST_START_DELAY


def test_a_session_that_is_soon_over_is_a_start_that_failed() -> None:
    it = width()
    it.lasted(SHORT_LIFE, 100.0)
    assert it.start_at < 100.0
    it.lasted(SHORT_LIFE - 0.1, 100.0)
    assert it.start_at > 100.0


def test_those_that_are_too_many_are_so_for_a_while_before_that_ends() -> None:
    it = width()
    assert it.surplus_ends(2, 2, 10.0) is None
    assert it.surplus_ends(2, 1, 11.0) == 11.0 + IDLE_TIME
    assert it.surplus_ends(3, 1, 12.0) == 11.0 + IDLE_TIME
    assert it.surplus_ends(3, 3, 13.0) is None
    assert it.surplus_ends(3, 1, 14.0) == 14.0 + IDLE_TIME
