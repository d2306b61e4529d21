"""Encryption of a session by a KMS data key: AES-256-GCM, a half of the key for each direction.

The ciphertext is a nonce of 12 bytes, the encrypted bytes and the tag; there is no additional data.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import HandshakeError, RemoteProtocolError
from .buffer import Buffer
from .message import decode_json

# Bytes of the data key that KMS is asked for.
DATA_KEY_SIZE = 64
NONCE_SIZE = 12
_TAG_SIZE = 16


class _Challenge(msgspec.Struct, rename="pascal"):
    challenge: str


class Encryption:
    """The client's end: the first half of the key decrypts, the second encrypts.

    ``nonce`` gives 12 bytes that it never gives again. Raises HandshakeError for a key of another
    size.
    """

    def __init__(self, data_key: bytes, nonce: Callable[[], bytes]) -> None:
        if len(data_key) != DATA_KEY_SIZE:
            raise HandshakeError(
                f"KMS gave a data key of {len(data_key)} bytes instead of {DATA_KEY_SIZE}"
            )
        half = DATA_KEY_SIZE // 2
        self._decrypting = AESGCM(data_key[:half])
        self._encrypting = AESGCM(data_key[half:])
        self._nonce = nonce

    def encrypt(self, plaintext: Buffer) -> bytes:
        """The ciphertext, NONCE_SIZE + 16 bytes longer."""
        nonce = self._nonce()
        return nonce + self._encrypting.encrypt(nonce, plaintext, None)

    def decrypt(self, ciphertext: Buffer) -> bytes:
        """The plaintext. Raises RemoteProtocolError unless the agent has encrypted it."""
        if len(ciphertext) >= NONCE_SIZE + _TAG_SIZE:
            nonce, encrypted = ciphertext[:NONCE_SIZE], ciphertext[NONCE_SIZE:]
            try:
                return self._decrypting.decrypt(nonce, encrypted, None)
            except InvalidTag:
                pass
        raise RemoteProtocolError("what the agent sent can't be decrypted with the session's key")

    def answer(self, challenge: Buffer) -> bytes:
        """The EncChallengeResponse to an EncChallengeRequest, which shows that both have the key.

        Raises HandshakeError.
        """
        try:
            plaintext = self.decrypt(b64decode(decode_json(challenge, _Challenge).challenge))
        except (RemoteProtocolError, ValueError):
            raise HandshakeError(
                "the agent's encryption challenge can't be decrypted: it has another data key"
            ) from None
        again = b64encode(self.encrypt(plaintext)).decode()
        return msgspec.json.encode(_Challenge(again))
