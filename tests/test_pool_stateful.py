"""A SessionPool in virtual time, whose sessions and connections do anything in any order.

The sessions are stand-ins: what they need of AWS and of an agent is not there, only what the pool
sees of them. Whole sessions are played in tests/testing/test_simulation.py.
"""

import asyncio
import sys
from collections.abc import Callable
from random import Random
from typing import Any, cast
from unittest.mock import patch

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.errors import ConnectError, Error, SessionClosed, UsageError
from ssmnet.events import Event, Restarted, Restarting, Widened
from ssmnet.pool import (
    FORCED_DRAIN_TIMEOUT,
    RETIRED_DRAIN_TIMEOUT,
    STARTS_AT_ONCE,
    WAIT_TIMEOUT,
    SessionPool,
)
from ssmnet.protocol.reconnect import MAX_DELAY, MAX_REFUSALS, STALL_TIME
from ssmnet.session import DRAIN_TIMEOUT, Session
from ssmnet.testing.clock import VirtualLoop
from ssmnet.transport import StreamTransport
from ssmnet.waiting import Waiting

CHOICES = st.integers(0, 1000)  # of one among however many there are
MAX_SESSIONS = 3
MAX_AGE = 100.0
TERMINATION = 0.5  # how long a session takes to be terminated
# How long something may take that only needs some turns of the loop.
SOON = 0.001
SECONDS = st.sampled_from([0.0, 2 * STALL_TIME, 2 * STALL_TIME, WAIT_TIMEOUT + 1, 1000.0])


class Stream:
    """A stream of a stand-in."""

    def __init__(self, session: "StandIn", protocol: "Connection") -> None:
        self.session, self.protocol = session, protocol
        asyncio.get_running_loop().call_soon(self.open)

    def open(self) -> None:
        if self in self.session.open:
            self.protocol.connection_made(cast(asyncio.Transport, self))

    def abort(self) -> None:
        if self in self.session.open:
            self.session.open.remove(self)
            self.lose(None)
            if not self.session.open:
                self.session.on_unused(cast(Session, self.session))

    def lose(self, error: Error | None) -> None:
        asyncio.get_running_loop().call_soon(self.protocol.connection_lost, error)


class StandIn:
    """What a SessionPool sees of a Session."""

    multiplexed = True
    retransmissions = 0

    def __init__(self, number: int, check: Callable[["StandIn"], None], drain: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.session_id = f"session-{number}"
        self.opened_at = self.loop.time()
        self.on_unused: Callable[[Session], None] = lambda _: None
        self.messages = 0
        self.stalled = False
        self.roomy = True
        self.refusals = 0
        self.open: list[Stream] = []
        self.closed_at: float | None = None
        self.hurries = False  # to drain, because there are too many
        self.over = False  # terminated
        self._check = check
        self._drain = drain
        self._ended: asyncio.Future[Error] = self.loop.create_future()
        self._when_roomy: Callable[[], None] | None = None

    @property
    def streams(self) -> int:
        return len(self.open)

    @property
    def lives(self) -> bool:
        return not self._ended.done()

    @property
    def has_room(self) -> bool:
        return self.roomy and self.lives

    @property
    def refuses(self) -> bool:
        return self.refusals >= MAX_REFUSALS

    @property
    def age(self) -> float:
        return self.loop.time() - self.opened_at

    def call_when_roomy(self, callback: Callable[[], None]) -> None:
        self._when_roomy = callback

    def make_room(self) -> None:
        self.roomy = True
        callback, self._when_roomy = self._when_roomy, None
        if callback is not None and self.lives:
            callback()

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        assert self.has_room
        self._check(self)
        stream = Stream(self, cast(Connection, protocol))
        self.open.append(stream)
        return cast(StreamTransport, stream)

    async def wait_ended(self) -> Error:
        return await asyncio.shield(self._ended)

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        if self.closed_at is None:
            self.closed_at = self.loop.time()
        self.hurries = self.hurries or drain <= FORCED_DRAIN_TIMEOUT
        await asyncio.wait((self._ended,), timeout=min(drain, self._drain))
        self.end(SessionClosed("closed"))
        if not self.over:
            self.over = True
            await asyncio.sleep(TERMINATION)

    def end(self, error: Error) -> None:
        if self.lives:
            self._ended.set_result(error)
            streams, self.open = self.open, []
            for stream in streams:
                stream.lose(error)


class Connection(asyncio.Protocol):
    """One that wants a stream. It is told at the most once of each, in this order."""

    def __init__(self, now: float) -> None:
        self.dialled_at = now
        self.dialled: StreamTransport | Waiting | None = None
        self.made = self.lost = self.hung_up = False
        self.hears_nothing = False

    @property
    def waits(self) -> bool:
        return not (self.made or self.lost or self.hung_up)

    @property
    def in_queue(self) -> bool:
        return self.waits and isinstance(self.dialled, Waiting) and not self.dialled._transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not self.made
        assert not self.lost
        assert not self.hears_nothing
        self.made = True

    def connection_lost(self, exc: Exception | None) -> None:
        assert not self.lost
        assert not self.hears_nothing
        assert self.hung_up or isinstance(exc, Error)
        self.lost = True

    def hang_up(self) -> None:
        assert self.dialled is not None
        self.hears_nothing = self.in_queue
        self.hung_up = True
        self.dialled.abort()


class Pool(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.troubles: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.troubles.append(context))
        self.bound = patch("ssmnet.pool.MAX_SESSIONS", MAX_SESSIONS)
        self.bound.start()
        self.connections: list[Connection] = []
        self.sessions: list[StandIn] = []
        self.events: list[Event] = []
        self.starting = 0
        self.start_time = 0.0
        self.failure: Error | None = None
        self.drain = 0.0
        self.width = 1
        self.max_restarts: int | None = None
        self.max_age: float | None = None
        self.tries = 0
        self.heals = True
        self.ended = False
        self.pool: SessionPool | None = None

    @initialize(
        width=st.sampled_from([1, 1, 2, 3]),
        max_restarts=st.sampled_from([None, None, None, 0, 2]),
        max_age=st.sampled_from([None, None, MAX_AGE]),
        amount=st.integers(0, 3),
        drain=st.sampled_from([0.0, 10_000.0]),
        heal=st.booleans(),
    )
    def open(
        self,
        width: int,
        max_restarts: int | None,
        max_age: float | None,
        amount: int,
        drain: float,
        heal: bool,
    ) -> None:
        self.max_restarts, self.max_age, self.drain = max_restarts, max_age, drain
        self.width, self.heals = width, heal
        self.loop.run_until_complete(self.open_pool())
        self.dial(amount, 0.0)

    # --- connections

    @rule(amount=st.integers(1, 3), wait=SECONDS)
    def dial(self, amount: int, wait: float) -> None:
        newest = self.pooled()[-1:]
        usable = any(self.is_fit(one, any_age=True) and one.has_room for one in newest)
        at_once = amount
        if self.width > 1:
            # Who could have a session to itself waits a little for that.
            usable = any(one.has_room for one in self.fit())
            at_once = sum(one.has_room and not one.open for one in self.fit())
        usable = usable and not any(one.waits for one in self.connections)
        connections = self.do(lambda: [self.dial_one() for _ in range(amount)])
        if usable and not self.ended:
            assert all(connection.made for connection in connections[:at_once])
        self.wait(wait)

    @rule(choice=CHOICES, amount=st.integers(1, 3), wait=SECONDS)
    @precondition(lambda self: self.connected())
    def hang_up(self, choice: int, amount: int, wait: float) -> None:
        for _ in range(amount):
            if connected := self.connected():
                used = [session for session in self.pooled() if session.open]
                self.do(connected[-1 - choice % len(connected)].hang_up)
                self.check_retired([session for session in used if not session.open])
        self.wait(wait)

    # --- sessions

    @rule(
        choice=st.one_of(st.just(0), CHOICES),
        state=st.sampled_from(["stalled", "refuses", "full", "fine"]),
        before=st.booleans(),
        amount=st.integers(0, 2),
        wait=SECONDS,
    )
    @precondition(lambda self: self.alive())
    def change(self, choice: int, state: str, before: bool, amount: int, wait: float) -> None:
        """Of a session, before some connections come or after."""
        session = self.alive()[-1 - choice % len(self.alive())]
        if not before:
            self.dial(amount, 0.0)
        session.stalled = state == "stalled"
        session.refusals = MAX_REFUSALS if state == "refuses" else 0
        session.roomy = state != "full"
        if state == "fine":
            self.do(session.make_room)
        if before:
            self.dial(amount, 0.0)
        self.wait(wait)

    @rule(choice=CHOICES, named=st.booleans(), dial=st.booleans(), wait=SECONDS)
    @precondition(lambda self: self.alive())
    def end_one(self, choice: int, named: bool, dial: bool, wait: float) -> None:
        """With a connection that comes at the same moment, or not."""
        session = self.alive()[-1 - choice % len(self.alive())]

        def end() -> None:
            session.end(SessionClosed("it is over", output="a reason" if named else ""))
            if dial:
                self.dial_one()

        self.do(end)
        self.wait(wait)

    @rule(
        failure=st.sampled_from([None, None, ConnectError("offline"), UsageError("unreadable")]),
        seconds=st.sampled_from([0.0, 1.0, 100.0]),
        drain=st.sampled_from([0.0, 3.0, 10_000.0]),
    )
    def change_how_sessions_start(
        self, failure: Error | None, seconds: float, drain: float
    ) -> None:
        """And how long those that start then need to drain."""
        self.failure, self.start_time, self.drain = failure, seconds, drain

    @rule(choice=CHOICES, messages=st.sampled_from([5, 500, 50_000]), wait=SECONDS)
    @precondition(lambda self: self.alive())
    def carry(self, choice: int, messages: int, wait: float) -> None:
        self.alive()[-1 - choice % len(self.alive())].messages += messages
        self.wait(wait)

    def wait(self, seconds: float) -> None:
        tries = self.tries
        self.loop.run_until_complete(asyncio.sleep(seconds))
        assert self.tries - tries <= 25 + seconds / (MAX_DELAY / 2)
        if seconds > STALL_TIME and not self.ended:
            self.check_waiting()
        if seconds > WAIT_TIMEOUT and not self.ended:
            self.check_age()

    # --- what always holds

    @invariant()
    def nothing_goes_wrong_unseen(self) -> None:
        assert not self.troubles

    @invariant()
    def no_connection_waits_for_ever(self) -> None:
        for connection in self.connections:
            if connection.waits:
                assert self.loop.time() <= connection.dialled_at + WAIT_TIMEOUT + SOON

    @invariant()
    def sessions_are_bounded(self) -> None:
        if self.pool is not None:
            assert self.pool.sessions <= self.lasting() <= self.most
            assert self.starting <= (1 if self.width == 1 else 1 + STARTS_AT_ONCE)
            assert self.max_restarts is None or self.restarted <= self.max_restarts
            assert self.width > 1 or self.restarted == len(self.sessions) - 1

    @invariant()
    def restarts_are_told(self) -> None:
        if self.pool is not None:
            started = (event for event in self.events if isinstance(event, Restarted | Widened))
            told = [event.session_id for event in started]
            assert told == [session.session_id for session in self.sessions[1:]]
            assert self.width > 1 or self.pool.session_id == self.sessions[-1].session_id

    @invariant()
    def nobody_waits_for_what_never_comes(self) -> None:
        assert not (self.ended and any(connection.waits for connection in self.connections))

    @invariant()
    def the_newest_session_is_kept(self) -> None:
        if self.width == 1 and not self.ended and self.sessions and self.sessions[-1].lives:
            assert self.sessions[-1].closed_at is None

    @invariant()
    def what_is_not_needed_is_terminated(self) -> None:
        now = self.loop.time()
        for session in self.sessions:
            if session.closed_at is not None and session.lives:
                assert not session.open
                assert now <= session.closed_at + RETIRED_DRAIN_TIMEOUT + SOON

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and self.pool is not None:
                if self.heals:
                    self.heal()
                elif alive := self.alive():
                    alive[-1].roomy = False
                    self.do(self.dial_one)
                self.loop.run_until_complete(self.close_pool(self.pool))
        finally:
            self.bound.stop()
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_until_complete(asyncio.sleep(1000))
            self.loop.close()

    def heal(self) -> None:
        """When sessions work again, so do connections, unless it has been told that it is over."""
        self.failure, self.start_time = None, 0.0
        for session in self.alive():
            session.stalled, session.refusals = False, 0
            self.do(session.make_room)
        self.wait(1000.0)
        assert not any(connection.waits for connection in self.connections)
        if not self.ended:
            assert self.alive()
            connection = self.do(self.dial_one)
            self.wait(2 * STALL_TIME)
            assert connection.made
            if self.max_age is None:
                self.wait(1000.0)
                self.check_width()
                for one in self.connected():
                    self.do(one.hang_up)
                self.wait(1000.0)
                self.check_width()

    def check_width(self) -> None:
        """Those in use, and one to spare; no other that is not in use."""
        fit = self.fit()
        used = sum(bool(session.open) for session in fit)
        wanted = min(used + 1, self.width)
        assert len(fit) >= wanted or self.lasting() >= self.most
        assert len(fit) - used <= max(0, wanted - used)

    async def close_pool(self, pool: SessionPool) -> None:
        began = self.loop.time()
        await pool.close(drain=1.0)
        assert self.loop.time() <= began + 1.0 + TERMINATION + SOON
        await asyncio.sleep(SOON)
        assert not self.starting
        assert all(session.over for session in self.sessions)
        assert all(connection.lost or connection.hung_up for connection in self.connections)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert self.loop.timers() == []
        self.ended = True
        self.dial_one()
        self.nothing_goes_wrong_unseen()

    # --- the model

    async def open_pool(self) -> None:
        self.pool = SessionPool(
            self.start,
            self.events.append,
            width=self.width,
            max_restarts=self.max_restarts,
            max_age=self.max_age,
            clock=self.loop.time,
            random=Random(0),
        )
        self.wait_for_the_end = self.loop.create_task(self.pool.wait_ended())
        self.wait_for_the_end.add_done_callback(self.note_the_end)
        await self.pool.open()

    def note_the_end(self, waiting: asyncio.Task[Error]) -> None:
        self.ended = not waiting.cancelled()

    async def start(self) -> Session:
        if self.ended:
            self.troubles.append({"message": "a session is started after the end"})
        self.starting += 1
        self.tries += 1
        try:
            await asyncio.sleep(self.start_time)
            if self.failure is not None:
                raise self.failure
            session = StandIn(len(self.sessions), self.check_choice, self.drain)
            self.sessions.append(session)
            # Once the pool has it.
            self.loop.call_later(SOON / 2, lambda: self.check_retired(self.unused()))
            return cast(Session, session)
        finally:
            self.starting -= 1

    def do(self, act: Callable[[], Any]) -> Any:
        """Within the loop, and then give it the turns that it needs."""

        async def main() -> Any:
            result = act()
            await asyncio.sleep(SOON)
            return result

        return self.loop.run_until_complete(main())

    def dial_one(self) -> Connection:
        assert self.pool is not None
        connection = Connection(self.loop.time())
        queue = [one for one in self.connections if one.in_queue]
        try:
            connection.dialled = self.pool.dial(connection)
        except Error:
            assert self.pool._ended.done()
        else:
            assert not self.ended
            self.connections.append(connection)
            assert isinstance(connection.dialled, Waiting) or not queue
        return connection

    def check_choice(self, chosen: StandIn) -> None:
        """One that nothing speaks against, with the least load; or else one that must do."""
        fit = self.fit()
        if fit:
            assert chosen in fit
            if not any(session.messages for session in fit):
                roomy = [len(session.open) for session in fit if session.has_room]
                assert len(chosen.open) == min(roomy)
        elif chosen.stalled or chosen.refuses:
            assert chosen is self.pooled()[-1]
            assert not self.can_replace(chosen)

    def can_replace(self, session: StandIn) -> bool:
        """For sure: a destination that refuses is not looked up again too often."""
        assert self.pool is not None
        bounded = self.max_restarts is not None and self.restarted >= self.max_restarts
        # One that is only old is used rather than that the last bytes of another are cut short.
        most = self.pool.sessions if session.stalled else self.lasting()
        return not (bounded or session.refuses or most >= self.most)

    def check_waiting(self) -> None:
        """Who waits does so for a session to start, or for room in the one that is best."""
        if self.trying or not any(connection.waits for connection in self.connections):
            return
        pooled, fit = self.pooled(), self.fit()
        if fit:
            assert not any(session.has_room for session in fit)
        else:
            assert not pooled[-1].has_room
            assert not self.can_replace(pooled[-1])

    def check_age(self) -> None:
        """A session that is too old has a successor, if that is allowed and can start."""
        if self.max_age is None or self.trying or self.lasting() >= self.most:
            return
        self.dial(1, 0.0)
        self.loop.run_until_complete(asyncio.sleep(self.start_time + STALL_TIME))
        pooled = self.pooled()
        if pooled and not self.trying and not self.fit() and self.can_replace(pooled[-1]):
            assert pooled[-1].age < self.max_age + self.start_time + STALL_TIME

    @property
    def trying(self) -> bool:
        """Whether a session is to start that has not."""
        kinds = [type(one) for one in self.events if isinstance(one, Restarting | Restarted)]
        return kinds[-1:] == [Restarting] or self.starting > 0

    @property
    def restarted(self) -> int:
        return sum(isinstance(event, Restarted) for event in self.events)

    @property
    def most(self) -> int:
        return MAX_SESSIONS + self.width - 1

    def fit(self) -> list[StandIn]:
        """Those that may get a new connection."""
        return [session for session in self.pooled() if self.is_fit(session)][-self.width :]

    def unused(self) -> list[StandIn]:
        return [session for session in self.pooled() if not session.open]

    def check_retired(self, unused: list[StandIn]) -> None:
        """Who has lost its last connection is closed, unless the next may come to it."""
        pooled = self.pooled()
        for session in unused:
            assert session.closed_at is not None or session in (pooled[-1], *self.fit())

    def is_fit(self, session: StandIn, *, any_age: bool = False) -> bool:
        old = self.max_age is not None and session.age >= self.max_age
        return not (session.stalled or session.refuses or (old and not any_age))

    def alive(self) -> list[StandIn]:
        return [session for session in self.sessions if session.lives]

    def lasting(self) -> int:
        """How many are alive and will be for long."""
        return sum(not session.hurries for session in self.alive())

    def pooled(self) -> list[StandIn]:
        return [session for session in self.alive() if session.closed_at is None]

    def connected(self) -> list[Connection]:
        return [one for one in self.connections if not one.lost and not one.hung_up]


TestPool = Pool.TestCase
TestPool.settings = settings(
    max_examples=max(300, settings().max_examples), stateful_step_count=40, deadline=None
)
