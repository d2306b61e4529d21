"""One session in the gateway: it joins the client's side and the agent's.

A message passes from one side to the other as it came, unless its type has no business there. What
one side does not take makes the other stop. While the client is away the agent is told so, and
what it sends all the same is lost, as on the wire.

Between the sides are a Policer and a Line each way, which only do something when told so: the
gateway polices, the network is impaired.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from uuid import UUID

from ..protocol.message import AgentMessage, MessageType, message_ids
from .documents import SessionRequest
from .impairment import Impairment, Line
from .lifetime import Lifetime, Limits
from .policing import OVERFLOW, Policer, Policing
from .websocket import WebSocketSide

_TYPE = slice(4, 36)
_FROM_CLIENT = frozenset(
    kind.encode().ljust(32) for kind in (MessageType.INPUT_STREAM_DATA, MessageType.ACKNOWLEDGE)
)
_FROM_AGENT = frozenset(
    kind.encode().ljust(32) for kind in (MessageType.OUTPUT_STREAM_DATA, MessageType.ACKNOWLEDGE)
)
_STREAM_DATA = frozenset(
    kind.encode().ljust(32)
    for kind in (MessageType.INPUT_STREAM_DATA, MessageType.OUTPUT_STREAM_DATA)
)
_AGENT_SESSION_STATE = MessageType.AGENT_SESSION_STATE.encode().ljust(32)


class AgentSide(Protocol):
    """A session's agent, in this process or behind a WebSocket."""

    def send(self, data: bytes) -> None:
        """Pass a binary message to the agent."""

    def block(self, blocked: bool) -> None:
        """The client takes nothing: stop sending to it, or go on."""

    def close(self) -> None:
        """The session is over."""

    def abort(self) -> None:
        """Let go of it at once."""


class Session:
    """One session: its tokens, its sides, and what is between them.

    ``over(session)`` is called once, when the session has ended.
    """

    def __init__(
        self,
        session_id: str,
        *,
        target: str,
        request: SessionRequest,
        limits: Limits,
        over: Callable[[Session], None],
    ) -> None:
        self.id = session_id
        self.target = target
        self.request = request
        self.client_token = new_token()
        self.agent_token = new_token()
        self.client: WebSocketSide | None = None
        self.agent: AgentSide | None = None
        self.agent_started = False
        self.ended = False
        # Messages that had no business here, or nobody to go to.
        self.dropped = 0
        self._over = over
        self._agent_full = False
        self._client_full = False
        self._lifetime = Lifetime(limits, self.end)
        self._to_agent = Line(self._pass_to_agent, self._set_flow)
        self._to_client = Line(self._pass_to_client, self._set_flow)
        self._taken_from_client = Policer(self._to_agent, self._overflowed)
        self._taken_from_agent = Policer(self._to_client, self._overflowed)

    def role_of(self, token: str) -> str | None:
        """Whose token that is: ``"client"``, ``"agent"``, or nobody's."""
        found: str | None = None
        for role, expected in (("client", self.client_token), ("agent", self.agent_token)):
            if hmac.compare_digest(token.encode(), expected.encode()):
                found = role
        return found

    def renew_client_token(self) -> str:
        """A fresh token for the client; the old one is good for nothing from now on."""
        self.client_token = new_token()
        return self.client_token

    def impair(self, impairment: Impairment) -> None:
        """What passes from now on does so over a bad network, or a good one again."""
        self._to_agent.impair(impairment.path("to_agent"))
        self._to_client.impair(impairment.path("to_client"))

    def police(self, policing: Policing) -> None:
        """Take no more than that of each WebSocket."""
        for direction, policer in (
            ("to_agent", self._taken_from_client),
            ("to_client", self._taken_from_agent),
        ):
            policed = policing.direction in ("both", direction)
            policer.police(policing.rate if policed else None, policing.queue)

    # The client's side.

    def attach_client(self, side: WebSocketSide) -> None:
        """The client is here, or here again: a new WebSocket replaces the old one."""
        if self.client is not None:
            self.client.close(1000, "replaced")
            self._cut_lines()
        self.client = side
        self._client_full = False
        self._set_flow()
        self._lifetime.client_came()
        if self.agent is not None:
            self.agent.send(_control(MessageType.START_PUBLICATION))

    def detach_client(self, side: WebSocketSide) -> None:
        """The client's WebSocket is gone, or another had replaced it already."""
        if self.client is not side:
            return
        self.client = None
        self._cut_lines()
        self._client_full = False
        self._set_flow()
        if not self.ended:
            self._lifetime.client_left()
        if self.agent is not None:
            self.agent.send(_control(MessageType.PAUSE_PUBLICATION))

    def from_client(self, data: bytes) -> None:
        """A binary message of the client."""
        kind = data[_TYPE]
        if self.agent is None or kind not in _FROM_CLIENT:
            self.dropped += 1
            return
        if kind in _STREAM_DATA:
            self._lifetime.data_passed()
        self._taken_from_client.send(data)

    def client_flow(self, side: WebSocketSide, full: bool) -> None:
        """What goes to the client piles up, or no longer does."""
        if side is self.client:
            self._client_full = full
            self._set_flow()

    # The agent's side.

    def attach_agent(self, side: AgentSide) -> None:
        """The agent is here, or here again."""
        if self.agent is not None:
            self.agent.close()
        elif self.agent_started and self.client is not None:
            self.client.send(_control(MessageType.START_PUBLICATION))
        self.agent_started = True
        self.agent = side
        self._agent_full = False
        self._set_flow()
        self._lifetime.agent_came()
        if self.client is None:
            side.send(_control(MessageType.PAUSE_PUBLICATION))

    def detach_agent(self, side: AgentSide) -> None:
        """The agent is gone."""
        if self.agent is not side:
            return
        self.agent = None
        self._agent_full = False
        self._set_flow()
        if not self.ended:
            self._lifetime.agent_left()
        if self.client is not None:
            self.client.send(_control(MessageType.PAUSE_PUBLICATION))

    def from_agent(self, messages: Iterable[bytes]) -> None:
        """Binary messages of the agent. What it says of its own state is for the gateway alone."""
        for data in messages:
            kind = data[_TYPE]
            if self.client is not None and kind in _FROM_AGENT:
                if kind in _STREAM_DATA:
                    self._lifetime.data_passed()
                self._taken_from_agent.send(data)
            elif kind != _AGENT_SESSION_STATE:
                self.dropped += 1

    def agent_flow(self, side: AgentSide, full: bool) -> None:
        """What goes to the agent piles up, or no longer does."""
        if side is self.agent:
            self._agent_full = full
            self._set_flow()

    def kill_agent(self) -> None:
        """The agent is gone without a word, and so are its destinations' connections."""
        agent = self.agent
        if agent is not None:
            agent.abort()
            self.detach_agent(agent)

    # Between the sides.

    def _pass_to_agent(self, data: bytes) -> None:
        if self.agent is not None:
            self.agent.send(data)

    def _pass_to_client(self, data: bytes) -> None:
        if self.client is not None:
            self.client.send(data)

    def _cut_lines(self) -> None:
        """What is on its way is lost with the client's WebSocket."""
        self._taken_from_client.cut()
        self._taken_from_agent.cut()

    def _overflowed(self) -> None:
        self.end(OVERFLOW)

    def _set_flow(self) -> None:
        """Each side may go on while the other takes what it sends."""
        if self.client is not None:
            self.client.block(self._agent_full or self._to_agent.full)
        if self.agent is not None:
            self.agent.block(self._client_full or self._to_client.full)

    # The end.

    def end(self, output: str) -> None:
        """End the session; ``output`` is the reason that the client is told."""
        if self.ended:
            return
        self.ended = True
        self._lifetime.close()
        self._taken_from_client.flush()
        self._taken_from_agent.flush()
        closing = channel_closed(self.id, self.target, output)
        if self.client is not None:
            self.client.send(closing)
            self.client.close()
        if self.agent is not None:
            self.agent.send(closing)
            self.agent.close()
        self._over(self)


def new_token() -> str:
    """A session token: long, random, safe in JSON and in a header."""
    return secrets.token_urlsafe(180)


def channel_closed(session_id: str, target: str, output: str) -> bytes:
    """The gateway's last message to both sides."""
    content = {
        "MessageType": "channel_closed",
        "MessageId": str(UUID(bytes=os.urandom(16), version=4)),
        "DestinationId": target,
        "SessionId": session_id,
        "SchemaVersion": 1,
        "CreatedDate": str(_milliseconds()),
        "Output": output,
    }
    return _control(MessageType.CHANNEL_CLOSED, json.dumps(content).encode())


def _control(message_type: MessageType, payload: bytes = b"") -> bytes:
    return AgentMessage(
        message_type,
        payload,
        flags=3,
        message_id=next(message_ids(os.urandom(16))),
        created_date=_milliseconds(),
    ).serialize()


def _milliseconds() -> int:
    return time.time_ns() // 1_000_000
