"""What events add up to."""

import pytest

from ssmnet.events import (
    Connected,
    Disconnected,
    Event,
    Failed,
    Listening,
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


def test_connections_and_their_bytes() -> None:
    counts = tally(
        Listening("::1", 1, "s", "t", "d"),
        Connected(1, "", "d"),
        Connected(2, "", "d"),
        Disconnected(1, "d", 10, 20, ""),
        Disconnected(2, "d", 1, 2, "reset by peer", "ConnectionResetError"),
    )
    assert (counts.accepted, counts.sent, counts.received) == (2, 11, 22)
    assert counts.errors == {"ConnectionResetError": 1}
    assert counts.last_error == "reset by peer"


@pytest.mark.parametrize(
    ("event", "cause"),
    [
        (Resuming("s", "why"), WEBSOCKET_LOST),
        (Restarting("s", "why", over=True), SESSION_ENDED),
        (Restarting("s", "why", over=False), SESSION_UNFIT),
        (Failed("why", "ListenError", 5.0), "ListenError"),
    ],
)
def test_errors_are_counted_by_cause(event: Event, cause: str) -> None:
    counts = tally(event, event)
    assert counts.errors == {cause: 2}
    assert counts.last_error == "why"


def test_what_went_well_again() -> None:
    counts = tally(Resumed("s", 1.0), Resumed("s", 1.0), Restarted("s", 1.0))
    assert (counts.resumes, counts.restarts, counts.errors) == (2, 1, {})
