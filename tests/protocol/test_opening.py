import json
from base64 import b64decode, b64encode
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import HandshakeError
from ssmnet.loopback.encryption import Cipher
from ssmnet.protocol.events import DataKeyNeeded
from ssmnet.protocol.message import PayloadType
from ssmnet.protocol.opening import (
    ASSUME_SHELL_AFTER,
    HANDSHAKE_TIMEOUT,
    PROBE_AFTER,
    SETTLING_TIME,
    Opening,
)
from tests.protocol.far_end import DATA_KEY, ENCRYPTED_KEY

REQUEST = PayloadType.HANDSHAKE_REQUEST
RESPONSE = PayloadType.HANDSHAKE_RESPONSE
COMPLETE = PayloadType.HANDSHAKE_COMPLETE
CHALLENGE_REQUEST = PayloadType.ENC_CHALLENGE_REQUEST
CHALLENGE_RESPONSE = PayloadType.ENC_CHALLENGE_RESPONSE
PROBE = 17  # the number of the message


class Session:
    """An Opening, and what it asks of its channel."""

    def __init__(self, *, shell: bool = False, timeout: float = HANDSHAKE_TIMEOUT) -> None:
        self.sent: list[tuple[int, Any]] = []
        self.probes = 0
        self.needed: list[DataKeyNeeded] = []
        self.begun: list[str] = []
        nonces = (number.to_bytes(12) for number in count())
        self.opening = Opening(
            send=lambda kind, payload: self.sent.append((kind, json.loads(payload))),
            probe=self._probe,
            needs=self.needed.append,
            begun=lambda: self.begun.append(self.opening.handshake.session_type),
            nonce=nonces.__next__,
            shell=shell,
            timeout=timeout,
        )
        self.opening.connected(0.0)

    def _probe(self) -> int:
        self.probes += 1
        return PROBE

    def receive(self, kind: int, content: object = None) -> bool:
        """Whether a message was of use."""
        return self.opening.receive(kind, json.dumps(content or {}).encode())

    @property
    def statuses(self) -> list[int]:
        ((kind, content),) = self.sent
        assert kind == RESPONSE
        return [action["ActionStatus"] for action in content["ProcessedClientActions"]]


def request(
    session_type: str = "Port", *, key_id: str = "", challenge: str | None = None
) -> dict[str, object]:
    parameters: dict[str, object] = {"SessionType": session_type, "Properties": None}
    actions = [{"ActionType": "SessionType", "ActionParameters": parameters}]
    if key_id:
        asked: dict[str, object] = {"KMSKeyId": key_id, "Challenge": challenge}
        actions.append({"ActionType": "KMSEncryption", "ActionParameters": asked})
    return {"AgentVersion": "3.3.0.0", "RequestedClientActions": actions}


def challenge(cipher: Cipher, plaintext: bytes = b"prove it") -> dict[str, str]:
    return {"Challenge": b64encode(cipher.encrypt(plaintext)).decode()}


def agents_cipher(data_key: bytes = DATA_KEY) -> Cipher:
    return Cipher(data_key, b"\xff" * 12)


# --- with a handshake


@pytest.mark.parametrize("shell", [False, True])
@pytest.mark.parametrize(
    "kind", ["Port", "Standard_Stream", "InteractiveCommands", "NonInteractiveCommands"]
)
def test_a_handshake_says_what_the_session_is(kind: str, shell: bool) -> None:
    session = Session(shell=shell)
    assert session.receive(REQUEST, request(kind))
    assert session.statuses == [1]
    assert session.begun == []
    assert session.receive(COMPLETE, {"CustomerMessage": "hello"})
    assert session.begun == [kind]
    assert session.opening.handshake.customer_message == "hello"
    assert session.needed == []
    assert session.opening.encryption is None


def test_data_flows_a_moment_later() -> None:
    session = Session()
    opening = session.opening
    session.receive(REQUEST, request())
    opening.burst_ended(1, 5.0)
    assert opening.get_timer() == HANDSHAKE_TIMEOUT
    session.receive(COMPLETE)
    opening.burst_ended(1, 5.0)
    assert opening.get_timer() == 5.0 + SETTLING_TIME
    opening.burst_ended(1, 5.0 + SETTLING_TIME / 2)
    assert opening.get_timer() == 5.0 + SETTLING_TIME, "other messages do not put it off"
    opening.handle_timer(5.0 + SETTLING_TIME / 2)
    assert not opening.flowing
    opening.handle_timer(5.0 + SETTLING_TIME)
    assert opening.flowing
    assert opening.get_timer() is None


def test_an_agent_that_does_not_begin() -> None:
    session = Session(timeout=2.0)
    assert session.opening.get_timer() == 2.0
    session.opening.handle_timer(1.9)
    with pytest.raises(HandshakeError, match="did not begin the session within 2 s"):
        session.opening.handle_timer(2.0)


def test_an_agent_that_does_not_go_on() -> None:
    session = Session()
    session.receive(REQUEST, request())
    with pytest.raises(HandshakeError, match="did not begin the session within 20 s"):
        session.opening.handle_timer(HANDSHAKE_TIMEOUT)


def test_the_end_of_a_handshake_that_named_no_session() -> None:
    session = Session()
    with pytest.raises(HandshakeError, match="without naming a session type"):
        session.receive(COMPLETE)
    session.receive(REQUEST, request("Chess"))
    assert session.statuses == [2]
    with pytest.raises(HandshakeError, match="without naming a session type"):
        session.receive(COMPLETE)


def test_a_request_that_can_not_be_read() -> None:
    with pytest.raises(HandshakeError, match="can't be read"):
        Session().opening.receive(REQUEST, b"{")


def test_a_second_request_is_not_answered() -> None:
    session = Session()
    session.receive(REQUEST, request("Port"))
    assert not session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    assert len(session.sent) == 1
    assert session.needed == []
    session.receive(COMPLETE)
    assert session.begun == ["Port"]


@pytest.mark.parametrize("kind", [REQUEST, COMPLETE, CHALLENGE_REQUEST])
def test_what_comes_too_late_is_of_no_use(kind: int) -> None:
    session = Session()
    session.receive(REQUEST, request())
    session.receive(COMPLETE)
    assert not session.receive(kind, request())
    assert len(session.sent) == 1
    assert session.begun == ["Port"]


@pytest.mark.parametrize("kind", [0, 3, 4, 6, 9, 13, 99])
def test_what_is_of_no_handshake_is_of_no_use(kind: int) -> None:
    session = Session(shell=True)
    assert not session.receive(kind, request())
    assert session.sent == []
    assert session.begun == []


# --- without one


def test_the_first_output_means_a_shell() -> None:
    session = Session(shell=True)
    opening = session.opening
    opening.output_came()
    assert session.begun == ["Standard_Stream"]
    assert not opening.flowing
    opening.burst_ended(0, 1.0)
    assert opening.get_timer() == 1.0
    opening.handle_timer(1.0)
    assert opening.flowing
    assert opening.get_timer() is None
    assert session.probes == 0
    assert session.sent == []
    opening.handle_timer(HANDSHAKE_TIMEOUT)


def test_output_means_nothing_where_there_can_be_no_shell() -> None:
    session = Session()
    session.opening.output_came()
    assert session.begun == []
    with pytest.raises(HandshakeError):
        session.opening.handle_timer(HANDSHAKE_TIMEOUT)


def test_output_in_the_midst_of_a_handshake_means_nothing() -> None:
    session = Session(shell=True)
    session.receive(REQUEST, request("NonInteractiveCommands"))
    session.opening.output_came()
    assert session.begun == []
    session.receive(COMPLETE)
    assert session.begun == ["NonInteractiveCommands"]


def test_a_handshake_after_the_first_output_comes_too_late() -> None:
    session = Session(shell=True)
    session.opening.output_came()
    assert not session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    assert session.sent == []
    assert session.needed == []


def test_a_silent_session_is_asked_and_then_taken_for_a_shell() -> None:
    session = Session(shell=True)
    opening = session.opening
    assert opening.get_timer() == PROBE_AFTER
    opening.handle_timer(PROBE_AFTER - 0.1)
    assert session.probes == 0
    opening.handle_timer(PROBE_AFTER)
    assert session.probes == 1
    assert opening.get_timer() == HANDSHAKE_TIMEOUT
    opening.burst_ended(PROBE, 3.0)
    assert opening.get_timer() == HANDSHAKE_TIMEOUT, "that acknowledged what was before it"
    opening.burst_ended(PROBE + 1, 4.0)
    assert opening.get_timer() == 4.0 + ASSUME_SHELL_AFTER
    opening.burst_ended(PROBE + 1, 4.4)
    assert opening.get_timer() == 4.0 + ASSUME_SHELL_AFTER
    opening.handle_timer(4.4)
    assert session.begun == []
    opening.handle_timer(4.0 + ASSUME_SHELL_AFTER)
    assert session.begun == ["Standard_Stream"]
    assert opening.flowing, "it has just taken something"
    assert opening.get_timer() is None
    assert session.probes == 1


def test_only_what_may_be_a_shell_is_asked() -> None:
    session = Session()
    session.opening.handle_timer(PROBE_AFTER)
    session.opening.burst_ended(PROBE + 1, PROBE_AFTER)
    session.opening.handle_timer(HANDSHAKE_TIMEOUT - 0.1)
    assert session.probes == 0
    assert session.begun == []


def test_an_agent_that_does_not_answer_is_no_shell() -> None:
    session = Session(shell=True)
    session.opening.handle_timer(PROBE_AFTER)
    session.opening.burst_ended(PROBE, 3.0)
    with pytest.raises(HandshakeError, match="did not begin"):
        session.opening.handle_timer(HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize("answered", [False, True])
def test_a_handshake_after_the_question_has_the_last_word(answered: bool) -> None:
    session = Session(shell=True)
    opening = session.opening
    opening.handle_timer(PROBE_AFTER)
    if answered:
        opening.burst_ended(PROBE + 1, 2.1)
    session.receive(REQUEST, request("NonInteractiveCommands"))
    opening.burst_ended(PROBE + 1, 2.2)
    assert opening.get_timer() == HANDSHAKE_TIMEOUT
    opening.handle_timer(10.0)
    assert session.begun == []
    session.receive(COMPLETE)
    assert session.begun == ["NonInteractiveCommands"]


def test_a_handshake_that_begins_after_all_that_ends_the_session() -> None:
    session = Session(shell=True)
    session.opening.handle_timer(PROBE_AFTER)
    session.opening.burst_ended(PROBE + 1, PROBE_AFTER)
    session.opening.handle_timer(PROBE_AFTER + ASSUME_SHELL_AFTER)
    assert session.begun == ["Standard_Stream"]
    with pytest.raises(HandshakeError, match="too late"):
        session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    assert session.needed == []


def test_nothing_is_concluded_from_silence_without_a_websocket() -> None:
    session = Session(shell=True)
    opening = session.opening
    opening.handle_timer(PROBE_AFTER)
    opening.burst_ended(PROBE + 1, PROBE_AFTER)
    opening.interrupted()
    assert opening.get_timer() == HANDSHAKE_TIMEOUT
    opening.handle_timer(PROBE_AFTER + ASSUME_SHELL_AFTER)
    assert session.begun == []
    opening.connected(10.0)
    assert opening.get_timer() == 10.0 + PROBE_AFTER
    opening.handle_timer(10.0 + PROBE_AFTER)
    assert session.probes == 2


def test_a_new_websocket_is_no_news_to_a_session_that_has_begun() -> None:
    session = Session(shell=True)
    session.opening.output_came()
    session.opening.connected(1.0)
    assert session.opening.get_timer() is None


def test_a_handshake_is_not_asked_after() -> None:
    session = Session(shell=True)
    session.receive(REQUEST, request("Standard_Stream"))
    session.opening.handle_timer(PROBE_AFTER + 1)
    assert session.probes == 0


def test_output_after_the_question_is_a_shell_s_at_once() -> None:
    session = Session(shell=True)
    opening = session.opening
    opening.handle_timer(PROBE_AFTER)
    opening.burst_ended(PROBE + 1, 2.1)
    opening.output_came()
    opening.burst_ended(PROBE + 1, 2.2)
    opening.handle_timer(2.2)
    assert opening.flowing
    opening.handle_timer(10.0)
    assert session.begun == ["Standard_Stream"]
    assert opening.get_timer() is None


# --- encrypted


def encrypted(session_type: str = "Standard_Stream") -> tuple[Session, Cipher]:
    """A session that has its data key, and the agent's end of it."""
    session = Session()
    session.receive(REQUEST, request(session_type, key_id="alias/sessions", challenge="random"))
    session.opening.data_key_received(DATA_KEY, ENCRYPTED_KEY)
    return session, agents_cipher()


@pytest.mark.parametrize("offered", ["random", "", None])
def test_a_request_for_encryption_waits_for_a_data_key(offered: str | None) -> None:
    session = Session()
    session.receive(REQUEST, request("Standard_Stream", key_id="key", challenge=offered))
    assert session.needed == [DataKeyNeeded("key", offered or "")]
    assert session.sent == []
    session.opening.data_key_received(DATA_KEY, ENCRYPTED_KEY)
    assert session.statuses == [1, 1]
    result = session.sent[0][1]["ProcessedClientActions"][1]["ActionResult"]
    assert b64decode(result["KMSCipherTextKey"]) == ENCRYPTED_KEY
    assert result["ChallengeAcknowledgement"] is bool(offered)


@pytest.mark.parametrize("session_type", ["Standard_Stream", "Port"])
def test_the_challenge_is_answered_and_the_session_begins(session_type: str) -> None:
    session, agent = encrypted(session_type)
    assert session.receive(CHALLENGE_REQUEST, challenge(agent))
    kind, answer = session.sent[-1]
    assert kind == CHALLENGE_RESPONSE
    assert agent.decrypt(b64decode(answer["Challenge"])) == b"prove it"
    assert session.begun == []
    session.receive(COMPLETE)
    assert session.begun == [session_type]


def test_a_shell_is_not_asked_after_while_it_waits_for_its_key() -> None:
    session = Session(shell=True)
    session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    session.opening.output_came()
    session.opening.handle_timer(HANDSHAKE_TIMEOUT - 1)
    assert session.probes == 0
    assert session.begun == []


def test_kms_that_does_not_answer_is_named() -> None:
    session = Session()
    session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    with pytest.raises(HandshakeError, match="KMS gave no data key within 20 s"):
        session.opening.handle_timer(HANDSHAKE_TIMEOUT)


def test_an_agent_that_does_not_send_its_challenge() -> None:
    session, _ = encrypted()
    with pytest.raises(HandshakeError, match="did not begin the session"):
        session.opening.handle_timer(HANDSHAKE_TIMEOUT)


def test_a_data_key_of_another_size() -> None:
    session = Session()
    session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    with pytest.raises(HandshakeError, match="32 bytes"):
        session.opening.data_key_received(DATA_KEY[:32], ENCRYPTED_KEY)
    assert session.sent == []
    assert session.opening.encryption is None


def test_a_challenge_of_another_key() -> None:
    session, _ = encrypted()
    with pytest.raises(HandshakeError, match="another data key"):
        session.receive(CHALLENGE_REQUEST, challenge(agents_cipher(DATA_KEY[::-1])))
    assert len(session.sent) == 1


def test_a_second_challenge_is_not_answered() -> None:
    """Who can have anything encrypted anew can have us say anything to the agent."""
    session = Session()
    session.receive(REQUEST, request(key_id="key"))
    session.opening.data_key_received(DATA_KEY, ENCRYPTED_KEY)
    assert session.receive(CHALLENGE_REQUEST, challenge(agents_cipher()))
    with pytest.raises(HandshakeError, match="repeats"):
        session.receive(CHALLENGE_REQUEST, challenge(agents_cipher()))
    assert [kind for kind, _ in session.sent] == [RESPONSE, CHALLENGE_RESPONSE]


def test_a_handshake_that_is_complete_without_its_challenge() -> None:
    session, _ = encrypted()
    with pytest.raises(HandshakeError, match="asked for encryption and did not begin it"):
        session.receive(COMPLETE)
    assert session.begun == []


def test_a_handshake_that_is_complete_without_its_key() -> None:
    session = Session()
    session.receive(REQUEST, request("Standard_Stream", key_id="key"))
    assert not session.receive(CHALLENGE_REQUEST, challenge(agents_cipher()))
    with pytest.raises(HandshakeError, match="asked for encryption and did not begin it"):
        session.receive(COMPLETE)
    assert session.begun == []


def test_a_challenge_where_nothing_is_encrypted_is_of_no_use() -> None:
    session = Session()
    session.receive(REQUEST, request())
    assert not session.receive(CHALLENGE_REQUEST, challenge(agents_cipher()))
    session.receive(COMPLETE)
    assert session.begun == ["Port"]


def test_a_handshake_that_goes_on_without_what_we_refused() -> None:
    session = Session()
    actions = [
        {"ActionType": "SessionType", "ActionParameters": {"SessionType": "Standard_Stream"}},
        {"ActionType": "KMSEncryption", "ActionParameters": {}},
    ]
    session.receive(REQUEST, {"AgentVersion": "3.3.0.0", "RequestedClientActions": actions})
    assert session.statuses == [1, 2]
    with pytest.raises(HandshakeError, match="could not do"):
        session.receive(COMPLETE)
    assert session.begun == []


def test_encryption_without_a_key_s_name_is_refused() -> None:
    session = Session()
    asked = request("Standard_Stream", key_id="key")
    actions: Any = asked["RequestedClientActions"]
    actions[1]["ActionParameters"]["KMSKeyId"] = ""
    session.receive(REQUEST, asked)
    assert session.needed == []
    assert session.statuses == [1, 2]


# --- in any order


steps = st.lists(
    st.one_of(
        st.sampled_from(
            ["request", "encrypted request", "key", "challenge", "complete", "output", "noise"]
        ),
        st.floats(0.0, 3.0),
        st.integers(PROBE, PROBE + 1),
    ),
    max_size=12,
)


@given(st.booleans(), steps)
def test_whatever_the_order_it_begins_once_and_never_in_the_clear(
    shell: bool, steps: list[str | float]
) -> None:
    session = Session(shell=shell)
    opening = session.opening
    now = 0.0
    asked = False
    try:
        for step in steps:
            match step:
                case "request":
                    session.receive(REQUEST, request("NonInteractiveCommands"))
                case "encrypted request":
                    session.receive(REQUEST, request("NonInteractiveCommands", key_id="key"))
                case "key" if session.needed and not opening.encryption:
                    opening.data_key_received(DATA_KEY, ENCRYPTED_KEY)
                case "challenge":
                    session.receive(CHALLENGE_REQUEST, challenge(agents_cipher()))
                case "complete":
                    session.receive(COMPLETE)
                case "output" if not session.begun:
                    opening.output_came()
                case "noise":
                    session.receive(99)
                case float():
                    now += step
                    opening.handle_timer(now)
                case int():
                    opening.burst_ended(step, now)
            asked = asked or bool(session.needed)
    except HandshakeError:
        # One that is taken for a shell, and begins a handshake after that, is ended.
        assert session.begun == [] or (shell and session.begun == ["Standard_Stream"])
        return
    assert len(session.begun) <= 1
    assert len(session.needed) <= 1
    assert session.probes <= int(shell)
    assert session.begun or not opening.flowing
    assert sum(kind == RESPONSE for kind, _ in session.sent) <= 1
    if asked and session.begun:
        assert session.sent[-1][0] == CHALLENGE_RESPONSE
    if session.begun == ["Standard_Stream"]:
        assert shell
        assert not opening.handshake.requested
    if (timer := opening.get_timer()) is not None and not session.begun:
        assert timer <= HANDSHAKE_TIMEOUT
