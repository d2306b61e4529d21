import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.recovery import (
    INITIAL_TIMEOUT,
    MARGIN_SHARE,
    MAX_TIMEOUT,
    MIN_MARGIN,
    RoundTripTime,
)


def test_knows_nothing_before_the_first_sample() -> None:
    estimate = RoundTripTime()
    assert estimate.smoothed is None
    assert estimate.timeout == INITIAL_TIMEOUT


def test_the_first_sample_is_believed() -> None:
    estimate = RoundTripTime()
    estimate.update(0.08)
    assert estimate.smoothed == estimate.latest == 0.08
    assert estimate.variance == 0.04
    assert estimate.timeout == pytest.approx(0.24)


def test_later_samples_move_the_estimate_by_an_eighth_and_the_variance_by_a_quarter() -> None:
    estimate = RoundTripTime()
    estimate.update(0.08)
    estimate.update(0.16)
    assert estimate.variance == pytest.approx(0.75 * 0.04 + 0.25 * 0.08)
    assert estimate.smoothed == pytest.approx(0.875 * 0.08 + 0.125 * 0.16)
    assert estimate.latest == 0.16


@pytest.mark.parametrize("round_trip", [0.001, 0.05, 0.5])
def test_a_steady_round_trip_keeps_a_margin(round_trip: float) -> None:
    estimate = RoundTripTime()
    for _ in range(200):
        estimate.update(round_trip)
    margin = max(MIN_MARGIN, round_trip * MARGIN_SHARE)
    assert estimate.timeout == pytest.approx(round_trip + margin)


def test_each_timeout_doubles_the_next() -> None:
    estimate = RoundTripTime()
    estimate.update(0.1)
    first = estimate.timeout
    estimate.back_off()
    assert estimate.timeout == pytest.approx(2 * first)
    estimate.back_off()
    assert estimate.timeout == pytest.approx(4 * first)


def test_a_sample_ends_the_back_off() -> None:
    estimate = RoundTripTime()
    estimate.update(0.1)
    first = estimate.timeout
    estimate.back_off()
    estimate.update(0.1)
    assert estimate.timeout <= first


def test_back_off_ends_where_a_far_end_that_is_back_is_still_found_soon() -> None:
    estimate = RoundTripTime()
    for _ in range(10_000):
        estimate.back_off()
    assert estimate.timeout == MAX_TIMEOUT
    estimate.update(0.1)
    assert estimate.timeout < 1


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_a_timeout_is_never_shorter_than_the_estimate_and_its_margin(samples: list[float]) -> None:
    estimate = RoundTripTime()
    for sample in samples:
        estimate.update(sample)
    assert estimate.smoothed is not None
    assert min(samples) <= estimate.smoothed * (1 + 1e-9)
    assert estimate.smoothed <= max(samples) * (1 + 1e-9)
    assert estimate.timeout >= min(estimate.smoothed + MIN_MARGIN, MAX_TIMEOUT)
    assert estimate.timeout <= MAX_TIMEOUT
