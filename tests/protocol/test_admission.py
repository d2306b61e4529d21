"""Who may have a session, and what is remembered of those that failed."""

import pytest

from ssmnet.errors import ConnectError, DestinationRefused
from ssmnet.protocol.admission import Admission, Failures


def admission(places: int = 2, starts: int = 10) -> Admission[str]:
    return Admission(places=places, starts=starts)


def ask(one: Admission[str], names: str) -> str:
    """Each letter asks; who is admitted."""
    for name in names:
        one.ask(name)
    return admit(one)


def admit(one: Admission[str]) -> str:
    admitted = ""
    while (name := one.admit()) is not None:
        admitted += name
    return admitted


# Places.


def test_who_asks_first_comes_first() -> None:
    one = admission(places=2)
    assert ask(one, "abcd") == "ab"
    assert one.is_full
    assert one.waiting == 2
    one.leave("a")
    assert admit(one) == ""
    one.left("a")
    assert admit(one) == "c"
    one.leave("b")
    one.leave("c")
    one.left("c")
    one.left("b")
    assert admit(one) == "d"
    assert not one.is_full
    assert one.waiting == 0


def test_who_stops_waiting_is_passed_over() -> None:
    one = admission(places=1)
    assert ask(one, "abc") == "a"
    one.leave("b")
    one.left("b")
    one.leave("a")
    one.left("a")
    assert admit(one) == "c"


def test_only_a_few_start_at_once() -> None:
    one = admission(places=10, starts=2)
    assert ask(one, "abcd") == "ab"
    assert not one.is_full
    one.started("b")
    assert admit(one) == "c"
    one.leave("a")
    assert admit(one) == ""
    one.left("a")
    assert admit(one) == "d"


def test_the_least_recently_used_gives_way() -> None:
    one = admission(places=3)
    assert ask(one, "abc") == "abc"
    for name in "abc":
        one.rest(name)
    one.use("a")
    one.rest("a")
    assert ask(one, "d") == ""
    assert one.evict() == "b"
    assert one.evict() is None  # one is enough
    assert admit(one) == ""
    one.left("b")
    assert admit(one) == "d"
    assert ask(one, "ef") == ""
    assert (one.evict(), one.evict(), one.evict()) == ("c", "a", None)


def test_who_is_used_does_not_give_way() -> None:
    one = admission(places=1)
    ask(one, "a")
    ask(one, "b")
    assert one.evict() is None
    one.rest("a")
    one.use("a")
    assert one.evict() is None
    one.rest("a")
    assert one.evict() == "a"
    one.use("a")  # too late
    one.rest("a")
    assert one.evict() is None


def test_nobody_gives_way_without_need() -> None:
    one = admission(places=2)
    ask(one, "a")
    one.rest("a")
    assert one.evict() is None
    ask(one, "b")
    assert one.evict() is None


def test_use_and_rest_are_for_those_who_have_a_place() -> None:
    one = admission(places=1)
    ask(one, "ab")
    one.rest("b")
    one.use("b")
    one.use("a")
    assert one.waiting == 1
    assert one.evict() is None


def test_places_that_are_taken_otherwise() -> None:
    one = admission(places=3)
    one.beside = 2
    assert ask(one, "ab") == "a"
    assert one.is_full
    one.beside = 1
    assert admit(one) == "b"
    one.beside = 2  # more than there are
    assert one.is_full
    one.rest("a")
    assert one.evict() is None
    ask(one, "c")
    assert one.evict() == "a"
    one.left("a")
    assert admit(one) == ""


# Failures.


def test_a_failure_is_remembered_for_a_while() -> None:
    failures: Failures[str] = Failures()
    assert failures.recall("a", 0.0) is None
    failures.remember("a", DestinationRefused("no"), until=5.0)
    recalled = failures.recall("a", 4.9)
    assert isinstance(recalled, DestinationRefused)
    assert str(recalled) == "no"
    assert failures.recall("a", 4.9) is not recalled
    assert failures.recall("b", 4.9) is None
    assert failures.recall("a", 5.0) is None
    assert len(failures) == 0


def test_success_clears_it() -> None:
    failures: Failures[str] = Failures()
    failures.remember("a", ConnectError("no"), until=5.0)
    failures.forget("a")
    failures.forget("never")
    assert failures.recall("a", 0.0) is None


@pytest.mark.parametrize("limit", [1, 3])
def test_only_so_many_are_remembered_and_the_latest(limit: int) -> None:
    failures: Failures[int] = Failures(limit)
    for number in range(10):
        failures.remember(number, ConnectError(str(number)), until=5.0)
    failures.remember(10 - limit, ConnectError("again"), until=5.0)
    failures.remember(10, ConnectError("10"), until=5.0)
    assert len(failures) == limit
    assert failures.recall(9 - limit, 0.0) is None
    assert str(failures.recall(10, 0.0)) == "10"
    assert (str(failures.recall(10 - limit, 0.0)) == "again") is (limit > 1)
