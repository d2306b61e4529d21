import json
from base64 import b64decode, b64encode
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssmnet.errors import HandshakeError
from ssmnet.protocol.handshake import (
    KMS_ENCRYPTION,
    Handshake,
    SessionType,
    encryption_context,
)
from ssmnet.protocol.message import MessageType, PayloadType, parse
from ssmnet.protocol.version import CLIENT_VERSION
from tests.protocol import vectors

FORWARD = {"portNumber": "80", "type": "LocalPortForwarding"}


def request(
    session_type: object = "Port",
    properties: object = None,
    version: object = "3.3.0.0",
    **more: object,
) -> bytes:
    parameters = {"SessionType": session_type, "Properties": properties}
    action = {"ActionType": "SessionType", "ActionParameters": parameters}
    return json.dumps(
        {"AgentVersion": version, "RequestedClientActions": [action], **more}
    ).encode()


def answer(payload: bytes) -> tuple[Handshake, Any]:
    handshake = Handshake()
    handshake.receive_request(payload)
    return handshake, json.loads(handshake.response())


def announced(**arguments: Any) -> Handshake:
    return answer(request(**arguments))[0]


# --- the recorded handshakes

RECORDED = [name for name in vectors.NAMES if name.startswith(("port", "raw", "nonint"))]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_request_gets_the_recorded_answer(name: str) -> None:
    messages = [parse(line.data) for line in vectors.read(name) if line.data]
    payload = {m.payload_type: m.payload for m in messages if m.message_type.endswith("data")}
    handshake, response = answer(bytes(payload[PayloadType.HANDSHAKE_REQUEST]))
    recorded = json.loads(bytes(payload[PayloadType.HANDSHAKE_RESPONSE]))
    assert response.pop("ClientVersion") == CLIENT_VERSION
    assert recorded.pop("ClientVersion")
    recorded["Errors"] = recorded["Errors"] or []  # the reference client says null
    assert response == recorded
    handshake.receive_complete(payload[PayloadType.HANDSHAKE_COMPLETE])
    assert handshake.agent_version == "3.3.0.0"
    assert handshake.session_type in list(SessionType)
    assert handshake.is_port_forward is handshake.multiplexes is name.startswith("port")
    assert MessageType.OUTPUT_STREAM_DATA in {m.message_type for m in messages}


def test_the_recorded_request_for_encryption_gets_the_recorded_answer() -> None:
    messages = [parse(line.data) for line in vectors.read("shell_kms_encrypted") if line.data]
    payload = {m.payload_type: m.payload for m in messages if m.message_type.endswith("data")}
    recorded = json.loads(bytes(payload[PayloadType.HANDSHAKE_RESPONSE]))
    handshake = Handshake()
    handshake.receive_request(payload[PayloadType.HANDSHAKE_REQUEST])
    assert handshake.kms_key_id.startswith("arn:aws:kms:")
    theirs = recorded["ProcessedClientActions"]
    (key,) = [action["ActionResult"]["KMSCipherTextKey"] for action in theirs[1:]]
    ours = json.loads(handshake.response(b64decode(key)))["ProcessedClientActions"]
    # The recorded client was older than the challenge that the agent offers.
    assert handshake.challenge
    assert ours[1]["ActionResult"].pop("ChallengeAcknowledgement") is True
    assert ours == theirs
    handshake.receive_complete(payload[PayloadType.HANDSHAKE_COMPLETE])
    assert handshake.customer_message == "This session is encrypted using AWS KMS."


# --- encryption


def encryption(parameters: object, *others: tuple[str, object]) -> bytes:
    actions = [("SessionType", {"SessionType": "Standard_Stream"}), ("KMSEncryption", parameters)]
    content = [
        {"ActionType": kind, "ActionParameters": asked} for kind, asked in [*actions, *others]
    ]
    return json.dumps({"AgentVersion": "3.3.0.0", "RequestedClientActions": content}).encode()


def test_an_agent_that_asks_for_encryption_is_given_the_encrypted_key() -> None:
    handshake = Handshake()
    handshake.receive_request(encryption({"KMSKeyId": "alias/sessions"}))
    assert (handshake.kms_key_id, handshake.challenge) == ("alias/sessions", "")
    response = json.loads(handshake.response(b"encrypted"))
    assert response["ProcessedClientActions"][1] == {
        "ActionType": "KMSEncryption",
        "ActionStatus": 1,
        "ActionResult": {
            "KMSCipherTextKey": b64encode(b"encrypted").decode(),
            "KMSCipherTextHash": None,
            "ChallengeAcknowledgement": False,
        },
        "Error": "",
    }
    assert response["ProcessedClientActions"][0]["ActionResult"] is None
    assert response["Errors"] == []


def test_a_challenge_that_goes_into_the_context_is_acknowledged() -> None:
    handshake = Handshake()
    handshake.receive_request(encryption({"KMSKeyId": "key", "Challenge": "random"}))
    assert handshake.challenge == "random"
    (_, action) = json.loads(handshake.response(b"encrypted"))["ProcessedClientActions"]
    assert action["ActionResult"]["ChallengeAcknowledgement"] is True


@pytest.mark.parametrize("challenge", ["", None])
def test_no_challenge_is_acknowledged_where_there_is_none(challenge: str | None) -> None:
    handshake = Handshake()
    handshake.receive_request(encryption({"KMSKeyId": "key", "Challenge": challenge, "Other": 1}))
    assert handshake.challenge == ""
    (_, action) = json.loads(handshake.response(b"encrypted"))["ProcessedClientActions"]
    assert action["ActionResult"]["ChallengeAcknowledgement"] is False


@pytest.mark.parametrize("parameters", [{}, {"KMSKeyId": ""}, {"Challenge": "random"}])
def test_encryption_by_no_key_fails(parameters: object) -> None:
    handshake, response = answer(encryption(parameters))
    assert handshake.kms_key_id == handshake.challenge == ""
    (_, action) = response["ProcessedClientActions"]
    assert (action["ActionStatus"], action["ActionResult"]) == (2, None)
    assert response["Errors"] == ["There is no KMSKeyId"]


@pytest.mark.parametrize(
    "parameters",
    [
        None,
        [],
        "key",
        {"KMSKeyId": None},
        {"KMSKeyId": 7},
        {"KMSKeyId": ["key"]},
        {"KMSKeyId": "key", "Challenge": 7},
        {"KMSKeyId": "key", "Challenge": {}},
    ],
)
def test_what_is_asked_of_kms_must_be_text(parameters: object) -> None:
    with pytest.raises(HandshakeError, match="can't be read"):
        Handshake().receive_request(encryption(parameters))


def test_an_action_beside_encryption_that_is_unknown_is_still_unsupported() -> None:
    _, response = answer(encryption({"KMSKeyId": "key"}, ("Dance", {})))
    status = [action["ActionStatus"] for action in response["ProcessedClientActions"]]
    assert status == [1, 1, 3]
    assert response["ProcessedClientActions"][2]["ActionResult"] is None
    assert response["Errors"] == ["Unsupported action Dance"]


@pytest.mark.parametrize("kind", SessionType)
def test_each_kind_of_session_may_be_encrypted(kind: SessionType) -> None:
    asked = encryption({"KMSKeyId": "key"}, ("SessionType", {"SessionType": kind}))
    handshake, response = answer(asked)
    assert handshake.session_type == kind
    assert all(action["ActionStatus"] == 1 for action in response["ProcessedClientActions"])


def test_a_key_is_bound_to_its_session_and_to_the_challenge_if_there_is_one() -> None:
    context = {"aws:ssm:SessionId": "session-1", "aws:ssm:TargetId": "i-1"}
    assert encryption_context("session-1", "i-1", "") == context
    assert encryption_context("session-1", "i-1", "random") == {
        **context,
        "aws:ssm:RandomChallenge": "random",
    }


def test_the_recorded_client_asked_kms_in_the_same_words() -> None:
    (line,) = [line for line in vectors.read("shell_kms_encrypted") if line.way == "kms->client"]
    recorded = json.loads(line.text)["request"]["EncryptionContext"]
    session_id, target_id = recorded["aws:ssm:SessionId"], recorded["aws:ssm:TargetId"]
    assert encryption_context(session_id, target_id, "") == recorded


# --- without a handshake


def test_a_session_that_announces_nothing_is_a_shell() -> None:
    handshake = Handshake()
    assert not handshake.requested
    handshake.assume_shell()
    assert handshake.session_type == SessionType.STANDARD_STREAM
    assert handshake.properties == {}
    assert not handshake.requested
    assert not handshake.is_port
    assert not handshake.multiplexes
    assert not handshake.knows_terminate_flag


def test_a_request_is_remembered() -> None:
    assert announced().requested


@pytest.mark.parametrize("kind", [kind for kind in SessionType if kind != SessionType.PORT])
def test_what_is_no_port_is_none_whatever_its_properties_say(kind: SessionType) -> None:
    handshake, _ = answer(request(kind, properties={"type": "LocalPortForwarding"}))
    assert not handshake.is_port
    assert not handshake.is_port_forward
    assert not handshake.multiplexes
    assert not handshake.knows_terminate_flag


# --- requests


@pytest.mark.parametrize("session_type", SessionType)
def test_each_known_session_type_is_accepted(session_type: SessionType) -> None:
    handshake, response = answer(request(session_type))
    assert handshake.session_type == session_type
    assert response == {
        "ClientVersion": CLIENT_VERSION,
        "ProcessedClientActions": [
            {"ActionType": "SessionType", "ActionStatus": 1, "ActionResult": None, "Error": ""}
        ],
        "Errors": [],
    }


def test_an_unknown_session_type_has_failed() -> None:
    handshake, response = answer(request("Dance"))
    (action,) = response["ProcessedClientActions"]
    assert action["ActionStatus"] == 2
    assert "Dance" in action["Error"]
    assert response["Errors"] == [action["Error"]]
    assert handshake.session_type == ""


def test_an_agent_that_goes_on_without_what_it_asked_for() -> None:
    payload = json.loads(request("Port", FORWARD))
    payload["RequestedClientActions"].append({"ActionType": KMS_ENCRYPTION, "ActionParameters": {}})
    handshake, _ = answer(json.dumps(payload).encode())
    with pytest.raises(HandshakeError, match="could not do"):
        handshake.receive_complete(b"{}")


def test_an_unknown_action_is_unsupported_and_the_others_are_done() -> None:
    payload = json.loads(request("Port", FORWARD))
    payload["RequestedClientActions"].insert(0, {"ActionType": "Somersault"})
    handshake, response = answer(json.dumps(payload).encode())
    first, second = response["ProcessedClientActions"]
    assert (first["ActionType"], first["ActionStatus"]) == ("Somersault", 3)
    assert "Somersault" in first["Error"]
    assert second["ActionStatus"] == 1
    assert response["Errors"] == [first["Error"]]
    assert handshake.session_type == "Port"


def test_properties_are_texts_whatever_they_were() -> None:
    handshake = announced(properties={"portNumber": 80, "type": "LocalPortForwarding", "x": None})
    assert handshake.properties["portNumber"] == "80"
    assert handshake.is_port_forward


@pytest.mark.parametrize(
    "payload",
    [
        b"{}",
        b'{"RequestedClientActions":null,"AgentVersion":null}',
        b'{"AgentVersion":"3.3.0.0","RequestedClientActions":[],"New":1}',
    ],
)
def test_a_request_for_nothing_is_answered(payload: bytes) -> None:
    handshake, response = answer(payload)
    assert response["ProcessedClientActions"] == []
    assert handshake.session_type == ""


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{" * 100_000,
        b'{"AgentVersion":3}',
        b'{"RequestedClientActions":{}}',
        b'{"RequestedClientActions":[{"ActionType":"SessionType"}]}',
        b'{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":"Port"}]}',
        request(7),
        request("Port", ["portNumber"]),
    ],
)
def test_a_request_that_can_not_be_read_ends_the_session(payload: bytes) -> None:
    with pytest.raises(HandshakeError):
        Handshake().receive_request(payload)


def test_properties_as_deep_as_they_are_read_are_also_written() -> None:
    def deep(depth: int) -> bytes:
        return request("Port", {"x": 0}).replace(b"0}", b"[" * depth + b"]" * depth + b"}")

    outcomes = set()
    for depth in (10, 100, 400, *range(900, 1100), 5_000, 20_000, 100_000):
        try:
            Handshake().receive_request(deep(depth))
            outcomes.add("read")
        except HandshakeError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


# --- the end of the handshake


def test_the_customers_message_is_kept() -> None:
    handshake = announced()
    handshake.receive_complete(b'{"HandshakeTimeToComplete":1,"CustomerMessage":"hello"}')
    assert handshake.customer_message == "hello"


@pytest.mark.parametrize("payload", [b"{}", b'{"CustomerMessage":null}'])
def test_there_need_not_be_a_message(payload: bytes) -> None:
    handshake = announced()
    handshake.receive_complete(payload)
    assert handshake.customer_message == ""


def test_an_end_that_can_not_be_read_ends_the_session() -> None:
    with pytest.raises(HandshakeError):
        announced().receive_complete(b"no")


def test_there_is_no_end_before_a_session_type_was_named() -> None:
    with pytest.raises(HandshakeError):
        Handshake().receive_complete(b"{}")
    with pytest.raises(HandshakeError):
        announced(session_type="Dance").receive_complete(b"{}")


# --- versions


@pytest.mark.parametrize(
    ("version", "multiplexes", "keep_alive", "flag"),
    [
        ("2.3.722.0", False, True, False),
        ("2.3.722.1", False, True, True),
        ("3.0.196.0", False, True, True),
        ("3.0.197.0", True, True, True),
        ("3.0.1000", True, True, True),
        ("3.1.1511.0", True, True, True),
        ("3.1.1511.1", True, False, True),
        ("3.3.0.0", True, False, True),
        ("10.0.0.0", True, False, True),
        ("", False, True, False),
        ("3.x", False, True, False),
        ("3.3.0.0.0", False, True, False),
        ("٣.3.0.0", False, True, False),
        ("9" * 5000, False, True, False),
    ],
)
def test_the_agents_version_switches_behaviour(
    version: str, multiplexes: bool, keep_alive: bool, flag: bool
) -> None:
    handshake = announced(properties=FORWARD, version=version)
    assert handshake.multiplexes is multiplexes
    assert handshake.needs_keep_alive is keep_alive
    assert handshake.knows_terminate_flag is flag


def test_an_agent_without_a_version_is_taken_for_the_oldest() -> None:
    assert not announced(properties=FORWARD, version=None).multiplexes


def test_a_raw_stream_is_not_multiplexed() -> None:
    assert not announced(properties={"portNumber": "22"}).multiplexes
    assert not announced(properties=None).is_port_forward


def test_our_version_is_one_that_the_agent_multiplexes_for_and_does_not_nag() -> None:
    version = tuple(map(int, CLIENT_VERSION.split(".")))
    assert version > (1, 2, 331, 0)
    assert version >= (1, 1, 70)
    assert version > (1, 2, 764, 0)


# --- anything at all

values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=8,
)
actions = st.lists(
    st.one_of(
        values,
        st.fixed_dictionaries(
            {"ActionType": st.one_of(st.just("SessionType"), values)},
            optional={
                "ActionParameters": st.one_of(
                    values,
                    st.fixed_dictionaries(
                        {"SessionType": st.one_of(st.sampled_from([*SessionType]), values)},
                        optional={"Properties": values},
                    ),
                )
            },
        ),
    ),
    max_size=3,
)
anything = st.one_of(
    st.binary(max_size=50),
    st.fixed_dictionaries({"RequestedClientActions": st.one_of(values, actions)}).map(
        lambda value: json.dumps(value).encode()
    ),
    st.builds(request, values, values, values),
)


@settings(max_examples=300)
@given(anything)
def test_any_request_is_answered_or_ends_the_session(payload: bytes) -> None:
    handshake = Handshake()
    try:
        handshake.receive_request(payload)
    except HandshakeError:
        return
    assert json.loads(handshake.response())["ClientVersion"] == CLIENT_VERSION
    assert isinstance(handshake.multiplexes, bool)


@given(st.one_of(anything, values.map(lambda value: json.dumps(value).encode())))
def test_any_end_is_read_or_ends_the_session(payload: bytes) -> None:
    handshake = announced()
    try:
        handshake.receive_complete(payload)
    except HandshakeError:
        return
    assert isinstance(handshake.customer_message, str)


def test_a_request_for_very_many_actions_is_not_answered() -> None:
    actions = ",".join(["{}"] * 17)
    with pytest.raises(HandshakeError, match="17 actions"):
        Handshake().receive_request(b'{"RequestedClientActions":[%b]}' % actions.encode())
