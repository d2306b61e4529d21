"""The handshake that opens a session, and what the two ends' versions change.

The agent sends a request that names the kind of session, the client answers each action that the
request asks for, and the agent says that it is complete. Only then does session data flow: the
agent acknowledges and throws away whatever comes earlier.
"""

from __future__ import annotations

import re
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

import msgspec

from ..errors import HandshakeError, RemoteProtocolError
from .buffer import Buffer
from .message import decode_json
from .version import CLIENT_VERSION

# There are two kinds. Each is answered, so many would make for a long answer.
MAX_ACTIONS = 16

_MULTIPLEXING_AFTER = (3, 0, 196, 0)
_NO_KEEP_ALIVE_AFTER = (3, 1, 1511, 0)
_TERMINATE_FLAG_AFTER = (2, 3, 722, 0)


class SessionType(StrEnum):
    """The kinds of session a client must know."""

    STANDARD_STREAM = "Standard_Stream"
    INTERACTIVE_COMMANDS = "InteractiveCommands"
    NON_INTERACTIVE_COMMANDS = "NonInteractiveCommands"
    PORT = "Port"


class ActionStatus(IntEnum):
    """How an action of the request went."""

    SUCCESS = 1
    FAILED = 2
    UNSUPPORTED = 3


class _RequestedAction(msgspec.Struct, rename="pascal"):
    action_type: str = ""
    action_parameters: msgspec.Raw = msgspec.Raw(b"null")


class _Request(msgspec.Struct, rename="pascal"):
    agent_version: str | None = None
    requested_client_actions: list[_RequestedAction] | None = None


class _SessionTypeParameters(msgspec.Struct, rename="pascal"):
    session_type: str = ""
    properties: dict[str, Any] | None = None


class _ProcessedAction(msgspec.Struct, rename="pascal"):
    action_type: str
    action_status: ActionStatus
    action_result: None = None
    error: str = ""


class _Response(msgspec.Struct, rename="pascal"):
    client_version: str
    processed_client_actions: list[_ProcessedAction]
    errors: list[str]


class _Complete(msgspec.Struct, rename="pascal"):
    customer_message: str | None = None


class Handshake:
    """What the agent announces, and our answers. Any fault here ends the session."""

    def __init__(self) -> None:
        self.session_type = ""
        self.properties: dict[str, str] = {}
        self.agent_version = ""
        self.customer_message = ""

    def receive_request(self, payload: Buffer) -> bytes:
        """Read a HandshakeRequest; the HandshakeResponse to send. Raises HandshakeError."""
        request = _decode(payload, _Request)
        self.agent_version = request.agent_version or ""
        actions = request.requested_client_actions or []
        if len(actions) > MAX_ACTIONS:
            raise HandshakeError(f"the agent asks for {len(actions)} actions in its handshake")
        processed = [
            self._process(action.action_type, action.action_parameters) for action in actions
        ]
        errors = [action.error for action in processed if action.error]
        return msgspec.json.encode(_Response(CLIENT_VERSION, processed, errors))

    def receive_complete(self, payload: Buffer) -> None:
        """Read a HandshakeComplete. Raises HandshakeError."""
        if not self.session_type:
            raise HandshakeError("the agent ended the handshake without naming a session type")
        self.customer_message = _decode(payload, _Complete).customer_message or ""

    @property
    def is_port_forward(self) -> bool:
        """Whether this is a forward of a local port, not a raw stream."""
        return self.properties.get("type") == "LocalPortForwarding"

    @property
    def multiplexes(self) -> bool:
        """Whether the session carries smux."""
        return self.is_port_forward and self._agent_is_after(_MULTIPLEXING_AFTER)

    @property
    def needs_keep_alive(self) -> bool:
        """Whether the agent's smux closes when no frame comes for 30 s."""
        return not self._agent_is_after(_NO_KEEP_ALIVE_AFTER)

    @property
    def knows_terminate_flag(self) -> bool:
        """Whether a flag ends the session, or only the TerminateSession call does."""
        return self._agent_is_after(_TERMINATE_FLAG_AFTER)

    def _process(self, action_type: str, parameters: msgspec.Raw) -> _ProcessedAction:
        if action_type != "SessionType":
            error = f"Unsupported action {action_type[:64]}"
            return _ProcessedAction(action_type, ActionStatus.UNSUPPORTED, error=error)
        announced = _decode(parameters, _SessionTypeParameters)
        if announced.session_type not in list(SessionType):
            error = f"Unknown session type {announced.session_type[:64]}"
            return _ProcessedAction(action_type, ActionStatus.FAILED, error=error)
        self.session_type = announced.session_type
        properties = announced.properties or {}
        self.properties = {
            name: str(value) for name, value in properties.items() if value is not None
        }
        return _ProcessedAction(action_type, ActionStatus.SUCCESS)

    def _agent_is_after(self, version: tuple[int, ...]) -> bool:
        return _parse_version(self.agent_version) > version


def _parse_version(text: str) -> tuple[int, ...]:
    """A dotted version as numbers; what can't be read is taken for the oldest."""
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,3}", text, re.ASCII):
        return ()
    return tuple(map(int, text.split(".")))


_T = TypeVar("_T")


def _decode(payload: Buffer | msgspec.Raw, kind: type[_T]) -> _T:
    try:
        return decode_json(payload, kind)
    except RemoteProtocolError as error:
        raise HandshakeError(f"the agent's handshake can't be read: {error}") from None
