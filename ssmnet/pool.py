"""SessionPool: sessions behind a listener, another one whenever the present one is not enough.

A session ends for good at its idle time-out or its maximum duration, when its agent restarts or its
instance reboots. The listener stays: connections of the old session are reset, never ended as if
they were complete, and new ones wait for the next session.

A session that lives may be no good for new connections either: nothing gets through it, because one
destination does not read; what it resolved once is not where the destination is now; it is older
than somebody wants it to be. It keeps the connections it has, and is closed after the last of them.

A pool that may be wider than one session has as many as its connections ask for, one of them to
spare. A new connection gets the one with the least traffic; where all have connections and another
can be started, it waits a moment for that.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from itertools import islice
from random import Random, SystemRandom
from typing import Any

from .errors import Error, LocalProtocolError, SessionClosed
from .events import Event, Narrowed, Restarted, Restarting, Widened
from .load import Load
from .protocol.reconnect import MAX_REFUSALS, Restarts, Unfit
from .session import DRAIN_TIMEOUT, PROBE_TIMEOUT, Session
from .transport import StreamTransport
from .waiting import Waiting

logger = logging.getLogger("ssmnet.pool")

# How long a connection waits for a session before it is reset.
WAIT_TIMEOUT = 30.0
# Nobody tells that a session has stalled: while connections wait for room, it is looked at again.
LOOK_AGAIN_TIME = 0.5
# How long the last bytes of a session that is not needed any more may take to arrive: there is no
# hurry, and the agent may hold megabytes for a slow destination.
RETIRED_DRAIN_TIMEOUT = 600.0
# And where there are too many such sessions.
FORCED_DRAIN_TIMEOUT = 1.0
# How long a connection waits for a session of its own where it could share one.
OWN_SESSION_TIME = 1.5
# Sessions that are being started for the load at a time: AWS throttles that.
STARTS_AT_ONCE = 4
# Each destination that does not read takes a session out of use; somewhere that ends. A wider pool
# may have as many more as it is wider.
MAX_SESSIONS = 8


class SessionPool:
    """Sessions to one destination.

    ``start`` opens a session, ready for use. Up to ``width`` of them share the connections.
    ``max_restarts`` bounds how many may be started because one is over or no good; None for no
    bound. After ``max_age`` seconds a session gets no more connections, nor after
    ``max_refusals`` in a row: useful where the target looks up a name once per session.

    ``on_change`` may be set, and is called when a session has no more connections, when it is over,
    and when a connection has stopped waiting.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Session]],
        on_event: Callable[[Event], None],
        *,
        width: int = 1,
        max_restarts: int | None = None,
        max_age: float | None = None,
        max_refusals: int | None = MAX_REFUSALS,
        clock: Callable[[], float] = time.monotonic,
        random: Random | None = None,
    ) -> None:
        self._start = start
        self._on_event = on_event
        self._max_age = max_age
        self._max_refusals = max_refusals
        self._clock = clock
        random = random or SystemRandom()
        self._restarts = Restarts(random.random, limit=max_restarts)
        self._load = Load(
            width,
            fit=self._fit,
            waiting=lambda: len(self._waiting),
            widen=self._widen,
            narrow=self._narrow,
            clock=clock,
            random=random,
        )
        self._most = MAX_SESSIONS + width - 1
        self._loop = asyncio.get_running_loop()
        self._sessions: list[Session] = []  # the newest last
        self._retired: dict[Session, None] = {}  # with last bytes on their way; the oldest first
        self._newest_id = ""
        self._past_retransmissions = 0  # of sessions that are over
        self._waiting: dict[Waiting, float] = {}  # since when
        self._starting: asyncio.Task[None] | None = None
        # Starts for the load, the oldest first, and since when they go on.
        self._widening: dict[asyncio.Task[None], float] = {}
        self._failing = False  # to start
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[Error] = self._loop.create_future()
        self.on_change: Callable[[], None] = lambda: None

    async def open(self) -> str:
        """Start the first session and return its id. Raises what that raises."""
        self._add(await self._start())
        return self.session_id

    @property
    def session_id(self) -> str:
        """AWS's name for the newest session."""
        return self._newest_id

    @property
    def sessions(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    @property
    def connections(self) -> int:
        """How many connections there are, with those that wait."""
        return sum(session.streams for session in self._sessions) + len(self._waiting)

    @property
    def refusals(self) -> int:
        """How many connections the destination has refused since it last said anything."""
        return sum(session.refusals for session in self._sessions)

    @property
    def round_trip_time(self) -> float | None:
        """As Session.round_trip_time, of the newest session; None without one."""
        return self._sessions[-1].round_trip_time if self._sessions else None

    async def probe(self, timeout: float = PROBE_TIMEOUT) -> bool:  # noqa: ASYNC109 - as Session's
        """As Session.probe, of the session that the next connection would get."""
        if not self._sessions:
            raise LocalProtocolError("there is no session to probe")
        session = self._choose() or self._sessions[-1]
        return await session.probe(timeout)

    @property
    def retransmissions(self) -> int:
        """How many messages went out again, in all sessions so far."""
        living = (*self._sessions, *self._retired)
        return self._past_retransmissions + sum(session.retransmissions for session in living)

    @property
    def interrupted(self) -> bool:
        """Whether all sessions wait for a new WebSocket."""
        return all(session.interrupted for session in self._sessions)

    async def wait_ended(self) -> Error:
        """Wait until there will be no further session, and return why."""
        return await asyncio.shield(self._ended)

    def dial(self, protocol: asyncio.Protocol) -> StreamTransport | Waiting:
        """A stream to the destination, at once or when there is a session with room for it.

        Its protocol's ``connection_made`` is called once it is open, ``connection_lost`` if it
        never is. Raises the end of the last session when there will be no other.
        """
        if self._ended.done():
            raise self._ended.result()
        self._load.dialled()
        session = self._choose()
        now = self._clock()
        if session is not None and not self._waiting and self._suits(session, since=now):
            return session.create_stream(protocol)
        waiting = Waiting(protocol, self._forget, WAIT_TIMEOUT)
        self._waiting[waiting] = now
        self._load.changed()
        self._await_room()
        return waiting

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        """End everything; the sessions are terminated. For ``drain`` see Session.close."""
        self._end(SessionClosed("closed"))
        starting = [*self._widening, *([self._starting] if self._starting else [])]
        if starting:
            await asyncio.wait(starting)
        for session in (*self._sessions, *self._retired):
            self._spawn(session.close(drain=drain))
        while self._tasks:
            await asyncio.wait(self._tasks)

    # Which session a new connection gets.

    def _choose(self) -> Session | None:
        """The session for the next connection; None when it has to wait for another to start."""
        if fit := self._fit():
            return min(fit, key=self._preference)
        if not self._sessions:
            return None
        newest = self._sessions[-1]
        unfit = self._unfitness(newest)
        if unfit is None or (self._starting is None and not self._replace(unfit)):
            return newest
        # A destination that refused may be back before there is another session.
        usable = unfit is Unfit.OLD or (unfit is Unfit.REFUSED and self._failing)
        return newest if usable else None

    def _fit(self) -> list[Session]:
        """The newest sessions that nothing speaks against, as many as the pool is wide."""
        fit = (session for session in reversed(self._sessions) if not self._unfitness(session))
        return list(islice(fit, self._load.most))

    def _suits(self, session: Session, since: float) -> bool:
        """Whether a connection that has waited ``since`` then is to have that session."""
        if not session.has_room:
            return False
        if not session.multiplexed and self._load.most > 1 and session.streams:
            return False  # it would wait there for the other's end, and another may be free before
        waited = self._clock() - since
        return not session.streams or waited >= OWN_SESSION_TIME or not self._widens_soon()

    def _widens_soon(self) -> bool:
        """Whether there may soon be one session more. A start that takes long may never end."""
        if self._room_beside <= 0 or not self._load.may_widen:
            return False
        now = self._clock()
        return now - next(iter(self._widening.values()), now) < OWN_SESSION_TIME

    @property
    def _room_beside(self) -> int:
        """How many sessions may be started beside those that there are."""
        if self._starting is not None or self._ended.done():
            return 0
        return self._most - len(self._sessions) - len(self._retired)

    def _preference(self, session: Session) -> tuple[bool, float]:
        return not session.has_room, self._load.of(session)

    def _unfitness(self, session: Session) -> Unfit | None:
        if session.stalled:
            return Unfit.STALLED
        if self._max_refusals is not None and session.refusals >= self._max_refusals:
            return Unfit.REFUSED
        if self._max_age is not None and self._clock() - session.opened_at >= self._max_age:
            return Unfit.OLD
        return None

    def _replace(self, unfit: Unfit) -> bool:
        """Start a session beside those that live; whether that is allowed."""
        now, refused = self._clock(), unfit is Unfit.REFUSED
        lasting = len(self._sessions) + len(self._widening)
        if self._ended.done() or lasting >= self._most:
            return False
        if not self._restarts.may_replace(now, refused=refused):
            return False
        if lasting + len(self._retired) >= self._most:
            if unfit is Unfit.OLD:
                return False  # it is still good
            # Its last bytes have had the time that the others took.
            oldest = next(iter(self._retired))
            del self._retired[oldest]
            self._past_retransmissions += oldest.retransmissions
            self._spawn(oldest.close(drain=FORCED_DRAIN_TIMEOUT))
        self._restarts.replaced(now, refused=refused)
        self._start_another(unfit.value, over=False)
        return True

    def _place_waiting(self) -> None:
        """Give those who wait a session with room, if there is one."""
        while self._waiting:
            session = self._choose()
            waiting, since = next(iter(self._waiting.items()))
            if session is None or not self._suits(session, since):
                self._await_room()
                return
            del self._waiting[waiting]
            waiting.use(session)

    def _await_room(self) -> None:
        """Look again when there is room, or when it shows that there will be none for long."""
        for session in self._fit() or self._sessions[-1:]:
            if not session.has_room:
                session.call_when_roomy(self._place_waiting)
        if self._sessions and self._timer is None:
            self._timer = self._loop.call_later(LOOK_AGAIN_TIME, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._place_waiting()

    def _forget(self, waiting: Waiting) -> None:
        if self._waiting.pop(waiting, None) is not None:
            self.on_change()

    # How sessions come and go.

    def _add(self, session: Session) -> None:
        session.on_unused = self._unused
        self._newest_id = session.session_id
        self._sessions.append(session)
        self._load.add(session)
        self._spawn(self._watch(session))
        for other in tuple(self._sessions):
            self._unused(other)
        self._place_waiting()

    def _unused(self, session: Session) -> None:
        """A session without connections is closed, unless the next one may come to it."""
        if session.streams or session not in self._sessions:
            return
        fit = self._fit()
        newest = session is self._sessions[-1] and (self._load.most == 1 or not fit)
        if not newest and session not in fit:
            self._retire(session)
        else:
            self._load.changed()
            self._place_waiting()
        self.on_change()

    def _retire(self, session: Session) -> None:
        self._sessions.remove(session)
        self._load.remove(session)
        self._retired[session] = None
        self._spawn(session.close(drain=RETIRED_DRAIN_TIMEOUT))

    async def _watch(self, session: Session) -> None:
        """Wait for the end of a session, and see whether another is to follow."""
        began = self._clock()
        error = await self._end_of(session)
        lived = self._clock() - began
        self._restarts.lasted(lived)
        if session in self._retired or session in self._sessions:
            self._past_retransmissions += session.retransmissions
        self._retired.pop(session, None)
        if session in self._sessions:
            self._sessions.remove(session)
            self._load.lasted(lived)
            self._load.remove(session)
        if not self._sessions and not self._ended.done():
            self._follow(session, error, lived)
        self._place_waiting()
        self.on_change()
        await session.close()

    def _follow(self, session: Session, error: Error, lived: float) -> None:
        """The last session is over: another one follows, or none ever will."""
        if self._starting is not None:
            # Another is being started already, and was not meant to take its place.
            self._on_event(Restarting(session.session_id, str(error), over=True))
            return
        named = isinstance(error, SessionClosed) and bool(error.output)
        delay = self._restarts.after(lived, for_a_reason=named)
        if delay is None:
            self._end(error)
        else:
            self._start_another(str(error), over=True, delay=delay)

    async def _end_of(self, session: Session) -> Error:
        """Why the session is over. One that grows old meanwhile gets a successor in time."""
        ended = self._loop.create_task(session.wait_ended())
        if self._max_age is not None:
            while (left := self._max_age - (self._clock() - session.opened_at)) > 0:
                # Not less than a clock can tell apart.
                await asyncio.wait((ended,), timeout=max(left, 0.001))
                if ended.done():
                    break
            else:
                self._choose()
                self._unused(session)
        return await ended

    def _start_another(self, cause: str, *, over: bool, delay: float = 0.0) -> None:
        self._starting = self._loop.create_task(self._keep_starting(cause, over, delay))

    async def _keep_starting(self, cause: str, over: bool, delay: float) -> None:
        """Try until there is a session.

        Whatever keeps it from starting may pass, since one has started before: a reboot, a login
        that has expired, a settings file that somebody is just writing.
        """
        began = self._clock()
        told = ""
        while True:
            if cause != told:
                told = cause
                self._on_event(Restarting(self.session_id, told, over))
            await asyncio.sleep(delay)
            try:
                session = await self._start()
                break
            except Error as error:
                cause = str(error)
            except Exception as error:
                # Whatever it is, nobody would notice that nothing is tried any more.
                logger.exception("cannot start a session")
                cause = f"cannot start: {type(error).__name__}"
            delay = self._restarts.failed()
            self._failing = True
            self._place_waiting()
        self._starting = None
        self._failing = False
        self._restarts.started()
        self._on_event(Restarted(session.session_id, self._clock() - began))
        self._add(session)

    def _end(self, error: Error) -> None:
        """There will be no further session."""
        if self._ended.done():
            return
        self._ended.set_result(error)
        if self._starting is not None:
            self._starting.cancel()
        for task in self._widening:
            task.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._load.close()
        waiting, self._waiting = self._waiting, {}
        for one in waiting:
            one.fail(error)

    # How many sessions there are for the load.

    def _widen(self, wanted: int) -> None:
        """Start so many sessions more, as far as that may be and is not being done."""
        number = min(wanted, self._room_beside, STARTS_AT_ONCE) - len(self._widening)
        for _ in range(number):
            task = self._loop.create_task(self._start_beside())
            self._widening[task] = self._clock()
            task.add_done_callback(lambda task: self._widening.pop(task, None))

    async def _start_beside(self) -> None:
        """Start a session for the load; if there can't be one, those that there are do."""
        session: Session | None = None
        try:
            session = await self._start()
        except Error as error:
            logger.warning("no further session: %s", error)
        except Exception:
            logger.exception("cannot start a session")
        # Before the callback does so: the next look at the load may come first.
        if (task := asyncio.current_task()) is not None:
            self._widening.pop(task, None)
        self._load.widened(failed=session is None)
        if session is None:
            self._place_waiting()
        else:
            self._on_event(Widened(session.session_id, len(self._sessions) + 1))
            self._add(session)

    def _narrow(self, unused: list[Session]) -> None:
        for session in unused:
            self._retire(session)
            self._on_event(Narrowed(session.session_id, len(self._sessions)))
        self._newest_id = self._sessions[-1].session_id

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
