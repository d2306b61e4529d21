import pytest

from ssmnet.protocol.congestion import INITIAL_WINDOW
from ssmnet.testing.policed import change, queue_needed, upload

KIB = 1024
RATES = [50e3, 500e3, 5e6]
ROUND_TRIPS = [0.001, 0.04, 0.3]


def test_the_queue_that_is_needed_is_stated() -> None:
    assert queue_needed(0.0, 1.0) == 2 * INITIAL_WINDOW
    assert queue_needed(500e3, 0.04) < 71 * KIB
    assert queue_needed(5e6, 0.3) < 0.3 * (5e6 * 0.3) + 64 * KIB


@pytest.mark.parametrize("uploads", [1, 8])
@pytest.mark.parametrize("round_trip", ROUND_TRIPS)
@pytest.mark.parametrize("rate", RATES)
def test_a_queue_of_that_size_never_overflows(rate: float, round_trip: float, uploads: int) -> None:
    outcome = upload(rate, round_trip, uploads=uploads, seconds=max(3.0, 20 * round_trip))
    assert outcome.peak <= queue_needed(rate, round_trip)
    assert outcome.steady >= 0.9
    assert outcome.fairness >= 0.9  # a message more or less, of few


@pytest.mark.parametrize("uploads", [1, 8])
def test_the_path_of_the_reports_is_used_with_a_small_queue(uploads: int) -> None:
    outcome = upload(500e3, 0.04, uploads=uploads)
    assert outcome.share >= 0.98
    assert outcome.peak <= 48 * KIB


def test_resumes_in_between_cost_little_and_overflow_nothing() -> None:
    outcome = upload(500e3, 0.04, cuts=4)
    assert outcome.share >= 0.93
    assert outcome.peak <= 48 * KIB


def test_a_fast_path_with_a_queue_of_its_own_size_is_filled() -> None:
    outcome = upload(20e6, 0.01, seconds=2.0)
    assert outcome.share >= 0.95
    assert outcome.peak <= 80 * KIB


@pytest.mark.parametrize(("rate", "round_trip"), [(500e3, 0.04), (500e3, 0.001), (2e6, 0.1)])
def test_a_rate_that_drops_to_a_tenth_and_comes_back_is_followed(
    rate: float, round_trip: float
) -> None:
    outcome = change(rate, round_trip)
    assert outcome.share >= 0.95
    assert outcome.queued <= 12 * KIB
    assert outcome.comeback <= 2.5
    # All that was in flight may be in the queue then.
    assert outcome.peak <= 64 * KIB + 1.25 * rate * round_trip


def test_what_was_in_flight_is_in_the_queue_first() -> None:
    """So that the test above can fail."""
    outcome = change(5e6, 0.1, seconds=0.5)
    assert outcome.queued > 100 * KIB
