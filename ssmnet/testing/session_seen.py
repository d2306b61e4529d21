"""What a far end saw of each session, for tests to look at."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..loopback.documents import (
    DEFAULT_DOCUMENT,
    INTERACTIVE,
    NON_INTERACTIVE,
    PORT,
    SHELL,
    SessionRequest,
)
from ..loopback.gateway import AgentSettings, Gateway
from ..loopback.lifetime import Limits
from ..loopback.relay import Session
from ..loopback.sigv4 import Credentials

State = Literal["connecting", "connected", "disconnected", "terminated"]

# Sessions; the oldest are forgotten first.
_REMEMBERED = 10_000

_DOCUMENTS = {
    SHELL: DEFAULT_DOCUMENT,
    INTERACTIVE: "AWS-StartInteractiveCommand",
    NON_INTERACTIVE: "AWS-StartNonInteractiveCommand",
}


@dataclass(frozen=True, slots=True)
class SessionSeen:
    """One session as it was when ``SsmLoopback.sessions`` was read."""

    session_id: str
    target: str
    document: str
    """The session document, such as ``"AWS-StartPortForwardingSessionToRemoteHost"``."""
    destination: str | None
    """Where a forward leads: ``"db.internal:5432"``, ``"localhost:22"`` for a port of the instance
    itself, or the path of a unix socket. None for shells and commands."""
    parameters: Mapping[str, str] = field(repr=False)
    """The document's parameters, defaults filled in: ``"portNumber"``, ``"command"``..."""
    state: State
    """As AWS names it: ``"connecting"`` until its WebSocket is open, ``"disconnected"`` while that
    is lost and the session can be resumed, ``"terminated"`` after its end."""
    connections: int
    """How many TCP connections the agent has open for it; 1 for a shell or a command."""

    def __str__(self) -> str:
        leads = f" to {self.destination}" if self.destination else ""
        return f"{self.session_id}: {self.document}{leads}, {self.state}"


class WatchedGateway(Gateway):
    """A gateway that remembers its sessions. ``none_left`` is set while none of them is alive."""

    def __init__(
        self,
        *,
        credentials: Credentials,
        allow_unsigned: bool,
        denied: Container[str],
        agent: AgentSettings,
        limits: Limits,
    ) -> None:
        super().__init__(
            credentials=credentials,
            allow_unsigned=allow_unsigned,
            denied=denied,
            agent=agent,
            limits=limits,
        )
        self.none_left = asyncio.Event()
        self.none_left.set()
        self._seen: dict[str, tuple[str, SessionRequest]] = {}

    def seen(self) -> list[SessionSeen]:
        """Every session, in the order of their start."""
        return [self._look(*one) for one in list(self._seen.items())]

    def _open_session(self, target: str, request: SessionRequest) -> Session:
        session = super()._open_session(target, request)
        self.none_left.clear()
        self._seen[session.id] = target, request
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return session

    def _session_over(self, session: Session) -> None:
        super()._session_over(session)
        if not self.sessions:
            self.none_left.set()

    def _look(self, session_id: str, started: tuple[str, SessionRequest]) -> SessionSeen:
        target, request = started
        agent = self.agents.get(session_id)
        return SessionSeen(
            session_id,
            target=target,
            document=_document(request),
            destination=_destination(request),
            parameters=request.properties,
            state=_state(self.sessions.get(session_id)),
            connections=0 if agent is None else agent.connections,
        )


def _document(request: SessionRequest) -> str:
    """The document that asks for this: the properties of each are others."""
    properties = request.properties
    if request.session_type != PORT:
        return _DOCUMENTS[request.session_type]
    if "type" not in properties:
        return "AWS-StartSSHSession"
    if "localUnixSocket" in properties:
        return "AWS-StartPortForwardingSessionToSocket"
    if "host" in properties:
        return "AWS-StartPortForwardingSessionToRemoteHost"
    return "AWS-StartPortForwardingSession"


def _destination(request: SessionRequest) -> str | None:
    properties = request.properties
    if request.session_type != PORT:
        return None
    host = properties.get("host", "localhost")
    shown = f"[{host}]" if ":" in host else host
    return properties.get("localUnixSocket") or f"{shown}:{properties['portNumber']}"


def _state(session: Session | None) -> State:
    if session is None:
        return "terminated"
    if session.client is not None:
        return "connected"
    return "disconnected" if session.agent_started else "connecting"
