"""SessionPool: sessions behind a listener, a new one whenever the last is over.

A session ends for good at its idle time-out or its maximum duration, when its agent restarts or its
instance reboots. The listener stays: connections of the old session are reset, never ended as if
they were complete, and new ones wait for the next session.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from .errors import ConnectError, Error, LocalProtocolError, SessionClosed, UsageError
from .events import Event, Restarted, Restarting
from .protocol.reconnect import BackOff
from .session import DRAIN_TIMEOUT, Session
from .transport import StreamTransport

logger = logging.getLogger("ssmnet.pool")

# How long a connection waits for a session before it is reset.
WAIT_TIMEOUT = 30.0
# A session that the far end gives up with a reason so soon would be followed by others like it: a
# host that is forbidden, or has no address.
SHORT_LIFE = 5.0


class Waiting:
    """A connection that waits for a session. ``abort`` it when it is not needed any more."""

    def __init__(self, protocol: asyncio.Protocol, forget: Callable[[Waiting], None]) -> None:
        self.protocol = protocol
        self._forget = forget
        self._transport: StreamTransport | None = None
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(WAIT_TIMEOUT, self._expire)

    def use(self, session: Session) -> None:
        """There is a session."""
        self._timer.cancel()
        try:
            self._transport = session.create_stream(self.protocol)
        except Error as error:
            self.protocol.connection_lost(error)

    def fail(self, error: Error) -> None:
        """There will be none."""
        self._timer.cancel()
        self.protocol.connection_lost(error)

    def abort(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
        self._forget(self)
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._forget(self)
        self.fail(ConnectError(f"there was no session within {WAIT_TIMEOUT:g} s"))


class SessionPool:
    """Sessions to one destination, one at a time.

    ``start`` opens a session, ready for use. ``max_restarts`` bounds how many may follow the first;
    None for no bound.
    """

    def __init__(
        self,
        start: Callable[[], Awaitable[Session]],
        on_event: Callable[[Event], None],
        *,
        max_restarts: int | None = None,
    ) -> None:
        self._start = start
        self._on_event = on_event
        self._restarts_left = float("inf") if max_restarts is None else max_restarts
        self._session: Session | None = None
        self._session_id = ""
        self._waiting: dict[Waiting, None] = {}
        self._keeper: asyncio.Task[Error] | None = None

    async def open(self) -> str:
        """Start the first session and return its id. Raises what that raises."""
        self._session = await self._start()
        self._session_id = self._session.session_id
        self._keeper = asyncio.get_running_loop().create_task(self._keep(self._session))
        return self._session_id

    @property
    def session_id(self) -> str:
        """AWS's name for the present or the last session."""
        return self._session_id

    async def probe(self) -> bool:
        """As Session.probe, of the present session."""
        if self._session is None:
            raise LocalProtocolError("there is no session to probe")
        return await self._session.probe()

    async def wait_ended(self) -> Error:
        """Wait until there will be no further session, and return why."""
        if self._keeper is None:
            raise LocalProtocolError("the pool is not open")
        return await asyncio.shield(self._keeper)

    def dial(self, protocol: asyncio.Protocol) -> StreamTransport | Waiting:
        """A stream to the destination, at once or when there is a session again.

        Its protocol's ``connection_made`` is called once it is open, ``connection_lost`` if it
        never is. Raises the end of the last session when there will be no other.
        """
        if self._session is not None and self._session.ended is None:
            return self._session.create_stream(protocol)
        if self._keeper is not None and self._keeper.done():
            raise self._keeper.result()
        waiting = Waiting(protocol, self._forget)
        self._waiting[waiting] = None
        return waiting

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        """End everything; the session is terminated. For ``drain`` see Session.close."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait((self._keeper,))
        if self._session is not None:
            await self._session.close(drain=drain)

    def _forget(self, waiting: Waiting) -> None:
        self._waiting.pop(waiting, None)

    async def _keep(self, session: Session) -> Error:
        """See to it that there is a session; why there is none, in the end."""
        back_off = BackOff(random.random)
        while True:
            started = time.monotonic()
            error = await session.wait_ended()
            lived = time.monotonic() - started
            await session.close()
            if self._restarts_left <= 0 or (_has_reason(error) and lived < SHORT_LIFE):
                break
            self._restarts_left -= 1
            if lived >= SHORT_LIFE:
                back_off = BackOff(random.random)
            else:
                await asyncio.sleep(back_off.next_delay())
            try:
                session = await self._restart(error, back_off)
            except UsageError as refused:
                error = refused
                break
        for waiting in self._take_waiting():
            waiting.fail(error)
        return error

    async def _restart(self, cause: Error, back_off: BackOff) -> Session:
        """Try until there is a session. What keeps it from starting may pass: a reboot, a login."""
        started = time.monotonic()
        told = ""
        while True:
            if str(cause) != told:
                told = str(cause)
                self._on_event(Restarting(self._session_id, told))
            try:
                self._session = session = await self._start()
            except UsageError:
                raise
            except Error as error:
                cause = error
                await asyncio.sleep(back_off.next_delay())
                continue
            self._session_id = session.session_id
            self._on_event(Restarted(session.session_id, time.monotonic() - started))
            for waiting in self._take_waiting():
                waiting.use(session)
            return session

    def _take_waiting(self) -> tuple[Waiting, ...]:
        waiting = tuple(self._waiting)
        self._waiting.clear()
        return waiting


def _has_reason(error: Error) -> bool:
    return isinstance(error, SessionClosed) and bool(error.output)
