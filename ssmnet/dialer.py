"""Dialer: connections to many destinations, with a session for each that is in use.

A destination's session is started by the first connection that wants it; all that come meanwhile
wait for the same start. It is kept while it is used, and for a while after. There is a bound on
sessions: beyond it destinations wait in the order of asking, and the idle one that was not used for
longest gives way.

The agent never says that it has connected to a destination. So a new one is asked first, by a
connection that is closed at once; and again after it has refused. One that is known to answer is
dialled without delay.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from .destination import Destination, is_address
from .errors import (
    ConnectError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
    SessionClosed,
)
from .events import Event, Restarted
from .outlet import JustOver, Outlet, StartedSessions, explain
from .pool import STARTS_AT_ONCE, WAIT_TIMEOUT, SessionPool
from .protocol.admission import Admission, Failures
from .protocol.reconnect import MAX_REFUSALS
from .session import DRAIN_TIMEOUT, PROBE_TIMEOUT, Session

logger = logging.getLogger("ssmnet.dialer")

_T = TypeVar("_T")

MAX_SESSIONS = 20
# How long a session that has no connections is kept.
IDLE_TIME = 60.0
# How long failures are remembered. One that refuses may be back soon; where the agent knows no name
# or allows no connection, a try costs a session; where it got no answer, it costs a long wait.
REFUSED_TIME = 5.0
NOT_FOUND_TIME = 10.0
SILENT_TIME = 30.0
# An agent that is too old to be asked says at once what is wrong, or nothing.
OLD_AGENT_TIME = 0.3

_REMEMBERED: dict[type[Error], float] = {
    DestinationRefused: REFUSED_TIME,
    DestinationNotFound: NOT_FOUND_TIME,
    DestinationForbidden: NOT_FOUND_TIME,
}


class Dialer:
    """Connects to any destination through the sessions that ``start`` opens, ready for use.

    Up to ``max_sessions`` at once, ``width`` for one destination. A destination that has no
    connections for ``idle_time`` is given up; a connection waits at most ``wait_timeout`` for its
    turn, and ``probe_timeout`` for the first answer of its destination. All are in seconds, and so
    is ``max_age``, after which a session gets no more connections.
    ``on_event`` is told what becomes of sessions, as by a SessionPool. ``check`` raises for
    destinations that are not to be connected to: they take no place from others.
    """

    def __init__(
        self,
        start: Callable[[Destination], Awaitable[Session]],
        on_event: Callable[[Event], None] = lambda _: None,
        *,
        check: Callable[[Destination], object] = lambda _: None,
        max_sessions: int = MAX_SESSIONS,
        width: int = 1,
        idle_time: float = IDLE_TIME,
        max_age: float | None = None,
        wait_timeout: float = WAIT_TIMEOUT,
        probe_timeout: float = PROBE_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._start = start
        self._on_event = on_event
        self._check = check
        self._max_sessions = max_sessions
        self._width = width
        self._idle_time = idle_time
        self._max_age = max_age
        self._wait_timeout = wait_timeout
        self._probe_timeout = probe_timeout
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._outlets: dict[Destination, Outlet] = {}
        self._latest: Outlet | None = None
        self._admission: Admission[Outlet] = Admission(places=max_sessions, starts=STARTS_AT_ONCE)
        self._failures: Failures[Destination] = Failures()
        self._sessions = StartedSessions()
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def connect(
        self, protocol: asyncio.Protocol, destination: Destination
    ) -> asyncio.Transport:
        """Connect ``protocol`` to ``destination``, and return its transport.

        The destination may have ended the connection by then. Raises DestinationRefused,
        DestinationNotFound and DestinationForbidden, ConnectError when there was no session in
        time, and what else keeps a session from starting; the protocol hears nothing then.
        """
        again = True
        while True:
            outlet = self._find(destination)
            self._use(outlet)
            try:
                await self._ready(outlet)
                return await outlet.dial(protocol, self._wait_timeout)
            except JustOver as error:
                if not again or self._closed:
                    raise error.end from None
                again = False
                self._drop(outlet)
            finally:
                outlet.users -= 1
                self._changed(outlet)

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        """End all connections and sessions. For ``drain`` see Session.close."""
        self._closed = True
        for outlet in tuple(self._outlets.values()):
            self._drop(outlet, drain=drain)
        while self._tasks:
            await asyncio.wait(self._tasks)

    # For those who show it.

    @property
    def destinations(self) -> int:
        """How many destinations have a session, or wait for one."""
        return len(self._outlets)

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return sum(outlet.connections for outlet in self._outlets.values())

    @property
    def waiting(self) -> int:
        """How many destinations wait for a session."""
        return self._admission.waiting

    @property
    def round_trip_time(self) -> float | None:
        """As Session.round_trip_time, of the destination that was used last."""
        pool = self._latest.pool if self._latest is not None else None
        return pool.round_trip_time if pool is not None else None

    @property
    def retransmissions(self) -> int:
        """How many messages went out again."""
        return self._sessions.retransmissions

    # What becomes of a destination.

    def _find(self, destination: Destination) -> Outlet:
        """Raises what is remembered of it."""
        if self._closed:
            raise SessionClosed("closed")
        self._check(destination)
        outlet = self._outlets.get(destination)
        if outlet is None or not outlet.is_quick:
            error = self._failures.recall(destination, self._clock())
            if error is not None:
                raise error
        if outlet is None:
            outlet = self._outlets[destination] = Outlet(destination)
            self._admission.ask(outlet)
            self._proceed()
        return outlet

    def _use(self, outlet: Outlet) -> None:
        outlet.users += 1
        self._latest = outlet
        self._admission.use(outlet)
        if outlet.idle_timer is not None:
            outlet.idle_timer.cancel()
            outlet.idle_timer = None

    def _changed(self, outlet: Outlet) -> None:
        """Something has ended: see whether the destination is still in use."""
        if not outlet.is_dropped and not outlet.users:
            if outlet.preparing is not None and outlet.is_answered:
                outlet.preparing.cancel()
                outlet.preparing = None
            if not outlet.is_answered or not (outlet.lives or outlet.connections):
                self._drop(outlet)
            elif not outlet.connections and outlet.idle_timer is None:
                self._admission.rest(outlet)
                outlet.idle_timer = self._loop.call_later(self._idle_time, self._drop, outlet)
        self._proceed()

    def _drop(self, outlet: Outlet, drain: float = DRAIN_TIMEOUT) -> None:
        """Give it up; the next connection begins anew."""
        if outlet.is_dropped:
            return
        outlet.is_dropped = True
        del self._outlets[outlet.destination]
        if self._latest is outlet:
            self._latest = None
        self._admission.leave(outlet)
        if outlet.idle_timer is not None:
            outlet.idle_timer.cancel()
        if outlet.preparing is not None:
            outlet.preparing.cancel()
        outlet.admitted.cancel()
        self._spawn(self._end(outlet, drain))

    async def _end(self, outlet: Outlet, drain: float) -> None:
        if outlet.preparing is not None:
            await asyncio.wait((outlet.preparing,))
        if outlet.pool is not None:
            # Where there was only a question, nothing is on its way.
            await outlet.pool.close(drain=drain if outlet.is_proven else 0.0)
        self._admission.left(outlet)
        self._proceed()

    def _proceed(self) -> None:
        """Let those in who may come in, and those out who are in their way."""
        if self._closed:
            return
        self._admission.beside = self._sessions.beside
        while (outlet := self._admission.admit()) is not None:
            outlet.admitted.set_result(None)
        while (idle := self._admission.evict()) is not None:
            self._drop(idle)

    def _spawn(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # How a connection comes about.

    async def _ready(self, outlet: Outlet) -> None:
        """Wait until the destination is known to answer, together with all who do."""
        if outlet.preparing is None and outlet.is_doubtful:
            outlet.preparing = self._spawn(self._prepare(outlet))
        preparing = outlet.preparing
        if not outlet.admitted.done():
            await asyncio.wait((outlet.admitted,), timeout=self._wait_timeout)
            if not outlet.admitted.done():
                raise ConnectError(f"no session for {outlet.destination}: {self._crowd()}")
        if preparing is not None:
            await asyncio.wait((preparing,))
            error = SessionClosed("closed") if preparing.cancelled() else preparing.result()
            if error is not None:
                raise error.with_traceback(None)

    def _crowd(self) -> str:
        if self._admission.is_full:
            return f"all {self._max_sessions} have been in use for {self._wait_timeout:g} s"
        return f"others have been starting for {self._wait_timeout:g} s"

    async def _prepare(self, outlet: Outlet) -> Error | None:
        """Open the pool, if there is none, and ask the destination. Returns what went wrong.

        It is not raised: those who wanted to know may have gone.
        """
        error: Error | None = None
        try:
            if outlet.pool is None:
                await self._open(outlet)
            await self._probe(outlet)
        except Error as raised:
            error = raised
        except Exception as raised:
            logger.exception("cannot connect to %s", outlet.destination)
            error = ConnectError(f"cannot start a session: {type(raised).__name__}")
        outlet.preparing = None
        return error and self._failed(outlet, error)

    async def _open(self, outlet: Outlet) -> None:
        await outlet.admitted
        outlet.pool = SessionPool(
            lambda: self._start_session(outlet),
            lambda event: self._tell(outlet, event),
            width=self._width,
            max_age=self._max_age,
            # The target looks up a name once in a session; an address is the same in the next.
            max_refusals=None if is_address(outlet.destination.host) else MAX_REFUSALS,
            clock=self._clock,
        )
        outlet.pool.on_change = lambda: self._changed(outlet)
        try:
            await outlet.pool.open()
        finally:
            self._admission.started(outlet)
            self._proceed()

    async def _probe(self, outlet: Outlet) -> None:
        pool = outlet.pool
        if pool is None or not pool.sessions:
            return  # it restarts
        outlet.is_silent = False
        try:
            told = await pool.probe(self._probe_timeout)
        except DestinationRefused as error:
            raise refused(outlet.destination) from error
        except ConnectError as error:
            if type(error) is not ConnectError:
                raise
            outlet.is_silent = True
            raise DestinationRefused(f"{error}: {outlet.destination}") from error
        if not told:
            # An agent that is too old to be asked still ends a session that leads nowhere, with a
            # word or without.
            first = pool.session_id
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(OLD_AGENT_TIME):
                    raise await pool.wait_ended()
            if not pool.sessions or pool.session_id != first:
                raise refused(outlet.destination)
        outlet.prove(pool.refusals)
        self._failures.forget(outlet.destination)

    def _failed(self, outlet: Outlet, error: Error) -> Error:
        """Remember it for a while, if it is the destination's fault. Returns what to raise."""
        error = explain(error, outlet.destination)
        seconds = _REMEMBERED.get(type(error))
        if seconds is not None:
            seconds = SILENT_TIME if outlet.is_silent else seconds
            self._failures.remember(outlet.destination, error, self._clock() + seconds)
        refuses = isinstance(error, DestinationRefused) and outlet.lives and not outlet.is_silent
        if refuses:
            outlet.is_answered = True  # the session is good, and may soon be of use
        elif not outlet.connections:
            self._drop(outlet)
        return error

    # The sessions.

    async def _start_session(self, outlet: Outlet) -> Session:
        """The first session of a destination has a place, a second must find one."""
        if self._sessions.has(outlet):
            self._admission.beside = self._sessions.beside
            if self._admission.is_full:
                raise ConnectError(f"all {self._max_sessions} sessions are in use")
        return await self._sessions.start(outlet, self._start(outlet.destination))

    def _tell(self, outlet: Outlet, event: Event) -> None:
        if isinstance(event, Restarted):
            outlet.is_proven = False
        if not outlet.is_dropped:
            self._on_event(event)


def refused(destination: Destination | str) -> DestinationRefused:
    """What a probe finds: the agent does not say which it is."""
    return DestinationRefused(
        f"the target could not connect to {destination}: it refuses, or cannot be reached"
    )
