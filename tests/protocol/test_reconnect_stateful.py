"""What decides about lost connections and new sessions, against models, in any order of events."""

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.protocol.reconnect import (
    FIRST_DELAY,
    FIRST_REPLACEMENT_DELAY,
    MAX_DELAY,
    MAX_REPLACEMENT_DELAY,
    MAX_START_DELAY,
    PATIENCE_AFTER_SLEEP,
    PING_INTERVAL,
    SHORT_LIFE,
    SILENT_INTERVALS,
    SLEPT,
    WORKING_TIME,
    Liveness,
    Restarts,
    Resumption,
    Verdict,
)

CHANCES = st.sampled_from([0.0, 0.5, 1.0])


class Due:
    """What a back-off is due to wait, without chance."""

    def __init__(self, first: float, maximum: float) -> None:
        self.first, self.maximum = first, maximum
        self.tries = 0

    def next(self, chance: float) -> float:
        self.tries += 1
        due = min(self.first * 2.0 ** (self.tries - 1), self.maximum)
        return due * (1 - chance / 2)


class Watch(RuleBasedStateMachine):
    """A connection whose far end is there or not, and a machine that sleeps now and then.

    The far end answers each ping within two seconds, unless it is gone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now, self.wall = 50.0, 1000.0
        self.interval = PING_INTERVAL
        self.gone = False
        self.heard = False
        self.asked = self.lost = False
        self.set_back = 0.0  # the clock on the wall, since the last check
        self.silent = 0  # checks in a row
        self.liveness = Liveness(self.now, self.wall)

    @initialize(interval=st.sampled_from([PING_INTERVAL, 4.0, 60.0]))
    def start(self, interval: float) -> None:
        self.interval = interval
        self.liveness = Liveness(self.now, self.wall, interval=interval)

    @rule()
    @precondition(lambda self: not self.lost and not self.gone)
    def say_something(self) -> None:
        self.heard = True

    @rule()
    @precondition(lambda self: not self.lost and not self.gone)
    def go(self) -> None:
        self.gone = True

    @rule(late=st.sampled_from([0.0, 0.0, 0.5, SLEPT - 1]))
    @precondition(lambda self: not self.lost)
    def wait_for_the_check(self, late: float) -> None:
        self.pass_time(self.liveness.due - self.now + late)
        self.check(slept=False)

    @rule(asleep=st.sampled_from([SLEPT + 0.5, 3600.0]), counted=st.booleans())
    @precondition(lambda self: not self.lost)
    def sleep(self, asleep: float, counted: bool) -> None:
        """The clock that does not go back may count it, or not, as systems differ."""
        self.pass_time(self.liveness.due - self.now)
        self.wall += asleep
        if counted:
            self.now += asleep
        self.check(slept=counted or asleep - self.set_back > SLEPT)

    @rule(seconds=st.sampled_from([0.1, 3.0, 100.0]))
    @precondition(lambda self: not self.lost)
    def be_set_back(self, seconds: float) -> None:
        """The clock on the wall, by somebody who puts it right; it may hide that we slept."""
        self.wall -= seconds
        self.set_back += seconds

    @rule(seconds=st.sampled_from([0.0, 5.0, 500.0]))
    @precondition(lambda self: not self.lost)
    def stop_reading(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        self.liveness.postpone(self.now, self.wall)
        self.silent = 0
        self.set_back = 0.0
        assert self.liveness.due == self.now + self.interval

    @rule()
    @precondition(lambda self: self.lost)
    def connect_again(self) -> None:
        self.liveness = Liveness(self.now, self.wall, interval=self.interval)
        self.gone = False
        self.heard = self.asked = self.lost = False
        self.set_back = 0.0
        self.silent = 0

    @invariant()
    def a_check_is_due_soon(self) -> None:
        assert self.lost or self.liveness.due <= self.now + self.interval

    @invariant()
    def who_answers_is_not_lost(self) -> None:
        assert not (self.lost and not self.gone)

    def teardown(self) -> None:
        """Who is gone is found out."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        if not self.lost and not self.gone:
            self.go()
        for _ in range(SILENT_INTERVALS + 2):
            if not self.lost:
                self.wait_for_the_check(0.0)
        assert self.lost

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds
        if self.asked and not self.gone:
            self.heard = True

    def check(self, slept: bool) -> None:
        heard, self.heard = self.heard, False
        self.set_back = 0.0
        verdict = self.liveness.check(heard, self.now, self.wall)
        self.asked = verdict is Verdict.ASK
        self.silent = SILENT_INTERVALS - 1 if slept else 0 if heard else self.silent + 1
        self.lost = verdict is Verdict.LOST
        assert self.lost is (self.silent == SILENT_INTERVALS)
        assert (verdict is Verdict.ALIVE) is (heard and not slept)
        patience = PATIENCE_AFTER_SLEEP if slept else self.interval
        assert self.liveness.due == self.now + patience


class Resume(RuleBasedStateMachine):
    """Tries to resume, by one who waits as long as he is told."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = 0.0
        self.timeout: float | None = None
        self.connected_at: float | None = None
        self.lost_at: float | None = None  # the last connection that worked
        self.gave_up = False
        self.heard = False
        self.due = Due(FIRST_DELAY, MAX_DELAY)
        self.told: list[str] = []
        self.last_delay = float("inf")
        self.start(None)
        self.connect(True)

    @initialize(timeout=st.sampled_from([None, 0.0, 10.0, 600.0]))
    def start(self, timeout: float | None) -> None:
        self.timeout = timeout
        self.resumption = Resumption(lambda: self.chance, timeout=timeout)
        self.connect(True)

    @rule(chance=CHANCES)
    def throw_dice(self, chance: float) -> None:
        self.chance = chance

    @rule(seconds=st.sampled_from([0.1, WORKING_TIME - 0.1, WORKING_TIME, 10_000.0]))
    @precondition(lambda self: self.connected_at is not None)
    def work(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    @precondition(lambda self: self.connected_at is not None)
    def hear(self) -> None:
        self.heard = True

    @rule()
    @precondition(lambda self: self.connected_at is not None)
    def settle(self) -> None:
        self.resumption.settled()
        self.told.clear()

    @rule()
    @precondition(lambda self: self.connected_at is not None)
    def lose(self) -> None:
        assert self.connected_at is not None
        worked = self.heard or self.now >= self.connected_at + WORKING_TIME
        delay = self.resumption.lost(heard=self.heard, now=self.now)
        self.connected_at = None
        if worked or self.lost_at is None:
            assert delay == 0.0
            self.lost_at = self.now
            self.due.tries = 0
            assert self.resumption.lasted(self.now) == 0.0
        else:
            self.check(delay)

    @rule(took=st.sampled_from([0.0, 1.0, 60.0]))
    @precondition(lambda self: self.connected_at is None and not self.gave_up)
    def fail(self, took: float) -> None:
        self.now += took
        self.check(self.resumption.failed(self.now))

    @rule(heard=st.booleans())
    @precondition(lambda self: self.connected_at is None and not self.gave_up)
    def connect(self, heard: bool) -> None:
        self.resumption.connected(self.now)
        self.connected_at, self.heard = self.now, heard

    @rule(cause=st.sampled_from(["a", "b"]))
    def tell(self, cause: str) -> None:
        assert self.resumption.is_news(cause) is (self.told[-1:] != [cause])
        self.told.append(cause)

    @invariant()
    def knows_how_long_it_lasts(self) -> None:
        lasted = 0.0 if self.lost_at is None else self.now - self.lost_at
        assert self.resumption.lasted(self.now) == lasted

    def check(self, delay: float | None) -> None:
        """And wait that long."""
        assert self.lost_at is not None
        lasted = self.now - self.lost_at
        self.gave_up = self.timeout is not None and lasted >= self.timeout
        if self.gave_up:
            assert delay is None
            return
        assert delay == self.due.next(self.chance)
        assert FIRST_DELAY / 2 <= delay <= MAX_DELAY
        self.now += delay


class Restart(RuleBasedStateMachine):
    """Sessions that follow each other, each started by one who asked before."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.chance = 0.0
        self.start(None)

    @initialize(limit=st.sampled_from([None, 0, 1, 5]))
    def start(self, limit: int | None) -> None:
        self.limit = limit
        self.started = 0
        self.worked = False
        self.due = Due(FIRST_DELAY, MAX_START_DELAY)
        self.replacements = Due(FIRST_REPLACEMENT_DELAY, MAX_REPLACEMENT_DELAY)
        self.refused_until = float("-inf")
        self.restarts = Restarts(lambda: self.chance, limit=limit)

    @rule(chance=CHANCES)
    def throw_dice(self, chance: float) -> None:
        self.chance = chance

    @rule(lived=st.sampled_from([0.0, SHORT_LIFE - 0.1, SHORT_LIFE, 1e6]), reason=st.booleans())
    def end(self, lived: float, reason: bool) -> None:
        delay = self.restarts.after(lived, for_a_reason=reason)
        short = lived < SHORT_LIFE
        self.worked = self.worked or not short
        if self.left <= 0 or (reason and not self.worked):
            assert delay is None
            self.start(self.limit)
            return
        if short:
            assert delay == self.due.next(self.chance)
            assert delay >= FIRST_DELAY / 2
        else:
            self.due.tries = 0
            assert delay == 0.0
        self.started_another()

    @rule(lived=st.sampled_from([0.0, SHORT_LIFE]))
    def end_beside_another(self, lived: float) -> None:
        self.restarts.lasted(lived)
        self.worked = self.worked or lived >= SHORT_LIFE

    @rule(tries=st.integers(1, 12))
    def fail(self, tries: int) -> None:
        for _ in range(tries):
            assert self.restarts.failed() == self.due.next(self.chance)

    @rule(refused=st.booleans(), after=st.sampled_from([0.0, 1.0, 10.0, 20.0, 700.0, 5000.0]))
    def replace(self, refused: bool, after: float) -> None:
        self.now += after
        may = self.restarts.may_replace(self.now, refused=refused)
        assert may is (self.left > 0 and not (refused and self.now < self.refused_until))
        if may:
            self.restarts.replaced(self.now, refused=refused)
            self.started_another()
            if refused:
                if self.now > self.refused_until + MAX_REPLACEMENT_DELAY:
                    self.replacements.tries = 0
                delay = self.replacements.next(self.chance)
                assert FIRST_REPLACEMENT_DELAY / 2 <= delay <= MAX_REPLACEMENT_DELAY
                self.refused_until = self.now + delay

    @invariant()
    def no_more_are_started_than_allowed(self) -> None:
        assert self.limit is None or self.started <= self.limit

    @property
    def left(self) -> float:
        return float("inf") if self.limit is None else self.limit - self.started

    def started_another(self) -> None:
        self.restarts.started()
        self.started += 1


TestWatch = Watch.TestCase
TestResume = Resume.TestCase
TestRestart = Restart.TestCase
TestWatch.settings = TestResume.settings = TestRestart.settings = settings(stateful_step_count=40)
