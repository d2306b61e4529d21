"""A Dialer in virtual time: connections, destinations and sessions do anything in any order.

The sessions are stand-ins: what they need of AWS and of an agent is not there, only what a pool and
a dialer see of them. Real ones are in tests/io/test_dialer.py.
"""

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from functools import partial
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.destination import Destination
from ssmnet.dialer import IDLE_TIME, NOT_FOUND_TIME, SILENT_TIME, Dialer
from ssmnet.errors import (
    ConnectError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
    SessionClosed,
    TargetNotConnected,
)
from ssmnet.outlet import explain
from ssmnet.pool import WAIT_TIMEOUT
from ssmnet.protocol.events import SessionReady
from ssmnet.session import DRAIN_TIMEOUT, PROBE_TIMEOUT, Session
from ssmnet.testing.clock import VirtualLoop
from ssmnet.transport import StreamTransport

CHOICES = st.integers(0, 1000)  # of one among however many there are
HOSTS = 6
MAX_SESSIONS = 3
ROUND_TRIP = 0.05
TERMINATION = 0.2  # how long a session takes to be terminated
MAX_START = 10.0
SECONDS = st.sampled_from([0.0, 0.02, 0.5, 6.0, 16.0, 31.0, 61.0])
# To be admitted, to start, to ask, to be connected; and once more when the session has just ended.
PATIENCE = 2 * (2 * WAIT_TIMEOUT + MAX_START + PROBE_TIMEOUT + 1.0)


class State(Enum):
    """Of a destination."""

    FINE = auto()
    REFUSES = auto()
    SILENT = auto()
    FORBIDDEN = auto()
    UNKNOWN = auto()


SAID = {
    State.FORBIDDEN: "Forwarding to IP address 169.254.169.254 is forbidden.",
    State.UNKNOWN: "lookup nowhere on 10.0.0.2:53: no such host",
}
RAISED = {
    State.REFUSES: DestinationRefused,
    State.SILENT: DestinationRefused,
    State.FORBIDDEN: DestinationForbidden,
    State.UNKNOWN: DestinationNotFound,
}


class Stream:
    """A stream of a stand-in."""

    def __init__(self, session: "StandIn", protocol: asyncio.Protocol) -> None:
        self.session, self.protocol = session, protocol
        session.loop.call_soon(self.open)

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol

    def open(self) -> None:
        if self in self.session.open:
            self.protocol.connection_made(cast(asyncio.Transport, self))
            self.session.loop.call_later(ROUND_TRIP, self.dialled)

    def dialled(self) -> None:
        if self in self.session.open and self.session.state() is State.REFUSES:
            self.session.refusals += 1
            self.close(DestinationRefused("refused"))

    def abort(self) -> None:
        self.close(None)

    def close(self, error: Error | None) -> None:
        if self in self.session.open:
            self.session.open.remove(self)
            self.session.loop.call_soon(self.protocol.connection_lost, error)
            if not self.session.open:
                self.session.on_unused(cast(Session, self.session))


class StandIn:
    """What a dialer and a pool see of a Session."""

    multiplexed = True
    stalled = False
    messages = retransmissions = 0
    round_trip_time = ROUND_TRIP

    def __init__(
        self,
        number: int,
        destination: Destination,
        state: Callable[[], State],
        cut: Callable[[], None],
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._cut = cut
        self.session_id = f"session-{number}"
        self.destination = destination
        self.state = state
        self.opened_at = self.loop.time()
        self.on_unused: Callable[[Session], None] = lambda _: None
        self.on_resumed: Callable[[], None] = lambda: None
        self.on_ready: Callable[[SessionReady], None] = lambda _: None
        self.refusals = 0
        self.open: list[Stream] = []
        self.over = False  # terminated
        self._ended: asyncio.Future[Error] = self.loop.create_future()

    @property
    def streams(self) -> int:
        return len(self.open)

    @property
    def ended(self) -> Error | None:
        return self._ended.result() if self._ended.done() else None

    @property
    def has_room(self) -> bool:
        return not self._ended.done()

    def call_when_roomy(self, callback: Callable[[], None]) -> None:
        """It has room until it ends."""

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        assert self.has_room
        stream = Stream(self, protocol)
        self.open.append(stream)
        return cast(StreamTransport, stream)

    async def probe(self, timeout: float) -> bool:
        silent = self.state() is State.SILENT
        await asyncio.wait((self._ended,), timeout=timeout if silent else ROUND_TRIP)
        if self._ended.done():
            raise self._ended.result()
        if silent:
            raise ConnectError("no answer")
        if self.state() is State.REFUSES:
            self.refusals += 1
            raise DestinationRefused("refused")
        return True

    async def wait_ended(self) -> Error:
        return await asyncio.shield(self._ended)

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        if self.open:
            self._cut()
        self.end(SessionClosed("closed"))
        if not self.over:
            await asyncio.sleep(TERMINATION)
            self.over = True

    def end(self, error: Error) -> None:
        if not self._ended.done():
            self._ended.set_result(error)
            streams, self.open = self.open, []
            for stream in streams:
                self.loop.call_soon(stream.protocol.connection_lost, error)


class Connection(asyncio.Protocol):
    """One that is told at the most once of each, in this order."""

    def __init__(self, destination: Destination, now: float) -> None:
        self.destination = destination
        self.began = now
        self.task: asyncio.Task[asyncio.Transport] | None = None
        self.stream: Stream | None = None
        self.made = self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert not self.made
        assert not self.lost
        self.made = True
        self.stream = cast(Stream, transport)
        assert self.stream.session.destination == self.destination

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.made
        assert not self.lost
        self.lost = True

    @property
    def comes_about(self) -> bool:
        return self.task is not None and not self.task.done()

    @property
    def error(self) -> BaseException | None:
        assert self.task is not None
        return None if self.task.cancelled() else self.task.exception()


class ManyDestinations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()
        self.troubles: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.troubles.append(context))
        self.states = dict.fromkeys(
            (Destination(f"host-{number}", 80) for number in range(HOSTS)), State.FINE
        )
        self.destinations = list(self.states)
        self.sessions: list[StandIn] = []
        self.connections: list[Connection] = []
        self.starting = 0
        self.closing = False
        self.start_time = 0.5
        self.start_error: Error | None = None

    @initialize()
    def begin(self) -> None:
        async def make() -> Dialer:
            return Dialer(self.start, max_sessions=MAX_SESSIONS, clock=self.loop.time)

        self.dialer = self.loop.run_until_complete(make())

    async def start(self, destination: Destination) -> Session:
        self.starting += 1
        self.check_bound()
        try:
            await asyncio.sleep(self.start_time)
        except asyncio.CancelledError:
            await asyncio.sleep(TERMINATION)  # AWS has started it
            raise
        finally:
            self.starting -= 1
        if self.start_error is not None:
            raise self.start_error
        session = StandIn(
            len(self.sessions), destination, lambda: self.states[destination], self.cut_connections
        )
        self.sessions.append(session)
        said = SAID.get(self.states[destination])
        if said is not None:
            self.loop.call_later(ROUND_TRIP / 2, session.end, SessionClosed("closed", output=said))
            session.over = True
        return cast(Session, session)

    def cut_connections(self) -> None:
        """A session is closed that is in use."""
        if not self.closing:
            self.troubles.append({"message": "connections were cut"})

    # --- what happens

    @rule(choice=CHOICES, amount=st.integers(1, 3), wait=SECONDS)
    def connect(self, choice: int, amount: int, wait: float) -> None:
        destination = self.destinations[choice % HOSTS]
        self.do(lambda: [self.connect_one(destination) for _ in range(amount)])
        self.wait(wait)

    @rule(wait=SECONDS)
    def connect_to_all(self, wait: float) -> None:
        self.do(lambda: [self.connect_one(one) for one in self.destinations])
        self.wait(wait)

    @rule(choice=CHOICES, all_of_it=st.booleans(), wait=SECONDS)
    @precondition(lambda self: self.coming())
    def cancel(self, choice: int, all_of_it: bool, wait: float) -> None:
        one = self.coming()[choice % len(self.coming())]
        others = [other for other in self.coming() if other.destination == one.destination]
        self.do(
            lambda: [
                other.task.cancel()
                for other in (others if all_of_it else [one])
                if other.task is not None
            ]
        )
        self.wait(wait)

    @rule(choice=CHOICES, wait=SECONDS)
    @precondition(lambda self: self.connected())
    def hang_up(self, choice: int, wait: float) -> None:
        stream = self.connected()[choice % len(self.connected())].stream
        assert stream is not None
        self.do(stream.abort)
        self.wait(wait)

    @rule(choice=CHOICES, named=st.booleans(), again=st.booleans(), wait=SECONDS)
    @precondition(lambda self: self.alive())
    def end_one(self, choice: int, named: bool, again: bool, wait: float) -> None:
        """With a connection that comes at the same moment, or not."""
        session = self.alive()[choice % len(self.alive())]
        session.over = True

        def end() -> None:
            session.end(SessionClosed("it is over", output="a reason" if named else ""))
            if again:
                self.connect_one(session.destination)

        self.do(end)
        self.wait(wait)

    @rule(choice=CHOICES, state=st.sampled_from(State), wait=SECONDS)
    def change_destination(self, choice: int, state: State, wait: float) -> None:
        self.states[self.destinations[choice % HOSTS]] = state
        self.wait(wait)

    @rule(
        error=st.sampled_from([None, None, TargetNotConnected("offline")]),
        seconds=st.sampled_from([0.0, 0.5, MAX_START]),
    )
    def change_start(self, error: Error | None, seconds: float) -> None:
        self.start_error, self.start_time = error, seconds

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @rule()
    @precondition(lambda self: not self.connected() and not self.coming())
    def rest(self) -> None:
        """Whatever is not used is given up."""
        self.wait(IDLE_TIME + 2 * MAX_START)
        assert not self.alive()
        assert self.dialer.destinations == self.dialer.sessions == 0

    # --- what always holds

    @invariant()
    def nothing_goes_wrong_unseen(self) -> None:
        assert not self.troubles

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        for connection in self.coming():
            assert self.loop.time() <= connection.began + PATIENCE

    @invariant()
    def who_has_a_stream_was_told_so(self) -> None:
        for connection in self.connections:
            if not connection.comes_about and connection.error is not None:
                assert isinstance(connection.error, Error)
                assert not connection.made

    @invariant()
    def sessions_are_bounded(self) -> None:
        self.check_bound()

    def check_bound(self) -> None:
        assert len(self.alive()) + self.starting <= MAX_SESSIONS

    def teardown(self) -> None:
        try:
            if hasattr(self, "dialer"):
                self.check_the_truth()
                self.check_the_end()
        finally:
            self.loop.close()

    def check_the_truth(self) -> None:
        """In the end every destination is told of as it is."""
        self.start_error, self.start_time = None, 0.5
        self.wait(PATIENCE + max(SILENT_TIME, NOT_FOUND_TIME))
        assert not self.coming()
        self.hang_up_all()
        self.wait(IDLE_TIME + MAX_START)
        for destination, state in self.states.items():
            self.do(partial(self.connect_one, destination))
            self.wait(WAIT_TIMEOUT)
            connection = self.connections[-1]
            expected = RAISED.get(state)
            if expected is None or connection.lost:
                assert connection.error is None
            else:
                assert isinstance(connection.error, expected), (state, connection.error)
            self.hang_up_all()

    def check_the_end(self) -> None:
        self.connect_to_all(0.02)
        self.closing = True
        self.loop.run_until_complete(self.dialer.close())
        self.wait(0.001)
        assert not self.coming()
        assert not self.alive()
        assert not self.connected()
        assert not asyncio.all_tasks(self.loop)
        assert not self.troubles
        assert not self.loop.timers()

    # --- how

    def hang_up_all(self) -> None:
        for connection in self.connected():
            assert connection.stream is not None
            self.do(connection.stream.abort)

    def do(self, action: Callable[[], Any]) -> Any:
        async def act() -> Any:
            return action()

        return self.loop.run_until_complete(act())

    def connect_one(self, destination: Destination) -> Connection:
        connection = Connection(destination, self.loop.time())
        connection.task = self.loop.create_task(self.dialer.connect(connection, destination))
        self.connections.append(connection)
        return connection

    def coming(self) -> list[Connection]:
        return [one for one in self.connections if one.comes_about]

    def connected(self) -> list[Connection]:
        return [one for one in self.connections if one.made and not one.lost]

    def alive(self) -> list[StandIn]:
        return [one for one in self.sessions if not (one.over and one.ended is not None)]


TestManyDestinations = ManyDestinations.TestCase
TestManyDestinations.settings = settings(
    max_examples=max(60, settings().max_examples), stateful_step_count=25, deadline=None
)


@pytest.mark.parametrize("size", [60, 188, 248])
def test_a_name_that_is_not_found_may_be_long(size: int) -> None:
    destination = Destination("x" * size, 80)
    said = f"lookup {destination.host} on 10.0.0.2:53: no such host"
    found = explain(SessionClosed("the session was closed", output=said), destination)
    assert isinstance(found, DestinationNotFound)
    assert len(str(found)) < 600
