"""How the agent keeps and resends what it sent.

``Sender`` has the real agent's habits, good and bad: it looks at its list every 100 ms, resends the
head and nothing but the head, takes a sample of the round trip from resent messages too, and does
not keep a message when its list is full. ``IdealSender`` resends whatever is overdue and limits
what is in flight.
"""

from __future__ import annotations

import math

import msgspec

START_RTT = 0.1
START_RTO = 0.2
MAX_RTO = 1.0
CLOCK_GRANULARITY = 0.01
RESEND_INTERVAL = 0.1
CAPACITY = 100_000

# An ideal sender's limit, in messages: 4 MiB of payload.
WINDOW = 4096
# So many resends a round, so that a long outage does not end in one burst.
MAX_RESENDS = 256


class _Sent(msgspec.Struct):
    data: bytes
    sent_at: float


class RoundTrip:
    """The agent's estimate of the round trip, and the timeout it draws from that; seconds."""

    def __init__(self) -> None:
        self.rtt = START_RTT
        self.variation = 0.0
        self.timeout = START_RTO

    def sample(self, measured: float) -> None:
        """Take one measured round trip into account."""
        self.variation = 0.75 * self.variation + 0.25 * abs(self.rtt - measured)
        self.rtt = 0.875 * self.rtt + 0.125 * measured
        self.timeout = min(self.rtt + max(CLOCK_GRANULARITY, 4 * self.variation), MAX_RTO)


class Sender:
    """The list of unacknowledged messages, as the real agent treats it."""

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self.round_trip = RoundTrip()
        self.resent = 0
        self.not_kept = 0
        self._capacity = capacity
        self._list: dict[int, _Sent] = {}
        self._next_poll = 0.0

    def __len__(self) -> int:
        return len(self._list)

    def start(self, now: float) -> None:
        """Begin to look at the list every 100 ms."""
        self._next_poll = now + RESEND_INTERVAL

    @property
    def has_room(self) -> bool:
        """Whether more may be sent; the real agent does not ask."""
        return True

    def add(self, number: int, data: bytes, now: float) -> None:
        """List a message that goes out now, or that only waits because of a pause."""
        if len(self._list) >= self._capacity:
            self.not_kept += 1
            return
        if not self._list:
            self._skip_polls(now)
        self._list[number] = _Sent(data, now)

    def acknowledge(self, number: int, now: float) -> None:
        """Forget message ``number``; one that is not listed is ignored."""
        sent = self._list.pop(number, None)
        if sent is not None:
            self.round_trip.sample(now - sent.sent_at)

    def unpaused(self, now: float) -> None:
        """The far end is back: what waited goes out by the usual resending, one each 100 ms."""

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        return self._next_poll if self._list else None

    def handle_timer(self, now: float) -> list[bytes]:
        """What is to be sent again now."""
        if now < self._next_poll or not self._list:
            return []
        self._skip_polls(now)
        head = next(iter(self._list.values()))
        if now - head.sent_at <= self.round_trip.timeout:
            return []
        head.sent_at = now
        self.resent += 1
        return [head.data]

    def _skip_polls(self, now: float) -> None:
        """The poll's rhythm goes on while there is nothing to look at."""
        if self._next_poll <= now:
            missed = math.floor((now - self._next_poll) / RESEND_INTERVAL) + 1
            self._next_poll += missed * RESEND_INTERVAL


class IdealSender:
    """Resends each message when its own time is up, and has a window."""

    def __init__(self, *, window: int = WINDOW) -> None:
        self.round_trip = RoundTrip()
        self.resent = 0
        self.not_kept = 0
        self._window = window
        # In the order of their last sending, so that the first is the next to be overdue.
        self._list: dict[int, _Sent] = {}
        self._resent_numbers: set[int] = set()

    def __len__(self) -> int:
        return len(self._list)

    def start(self, now: float) -> None:
        """Nothing is polled here."""

    @property
    def has_room(self) -> bool:
        """Whether more may be sent."""
        return len(self._list) < self._window

    def add(self, number: int, data: bytes, now: float) -> None:
        """List a message that goes out now, or that only waits because of a pause."""
        self._list[number] = _Sent(data, now)

    def acknowledge(self, number: int, now: float) -> None:
        """Forget message ``number``; one that was resent says nothing of the round trip."""
        sent = self._list.pop(number, None)
        if sent is None:
            return
        if number in self._resent_numbers:
            self._resent_numbers.discard(number)
        else:
            self.round_trip.sample(now - sent.sent_at)

    def unpaused(self, now: float) -> None:
        """The far end is back: everything is overdue."""
        for sent in self._list.values():
            sent.sent_at = now - MAX_RTO

    def get_timer(self) -> float | None:
        """When handle_timer is due."""
        if not self._list:
            return None
        return next(iter(self._list.values())).sent_at + self.round_trip.timeout

    def handle_timer(self, now: float) -> list[bytes]:
        """What is to be sent again now, lowest number first."""
        overdue: list[int] = []
        for number, sent in self._list.items():
            if now < sent.sent_at + self.round_trip.timeout or len(overdue) == MAX_RESENDS:
                break
            overdue.append(number)
        again: list[bytes] = []
        for number in overdue:
            sent = self._list.pop(number)
            sent.sent_at = now
            self._list[number] = sent
            self._resent_numbers.add(number)
            again.append(sent.data)
        self.resent += len(again)
        return again
