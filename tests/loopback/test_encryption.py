"""The agent's side of an encrypted session, against the recorded one and by hand."""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import RemoteProtocolError
from ssmnet.loopback.encryption import Cipher, DataKeyError, Encryption
from ssmnet.loopback.handshake import FAILED, TIMEOUT, Handshake
from ssmnet.protocol.message import PayloadType
from tests import wire

VECTOR = Path(__file__).parent.parent / "vectors" / "shell_kms_encrypted.jsonl"
DATA_KEY = bytes(range(64))
KEY_ID = "arn:aws:kms:us-east-1:111122223333:key/abc"
RANDOM_CHALLENGE = b"r" * 16
NONCE = b"\xfe" + bytes(11)


def chosen(*values: bytes) -> Callable[[int], bytes]:
    """Randomness that is not: these values, one after the other."""
    left = list(values)

    def random(size: int) -> bytes:
        assert len(left[0]) == size
        return left.pop(0)

    return random


class FixedKey:
    """A KMS that always gives the same data key, and notes what it was asked."""

    def __init__(self, data_key: bytes = DATA_KEY, error: str = "") -> None:
        self.calls: list[tuple[bytes, dict[str, str], str]] = []
        self.data_key = data_key
        self.error = error

    def decrypt(self, blob: bytes, context: Mapping[str, str], key_id: str) -> bytes:
        self.calls.append((blob, dict(context), key_id))
        if self.error:
            raise DataKeyError(self.error)
        return self.data_key


def make_encryption(
    key: FixedKey, *, require_challenge: bool = False, challenge: bytes = b"c" * 64
) -> Encryption:
    return Encryption(
        KEY_ID,
        decrypt=key.decrypt,
        session_id="session-1",
        target="i-1",
        random=chosen(RANDOM_CHALLENGE, challenge, NONCE, NONCE),
        require_challenge=require_challenge,
    )


def make_handshake(key: FixedKey, *, require_challenge: bool = False) -> Handshake:
    """One that has sent its request at 0.0."""
    encryption = make_encryption(key, require_challenge=require_challenge)
    handshake = Handshake("3.3.0.0", "Standard_Stream", {}, encryption)
    handshake.request(0.0)
    return handshake


def response(result: Any, *, status: int = 1, error: str | None = "") -> bytes:
    actions = [
        {"ActionType": "SessionType", "ActionStatus": 1, "ActionResult": None, "Error": ""},
        {
            "ActionType": "KMSEncryption",
            "ActionStatus": status,
            "ActionResult": result,
            "Error": error,
        },
    ]
    content = {"ClientVersion": "1.2.764.0", "ProcessedClientActions": actions, "Errors": None}
    return json.dumps(content).encode()


def key_result(**fields: Any) -> dict[str, Any]:
    return {"KMSCipherTextKey": b64encode(b"blob").decode(), "KMSCipherTextHash": None, **fields}


def answered(request: bytes, data_key: bytes = DATA_KEY) -> bytes:
    """What a client says to an EncChallengeRequest."""
    sealed = b64decode(json.loads(request)["Challenge"])
    challenge = AESGCM(data_key[:32]).decrypt(sealed[:12], sealed[12:], None)
    again = b"n" * 12 + AESGCM(data_key[32:]).encrypt(b"n" * 12, challenge, None)
    return json.dumps({"Challenge": b64encode(again).decode()}).encode()


def challenged(handshake: Handshake, now: float = 0.0) -> bytes:
    """The EncChallengeRequest of a handshake that has the key."""
    assert handshake.receive_response(response(key_result())) is None
    message = handshake.next_message(now)
    assert message is not None
    assert message[0] == PayloadType.ENC_CHALLENGE_REQUEST
    assert handshake.next_message(now) is None, "once"
    return message[1]


# The cipher.


def test_the_first_half_encrypts_and_the_nonce_counts_up() -> None:
    cipher = Cipher(DATA_KEY, b"\xff\xff" + bytes(10))
    first, second = cipher.encrypt(b"one"), cipher.encrypt(memoryview(b"two"))
    assert first[:12] == b"\xff\xff" + bytes(10)
    assert second[:12] == b"\x00\x00\x01" + bytes(9), "little-endian, with its carry"
    reader = AESGCM(DATA_KEY[:32])
    assert reader.decrypt(first[:12], first[12:], None) == b"one"
    assert reader.decrypt(second[:12], second[12:], None) == b"two"


def test_the_nonce_wraps_round() -> None:
    cipher = Cipher(DATA_KEY, b"\xff" * 12)
    assert [cipher.encrypt(b"")[:12] for _ in range(2)] == [b"\xff" * 12, bytes(12)]


@given(st.binary(max_size=300))
def test_the_second_half_decrypts(data: bytes) -> None:
    sealed = b"n" * 12 + AESGCM(DATA_KEY[32:]).encrypt(b"n" * 12, data, None)
    cipher = Cipher(DATA_KEY, bytes(12))
    assert cipher.decrypt(sealed) == data
    assert cipher.decrypt(memoryview(sealed)) == data


@given(st.integers(min_value=0), st.binary(min_size=1, max_size=40))
def test_what_was_tampered_with_is_refused(place: int, data: bytes) -> None:
    sealed = bytearray(b"n" * 12 + AESGCM(DATA_KEY[32:]).encrypt(b"n" * 12, data, None))
    sealed[place % len(sealed)] ^= 1
    with pytest.raises(RemoteProtocolError):
        Cipher(DATA_KEY, bytes(12)).decrypt(bytes(sealed))


@given(st.binary(max_size=40))
def test_what_was_never_encrypted_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        Cipher(DATA_KEY, bytes(12)).decrypt(data)


@pytest.mark.parametrize("size", [0, 16, 32, 63, 65, 128])
def test_a_data_key_has_64_bytes(size: int) -> None:
    with pytest.raises(ValueError, match=f"64 bytes, not {size}"):
        Cipher(bytes(size), bytes(12))


# The recording.


def recorded(payload_type: int, way: str = "agent->gateway") -> list[bytes]:
    """The payloads of that type that went that way, each number once."""
    found: dict[int, bytes] = {}
    for line in VECTOR.read_text().splitlines():
        record = json.loads(line)
        if record["way"] == way and record["kind"] == "binary":
            message = wire.decode(bytes.fromhex(record["hex"]))
            if message.type != wire.ACKNOWLEDGE and message.payload_type == payload_type:
                found[message.number] = message.payload
    return list(found.values())


def recorded_kms() -> dict[str, Any]:
    lines = [json.loads(line) for line in VECTOR.read_text().splitlines()]
    content: dict[str, Any] = json.loads(
        next(r["text"] for r in lines if r["way"] == "kms->client")
    )
    return content


def test_the_recorded_handshake_comes_out_to_the_byte() -> None:
    (request,), (challenge,) = recorded(wire.HANDSHAKE_REQUEST), recorded(8)
    kms = recorded_kms()
    data_key = b64decode(kms["Plaintext"])
    random_challenge = json.loads(request)["RequestedClientActions"][1]["ActionParameters"]
    sealed = b64decode(json.loads(challenge)["Challenge"])
    key = FixedKey(data_key)
    encryption = Encryption(
        KEY_ID,
        decrypt=key.decrypt,
        session_id=kms["request"]["EncryptionContext"]["aws:ssm:SessionId"],
        target=kms["request"]["EncryptionContext"]["aws:ssm:TargetId"],
        random=chosen(
            b64decode(random_challenge["Challenge"]),
            AESGCM(data_key[:32]).decrypt(sealed[:12], sealed[12:], None),
            sealed[:12],
        ),
    )
    handshake = Handshake("3.3.0.0", "Standard_Stream", {}, encryption)
    assert handshake.request(0.0) == request
    (said,) = recorded(wire.HANDSHAKE_RESPONSE, "client->gateway")
    assert handshake.receive_response(said) is None
    (call,) = key.calls
    assert call[0] == b64decode(kms["CiphertextBlob"])
    assert call[1:] == (kms["request"]["EncryptionContext"], kms["request"]["KeyId"])
    assert handshake.next_message(0.0) == (PayloadType.ENC_CHALLENGE_REQUEST, challenge)
    (answer,) = recorded(9, "client->gateway")
    assert handshake.receive_challenge(answer) is None
    (complete,) = recorded(wire.HANDSHAKE_COMPLETE)
    message = handshake.next_message(json.loads(complete)["HandshakeTimeToComplete"] / 1e9)
    assert message == (PayloadType.HANDSHAKE_COMPLETE, complete)

    reader = AESGCM(data_key[:32])
    outputs = recorded(wire.OUTPUT)
    assert len(outputs) == 3
    for output in outputs:
        plaintext = reader.decrypt(output[:12], output[12:], None)
        assert encryption.encrypt(PayloadType.OUTPUT, plaintext) == output
    (typed,) = recorded(wire.OUTPUT, "client->gateway")
    line = bytes(encryption.decrypt(wire.OUTPUT, typed))
    assert line.startswith(b"echo secret")
    assert line.endswith(b"; exit\n")


# The handshake.


def test_what_is_encrypted_and_what_is_not() -> None:
    encryption = make_encryption(FixedKey())
    assert encryption.receive_key(key_result()) is None
    sealed = {kind for kind in PayloadType if encryption.encrypt(kind, b"data") != b"data"}
    assert sealed == {PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE}
    assert encryption.decrypt(PayloadType.SIZE, b"data") == b"data"
    with pytest.raises(RemoteProtocolError):
        encryption.decrypt(PayloadType.OUTPUT, b"data")


def test_output_before_the_key_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="no data key yet"):
        make_encryption(FixedKey()).decrypt(PayloadType.OUTPUT, bytes(40))


@pytest.mark.parametrize("acknowledged", [None, False, True])
def test_the_random_challenge_is_context_when_acknowledged(acknowledged: bool | None) -> None:
    key = FixedKey()
    handshake = make_handshake(key)
    result = key_result(ChallengeAcknowledgement=acknowledged)
    assert handshake.receive_response(response(result)) is None
    context = {"aws:ssm:SessionId": "session-1", "aws:ssm:TargetId": "i-1"}
    if acknowledged:
        context["aws:ssm:RandomChallenge"] = b64encode(RANDOM_CHALLENGE).decode()
    assert key.calls == [(b"blob", context, KEY_ID)]


def test_the_random_challenge_can_be_required() -> None:
    key = FixedKey()
    refusal = make_handshake(key, require_challenge=True).receive_response(response(key_result()))
    assert refusal == (
        "\n----------ERROR-------\nEncountered error while initiating handshake. "
        "client does not support required encryption context random challenge"
    )
    assert key.calls == []
    result = key_result(ChallengeAcknowledgement=True)
    assert make_handshake(key, require_challenge=True).receive_response(response(result)) is None


def test_a_client_that_gets_no_key_ends_the_session() -> None:
    refusal = make_handshake(FixedKey()).receive_response(
        response(None, status=2, error="Access denied")
    )
    assert refusal == FAILED + "KMSEncryption failed on client with status 2 error: Access denied"


def test_a_client_that_says_nothing_of_encryption_ends_the_session() -> None:
    refusal = make_handshake(FixedKey()).receive_response(wire.handshake_response())
    assert refusal == FAILED + "KMSEncryption was not processed on client"


@pytest.mark.parametrize("result", [None, {}, {"KMSCipherTextKey": None}])
def test_no_blob_is_an_empty_one_to_kms(result: Any) -> None:
    key = FixedKey(error="InvalidCiphertextException: ")
    refusal = make_handshake(key).receive_response(response(result))
    assert key.calls[0][0] == b""
    assert refusal == FAILED + (
        "Fetching data key failed: Unable to retrieve data key, "
        "Error when decrypting data key InvalidCiphertextException: "
    )


@pytest.mark.parametrize("result", ["text", 5, [1], {"KMSCipherTextKey": "!"}])
def test_a_result_that_makes_no_sense_ends_the_session(result: Any) -> None:
    key = FixedKey()
    refusal = make_handshake(key).receive_response(response(result))
    assert refusal is not None
    assert refusal.startswith(FAILED)
    assert key.calls == []


def test_a_data_key_of_another_size_ends_the_session() -> None:
    refusal = make_handshake(FixedKey(bytes(32))).receive_response(response(key_result()))
    assert refusal is not None
    assert refusal.endswith("a data key has 64 bytes, not 32")


def test_the_challenge_has_a_deadline_of_its_own() -> None:
    handshake = make_handshake(FixedKey())
    assert handshake.deadline == TIMEOUT
    assert handshake.timeout_text.startswith(FAILED + "Handshake timed out. ")
    challenged(handshake, 10.0)
    assert handshake.deadline == 10.0 + TIMEOUT
    assert handshake.timeout_text == FAILED + "Timed out waiting for encryption challenge."


def test_the_right_answer_completes_the_handshake() -> None:
    handshake = make_handshake(FixedKey())
    request = challenged(handshake)
    assert not handshake.complete
    assert handshake.receive_challenge(answered(request)) is None
    message = handshake.next_message(0.5)
    assert message is not None
    assert json.loads(message[1]) == {
        "HandshakeTimeToComplete": 500_000_000,
        "CustomerMessage": "This session is encrypted using AWS KMS.",
    }
    assert handshake.complete
    assert handshake.next_message(0.5) is None


def test_a_wrong_answer_spoils_the_handshake_for_good() -> None:
    handshake = make_handshake(FixedKey())
    request = challenged(handshake)
    sealed = b"n" * 12 + AESGCM(DATA_KEY[32:]).encrypt(b"n" * 12, b"no challenge", None)
    wrong = json.dumps({"Challenge": b64encode(sealed).decode()}).encode()
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="challenge does not match"):
            handshake.receive_challenge(wrong)
        assert handshake.next_message(0.0) is None
    refusal = handshake.receive_challenge(answered(request))
    assert refusal == FAILED + "Encryption challenge does not match!"


def test_an_answer_with_the_wrong_key_is_refused() -> None:
    handshake = make_handshake(FixedKey())
    request = challenged(handshake)
    mixed = DATA_KEY[:32] + bytes(32)
    with pytest.raises(RemoteProtocolError, match="cannot be decrypted"):
        handshake.receive_challenge(answered(request, mixed))
    assert not handshake.complete


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"Challenge":null}', b'{"Challenge":"!"}'])
def test_an_answer_that_is_none_is_refused(payload: bytes) -> None:
    handshake = make_handshake(FixedKey())
    challenged(handshake)
    with pytest.raises(RemoteProtocolError):
        handshake.receive_challenge(payload)


def test_an_answer_to_no_challenge_is_nothing() -> None:
    handshake = make_handshake(FixedKey())
    assert handshake.receive_challenge(b"") is None
    plain = Handshake("3.3.0.0", "Port", {"portNumber": "1"})
    plain.request(0.0)
    assert plain.receive_response(wire.handshake_response()) is None
    assert plain.receive_challenge(b"") is None


@pytest.mark.parametrize(
    ("session_type", "encrypted", "needed"),
    [
        ("Port", False, True),
        ("NonInteractiveCommands", False, True),
        ("InteractiveCommands", False, False),
        ("Standard_Stream", False, False),
        ("InteractiveCommands", True, True),
        ("Standard_Stream", True, True),
    ],
)
def test_who_needs_a_handshake(session_type: str, encrypted: bool, needed: bool) -> None:
    encryption = make_encryption(FixedKey()) if encrypted else None
    assert Handshake("3.3.0.0", session_type, {}, encryption).needed is needed


@pytest.mark.parametrize(
    ("client", "separate", "told"),
    [
        ("1.2.295.0", "True", True),
        ("1.2.295", "true", True),
        ("1.2.296.0", "True", False),
        ("1.2.295.0", "False", False),
    ],
)
def test_old_clients_are_told_of_separate_output(client: str, separate: str, told: bool) -> None:
    properties = {"separateOutputStream": separate}
    handshake = Handshake("3.3.0.0", "NonInteractiveCommands", properties)
    request = json.loads(handshake.request(0.0))
    parameters = request["RequestedClientActions"][0]["ActionParameters"]
    assert parameters == {"SessionType": "NonInteractiveCommands", "Properties": None}
    handshake.receive_response(wire.handshake_response(client))
    message = handshake.next_message(0.0)
    assert message is not None
    assert json.loads(message[1])["CustomerMessage"].startswith("Please update") is told
