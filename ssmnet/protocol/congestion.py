"""How the window grows and shrinks, by acknowledgements, delay and loss.

The path to the agent has queues that we can't see: the gateway's, which may end a session that
fills it, and the agent's own towards the destination, which it acknowledges only when written. The
round trip tells how full they are; see delay.py. The window is moved so that what queues stays near
a small target, which fills the path and keeps a keystroke beside a bulk transfer quick (as LEDBAT,
Vegas and FAST do). Loss shrinks it too, but is rare on a channel that rides on TCP.

It starts small and doubles each round trip until a queue shows. From then on it is decided once per
round trip, on the smallest sample of that: a single slow acknowledgement says more of the scheduler
than of the path. A window that was too large becomes at once what the samples say that the path
takes, one that was too small grows by up to a quarter. Then a round trip passes before the next
decision: until then no sample knows of it. One that was not used stays as it is.

The window only ever opens by acknowledgements: at once would be a burst. A burst needs room in
queues that are not ours: about a quarter of what the path itself holds.

The empty path's round trip has to be measured again from time to time, which a busy sender can't.
So every ten seconds the window is made a little smaller than the path for two round trips, and
again as long as that shows a shorter path. A window at its minimum can't be what fills a queue:
then the path itself has become longer.
"""

from __future__ import annotations

from .delay import EmptyPath, Round

INITIAL_WINDOW = 32 * 1024
MIN_WINDOW = 4 * 1024
# In slow start a queue must be seen while it builds up, not a round later at twice the size
# (as in RFC 9406): so many samples in a row that are notably higher are taken for one.
SLOW_START_SAMPLES = 8
# The most by which a window grows or shrinks in one decision.
GROWTH = 0.25
SHRINKAGE = 0.5
# The path is taken for empty with so much of what it holds in flight; and for a shorter one, which
# was not empty yet, when its round trip falls below this share of the last.
MEASURING_SHARE = 0.875
# With more room than this the window grows on first: whatever is hidden in the empty path's round
# trip, more will queue then.
MEASURING_ROOM = 0.5


class CongestionControl:
    """Moves ``window`` (bytes) within ``MIN_WINDOW`` and ``max_window``. Times are in seconds."""

    __slots__ = (
        "_before_restart",
        "_goal",
        "_high_samples",
        "_limited",
        "_measured_before",
        "_path",
        "_queueing",
        "_recovery_start",
        "_round",
        "_slow_start",
        "max_window",
        "window",
    )

    def __init__(self, max_window: int) -> None:
        self.max_window = max_window
        self.window = INITIAL_WINDOW
        self._goal = INITIAL_WINDOW  # which acknowledgements open the window to
        self._slow_start = True
        self._high_samples = 0
        self._limited = False
        self._queueing = False  # more than the target, in the last round
        self._measured_before: float | None = None  # what is being measured again
        self._path = EmptyPath()
        self._round = Round()
        self._before_restart: tuple[int, int, bool] | None = None
        self._recovery_start = float("-inf")

    def limited(self) -> None:
        """The window held data back. One that is not used says nothing about the path."""
        self._limited = True

    def acknowledged(self, size: int, round_trip: float | None, now: float) -> None:
        """``size`` bytes have arrived, the newest of them after ``round_trip`` if that is known."""
        limited = self._limited
        if round_trip is not None:
            self._sample(round_trip, now)
        if limited and self.window < self._goal and self._measured_before is None:
            self.window = min(self.window + size, self._goal)
            if not self._slow_start:
                self._round.begin(now, settling=True)

    def lost(self, sent_at: float, now: float) -> None:
        """A message sent at ``sent_at`` was lost. One reduction answers all losses of a round."""
        if sent_at >= self._recovery_start:
            self._recovery_start = now
            self._slow_start = False
            # On a channel that rides on TCP a full queue delays and does not drop.
            self._set_window(self.window * (0.7 if self._queueing else 0.9))

    def restart(self) -> None:
        """Nothing is known of the path any more: after a timeout, or on a new connection."""
        if self._before_restart is None:
            self._before_restart = self.window, self._goal, self._slow_start
        if not self._slow_start or self._goal == self.max_window:
            # Else it is the second in a row, and tells nothing new of what the path can take.
            self._goal = max(self.window * 7 // 10, MIN_WINDOW)
        self.window = MIN_WINDOW
        self._slow_start = True
        self._measured_before = None
        self._high_samples = 0

    def undo_restart(self) -> None:
        """The timeout was wrong: acknowledgements were only held up."""
        if self._before_restart is not None:
            self.window, self._goal, self._slow_start = self._before_restart
            self._before_restart = None

    def forget_restart(self) -> None:
        """The last restart was right, and so were those before."""
        self._before_restart = None

    def _sample(self, round_trip: float, now: float) -> None:
        self._before_restart = None
        if self._slow_start:
            # Without a sample nobody knows what a larger window does to the queues.
            self._goal = self.max_window
        high = self._path.queueing(round_trip, now) > self._path.notable and self._limited
        self._high_samples = self._high_samples + 1 if high else 0
        ends_round = self._round.sample(round_trip, now)
        if self._slow_start and self._high_samples >= SLOW_START_SAMPLES:
            self._shrink(round_trip, now)
        elif ends_round:
            self._decide(now)
            self._limited = False

    def _decide(self, now: float) -> None:
        """A round trip has passed."""
        path, shortest = self._path, self._round.shortest
        if self._measured_before is not None:
            self._end_measurement(shortest / self._measured_before, now)
            return
        old = path.is_old(now)
        if old and not self._limited:
            # Little is sent, so the queue is empty anyway.
            path.measured(shortest, self._round.longest, now)
        # 1 with empty queues, 0 at the target.
        room = 1 - (shortest - path.round_trip) / path.target
        self._queueing = room < 0
        self._round.begin(now)
        if not self._limited:
            return
        if self._queueing:
            self._shrink(shortest, now)
        elif not self._slow_start and self.window >= self._goal:
            if old and room < MEASURING_ROOM:
                self._goal = self.window
                self._measure(path.round_trip / shortest, now)
            else:
                growth = int(self.window * room * GROWTH) + 1
                self._goal = min(self.window + growth, self.max_window)

    def _measure(self, share: float, now: float) -> None:
        """``share`` of the window is what the path is believed to hold: send a little less."""
        self._measured_before = self._path.round_trip
        self.window = max(int(self.window * share * MEASURING_SHARE), MIN_WINDOW)
        self._round.begin(now, settling=True)

    def _end_measurement(self, share: float, now: float) -> None:
        self._measured_before = None
        self._path.measured(self._round.shortest, self._round.longest, now)
        if share < MEASURING_SHARE:
            self._measure(share, now)
        else:
            self._round.begin(now)

    def _shrink(self, round_trip: float, now: float) -> None:
        """To where the round trip would be on target, for it is the window over the path's rate."""
        if self.window <= MIN_WINDOW:
            self._path.measured(round_trip, round_trip, now)
        self._slow_start = False
        share = (self._path.round_trip + self._path.target) / round_trip
        self._set_window(self.window * min(max(share, SHRINKAGE), 1.0))
        self._round.begin(now)

    def _set_window(self, window: float) -> None:
        self.window = self._goal = max(int(window), MIN_WINDOW)
