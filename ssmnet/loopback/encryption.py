"""The agent's side of an encrypted session: a data key from KMS, and what is done with it.

It is the mirror of the client's: of the data key's 64 bytes the first half encrypts here and the
second half decrypts. Nothing is taken from the client's module, so that two wrongs cannot agree.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import RemoteProtocolError
from ..protocol.message import PayloadType, decode_json
from .byte_queue import Buffer

# Bytes.
DATA_KEY_SIZE = 64
CHALLENGE_SIZE = 64
_RANDOM_CHALLENGE_SIZE = 16
_NONCE_SIZE = 12

# What goes encrypted from the agent. From the client it is Output alone.
ENCRYPTED = frozenset((PayloadType.OUTPUT, PayloadType.STDERR, PayloadType.EXIT_CODE))

# What KMS is asked with: the ciphertext blob, the encryption context, the key id. It answers with
# the data key, or raises DataKeyError.
Decrypt = Callable[[bytes, Mapping[str, str], str], bytes]


class DataKeyError(Exception):
    """There is no data key to be had, for the reason in the text."""


class _KeyResult(msgspec.Struct):
    """The client's ActionResult."""

    cipher_text_key: bytes | None = msgspec.field(name="KMSCipherTextKey", default=None)
    acknowledged: bool | None = msgspec.field(name="ChallengeAcknowledgement", default=None)


class _Challenge(msgspec.Struct, rename="pascal"):
    challenge: bytes


class Cipher:
    """AES-256-GCM in both directions. ``nonce`` is random, and counts up from there."""

    def __init__(self, data_key: bytes, nonce: bytes) -> None:
        if len(data_key) != DATA_KEY_SIZE:
            raise ValueError(f"a data key has {DATA_KEY_SIZE} bytes, not {len(data_key)}")
        half = DATA_KEY_SIZE // 2
        self._to_client = AESGCM(data_key[:half])
        self._from_client = AESGCM(data_key[half:])
        self._nonce = int.from_bytes(nonce, "little")

    def encrypt(self, payload: Buffer) -> bytes:
        """The nonce, the ciphertext and its tag."""
        nonce = self._nonce.to_bytes(_NONCE_SIZE, "little")
        self._nonce = (self._nonce + 1) % 2 ** (8 * _NONCE_SIZE)
        return nonce + self._to_client.encrypt(nonce, payload, None)

    def decrypt(self, payload: Buffer) -> bytes:
        """What the client has encrypted. Raises RemoteProtocolError for anything else."""
        try:
            return self._from_client.decrypt(payload[:_NONCE_SIZE], payload[_NONCE_SIZE:], None)
        except (InvalidTag, ValueError):
            raise RemoteProtocolError("a payload cannot be decrypted") from None


class Encryption:
    """One session's encryption, from the handshake's request to the session's last output.

    ``key_id`` names the KMS key, ``target`` the instance as the client calls it. A client that does
    not acknowledge the random challenge is refused if ``require_challenge``. ``random(size)`` gives
    random bytes.
    """

    def __init__(
        self,
        key_id: str,
        *,
        decrypt: Decrypt,
        session_id: str,
        target: str,
        random: Callable[[int], bytes],
        require_challenge: bool = False,
    ) -> None:
        self.confirmed = False
        # Why the handshake fails once the client does answer right.
        self.error: str | None = None
        self._key_id = key_id
        self._decrypt = decrypt
        self._context = {"aws:ssm:SessionId": session_id, "aws:ssm:TargetId": target}
        self._require_challenge = require_challenge
        self._random = random
        self._random_challenge = b64encode(random(_RANDOM_CHALLENGE_SIZE)).decode()
        self._challenge = random(CHALLENGE_SIZE)
        self._cipher: Cipher | None = None

    def action_parameters(self) -> dict[str, str]:
        """What the handshake's request says of it."""
        return {"KMSKeyId": self._key_id, "Challenge": self._random_challenge}

    def receive_key(self, action_result: Any) -> str | None:
        """Have the client's data key decrypted; a text when the session can't go on."""
        try:
            result = msgspec.convert(action_result or {}, _KeyResult)
        except msgspec.ValidationError as error:
            return str(error)
        if self._require_challenge and not result.acknowledged:
            return "client does not support required encryption context random challenge"
        context = dict(self._context)
        if result.acknowledged:
            context["aws:ssm:RandomChallenge"] = self._random_challenge
        try:
            data_key = self._decrypt(result.cipher_text_key or b"", context, self._key_id)
            self._cipher = Cipher(data_key, self._random(_NONCE_SIZE))
        except (DataKeyError, ValueError) as error:
            return (
                "Fetching data key failed: Unable to retrieve data key, "
                f"Error when decrypting data key {error}"
            )
        return None

    @property
    def has_key(self) -> bool:
        """Whether the data key is there."""
        return self._cipher is not None

    def challenge(self) -> bytes:
        """The EncChallengeRequest payload. Needs the data key."""
        challenge = b64encode(self._keyed().encrypt(self._challenge)).decode()
        return json.dumps({"Challenge": challenge}, separators=(",", ":")).encode()

    def receive_challenge(self, payload: Buffer) -> None:
        """Read the EncChallengeResponse. Raises RemoteProtocolError unless it is right.

        The real agent does not end the handshake then. It waits for a right answer until its
        deadline, and fails even with one.
        """
        answer = decode_json(payload, _Challenge)
        try:
            if self._keyed().decrypt(answer.challenge) != self._challenge:
                raise RemoteProtocolError("Encryption challenge does not match!")
        except RemoteProtocolError as error:
            self.error = str(error)
            raise
        self.confirmed = True

    def encrypt(self, payload_type: PayloadType, payload: Buffer) -> Buffer:
        """A payload as it goes out."""
        return self._keyed().encrypt(payload) if payload_type in ENCRYPTED else payload

    def decrypt(self, payload_type: int, payload: Buffer) -> Buffer:
        """A payload as the client meant it. Raises RemoteProtocolError where it is not sealed."""
        return self._keyed().decrypt(payload) if payload_type == PayloadType.OUTPUT else payload

    def _keyed(self) -> Cipher:
        if self._cipher is None:
            raise RemoteProtocolError("there is no data key yet")
        return self._cipher
