import json
from base64 import b64decode, b64encode
from itertools import count

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import HandshakeError, RemoteProtocolError
from ssmnet.protocol.encryption import DATA_KEY_SIZE, NONCE_SIZE, Encryption
from ssmnet.protocol.message import PayloadType, parse
from tests.protocol import vectors

DATA_KEY = bytes(range(DATA_KEY_SIZE))
# As the agent has them.
ENCRYPTING, DECRYPTING = AESGCM(DATA_KEY[:32]), AESGCM(DATA_KEY[32:])
NONCE = b"agent's nonc"


def encryption(data_key: bytes = DATA_KEY) -> Encryption:
    numbers = (number.to_bytes(NONCE_SIZE) for number in count())
    return Encryption(data_key, numbers.__next__)


def from_agent(plaintext: bytes) -> bytes:
    return NONCE + ENCRYPTING.encrypt(NONCE, plaintext, None)


def at_agent(ciphertext: bytes) -> bytes:
    return DECRYPTING.decrypt(ciphertext[:NONCE_SIZE], ciphertext[NONCE_SIZE:], None)


def challenge(text: object) -> bytes:
    return json.dumps({"Challenge": text}).encode()


# --- the recorded session


def recorded() -> tuple[bytes, dict[str, list[tuple[int, bytes]]]]:
    """The data key, and what each end sent: (payload type, payload)."""
    data_key, sent = b"", {"agent->gateway": [], "client->gateway": []}  # type: ignore[var-annotated]
    for line in vectors.read("shell_kms_encrypted"):
        if line.way == "kms->client":
            data_key = b64decode(json.loads(line.text)["Plaintext"])
        elif line.data and line.way in sent:
            message = parse(line.data)
            sent[line.way].append((message.payload_type, bytes(message.payload)))
    return data_key, sent


def test_decrypts_what_the_recorded_agent_sent() -> None:
    data_key, sent = recorded()
    payloads = [payload for kind, payload in sent["agent->gateway"] if kind == PayloadType.OUTPUT]
    client = encryption(data_key)
    text = b"".join(client.decrypt(memoryview(payload)) for payload in payloads)
    assert text == b"$ echo secret-$((40+2)); exit\r\nsecret-42\r\n"


def test_the_recorded_client_encrypted_with_the_other_half() -> None:
    data_key, sent = recorded()
    (payload,) = [data for kind, data in sent["client->gateway"] if kind == PayloadType.OUTPUT]
    agent = encryption(data_key[32:] + data_key[:32])
    assert agent.decrypt(payload) == b"echo secret-$((40+2)); exit\n"
    with pytest.raises(RemoteProtocolError):
        encryption(data_key).decrypt(payload)


def test_answers_the_recorded_challenge_as_the_recorded_client_did() -> None:
    data_key, sent = recorded()
    (asked,) = [p for k, p in sent["agent->gateway"] if k == PayloadType.ENC_CHALLENGE_REQUEST]
    (theirs,) = [p for k, p in sent["client->gateway"] if k == PayloadType.ENC_CHALLENGE_RESPONSE]
    ours = encryption(data_key).answer(memoryview(asked))
    agent = encryption(data_key[32:] + data_key[:32])

    def plaintext(answer: bytes) -> bytes:
        return agent.decrypt(b64decode(json.loads(answer)["Challenge"]))

    assert plaintext(ours) == plaintext(theirs)
    assert len(plaintext(ours)) > 0


# --- each direction


def test_the_ciphertext_begins_with_its_nonce_and_ends_with_a_tag() -> None:
    ciphertext = encryption().encrypt(b"hello")
    assert len(ciphertext) == NONCE_SIZE + len(b"hello") + 16
    assert ciphertext[:NONCE_SIZE] == bytes(NONCE_SIZE)
    assert b"hello" not in ciphertext
    assert at_agent(ciphertext) == b"hello"


def test_each_message_has_a_nonce_of_its_own() -> None:
    client = encryption()
    messages = [client.encrypt(b"the same"), client.encrypt(b"the same")]
    messages.append(b64decode(json.loads(client.answer(challenge_of(b"x")))["Challenge"]))
    assert len({message[:NONCE_SIZE] for message in messages}) == 3


def test_what_we_have_sent_is_not_taken_for_the_agent_s() -> None:
    client = encryption()
    with pytest.raises(RemoteProtocolError):
        client.decrypt(client.encrypt(b"hello"))


@pytest.mark.parametrize("size", [0, 1, 32, 63, 65, 128])
def test_a_key_of_another_size_is_refused_and_not_shown(size: int) -> None:
    with pytest.raises(HandshakeError, match=f"{size} bytes instead of 64") as caught:
        encryption(b"k" * size)
    assert "kk" not in str(caught.value)


@given(st.binary(max_size=2000))
def test_any_bytes_go_there_and_come_back(plaintext: bytes) -> None:
    client = encryption()
    assert at_agent(client.encrypt(plaintext)) == plaintext
    assert client.decrypt(from_agent(plaintext)) == plaintext
    assert client.decrypt(memoryview(from_agent(plaintext))) == plaintext


# --- what is not the agent's


def test_nothing_of_what_can_not_be_decrypted_is_told() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        encryption().decrypt(b"in the clear, and long enough to be a ciphertext")
    assert "clear" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_another_key_decrypts_nothing() -> None:
    with pytest.raises(RemoteProtocolError):
        encryption(bytes(DATA_KEY_SIZE)).decrypt(from_agent(b"hello"))


@given(st.binary(max_size=40), st.data())
def test_a_bit_that_was_changed_anywhere_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    ciphertext = bytearray(from_agent(plaintext))
    place = data.draw(st.integers(0, len(ciphertext) - 1))
    ciphertext[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(RemoteProtocolError):
        encryption().decrypt(bytes(ciphertext))


@given(st.binary(max_size=40), st.data())
def test_what_was_cut_off_is_noticed(plaintext: bytes, data: st.DataObject) -> None:
    ciphertext = from_agent(plaintext)
    size = data.draw(st.integers(0, len(ciphertext) - 1))
    with pytest.raises(RemoteProtocolError):
        encryption().decrypt(ciphertext[:size])


@given(st.binary(max_size=100))
def test_any_other_bytes_are_no_ciphertext(anything: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        encryption().decrypt(anything)


# --- the challenge


def challenge_of(plaintext: bytes) -> bytes:
    return challenge(b64encode(from_agent(plaintext)).decode())


def test_a_challenge_is_decrypted_and_encrypted_again() -> None:
    answer = json.loads(encryption().answer(challenge_of(b"prove it")))
    assert list(answer) == ["Challenge"]
    assert at_agent(b64decode(answer["Challenge"])) == b"prove it"


@pytest.mark.parametrize(
    "asked",
    [
        challenge_of(b"prove it")[:-10],
        challenge(b64encode(b"too short").decode()),
        challenge(b64encode(bytes(80)).decode()),
        challenge("not base64!"),
        challenge("é" * 80),
        challenge(""),
        challenge(None),
        challenge(7),
        b"{}",
        b"null",
        b"",
        b"\xff\xff",
    ],
)
def test_a_challenge_that_can_not_be_decrypted_ends_the_session(asked: bytes) -> None:
    with pytest.raises(HandshakeError, match="has another data key") as caught:
        encryption().answer(asked)
    assert "Challenge" not in str(caught.value)


def test_the_challenge_of_an_agent_with_another_key_is_not_answered() -> None:
    with pytest.raises(HandshakeError, match="has another data key"):
        encryption(DATA_KEY[::-1]).answer(challenge_of(b"prove it"))


@given(st.binary(max_size=200))
def test_any_challenge_is_answered_or_ends_the_session(anything: bytes) -> None:
    with pytest.raises(HandshakeError):
        encryption().answer(anything)
