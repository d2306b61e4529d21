"""The agent's handshake against any bytes: an answer, or HandshakeError."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

from ssmnet.errors import HandshakeError
from ssmnet.protocol import handshake
from ssmnet.protocol.handshake import MAX_ACTIONS, Handshake, SessionType
from tests.fuzz.json_tree import mutate_json as mutate
from tests.protocol import vectors

__all__ = ["SUBJECTS", "TOKENS", "fuzz", "mutate", "seeds"]

SUBJECTS = (handshake,)
REQUEST, COMPLETE = 5, 7
ENCRYPTED_KEY = b"the key as KMS has encrypted it"
TOKENS = (
    b'"ActionType":"SessionType"',
    b'"ActionType":"KMSEncryption"',
    b'"ActionParameters":',
    b'"KMSKeyId":"alias/sessions"',
    b'"Challenge":"random"',
    b'"RequestedClientActions":[',
    b'"Properties":{"type":"LocalPortForwarding"}',
    b'"Properties":null',
    b'"SessionType":"Port"',
    b'"SessionType":"Standard_Stream"',
    b'"AgentVersion":"3.0.196.1"',
    b'"AgentVersion":"2.3.722.0"',
    b'"AgentVersion":null',
    b'"CustomerMessage":"hello"',
    b"9" * 4400,
    b"[" * 1200,
    b"\\ud800",
)


def seeds() -> list[bytes]:
    """The recorded handshakes of the agent, and their like."""
    messages = [line.data for name in vectors.NAMES for line in vectors.read(name) if line.data]
    found = {raw[120:] for raw in messages if int.from_bytes(raw[112:116]) in (REQUEST, COMPLETE)}
    action = '{"ActionType":"%s","ActionParameters":{"SessionType":"%s","Properties":%s}}'
    port = action % ("SessionType", "Port", '{"type":"LocalPortForwarding","portNumber":80}')
    shell = action % ("SessionType", "Standard_Stream", "null")
    other = action % ("SessionType", "Chess", "{}")
    kms = '{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"key"}}'
    challenged = kms.replace("}}", ',"Challenge":"random"}}')
    keyless = kms.replace("KMSKeyId", "Other")
    request = '{"AgentVersion":"%s","RequestedClientActions":[%s]}'
    made = [
        request % ("3.3.0.0", ",".join(actions))
        for actions in (
            [port],
            [shell, kms],
            [other],
            [kms, port],
            [shell, challenged],
            [keyless, shell],
            [port] * (MAX_ACTIONS + 1),
        )
    ]
    versions = [request % (text, port) for text in ("3.0.196.0", "3.1.1511.0", "2.3", "nonsense")]
    return sorted(found | {text.encode() for text in made + versions})


def fuzz(data: bytes) -> None:
    fresh = Handshake()
    try:
        fresh.receive_complete(data)
    except HandshakeError:
        pass
    else:
        raise AssertionError("a handshake was complete before it began")
    announced = Handshake()
    announced.session_type = SessionType.PORT
    check_complete(announced, data)
    try:
        fresh.receive_request(data)
    except HandshakeError as error:
        told = str(error)
        assert len(told) < 200, "an error repeats what the agent sent"
    else:
        check_response(fresh.response(ENCRYPTED_KEY), data)
        if fresh.session_type:
            check_complete(fresh, b"{}")
    check_state(fresh)


def check_complete(state: Handshake, data: bytes) -> None:
    try:
        state.receive_complete(data)
    except HandshakeError:
        return
    assert isinstance(state.customer_message, str)


def check_response(response: bytes, data: bytes) -> None:
    """The answer is JSON, answers each action in its turn, and is of bounded size."""
    content = json.loads(response)
    actions = content["ProcessedClientActions"]
    assert len(actions) <= MAX_ACTIONS
    assert all(action["ActionStatus"] in (1, 2, 3) for action in actions)
    assert all(bool(action["Error"]) == (action["ActionStatus"] != 1) for action in actions)
    assert len(content["Errors"]) == sum(action["ActionStatus"] != 1 for action in actions)
    for action in actions:
        check_result(action)
    assert len(response) < 500 * (1 + len(actions)) + 6 * len(data)
    if (requested := requested_actions(data)) is not None:
        assert [a["ActionType"] for a in actions] == [a.get("ActionType", "") for a in requested]


def check_result(action: dict[str, Any]) -> None:
    """The encrypted key is given to who asks for it, and to nobody else."""
    result = action["ActionResult"]
    if action["ActionType"] == "KMSEncryption" and action["ActionStatus"] == 1:
        assert b64decode(result["KMSCipherTextKey"]) == ENCRYPTED_KEY
        assert isinstance(result["ChallengeAcknowledgement"], bool)
    else:
        assert result is None


def requested_actions(data: bytes) -> list[dict[str, Any]] | None:
    """As Python's own JSON reads them, where that reads them."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found = content.get("RequestedClientActions") or []
    # Read leniently, the text "null" is none at all.
    return found if isinstance(found, list) else []


def check_state(state: Handshake) -> None:
    assert state.session_type in ("", *SessionType)
    assert isinstance(state.agent_version, str)
    for name, value in state.properties.items():
        assert isinstance(name, str)
        assert isinstance(value, str)
    assert isinstance(state.kms_key_id, str)
    assert isinstance(state.challenge, str)
    assert not state.challenge or state.kms_key_id
    forwards = state.properties.get("type") == "LocalPortForwarding"
    assert state.is_port == (state.session_type == "Port")
    assert state.is_port_forward == (state.is_port and forwards)
    assert not state.multiplexes or state.is_port_forward
    assert not state.knows_terminate_flag or state.is_port
    assert not state.is_port or state.knows_terminate_flag or state.needs_keep_alive
