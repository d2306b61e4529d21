"""Services: a forward or a proxy with all that it needs, from its start to an orderly end.

Each may be run again after it has failed; its counts go on.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol

from .aws import Client
from .config import NamedProxy
from .destination import Destination, in_url
from .dialer import IDLE_TIME, MAX_SESSIONS, Dialer, refused
from .errors import ConnectError, DestinationRefused, Error, UsageError
from .events import Closed, Event, Listening
from .forward import Listener, Server
from .forwards import Forward, Request
from .pac import pac_file
from .pool import SessionPool
from .protocol.reconnect import MAX_REFUSALS
from .proxy import HTTP, SOCKS, ProxyServer
from .rules import Rules
from .runner import finish, unless
from .session import DRAIN_TIMEOUT, Session
from .snapshot import Snapshot, State
from .tally import Tally
from .target import open_port_session

# How long connections that are open may go on after a stop was asked for.
DRAIN_TIME = 3.0


class Totals(NamedTuple):
    """What only grows; bytes and messages."""

    accepted: int = 0
    sent: int = 0
    received: int = 0
    retransmissions: int = 0


class Sessions(Protocol):
    """What a pool and a dialer can tell."""

    @property
    def sessions(self) -> int:
        """How many there are."""

    @property
    def round_trip_time(self) -> float | None:
        """Of the one that was used last, in seconds."""

    @property
    def retransmissions(self) -> int:
        """How many messages went out again."""


class Service:
    """What a forward and a proxy have in common: they run, and can be looked at meanwhile."""

    kind = ""

    def __init__(
        self, client: Client, request: Request, destination: str, on_event: Callable[[Event], None]
    ) -> None:
        self._client = client
        self._request = request
        self._on_event = on_event
        self._tally = Tally()
        self._past = Totals()  # of earlier runs
        self._sessions: Sessions | None = None
        self._servers: list[Server] = []
        self._is_open = False
        self.ended: Error | None = None  # why, when it was not stopped
        self.drain_time = DRAIN_TIME
        self.numbers: Iterator[int] = count(1)  # of its connections, in events
        self.target = request.target
        self.destination = destination

    async def run(self, stop: asyncio.Event) -> bool:
        """Run until ``stop``; True then, and False when it has ended before.

        Raises Error when it can't start, with nothing left behind.
        """
        raise NotImplementedError

    @property
    def state(self) -> State:
        """How it is while it runs."""
        raise NotImplementedError

    def snapshot(self, name: str, state: State | None = None) -> Snapshot:
        """All of it at this moment; ``state`` is for one that does not run."""
        tally, sessions, servers = self._tally, self._sessions, self._servers
        totals = self._totals()
        return Snapshot(
            name=name,
            kind=self.kind,
            target=self.target,
            destination=self.destination,
            state=state or self.state,
            addresses=tuple(place for server in servers for place in server.places),
            sessions=sessions.sessions if sessions else 0,
            connections=sum(server.connections for server in servers),
            accepted=totals.accepted,
            sent=totals.sent,
            received=totals.received,
            round_trip_time=sessions.round_trip_time if sessions else None,
            retransmissions=totals.retransmissions,
            resumes=tally.resumes,
            restarts=tally.restarts,
            errors=dict(tally.errors),
            last_error=tally.last_error,
        )

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What is listened on."""
        return tuple(sock for server in self._servers for sock in server.sockets)

    def tell(self, event: Event, *, again: bool = False) -> None:
        """Count ``event``, and pass it on, unless the same was told before."""
        self._tally.add(event)
        if not again:
            self._on_event(event)

    async def _open(
        self, target: str, port: int | None, host: str | None, request: Request
    ) -> Session:
        session = await open_port_session(
            self._client,
            target,
            port=port,
            host=host,
            document=request.document,
            parameters=request.parameters,
            reason=request.reason,
            resume_timeout=request.resume_timeout,
            keep_alive=request.keep_alive,
            on_event=self.tell,
        )
        self._client.stop_asking()
        return session

    async def _close(self, close_sessions: Callable[..., Coroutine[Any, Any, None]]) -> None:
        """Accept no more, let connections end, and then the sessions."""
        for server in self._servers:
            server.close()
        closing = [server.wait_closed(self.drain_time) for server in self._servers]
        # What had no time to finish has none to arrive, either.
        left = any(await asyncio.gather(*closing)) and self._is_open
        drain = DRAIN_TIMEOUT if left else 0.0
        await close_sessions(drain=drain)
        if self._sessions is not None:
            self._past = self._totals()
        self._sessions = None
        self._servers = []
        self._is_open = False

    def _totals(self) -> Totals:
        """Of this run and the earlier ones."""
        past, sessions, servers = self._past, self._sessions, self._servers
        return Totals(
            past.accepted + sum(server.accepted for server in servers),
            past.sent + sum(server.sent for server in servers),
            past.received + sum(server.received for server in servers),
            past.retransmissions + (sessions.retransmissions if sessions else 0),
        )


class ForwardService(Service):
    """A listener and the sessions behind it."""

    kind = "forward"

    def __init__(
        self, client: Client, request: Request, forward: Forward, on_event: Callable[[Event], None]
    ) -> None:
        super().__init__(client, request, forward.destination(request.target), on_event)
        self._forward = forward
        self._pool: SessionPool | None = None

    async def run(self, stop: asyncio.Event) -> bool:
        """As Service.run."""
        pool = self._make_pool()
        listener = Listener(pool.dial, self.destination, self.tell, self.numbers)
        # Before a session is started: one that can't listen needs none.
        self._bind(listener)
        self._sessions = self._pool = pool
        self._servers = [listener]
        self.ended = None
        try:
            if await unless(stop, pool.open()) is None:
                return True
            if self._request.check and await unless(stop, self._check(pool)) is None:
                return True
            await listener.listen()
            self._is_open = True
            where = listener.address, listener.port, pool.session_id
            self.tell(Listening(*where, self.target, self.destination))
            self.ended = await unless(stop, pool.wait_ended())
        finally:
            # When another forward fails, this one is cancelled; its session is ended all the same.
            await finish(self._close(pool.close))
        self.tell(Closed(pool.session_id, str(self.ended or "stopped")))
        return self.ended is None

    @property
    def state(self) -> State:
        """As Service.state."""
        if not self._is_open or self._pool is None:
            return State.STARTING
        if not self._pool.sessions:
            return State.RESTARTING
        return State.RESUMING if self._pool.interrupted else State.UP

    def _make_pool(self) -> SessionPool:
        request, forward = self._request, self._forward
        return SessionPool(
            lambda: self._open(request.target, forward.remote, forward.host, request),
            self.tell,
            width=request.sessions,
            max_restarts=request.max_restarts,
            max_age=request.max_session_age,
            # The target looks up a name once in a session; an address is the same in the next.
            max_refusals=MAX_REFUSALS if forward.names_host or request.document else None,
        )

    def _bind(self, listener: Listener) -> None:
        if isinstance(self._forward.local, int):
            listener.bind_tcp(self._forward.bind, self._forward.local)
        else:
            listener.bind_unix(self._forward.local)

    async def _check(self, pool: SessionPool) -> bool:
        """True. Raises ConnectError when the destination does not answer, or can't be asked."""
        try:
            told = await pool.probe()
        except DestinationRefused as error:
            raise refused(self.destination) from error
        if not told:
            raise ConnectError(f"cannot check {self.destination}: the agent is too old to tell")
        return True


class ProxyService(Service):
    """A SOCKS proxy, an HTTP proxy, or both, with a session for each destination in use."""

    kind = "proxy"

    def __init__(
        self, client: Client, proxy: NamedProxy, on_event: Callable[[Event], None]
    ) -> None:
        """Raises UsageError for rules that can't be read."""
        super().__init__(client, proxy.request, "*", on_event)
        self._proxy = proxy
        self._rules = Rules(proxy.allow, proxy.deny, proxy.routes, proxy.request.target or None)
        self._listening: dict[str, ProxyServer] = {}

    async def run(self, stop: asyncio.Event) -> bool:
        """As Service.run."""
        _ = self._client.region  # without one, no connection could ever be made
        credentials = self._credentials()
        dialer = self._make_dialer()
        self._sessions = dialer
        self._listening.clear()
        try:
            for kind, port in self._ports():
                server = ProxyServer(
                    dialer,
                    kind=kind,
                    credentials=credentials,
                    on_event=self.tell,
                    pac=self._pac,
                    numbers=self.numbers,
                )
                self._servers.append(server)
                await server.listen_tcp(self._proxy.bind, port)
                self._listening[kind] = server
                self.tell(Listening(server.address, server.port, "", self.target, "*", kind))
            self._is_open = True
            await stop.wait()
        finally:
            await finish(self._close(dialer.close))
        self.tell(Closed("", "stopped"))
        return True

    @property
    def state(self) -> State:
        """As Service.state."""
        return State.UP if self._is_open else State.STARTING

    def _make_dialer(self) -> Dialer:
        given = self._proxy
        return Dialer(
            self._start,
            self.tell,
            check=self._rules.target_of,
            max_sessions=MAX_SESSIONS if given.max_sessions is None else given.max_sessions,
            width=given.request.sessions,
            idle_time=IDLE_TIME if given.idle is None else given.idle,
            max_age=given.request.max_session_age,
        )

    async def _start(self, destination: Destination) -> Session:
        target = self._rules.target_of(destination)
        return await self._open(target, destination.port, destination.host, self._request)

    def _pac(self, host: str) -> str:
        """What a browser is to know that reaches this machine at ``host``."""
        places = {kind: f"{in_url(host)}:{server.port}" for kind, server in self._listening.items()}
        return pac_file(self._rules, socks=places.get(SOCKS), http=places.get(HTTP))

    def _ports(self) -> Iterator[tuple[str, int]]:
        if self._proxy.socks is not None:
            yield SOCKS, self._proxy.socks
        if self._proxy.http is not None:
            yield HTTP, self._proxy.http

    def _credentials(self) -> tuple[str, str] | None:
        """User name and password; the latter from the environment. Raises UsageError."""
        user, variable = self._proxy.user, self._proxy.password_env
        if user is None or variable is None:
            return None
        password = os.environ.get(variable)
        if not password:
            raise UsageError(f"the password of the proxy's user is to be in {variable}: not set")
        return user, password
