"""Outlet: what leads to one destination, and how a connection gets its stream there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable
from typing import cast

from .destination import Destination
from .errors import (
    ConnectError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
    SessionClosed,
)
from .pool import SessionPool
from .session import Session
from .transport import StreamTransport
from .waiting import Waiting

# Of what the agent says, in characters.
_MAX_OUTPUT = 200
# As it ends a session: its own words, and those of Go's resolver and dialler.
_FORBIDDEN = re.compile(r"Forwarding to IP address .* is forbidden")
_NOT_FOUND = re.compile(r"lookup .*?: ")
_REFUSED = re.compile(r"Unable to connect to specified port|dial tcp")


class Outlet:
    """What leads to a destination, from the first wish for it until it is given up."""

    def __init__(self, destination: Destination) -> None:
        self.destination = destination
        self.users = 0  # connections that are coming about
        self.admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.preparing: asyncio.Task[Error | None] | None = None
        self.pool: SessionPool | None = None
        self.idle_timer: asyncio.TimerHandle | None = None
        self.is_answered = False  # the first question whether it answers
        self.is_proven = False
        self.is_silent = False
        self.is_dropped = False
        self._refusals = 0

    @property
    def connections(self) -> int:
        """How many there are."""
        return 0 if self.pool is None else self.pool.connections

    @property
    def lives(self) -> bool:
        """Whether there is a session."""
        return self.pool is not None and self.pool.sessions > 0

    @property
    def is_quick(self) -> bool:
        """Whether to ask again costs neither a session nor a long wait."""
        return self.lives and not self.is_silent

    @property
    def is_doubtful(self) -> bool:
        """Whether a connection may be refused, as far as is known."""
        if self.pool is None:
            return True
        refusals = self.pool.refusals
        self._refusals = min(self._refusals, refusals)
        return self.lives and (not self.is_proven or refusals > self._refusals)

    async def dial(self, protocol: asyncio.Protocol, timeout: float) -> asyncio.Transport:  # noqa: ASYNC109 - raises
        """A stream to the destination. Raises JustOver, or what else there is instead."""
        if self.pool is None:
            raise SessionClosed("closed")
        dialling = Dialling(protocol)
        dialled: StreamTransport | Waiting | None = None
        try:
            dialled = self.pool.dial(dialling)
            async with asyncio.timeout(timeout):
                return await dialling.wait_opened()
        except BaseException as error:
            if dialled is not None:
                dialled.abort()
            if isinstance(error, SessionClosed) and not self.lives:
                raise JustOver(error) from error
            if isinstance(error, TimeoutError):
                waited = f"within {timeout:g} s"
                raise ConnectError(f"the session had no room for a connection {waited}") from error
            raise

    def prove(self, refusals: int) -> None:
        """It has answered, after so many refusals."""
        self.is_answered = self.is_proven = True
        self.is_silent = False
        self._refusals = refusals


class Dialling(asyncio.Protocol):
    """Gives the stream to ``protocol`` as soon as it is open; until then that hears nothing."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        self._opened: asyncio.Future[asyncio.Transport | Exception] = (
            asyncio.get_running_loop().create_future()
        )

    async def wait_opened(self) -> asyncio.Transport:
        """Return the stream. Raises why there is none."""
        opened = await self._opened
        if isinstance(opened, Exception):
            raise opened
        return opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        transport.set_protocol(self._protocol)
        if not self._opened.done():
            self._opened.set_result(cast(asyncio.Transport, transport))
        self._protocol.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It will not be open."""
        if not self._opened.done():
            self._opened.set_result(exc or SessionClosed("closed"))


class JustOver(Exception):
    """The session has ended, and nobody has noticed before: another may do."""

    def __init__(self, end: SessionClosed) -> None:
        super().__init__(str(end))
        self.end = end


class StartedSessions:
    """The sessions of all outlets, counted. Those that are over count for what they have done."""

    def __init__(self) -> None:
        self._outlets: dict[Session, Outlet] = {}
        self._starting_beside = 0
        self._past_retransmissions = 0

    def __len__(self) -> int:
        """How many there are."""
        self._forget_ended()
        return len(self._outlets)

    @property
    def beside(self) -> int:
        """How many there are, or will be, beside the first of each outlet."""
        return len(self) - len(set(self._outlets.values())) + self._starting_beside

    @property
    def retransmissions(self) -> int:
        """How many messages went out again."""
        self._forget_ended()
        return self._past_retransmissions + sum(one.retransmissions for one in self._outlets)

    def has(self, outlet: Outlet) -> bool:
        """Whether the outlet has one."""
        self._forget_ended()
        return outlet in self._outlets.values()

    async def start(self, outlet: Outlet, starting: Awaitable[Session]) -> Session:
        """One more."""
        beside = self.has(outlet)
        self._starting_beside += beside
        try:
            session = await starting
        finally:
            self._starting_beside -= beside
        self._outlets[session] = outlet
        return session

    def _forget_ended(self) -> None:
        for session in [session for session in self._outlets if session.ended is not None]:
            del self._outlets[session]
            self._past_retransmissions += session.retransmissions


def explain(error: Error, destination: Destination) -> Error:
    """What the end of a session says of its destination."""
    if not isinstance(error, SessionClosed) or not error.output:
        return error
    whole = " ".join(error.output.split())  # a host's name may be longer than what is told
    said = whole[:_MAX_OUTPUT]
    found: Error
    if _FORBIDDEN.match(whole):
        found = DestinationForbidden(f"the target allows no connections to {destination}")
    elif _NOT_FOUND.match(whole):
        found = DestinationNotFound(f"the target cannot find {destination}: {said}")
    elif _REFUSED.match(whole):
        found = DestinationRefused(f"the target could not connect to {destination}: {said}")
    else:
        return error
    found.__cause__ = error
    return found
