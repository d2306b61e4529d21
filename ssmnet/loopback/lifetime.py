"""How long a session may last: the gateway's own limits, each a timer of one session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

CLIENT_AWAY = 300.0
AGENT_AWAY = 5.0

# What the user is told.
CLIENT_GONE = "timed out"
IDLE = "The session timed out due to inactivity."
TOO_LONG = "The session has reached its maximum duration."


@dataclass(frozen=True, slots=True)
class Limits:
    """All in seconds; None is no limit.

    ``client_away`` and ``agent_away`` bound how long a session waits for a side that was there or,
    the client, has yet to come. ``idle`` is the time without stream data either way; pings and
    acknowledgements do not count. ``duration`` is the whole life of a session.
    """

    client_away: float = CLIENT_AWAY
    agent_away: float = AGENT_AWAY
    idle: float | None = None
    duration: float | None = None

    def __post_init__(self) -> None:
        for limit in (self.client_away, self.agent_away, self.idle, self.duration):
            if limit is not None and not limit > 0:
                raise ValueError(f"a limit of {limit} s is none")


class Lifetime:
    """One session's timers, from its start to close(). ``end(output)`` ends the session."""

    def __init__(self, limits: Limits, end: Callable[[str], None]) -> None:
        self._limits = limits
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._data_at = self._loop.time()
        self.client_left()
        if limits.duration is not None:
            self._set("duration", limits.duration, TOO_LONG)
        if limits.idle is not None:
            self._watch(limits.idle)

    def client_left(self) -> None:
        """The client is away, or has yet to come."""
        self._set("client", self._limits.client_away, CLIENT_GONE)

    def client_came(self) -> None:
        """The client is here."""
        self._cancel("client")

    def agent_left(self) -> None:
        """The agent is away."""
        self._set("agent", self._limits.agent_away, "")

    def agent_came(self) -> None:
        """The agent is here."""
        self._cancel("agent")

    def data_passed(self) -> None:
        """There was a message of stream data."""
        self._data_at = self._loop.time()

    def close(self) -> None:
        """The session is over."""
        for name in list(self._timers):
            self._cancel(name)

    def _set(self, name: str, seconds: float, output: str) -> None:
        self._cancel(name)
        self._timers[name] = self._loop.call_later(seconds, self._end, output)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _watch(self, idle: float) -> None:
        """Data does not touch the timer: whether there was any is found out when it fires."""
        due = self._data_at + idle
        if self._loop.time() >= due:
            self._end(IDLE)
        else:
            self._timers["idle"] = self._loop.call_at(due, self._watch, idle)
