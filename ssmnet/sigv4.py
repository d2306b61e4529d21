"""Signs a GET without a body with AWS Signature Version 4: all that a WebSocket upgrade needs.

Botocore's import would cost a start more than everything else but aiohttp's. See
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from hashlib import sha256
from typing import Protocol
from urllib.parse import SplitResult, parse_qsl, quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"
_PORTS = {"https": 443, "wss": 443, "http": 80, "ws": 80}
_NO_BODY = sha256(b"").hexdigest()


class Credentials(Protocol):
    """A key pair, and the token of a temporary one."""

    @property
    def access_key(self) -> str:
        """Names the secret key."""

    @property
    def secret_key(self) -> str:
        """A secret that leaves the process in signatures only."""

    @property
    def token(self) -> str | None:
        """A secret that goes along with each request; None for keys that last."""


def sign(
    url: str, credentials: Credentials, region: str, service: str, *, now: float | None = None
) -> dict[str, str]:
    """Return the headers that sign a GET of ``url``, which is to be sent as it is written.

    ``now`` is in seconds since 1970, by default the time; AWS takes five minutes either way.
    """
    parts = urlsplit(url)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    added = {"X-Amz-Date": stamp}
    if credentials.token:
        added["X-Amz-Security-Token"] = credentials.token
    signed = {"host": _host(parts)} | {name.lower(): text for name, text in added.items()}
    names = ";".join(signed)  # in the order of the alphabet, as they have to be
    headers = [f"{name}:{text.strip()}" for name, text in signed.items()]
    request = ["GET", _path(parts.path), _query(parts.query), *headers, "", names, _NO_BODY]
    scope = [stamp[:8], region, service, "aws4_request"]
    text = [_ALGORITHM, stamp, "/".join(scope), sha256("\n".join(request).encode()).hexdigest()]
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope:
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, "\n".join(text).encode(), "sha256").hexdigest()
    added["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{'/'.join(scope)}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    return added


def _host(parts: SplitResult) -> str:
    """The header Host as clients send it: a port that goes without saying is left out."""
    return parts.netloc.removesuffix(f":{_PORTS.get(parts.scheme)}")


def _path(path: str) -> str:
    """The canonical path: dots are followed, and what is escaped already is escaped again."""
    kept: list[str] = []
    for segment in _segments(path):
        if segment != "..":
            kept.append(segment)
        elif kept:
            kept.pop()
    end = "/" if kept and path.endswith("/") else ""
    return quote(f"/{'/'.join(kept)}{end}", safe="/~")


def _segments(path: str) -> Iterator[str]:
    return (segment for segment in path.split("/") if segment not in ("", "."))


def _query(query: str) -> str:
    """The canonical query, however it is written in the URL."""
    pairs = parse_qsl(query, keep_blank_values=True, errors="surrogateescape")
    return "&".join(
        f"{name}={text}" for name, text in sorted((_escape(n), _escape(t)) for n, t in pairs)
    )


def _escape(text: str) -> str:
    return quote(text, safe="~", errors="surrogateescape")
