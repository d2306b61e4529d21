"""The handshake that opens a session, and what the two ends' versions change.

Shells and interactive commands have none, unless they are encrypted.

The agent sends a request that names the kind of session, the client answers each action that the
request asks for, and the agent says that it is complete. Only then does session data flow: the
agent acknowledges and throws away whatever comes earlier.
"""

from __future__ import annotations

import re
from base64 import b64encode
from enum import IntEnum, StrEnum
from typing import Any, TypeVar

import msgspec

from ..errors import HandshakeError, RemoteProtocolError
from .buffer import Buffer
from .message import decode_json
from .version import CLIENT_VERSION

# There are two kinds. Each is answered, so many would make for a long answer.
MAX_ACTIONS = 16
KMS_ENCRYPTION = "KMSEncryption"

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


class _EncryptionParameters(msgspec.Struct, rename="pascal"):
    kms_key_id: str = msgspec.field(default="", name="KMSKeyId")
    challenge: str | None = None


class _EncryptionResult(msgspec.Struct):
    key: str = msgspec.field(name="KMSCipherTextKey")
    hash: None = msgspec.field(default=None, name="KMSCipherTextHash")
    acknowledged: bool = msgspec.field(default=False, name="ChallengeAcknowledgement")


class _ProcessedAction(msgspec.Struct, rename="pascal"):
    action_type: str
    action_status: ActionStatus
    action_result: _EncryptionResult | None = None
    error: str = ""


class _Response(msgspec.Struct, rename="pascal"):
    client_version: str
    processed_client_actions: list[_ProcessedAction]
    errors: list[str]


class _Complete(msgspec.Struct, rename="pascal"):
    customer_message: str | None = None


_ENCRYPTED = (KMS_ENCRYPTION, ActionStatus.SUCCESS)


class Handshake:
    """What the agent announces, and our answers. Any fault here ends the session."""

    def __init__(self) -> None:
        self.requested = False
        self.session_type = ""
        self.properties: dict[str, str] = {}
        self.agent_version = ""
        self.customer_message = ""
        # Where the session is to be encrypted: the key to ask KMS for a data key, and what is to
        # go with that into the encryption context.
        self.kms_key_id = ""
        self.challenge = ""
        self._processed: list[_ProcessedAction] = []

    def receive_request(self, payload: Buffer) -> None:
        """Read a HandshakeRequest, to be answered with ``response``. Raises HandshakeError."""
        request = _decode(payload, _Request)
        self.requested = True
        self.agent_version = request.agent_version or ""
        actions = request.requested_client_actions or []
        if len(actions) > MAX_ACTIONS:
            raise HandshakeError(f"the agent asks for {len(actions)} actions in its handshake")
        self._processed = [
            self._process(action.action_type, action.action_parameters) for action in actions
        ]

    def response(self, encrypted_key: bytes = b"") -> bytes:
        """The HandshakeResponse to send; with the encrypted data key where KMS is asked for."""
        for action in self._processed:
            if (action.action_type, action.action_status) == _ENCRYPTED:
                key = b64encode(encrypted_key).decode()
                action.action_result = _EncryptionResult(key, acknowledged=bool(self.challenge))
        errors = [action.error for action in self._processed if action.error]
        return msgspec.json.encode(_Response(CLIENT_VERSION, self._processed, errors))

    def receive_complete(self, payload: Buffer) -> None:
        """Read a HandshakeComplete. Raises HandshakeError."""
        if not self.session_type:
            raise HandshakeError("the agent ended the handshake without naming a session type")
        if any(action.action_status == ActionStatus.FAILED for action in self._processed):
            raise HandshakeError("the agent goes on though we could not do what it had asked for")
        self.customer_message = _decode(payload, _Complete).customer_message or ""

    def assume_shell(self) -> None:
        """Nothing is announced, and the session begins: only a shell's does so."""
        self.session_type = SessionType.STANDARD_STREAM.value

    @property
    def is_port(self) -> bool:
        """Whether the session leads to a port, not to a shell or a command."""
        return self.session_type == SessionType.PORT

    @property
    def is_port_forward(self) -> bool:
        """Whether this is a forward of a local port, not a raw stream."""
        return self.is_port and self.properties.get("type") == "LocalPortForwarding"

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
        return self.is_port and self._agent_is_after(_TERMINATE_FLAG_AFTER)

    def _process(self, action_type: str, parameters: msgspec.Raw) -> _ProcessedAction:
        if action_type == KMS_ENCRYPTION:
            return self._process_encryption(parameters)
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

    def _process_encryption(self, parameters: msgspec.Raw) -> _ProcessedAction:
        asked = _decode(parameters, _EncryptionParameters)
        if not asked.kms_key_id:
            error = "There is no KMSKeyId"
            return _ProcessedAction(KMS_ENCRYPTION, ActionStatus.FAILED, error=error)
        self.kms_key_id = asked.kms_key_id
        self.challenge = asked.challenge or ""
        return _ProcessedAction(KMS_ENCRYPTION, ActionStatus.SUCCESS)

    def _agent_is_after(self, version: tuple[int, ...]) -> bool:
        return _parse_version(self.agent_version) > version


def encryption_context(session_id: str, target_id: str, challenge: str) -> dict[str, str]:
    """What KMS is told of the session that a data key is for, and binds the key to."""
    context = {"aws:ssm:SessionId": session_id, "aws:ssm:TargetId": target_id}
    return context | {"aws:ssm:RandomChallenge": challenge} if challenge else context


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
