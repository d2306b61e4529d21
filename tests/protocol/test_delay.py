import pytest

from ssmnet.protocol.delay import (
    FIRST_LIFETIME,
    LIFETIME,
    NOTABLE,
    SHORTEST,
    TARGET,
    EmptyPath,
    Round,
)


def test_the_shortest_round_trip_is_the_empty_path() -> None:
    path = EmptyPath()
    assert path.queueing(0.5, 0.0) == 0.0
    assert path.queueing(0.7, 1.0) == pytest.approx(0.2)
    assert path.queueing(0.4, 2.0) == 0.0
    assert path.queueing(0.5, 3.0) == pytest.approx(0.1)


def test_a_measurement_replaces_what_was_believed() -> None:
    path = EmptyPath()
    path.queueing(0.1, 0.0)
    path.measured(0.3, 0.3, 1.0)
    assert path.queueing(0.5, 2.0) == pytest.approx(0.2)


def test_a_measurement_is_believed_for_a_while_and_the_first_sample_less() -> None:
    path = EmptyPath()
    assert path.is_old(0.0)
    path.queueing(0.1, 5.0)
    assert not path.is_old(5.0 + 0.9 * FIRST_LIFETIME)
    assert path.is_old(5.0 + FIRST_LIFETIME)
    path.queueing(0.05, 5.0 + FIRST_LIFETIME)
    assert path.is_old(5.0 + FIRST_LIFETIME), "a sample is no measurement"
    path.measured(0.1, 0.1, 10.0)
    assert not path.is_old(10.0 + 0.9 * LIFETIME)
    assert path.is_old(10.0 + LIFETIME)


@pytest.mark.parametrize(
    ("shortest", "longest", "notable", "target"),
    [
        (0.0, 0.0, NOTABLE, NOTABLE),
        (0.02, 0.02, 0.0025, 0.005),
        (0.06, 0.06, 0.0075, TARGET),
        (0.4, 0.4, 0.05, 0.05),
        (0.4, 0.6, 0.1, 0.1),
    ],
)
def test_the_target_is_a_share_of_the_path_or_of_its_jitter(
    shortest: float, longest: float, notable: float, target: float
) -> None:
    path = EmptyPath()
    path.measured(shortest, longest, 0.0)
    assert path.notable == pytest.approx(notable)
    assert path.target == pytest.approx(target)


def test_a_round_ends_with_what_was_sent_after_its_beginning() -> None:
    one = Round()
    one.begin(10.0)
    assert not one.sample(0.3, 10.1)
    assert not one.sample(0.1, 10.05)
    assert one.sample(0.2, 10.2)
    assert (one.shortest, one.longest) == (0.1, 0.3)
    one.begin(10.2)
    assert not one.sample(0.4, 10.5)
    assert (one.shortest, one.longest) == (0.4, 0.4)


def test_a_round_that_settles_counts_only_what_was_sent_after_its_beginning() -> None:
    one = Round()
    one.begin(10.0, settling=True)
    assert not one.sample(0.5, 10.25)
    assert not one.sample(0.25, 10.25)
    assert not one.sample(0.375, 10.5)
    assert one.sample(0.25, 10.5)
    assert (one.shortest, one.longest) == (0.25, 0.375)


def test_no_round_trip_is_nothing() -> None:
    path, one = EmptyPath(), Round()
    path.queueing(0.0, 1.0)
    assert path.round_trip == SHORTEST
    one.sample(0.0, 1.0)
    assert one.shortest == SHORTEST
