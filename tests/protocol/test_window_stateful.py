"""Window and CongestionControl against models, in any order of events."""

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.protocol.congestion import INITIAL_WINDOW, MIN_WINDOW, CongestionControl
from ssmnet.protocol.window import Window

SIZES = st.integers(1, 1200)


class WindowModel(RuleBasedStateMachine):
    """A window, and the list of messages that are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(1000)
        self.limit, self.max_bytes, self.max_messages = 1000, 1_000_000, 1000
        self.next = 0
        self.in_flight: dict[int, int] = {}

    @initialize(
        limit=st.integers(0, 5000), max_bytes=st.integers(1, 5000), max_messages=st.integers(1, 10)
    )
    def start(self, limit: int, max_bytes: int, max_messages: int) -> None:
        self.limit, self.max_bytes, self.max_messages = limit, max_bytes, max_messages
        self.window = Window(limit, max_bytes=max_bytes, max_messages=max_messages)

    @rule(size=SIZES)
    def send(self, size: int) -> None:
        if bool(self.window.room(self.ahead)):
            self.in_flight[self.next] = size
            self.next += 1
            self.window.in_flight += size

    @rule(choice=st.integers(0, 1000))
    @precondition(lambda self: self.in_flight)
    def acknowledge(self, choice: int) -> None:
        number = sorted(self.in_flight)[choice % len(self.in_flight)]
        self.window.in_flight -= self.in_flight.pop(number)

    @rule(limit=st.integers(0, 10_000))
    def move(self, limit: int) -> None:
        self.window.limit = self.limit = limit

    @property
    def ahead(self) -> int:
        return self.next - min(self.in_flight, default=self.next)

    @invariant()
    def is_open_below_both_limits(self) -> None:
        size = sum(self.in_flight.values())
        is_open = size < self.limit and size < self.max_bytes
        assert self.window.in_flight == size
        assert self.window.is_open is is_open
        assert bool(self.window.room(self.ahead)) is (is_open and self.ahead < self.max_messages)

    @invariant()
    def is_never_overrun_by_more_than_a_message(self) -> None:
        assert self.window.in_flight < self.max_bytes + 1200
        assert self.ahead <= self.max_messages


class Congestion(RuleBasedStateMachine):
    """A window that moves, whatever it is told, within what each kind of news allows."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.limited = False
        # Since the window was last reduced for a loss, and what an undo may bring back.
        self.reduced_at = float("-inf")
        self.before_restart: int | None = None
        self.start(1 << 20)

    @initialize(max_window=st.sampled_from([INITIAL_WINDOW, 100_000, 4 << 20]))
    def start(self, max_window: int) -> None:
        self.max_window = max_window
        self.control = CongestionControl(max_window)

    @rule(milliseconds=st.sampled_from([1, 20, 300, 5000]))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds / 1000

    @rule()
    def is_limited(self) -> None:
        self.control.limited()
        self.limited = True

    @rule(
        size=st.sampled_from([1, 1024, 60_000]),
        round_trip=st.sampled_from([None, 0.001, 0.02, 0.021, 0.1, 5.0]),
        times=st.sampled_from([1, 1, 3, 12]),
    )
    def acknowledged(self, size: int, round_trip: float | None, times: int) -> None:
        for _ in range(times):
            before = self.control.window
            self.control.acknowledged(size, round_trip, self.now)
            assert self.control.window <= (before + size) * 9 // 8 + 1
            # Once in a round: to half, so as to measure; or by a quarter, for a queue.
            assert self.control.window >= max(before // 2, MIN_WINDOW)
            if round_trip is None:
                assert self.control.window >= before
            else:
                self.before_restart = None

    @rule(amount=st.integers(1, 12), round_trip=st.sampled_from([0.02, 0.021, 0.05, 0.2]))
    def use_all_of_it_for_some_rounds(self, amount: int, round_trip: float) -> None:
        for _ in range(amount):
            self.now += round_trip
            for _ in range(4):
                self.is_limited()
                self.acknowledged(self.control.window // 4, round_trip, 1)

    @rule(ago=st.sampled_from([0.0, 0.01, 0.5]))
    def lost(self, ago: float) -> None:
        before = self.control.window
        self.control.lost(self.now - ago, self.now)
        if self.now - ago < self.reduced_at:
            assert self.control.window == before
        else:
            self.reduced_at = self.now
            assert max(before * 7 // 10, MIN_WINDOW) <= self.control.window
            assert self.control.window < before or before == MIN_WINDOW

    @rule()
    def restart(self) -> None:
        if self.before_restart is None:
            self.before_restart = self.control.window
        self.control.restart()
        assert self.control.window == MIN_WINDOW

    @rule()
    def undo_restart(self) -> None:
        expected = self.control.window if self.before_restart is None else self.before_restart
        self.control.undo_restart()
        assert self.control.window == expected
        self.before_restart = None

    @rule()
    def forget_restart(self) -> None:
        before = self.control.window
        self.control.forget_restart()
        assert self.control.window == before
        self.before_restart = None

    @invariant()
    def stays_within_its_bounds(self) -> None:
        assert MIN_WINDOW <= self.control.window <= self.max_window
        assert isinstance(self.control.window, int)

    @invariant()
    def does_not_grow_while_nobody_wants_more(self) -> None:
        assert self.limited or self.control.window <= INITIAL_WINDOW

    def teardown(self) -> None:
        """A path that is good again is used again."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        self.lost(0.0)
        self.now += 20.0
        for _ in range(150):
            self.use_all_of_it_for_some_rounds(1, 0.02)
        assert self.control.window >= self.max_window // 3


TestWindow = WindowModel.TestCase
TestCongestion = Congestion.TestCase
TestWindow.settings = TestCongestion.settings = settings(stateful_step_count=60)
