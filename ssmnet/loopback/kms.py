"""The KMS calls that encrypted sessions need: GenerateDataKey and Decrypt.

There is one key, made at the start and known to nobody: AES-256-GCM, with the encryption context as
additional data. So a ciphertext blob is good for its own context only, as AWS's is.
"""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID, uuid4

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .api import ApiError

ACCOUNT = "111122223333"
ALIAS = "alias/loopback"

# Bytes.
_KEY_ID_SIZE = 16
_NONCE_SIZE = 12
_MAX_SIZE = 1024
_KEY_SPECS = {"AES_128": 16, "AES_256": 32}


class _GenerateDataKey(msgspec.Struct, rename="pascal"):
    key_id: str
    number_of_bytes: int | None = None
    key_spec: str | None = None
    encryption_context: dict[str, str] | None = None


class _Decrypt(msgspec.Struct, rename="pascal"):
    ciphertext_blob: bytes
    key_id: str | None = None
    encryption_context: dict[str, str] | None = None


class Kms:
    """One key, by the names that AWS has for one: id, ARN, alias and the alias's ARN."""

    name = "kms"
    prefix = "TrentService"

    def __init__(self, region: str) -> None:
        self._key_id = uuid4()
        self._master = AESGCM(AESGCM.generate_key(256))
        arn = f"arn:aws:kms:{region}:{ACCOUNT}:"
        self.key_arn = f"{arn}key/{self._key_id}"
        self._names = frozenset((str(self._key_id), self.key_arn, ALIAS, arn + ALIAS))
        self.calls: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
            "GenerateDataKey": self._generate_data_key,
            "Decrypt": self._decrypt,
        }

    def generate_data_key(
        self, key_id: str, context: Mapping[str, str], size: int
    ) -> tuple[bytes, bytes]:
        """A new data key and its ciphertext blob. Raises ApiError."""
        self._check_name(key_id)
        if not 1 <= size <= _MAX_SIZE:
            raise ApiError("ValidationException", f"NumberOfBytes must be from 1 to {_MAX_SIZE}.")
        plaintext, nonce = os.urandom(size), os.urandom(_NONCE_SIZE)
        sealed = self._master.encrypt(nonce, plaintext, _additional_data(context))
        return plaintext, self._key_id.bytes + nonce + sealed

    def decrypt(self, blob: bytes, context: Mapping[str, str], key_id: str | None = None) -> bytes:
        """The data key of a ciphertext blob. Raises ApiError."""
        if key_id is not None:
            self._check_name(key_id)
        nonce = blob[_KEY_ID_SIZE : _KEY_ID_SIZE + _NONCE_SIZE]
        sealed = blob[_KEY_ID_SIZE + _NONCE_SIZE :]
        try:
            if UUID(bytes=blob[:_KEY_ID_SIZE]) != self._key_id:
                raise ValueError("another key's")
            return self._master.decrypt(nonce, sealed, _additional_data(context))
        except (InvalidTag, ValueError):
            # AWS gives no message either.
            raise ApiError("InvalidCiphertextException", "") from None

    def _check_name(self, key_id: str) -> None:
        if key_id not in self._names:
            raise ApiError("NotFoundException", f"Key '{key_id}' does not exist")

    def _generate_data_key(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_GenerateDataKey)
        if (call.number_of_bytes is None) is (call.key_spec is None):
            raise ApiError(
                "ValidationException", "Please specify either number of bytes or key spec."
            )
        size = call.number_of_bytes
        if size is None:
            size = _KEY_SPECS.get(call.key_spec or "", 0)
        plaintext, blob = self.generate_data_key(call.key_id, call.encryption_context or {}, size)
        return {
            "KeyId": self.key_arn,
            "Plaintext": b64encode(plaintext).decode(),
            "CiphertextBlob": b64encode(blob).decode(),
        }

    def _decrypt(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_Decrypt)
        plaintext = self.decrypt(call.ciphertext_blob, call.encryption_context or {}, call.key_id)
        return {
            "KeyId": self.key_arn,
            "Plaintext": b64encode(plaintext).decode(),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }


def _additional_data(context: Mapping[str, str]) -> bytes:
    return json.dumps(context, sort_keys=True).encode()
