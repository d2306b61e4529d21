"""Checks AWS Signature Version 4 on a request, with the standard library alone.

Both forms are understood: the ``Authorization`` header and presigned ``X-Amz-*`` query parameters.
Nothing here is taken from a signer, so that a client's signature is judged by other code than its
own. See https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, unquote_to_bytes

ALGORITHM = "AWS4-HMAC-SHA256"
# AWS allows five minutes either way.
MAX_CLOCK_SKEW = 300.0
# AWS lets a presigned URL live for seven days at the most.
MAX_EXPIRES = 604800

_CREDENTIAL_PARTS = 5
_DATE = re.compile(r"\d{8}T\d{6}Z")
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM}\s+Credential=([^,\s]+)\s*,\s*SignedHeaders=([^,\s]+)\s*,\s*Signature=([0-9a-f]+)"
)


class SignatureError(Exception):
    """The request is not signed as it has to be; ``code`` is the AWS error type to answer with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came over the wire: path and query still percent-encoded."""

    method: str
    path: str
    query: str = field(repr=False)
    headers: Sequence[tuple[str, str]] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The only key pair that is accepted."""

    access_key_id: str
    secret_access_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Authorization:
    credential: str
    signed_headers: str
    signature: str
    date: str
    query: list[tuple[str, str]]
    expires: float | None


def is_signed(request: Request) -> bool:
    """Whether the request carries a signature at all, right or wrong."""
    return any(name.lower() == "authorization" for name, _ in request.headers) or any(
        name == "X-Amz-Signature" for name, _ in _query_pairs(request.query)
    )


def verify(
    request: Request, credentials: Credentials, *, region: str, service: str, now: float
) -> None:
    """Raise SignatureError unless ``credentials`` signed the request; ``now`` is Unix time."""
    found = _authorization(request)
    key_id, *scope = found.credential.rsplit("/", _CREDENTIAL_PARTS - 1)
    if not hmac.compare_digest(key_id.encode(), credentials.access_key_id.encode()):
        raise SignatureError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    if _has_session_token(request, found):
        raise SignatureError(
            "UnrecognizedClientException", "The key pair was made without a session token."
        )
    if scope != [found.date[:8], region, service, "aws4_request"]:
        raise SignatureError(
            "InvalidSignatureException",
            f"Credential should be scoped to the date, {region}/{service}/aws4_request.",
        )
    _check_time(found, now)
    _check_signed_headers(request, found.signed_headers.split(";"))
    expected = _signature(request, found, credentials.secret_access_key)
    if not hmac.compare_digest(expected.encode(), found.signature.encode()):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature does not match the one calculated here.",
        )


def canonical_request(
    request: Request, signed_headers: Sequence[str], query: Sequence[tuple[str, str]]
) -> str:
    """The text whose digest is signed; ``query`` is decoded nowhere but in its encoding."""
    return "\n".join(
        (
            request.method,
            canonical_path(request.path),
            canonical_query(query),
            *(f"{name}:{_header_value(request, name)}" for name in signed_headers),
            "",
            ";".join(signed_headers),
            hashlib.sha256(request.body).hexdigest(),
        )
    )


def canonical_path(path: str) -> str:
    """Dots and doubled slashes resolved, then encoded once more than it is on the wire."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part and part != ".":
            parts.append(part)
    slash = "/" if parts and path.endswith(("/", "/.", "/..")) else ""
    return quote("/" + "/".join(parts) + slash, safe="/-_.~")


def canonical_query(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values encoded anew, sorted by both."""
    encoded = sorted((_encode(name), _encode(value)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


def _encode(text: str) -> str:
    return quote(unquote_to_bytes(text), safe="-_.~")


def _query_pairs(query: str) -> list[tuple[str, str]]:
    pairs = (part.partition("=") for part in query.split("&") if part)
    return [(name, value) for name, _, value in pairs]


def _header_value(request: Request, wanted: str) -> str:
    values = [value for name, value in request.headers if name.lower() == wanted]
    return ",".join(" ".join(value.split()) for value in values)


def _authorization(request: Request) -> _Authorization:
    pairs = _query_pairs(request.query)
    presigned = {name: unquote_to_bytes(value).decode("latin-1") for name, value in pairs}
    if "X-Amz-Signature" in presigned:
        return _presigned(presigned, [pair for pair in pairs if pair[0] != "X-Amz-Signature"])
    text = _header_value(request, "authorization")
    if not text:
        raise SignatureError(
            "MissingAuthenticationTokenException", "The request has no authentication token."
        )
    match = _AUTHORIZATION.fullmatch(text)
    date = _header_value(request, "x-amz-date")
    if match is None or not _DATE.fullmatch(date):
        raise SignatureError(
            "IncompleteSignatureException", "The Authorization or X-Amz-Date header is malformed."
        )
    credential, signed_headers, signature = match.groups()
    return _Authorization(credential, signed_headers, signature, date, pairs, None)


def _presigned(values: dict[str, str], signed: list[tuple[str, str]]) -> _Authorization:
    date = values.get("X-Amz-Date", "")
    expires = values.get("X-Amz-Expires", "")
    if (
        values.get("X-Amz-Algorithm") != ALGORITHM
        or not _DATE.fullmatch(date)
        or not (expires.isascii() and expires.isdigit() and int(expires) <= MAX_EXPIRES)
    ):
        raise SignatureError(
            "IncompleteSignatureException", "The X-Amz query parameters are malformed."
        )
    return _Authorization(
        values.get("X-Amz-Credential", ""),
        values.get("X-Amz-SignedHeaders", ""),
        values["X-Amz-Signature"],
        date,
        signed,
        float(expires),
    )


def _has_session_token(request: Request, found: _Authorization) -> bool:
    return bool(_header_value(request, "x-amz-security-token")) or any(
        name == "X-Amz-Security-Token" for name, _ in found.query
    )


def _check_time(found: _Authorization, now: float) -> None:
    try:
        signed_at = datetime.strptime(found.date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise SignatureError("IncompleteSignatureException", "There is no such date.") from None
    lifetime = MAX_CLOCK_SKEW if found.expires is None else found.expires
    if not signed_at - MAX_CLOCK_SKEW <= now <= signed_at + lifetime:
        raise SignatureError(
            "InvalidSignatureException", f"Signature expired or not yet current: {found.date}."
        )


def _check_signed_headers(request: Request, signed: list[str]) -> None:
    needed = {name.lower() for name, _ in request.headers if name.lower().startswith("x-amz-")}
    if signed != sorted(signed) or not needed.union({"host"}).issubset(signed):
        raise SignatureError(
            "InvalidSignatureException", "'Host' and every 'X-Amz-*' header must be signed."
        )


def _signature(request: Request, found: _Authorization, secret: str) -> str:
    canonical = canonical_request(request, found.signed_headers.split(";"), found.query)
    scope = found.credential.split("/", 1)[1]
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"{ALGORITHM}\n{found.date}\n{scope}\n{digest}"
    key = b"AWS4" + secret.encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
