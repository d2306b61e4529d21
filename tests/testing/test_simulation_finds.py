"""The simulation can fail: faults that were made or could be made are found within a few seeds."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import pytest

from ssmnet import driver, session, transport
from ssmnet.protocol import channel, reconnect, stream, window
from ssmnet.testing.scenario import draw
from ssmnet.testing.simulation import Failure, simulate

Method = Callable[..., Any]

# From one unsuspicious seed on; each fault fails far more than one in so many of them.
SEEDS = range(100, 160)


def no_answer_to_duplicates(receive: Method) -> Method:
    def broken(self: stream.StreamReceiver, message: Any) -> bool:
        duplicate = message.sequence_number < self.expected
        return bool(receive(self, message)) and not duplicate

    return broken


def duplicates_are_news(receive: Method) -> Method:
    def broken(self: stream.StreamReceiver, message: Any) -> bool:
        if message.sequence_number == self.expected - 1:
            self._process(message)
        return bool(receive(self, message))

    return broken


def a_gap_is_skipped(receive: Method) -> Method:
    def broken(self: stream.StreamReceiver, message: Any) -> bool:
        if len(self._waiting) > 20 and self.expected not in self._waiting:
            self.expected = min(self._waiting)
        return bool(receive(self, message))

    return broken


def a_message_is_dropped_at_a_resume(restart: Method) -> Method:
    def broken(self: stream.StreamSender, now: float) -> None:
        restart(self, now)
        if len(self._lost) > 1:
            del self._lost[self._lost_numbers.pop()]

    return broken


def nothing(method: Method) -> Method:
    return lambda self, *_: None


def the_window_is_not_asked(is_open: Method) -> Any:
    return property(lambda self: True)


def the_timer_is_set_once(on_timer: Method) -> Method:
    def broken(self: driver.Driver) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(driver.Driver, "_arm_timer", lambda self: None)
            on_timer(self)

    return broken


def the_timer_is_left(close: Method) -> Method:
    def broken(self: driver.Driver, error: Exception) -> None:
        self._timer = None
        close(self, error)

    return broken


def everybody_lives(check: Method) -> Method:
    def broken(self: reconnect.Liveness, heard: bool, now: float, wall: float) -> Any:
        return check(self, True, now, now)

    return broken


def the_first_token_is_kept(use: Method) -> Method:
    tokens: dict[str, str] = {}

    def broken(self: driver.Driver, websocket: Any, token: str) -> None:
        if self.channel._opened:
            token = tokens[self.session_id]
        tokens[self.session_id] = token
        use(self, websocket, token)

    return broken


def the_first_address_is_kept(connect: Method) -> Method:
    def broken(self: session.Session, grant: Any) -> Any:
        return connect(self, dataclasses.replace(grant, stream_url=self._grant.stream_url))

    return broken


def an_end_looks_clean(lose: Method) -> Method:
    return lambda self, error: lose(self, None)


def a_pause_lasts(receive_message: Method) -> Method:
    def broken(self: channel.DataChannel, data: Any) -> None:
        paused = self._paused
        receive_message(self, data)
        self._paused |= paused

    return broken


def the_session_is_left(terminate: Method) -> Method:
    async def broken(self: session.Session) -> None:
        self._over = True

    return broken


FAULTS: list[tuple[type, str, Callable[[Method], Any]]] = [
    (stream.StreamReceiver, "receive", no_answer_to_duplicates),
    (stream.StreamReceiver, "receive", duplicates_are_news),
    (stream.StreamReceiver, "receive", a_gap_is_skipped),
    (stream.StreamReceiver, "drain", nothing),
    (stream.StreamSender, "restart", a_message_is_dropped_at_a_resume),
    (stream.StreamSender, "_give_up_all", nothing),
    (stream.StreamSender, "resend", nothing),
    (window.Window, "is_open", the_window_is_not_asked),
    (driver.Driver, "_on_timer", the_timer_is_set_once),
    (driver.Driver, "close", the_timer_is_left),
    (driver.Driver, "use", the_first_token_is_kept),
    (driver.Driver, "_pause_reading", nothing),
    (driver.Driver, "_resume_reading", nothing),
    (reconnect.Liveness, "check", everybody_lives),
    (session.Session, "_connect", the_first_address_is_kept),
    (session.Session, "_terminate", the_session_is_left),
    (transport.StreamTransport, "lose", an_end_looks_clean),
    (transport.StreamTransport, "relieve", nothing),
    (channel.DataChannel, "receive_message", a_pause_lasts),
]


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "ssmnet")


@pytest.mark.parametrize(("owner", "name", "fault"), FAULTS)
def test_a_fault_is_found(
    owner: type, name: str, fault: Callable[[Method], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, fault(getattr(owner, name)))
    for seed in SEEDS:
        try:
            simulate(draw(seed), last_lines=0)
        except Failure as failure:
            print(seed, str(failure.error)[:100])
            return
    pytest.fail(f"none of the seeds {SEEDS} has failed")


def test_without_a_fault_none_of_these_seeds_fails() -> None:
    for seed in SEEDS:
        simulate(draw(seed), last_lines=0)
