"""The agent's side of the handshake, and what versions mean to it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from ..protocol.message import decode_json
from .byte_queue import Buffer

# The agent waits this long for the client's response, in seconds.
TIMEOUT = 15.0
_SUCCESS = 1

# An agent above this one multiplexes, and above the others ...
MULTIPLEXING_AFTER_AGENT = "3.0.196.0"
KEEP_ALIVE_OPTIONAL_AFTER_AGENT = "3.1.1511.0"
TERMINATE_FLAG_AFTER_AGENT = "2.3.722.0"
# A client from this one on multiplexes; above the other it wants no keep-alive.
MULTIPLEXING_FROM_CLIENT = "1.1.70"
NO_KEEP_ALIVE_AFTER_CLIENT = "1.2.331.0"


class _Action(msgspec.Struct, rename="pascal"):
    action_type: str
    action_status: int
    error: str | None = None


class _Response(msgspec.Struct, rename="pascal"):
    client_version: str
    processed_client_actions: list[_Action] | None = None


def version(text: str) -> tuple[int, ...]:
    """A dotted version to compare with another; what is no number counts as 0."""
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def multiplexes(agent: str, client: str) -> bool:
    """Whether these two versions speak smux in a LocalPortForwarding session."""
    return version(agent) > version(MULTIPLEXING_AFTER_AGENT) and version(client) >= version(
        MULTIPLEXING_FROM_CLIENT
    )


def keeps_alive(agent: str, client: str) -> bool:
    """Whether the agent's smux sends NOP and wants to hear something every 30 s."""
    return version(agent) <= version(KEEP_ALIVE_OPTIONAL_AFTER_AGENT) or version(client) <= version(
        NO_KEEP_ALIVE_AFTER_CLIENT
    )


def knows_terminate(agent: str) -> bool:
    """Whether that agent ends a session by the TerminateSession flag."""
    return version(agent) > version(TERMINATE_FLAG_AFTER_AGENT)


class Handshake:
    """Request out, response in. ``deadline`` is set by the request."""

    def __init__(
        self, agent_version: str, session_type: str, properties: Mapping[str, str]
    ) -> None:
        self.client_version = ""
        self.complete = False
        self.answered = False
        self.deadline: float | None = None
        self._started_at = 0.0
        self._agent_version = agent_version
        self._session_type = session_type
        self._properties = properties

    def request(self, now: float) -> bytes:
        """The HandshakeRequest payload."""
        self._started_at = now
        self.deadline = now + TIMEOUT
        parameters = {"SessionType": self._session_type, "Properties": dict(self._properties)}
        actions = [{"ActionType": "SessionType", "ActionParameters": parameters}]
        return _encode({"AgentVersion": self._agent_version, "RequestedClientActions": actions})

    def receive_response(self, payload: Buffer) -> str | None:
        """Read the HandshakeResponse; a text when the session can't go on.

        Raises RemoteProtocolError for what is none.
        """
        response = decode_json(payload, _Response)
        self.answered = True
        self.client_version = response.client_version
        for action in response.processed_client_actions or ():
            if action.action_status != _SUCCESS:
                return (
                    f"{action.action_type} failed on client with status {action.action_status} "
                    f"error: {action.error or ''}"
                )
        return None

    def completion(self, now: float) -> bytes:
        """The HandshakeComplete payload."""
        self.complete = True
        took = int((now - self._started_at) * 1e9)
        return _encode({"HandshakeTimeToComplete": took, "CustomerMessage": ""})


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
