"""What events add up to."""

import pytest

from ssmnet.events import (
    Disconnected,
    Event,
    Failed,
    Restarted,
    Restarting,
    Resumed,
    Resuming,
)
from ssmnet.tally import SESSION_ENDED, SESSION_UNFIT, WEBSOCKET_LOST, Tally


def tally(*events: Event) -> Tally:
    counts = Tally()
    for event in events:
        counts.add(event)
    return counts


def test_an_orderly_end_is_no_error() -> None:
    assert tally(Disconnected(1, "d", 10, 20, "")).errors == {}


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Disconnected(2, "d", 1, 2, "why", "ConnectionResetError"), "ConnectionResetError"),
        (Resuming("s", "why"), WEBSOCKET_LOST),
        (Restarting("s", "why", over=True), SESSION_ENDED),
        (Restarting("s", "why", over=False), SESSION_UNFIT),
        (Failed("why", "ListenError"), "ListenError"),
    ],
)
def test_errors_are_counted_by_cause(event: Event, cause: str) -> None:
    counts = tally(event, event)
    assert counts.errors == {cause: 2}
    assert counts.last_error == "why"


def test_what_went_well_again() -> None:
    counts = tally(Resumed("s", 1.0), Resumed("s", 1.0), Restarted("s", 1.0))
    assert (counts.resumes, counts.restarts, counts.errors) == (2, 1, {})
