"""How the window grows and shrinks, by acknowledgements, delay and loss.

The path to the agent has queues that we can't see: the gateway's, and the agent's own towards the
destination, which it acknowledges only when written. The round trip tells how full they are: what
it has above the smallest one seen is time spent queueing. The window is moved so that this stays
near a small target, which fills the path and keeps a keystroke beside a bulk transfer quick (as
LEDBAT and Vegas do). Loss shrinks it too, but is rare on a channel that rides on TCP.

Decisions are taken once per round trip, on the smallest sample of that round: a single slow
acknowledgement says more of the scheduler than of the path.

The smallest round trip has to be measured again from time to time, for paths change, and a busy
sender never sees one: its own queue is in every sample. So every ten seconds the window is halved
for two rounds, which empties the queue, and the second of them tells. A window at its minimum can't
be what fills a queue, either: then the path itself has become longer.
"""

from __future__ import annotations

INITIAL_WINDOW = 32 * 1024
MIN_WINDOW = 4 * 1024
# Queueing time aimed at: this much, or this share of the empty path's round trip, or half of how
# much that varies by itself, as it does over radio.
MIN_TARGET = 0.005
TARGET_SHARE = 0.25
JITTER_SHARE = 0.5
# In slow start a queue must be seen while it builds up, not a round later at twice the size
# (as in RFC 9406): so many samples in a row above the target are taken for one.
SLOW_START_SAMPLES = 8
# How long the smallest round trip is believed.
BASE_LIFETIME = 10.0
MEASURING_ROUNDS = 2

_INFINITY = float("inf")


class CongestionControl:
    """Moves ``window`` (bytes) within ``MIN_WINDOW`` and ``max_window``. Times are in seconds."""

    __slots__ = (
        "_base",
        "_base_until",
        "_before_restart",
        "_high_samples",
        "_jitter",
        "_limited",
        "_measuring",
        "_queueing",
        "_recovery_start",
        "_resume_window",
        "_round_maximum",
        "_round_minimum",
        "_round_start",
        "_sampled",
        "_slow_start",
        "_threshold",
        "_window_before",
        "max_window",
        "window",
    )

    def __init__(self, max_window: int) -> None:
        self.max_window = max_window
        self.window = INITIAL_WINDOW
        self._threshold = INITIAL_WINDOW
        self._slow_start = True
        self._high_samples = 0
        self._before_restart: tuple[int, bool] | None = None
        self._sampled = False
        self._limited = False
        self._base = _INFINITY
        self._base_until = -_INFINITY
        self._jitter = 0.0
        self._measuring = 0  # rounds left
        self._window_before = 0
        self._resume_window = 0
        self._round_start = -_INFINITY
        self._round_minimum = _INFINITY
        self._round_maximum = 0.0
        self._queueing = False  # more than the target, in the last round
        self._recovery_start = -_INFINITY

    def limited(self) -> None:
        """The window held data back. One that is not used says nothing about the path."""
        self._limited = True

    def acknowledged(self, size: int, round_trip: float | None, now: float) -> None:
        """``size`` bytes have arrived, the newest of them after ``round_trip`` if that is known."""
        if round_trip is not None:
            self._sampled = True
        # Without a sample nobody knows what a larger window does to the queues.
        if self._slow_start and self._limited and (self._sampled or self.window < self._threshold):
            self.window = min(self.window + size, self.max_window)
        elif self.window < self._resume_window:
            self.window = min(self.window + size, self._resume_window)
        if round_trip is not None:
            self._sample(round_trip, now)

    def lost(self, sent_at: float, now: float) -> None:
        """A message sent at ``sent_at`` was lost. One reduction answers all losses of a round."""
        if sent_at >= self._recovery_start:
            self._recovery_start = now
            self._slow_start = False
            # On a channel that rides on TCP a full queue delays and does not drop.
            self._resume_window = 0
            tenths = 7 if self._queueing else 9
            self.window = max(self.window * tenths // 10, MIN_WINDOW)

    def restart(self) -> None:
        """Nothing is known of the path any more: after a timeout, or on a new connection."""
        if self._before_restart is None:
            self._before_restart = self.window, self._slow_start
        if self._sampled:
            # A second timeout in a row tells nothing new of what the path can take.
            self._threshold = max(self.window * 7 // 10, MIN_WINDOW)
        self.window = MIN_WINDOW
        self._slow_start = True
        self._sampled = False
        self._measuring = self._resume_window = 0
        self._round_start = -_INFINITY

    def undo_restart(self) -> None:
        """The timeout was wrong: acknowledgements were only held up."""
        if self._before_restart is not None:
            self.window, self._slow_start = self._before_restart
            self._before_restart = None

    def forget_restart(self) -> None:
        """The last restart was right, and so were those before."""
        self._before_restart = None

    def _sample(self, round_trip: float, now: float) -> None:
        if self._base == _INFINITY:
            self._base_until = now + BASE_LIFETIME
        self._before_restart = None
        self._base = min(self._base, round_trip)
        if self._slow_start:
            self._watch_slow_start(round_trip)
        self._round_minimum = min(self._round_minimum, round_trip)
        self._round_maximum = max(self._round_maximum, round_trip)
        if now - round_trip >= self._round_start:
            self._end_round(now)
            self._limited = False
            self._round_start = now
            self._round_minimum = _INFINITY
            self._round_maximum = 0.0

    @property
    def _target(self) -> float:
        return max(MIN_TARGET, self._base * TARGET_SHARE, self._jitter * JITTER_SHARE)

    def _watch_slow_start(self, round_trip: float) -> None:
        if round_trip - self._base <= self._target:
            self._high_samples = 0
            return
        self._high_samples += 1
        if self._high_samples == SLOW_START_SAMPLES:
            self._high_samples = 0
            self._slow_start = False

    def _end_round(self, now: float) -> None:
        if self._measuring:
            self._measuring -= 1
            if not self._measuring:
                self._rebase(now)
                # From here on acknowledgements open the window again: at once would be a burst.
                self._resume_window = self._window_before
        elif now >= self._base_until and not self._slow_start:
            self._measure(now)
        else:
            self._adjust(now)

    def _measure(self, now: float) -> None:
        if not self._limited:
            # Little is sent, so the queue is empty anyway.
            self._rebase(now)
            return
        self._measuring = MEASURING_ROUNDS
        self._window_before = self.window
        self.window = max(self.window // 2, MIN_WINDOW)

    def _rebase(self, now: float) -> None:
        self._base = self._round_minimum
        self._jitter = self._round_maximum - self._round_minimum
        self._base_until = now + BASE_LIFETIME

    def _adjust(self, now: float) -> None:
        # 1 with empty queues, 0 at the target, and down to -1 beyond.
        room = max(-1.0, 1 - (self._round_minimum - self._base) / self._target)
        self._queueing = room < 0
        if self._queueing:
            self._shrink(room, now)
        elif self.window >= self._resume_window and self._limited and not self._slow_start:
            self._resume_window = 0
            self.window = min(self.window + int(room * self.window / 8) + 1, self.max_window)

    def _shrink(self, room: float, now: float) -> None:
        self._slow_start = False
        self._resume_window = 0
        if self.window <= MIN_WINDOW:
            self._rebase(now)
        self.window = max(self.window + int(room * self.window / 4), MIN_WINDOW)
