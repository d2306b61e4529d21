"""Faults on demand: what can happen to sessions and their links, made to happen now."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .api import Api
from .impairment import MAX_SECONDS, Impairment, check
from .policing import Policing
from .relay import Session
from .ssm import Ssm

# A WebSocket that ends with this code has ended without a close frame.
ABNORMAL_CLOSURE = 1006
# Codes that a close frame may carry: RFC 6455, section 7.4, and its registry.
_CLOSE_CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))
# What a control frame holds besides the code, in bytes.
_MAX_REASON = 123


class Faults:
    """Works on all ``sessions`` there are. Everything raises ValueError for what makes no sense."""

    def __init__(self, sessions: Mapping[str, Session], api: Api, ssm: Ssm) -> None:
        self.fail_next = api.fail_next
        self._sessions = sessions
        self._ssm = ssm
        self._impairment: Impairment | None = None
        self._healing: asyncio.TimerHandle | None = None
        self._policing = Policing()
        self._reachable = asyncio.Event()
        self._reachable.set()
        self._reaching: asyncio.TimerHandle | None = None

    # The gateway calls these.

    def session_opened(self, session: Session) -> None:
        """A new session has its share of what lasts."""
        if self._impairment is not None:
            session.impair(self._impairment)
        session.police(self._policing)

    async def wait_reachable(self) -> None:
        """Wait until new WebSockets get an answer."""
        await self._reachable.wait()

    def close(self) -> None:
        """Nothing lasts."""
        self.impair(Impairment())
        self._reach()

    # The faults; loopback.Loopback describes them.

    def cut_clients(self) -> None:
        """Reset every client's WebSocket."""
        for session in self._sessions.values():
            if session.client is not None:
                session.client.abort()

    def close_clients(self, code: int, reason: str) -> None:
        """Close every client's WebSocket."""
        if code == ABNORMAL_CLOSURE:
            self.cut_clients()
            return
        if code not in _CLOSE_CODES:
            raise ValueError(f"no WebSocket is closed with code {code}")
        if len(reason.encode()) > _MAX_REASON:
            raise ValueError(f"the reason is longer than {_MAX_REASON} bytes")
        for session in self._sessions.values():
            if session.client is not None:
                session.client.close(code, reason)

    def blackhole_clients(self, seconds: float, *, new: bool) -> None:
        """Let nothing pass on clients' WebSockets, and let no ``new`` ones come about."""
        check("seconds", seconds, MAX_SECONDS)
        for session in self._sessions.values():
            if session.client is not None:
                session.client.hold(seconds)
        if new:
            self._reach()
            self._reachable.clear()
            self._reaching = asyncio.get_running_loop().call_later(seconds, self._reach)

    def impair(self, impairment: Impairment) -> None:
        """Make the network of all sessions as bad as that; the next call replaces it."""
        if self._healing is not None:
            self._healing.cancel()
            self._healing = None
        self._impairment = impairment
        # What arrives at once may be the end of a session.
        for session in list(self._sessions.values()):
            session.impair(impairment)
        if impairment.seconds is not None:
            self._healing = asyncio.get_running_loop().call_later(
                impairment.seconds, self.impair, Impairment()
            )

    def police(self, policing: Policing) -> None:
        """Take no more of any WebSocket; the next call replaces it."""
        self._policing = policing
        for session in list(self._sessions.values()):
            session.police(policing)

    def kill_agents(self) -> None:
        """End every agent without a word."""
        for session in list(self._sessions.values()):
            session.kill_agent()

    def expire_tokens(self, also_next: int) -> None:
        """Spoil every client's token, and so many that are yet to be handed out."""
        check("also_next", also_next, 10_000)
        for session in self._sessions.values():
            session.renew_client_token()
        self._ssm.expire_next(also_next)

    def end_sessions(self, output: str) -> None:
        """End every session."""
        for session in list(self._sessions.values()):
            session.end(output)

    def _reach(self) -> None:
        if self._reaching is not None:
            self._reaching.cancel()
            self._reaching = None
        self._reachable.set()
