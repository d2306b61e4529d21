"""The heads of requests and answers: what is refused, and what is passed on.

A head that two servers could read in two ways is refused, by h11 or by ``check_head``. What is for
the next hop alone is not passed on.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Set

import h11

from .protocol.socks import normal_host

# Of a request and of an answer, in bytes.
MAX_HEAD = 64 * 1024

# What a proxy keeps to itself, RFC 9110 section 7.6.1; what begins with proxy- comes on top.
# Via is not added: it keeps servers from compressing, and would tell them of the proxy.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"})
# A client that names one of these in Connection would change what the request is.
_NEVER_NAMED = frozenset({b"host", b"content-length", b"transfer-encoding"})

# One strict pattern instead of a URL parser: what it lets through, everyone reads alike.
_HOST = rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})"
_AUTHORITY = re.compile(_HOST + rb":([0-9]{1,5})")
_URL = re.compile(rb"(?i:http)://" + _HOST + rb"(?::([0-9]{1,5}))?([/?][^#]*)?")

UPGRADE = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]

_Message = h11.Request | h11.InformationalResponse | h11.Response


class BadRequest(Exception):
    """A request that is not let through, with the status and the headers of its answer."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


def check_head(request: h11.Request) -> None:
    """Refuse what h11 lets through, and a destination could read otherwise. Raises BadRequest."""
    size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size > MAX_HEAD:
        raise BadRequest(431, "the head of the request is too long")
    if request.http_version not in (b"1.1", b"1.0"):
        raise BadRequest(505, "the proxy speaks HTTP/1.1 and HTTP/1.0")
    if _values(request, b"transfer-encoding"):
        if _values(request, b"content-length"):
            raise BadRequest(400, "bad request: Content-Length and Transfer-Encoding")
        if request.http_version == b"1.0":
            raise BadRequest(400, "bad request: HTTP/1.0 has no Transfer-Encoding")


def credentials_of(request: h11.Request) -> tuple[str, str] | None:
    """The name and password for the proxy, or None if there are none to be read."""
    values = _values(request, b"proxy-authorization")
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = b64decode(token.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon else None


def destination_of(request: h11.Request) -> tuple[str, int]:
    """Host and port that a request is for. Raises BadRequest."""
    if request.method == b"CONNECT":
        match = _AUTHORITY.fullmatch(request.target)
        if match is None:
            raise BadRequest(400, "bad request: CONNECT needs a host and a port")
        if _has_body(request):
            raise BadRequest(400, "bad request: CONNECT has no body")
    else:
        match = _URL.fullmatch(request.target)
        if match is None:
            text = "bad request: the URL is not a plain http:// one; for https there is CONNECT"
            raise BadRequest(400, text)
    host, port = normal_host(match[1]), int(match[2] or 80)
    if host is None or not 0 < port < 65536:
        raise BadRequest(400, "bad request: there is no such host or port")
    return host, port


def for_destination(request: h11.Request) -> h11.Request:
    """The request as the destination gets it."""
    _, _, rest = request.target.partition(b"://")
    host = re.split(rb"[/?]", rest, maxsplit=1)[0]
    path = rest[len(host) :] or (b"*" if request.method == b"OPTIONS" else b"/")
    if path.startswith(b"?"):
        path = b"/" + path
    drop = {b"host"} if request.http_version == b"1.1" else {b"host", b"expect"}
    headers = [(b"Host", host), *end_to_end(request, drop)]
    headers += UPGRADE if _is_websocket(request) else [(b"Connection", b"close")]
    return h11.Request(method=request.method, target=path, headers=headers)


def for_client(response: h11.Response) -> h11.Response:
    """The answer as the client gets it; h11 chooses how its length is told, where it is not."""
    drop = {b"transfer-encoding"}
    if _values(response, b"transfer-encoding"):
        drop.add(b"content-length")
    headers = [*end_to_end(response, drop), (b"Connection", b"close")]
    return h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)


def _is_websocket(request: h11.Request) -> bool:
    """Whether the connection is to become a WebSocket. Other upgrades are not asked for."""
    upgrade = [value.lower() for value in _values(request, b"upgrade")]
    return (
        request.method == b"GET"
        and upgrade == [b"websocket"]
        and b"upgrade" in _named(request)
        and not _has_body(request)
    )


def _has_body(request: h11.Request) -> bool:
    lengths = _values(request, b"content-length")
    return bool(_values(request, b"transfer-encoding")) or any(length != b"0" for length in lengths)


def _values(message: _Message, wanted: bytes) -> list[bytes]:
    return [value for name, value in message.headers if name == wanted]


def _named(message: _Message) -> set[bytes]:
    """What Connection names, in lower case."""
    tokens = b",".join(_values(message, b"connection")).lower().split(b",")
    return {token.strip() for token in tokens}


def end_to_end(message: _Message, drop: Set[bytes] = frozenset()) -> list[tuple[bytes, bytes]]:
    """Headers that are not for the next hop alone, as they were written, without ``drop``."""
    drop = drop | _HOP_BY_HOP | (_named(message) - _NEVER_NAMED)
    return [
        written
        for (name, _), written in zip(message.headers, message.headers.raw_items(), strict=True)
        if name not in drop and not name.startswith(b"proxy-")
    ]
