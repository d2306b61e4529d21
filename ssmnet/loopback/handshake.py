"""The agent's side of the handshake, and what versions mean to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from ..protocol.message import PayloadType, decode_json
from .byte_queue import Buffer
from .documents import NON_INTERACTIVE, PORT, is_true
from .encryption import Encryption

# The agent waits this long for each of the client's answers, in seconds.
TIMEOUT = 15.0
# So a session's output begins that has failed here.
FAILED = "\n----------ERROR-------\nEncountered error while initiating handshake. "
_SUCCESS = 1

# An agent above this one multiplexes, and above the others ...
MULTIPLEXING_AFTER_AGENT = "3.0.196.0"
KEEP_ALIVE_OPTIONAL_AFTER_AGENT = "3.1.1511.0"
TERMINATE_FLAG_AFTER_AGENT = "2.3.722.0"
# A client from this one on multiplexes; above the other it wants no keep-alive.
MULTIPLEXING_FROM_CLIENT = "1.1.70"
NO_KEEP_ALIVE_AFTER_CLIENT = "1.2.331.0"
# Up to this one a client mixes up remote stdout and stderr.
NO_SEPARATE_OUTPUT_UNTIL_CLIENT = "1.2.295"


class _Action(msgspec.Struct, rename="pascal"):
    action_type: str
    action_status: int
    action_result: Any = None
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
    """Request out, response in, and with ``encryption`` a challenge each way.

    ``deadline`` is set by what goes out. The texts are those of the real agent.
    """

    def __init__(
        self,
        agent_version: str,
        session_type: str,
        properties: Mapping[str, str],
        encryption: Encryption | None = None,
    ) -> None:
        self.client_version = ""
        self.complete = False
        self.answered = False
        self.deadline: float | None = None
        self._started_at = 0.0
        self._agent_version = agent_version
        self._session_type = session_type
        self._properties = properties
        self._encryption = encryption
        self._challenged = False

    @property
    def needed(self) -> bool:
        """Whether the session begins with one: plain shells and InteractiveCommands do not."""
        return self._session_type in (PORT, NON_INTERACTIVE) or self._encryption is not None

    def skip(self) -> None:
        """There is none."""
        self.complete = True

    def request(self, now: float) -> bytes:
        """The HandshakeRequest payload."""
        self._started_at = now
        self.deadline = now + TIMEOUT
        # Only ports have any that the client is told.
        properties = dict(self._properties) if self._session_type == PORT else None
        actions = [_action("SessionType", SessionType=self._session_type, Properties=properties)]
        if self._encryption is not None:
            actions.append(_action("KMSEncryption", **self._encryption.action_parameters()))
        return _encode({"AgentVersion": self._agent_version, "RequestedClientActions": actions})

    def receive_response(self, payload: Buffer) -> str | None:
        """Read the HandshakeResponse; a text when the session can't go on.

        Raises RemoteProtocolError for what is none.
        """
        response = decode_json(payload, _Response)
        self.answered = True
        self.client_version = response.client_version
        refusal: str | None = None
        for action in response.processed_client_actions or ():
            refusal = self._receive_action(action) or refusal
        if refusal is None and self._encryption is not None and not self._encryption.has_key:
            refusal = "KMSEncryption was not processed on client"
        return None if refusal is None else FAILED + refusal

    def _receive_action(self, action: _Action) -> str | None:
        if action.action_status != _SUCCESS:
            return (
                f"{action.action_type} failed on client with status {action.action_status} "
                f"error: {action.error or ''}"
            )
        if action.action_type == "KMSEncryption" and self._encryption is not None:
            return self._encryption.receive_key(action.action_result)
        return None

    def receive_challenge(self, payload: Buffer) -> str | None:
        """Read the EncChallengeResponse; a text when the session can't go on.

        Raises RemoteProtocolError unless it is right.
        """
        if self._encryption is None or not self._challenged:
            return None
        self._encryption.receive_challenge(payload)
        return None if self._encryption.error is None else FAILED + self._encryption.error

    def next_message(self, now: float) -> tuple[PayloadType, bytes] | None:
        """What goes out by now: the challenge, or HandshakeComplete, each once."""
        if self.complete or not self.answered:
            return None
        if self._encryption is not None and not self._challenged:
            self._challenged = True
            self.deadline = now + TIMEOUT
            return PayloadType.ENC_CHALLENGE_REQUEST, self._encryption.challenge()
        if self._encryption is not None and not self._encryption.confirmed:
            return None
        self.complete = True
        took = int((now - self._started_at) * 1e9)
        content = {"HandshakeTimeToComplete": took, "CustomerMessage": self._customer_message()}
        return PayloadType.HANDSHAKE_COMPLETE, _encode(content)

    def _customer_message(self) -> str:
        message = ""
        if (
            self._session_type == NON_INTERACTIVE
            and is_true(self._properties.get("separateOutputStream", ""))
            and version(self.client_version) <= version(NO_SEPARATE_OUTPUT_UNTIL_CLIENT)
        ):
            message = (
                "Please update session manager plugin version (minimum required version "
                "1.2.312.0) for fully support of separate StdOut/StdErr output.\r\n"
            )
        if self._encryption is not None:
            message += "This session is encrypted using AWS KMS."
        return message

    @property
    def timeout_text(self) -> str:
        """Why the session ends at ``deadline``."""
        if self._challenged:
            return FAILED + "Timed out waiting for encryption challenge."
        return FAILED + (
            "Handshake timed out. "
            "Please ensure that you have the latest version of the session manager plugin."
        )


def _action(kind: str, **parameters: object) -> dict[str, object]:
    return {"ActionType": kind, "ActionParameters": parameters}


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
