"""HTTP requests and their answers against any bytes.

An input is a key, what the client sends, and what the destination answers. It runs once with both
in one piece, once in small pieces and once byte by byte: what each side gets must mean the same. It
is read by a plain and strict reader: one request, and one answer, whatever came.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ssmnet import http_head, http_request
from ssmnet.http_request import Failure, HttpRequest
from ssmnet.protocol.socks import normal_host
from tests.fuzz.program import Program, chunk, pieces

SUBJECTS = (http_request, http_head)
PASSWORD = b"Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n"
PAC = "function FindProxyForURL() {}"
TOKENS = (
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    b"GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST http://[::1]:80?q HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"HTTP/1.0",
    b"OPTIONS http://a",
    b"HEAD ",
    b"/proxy.pac",
    PASSWORD,
    b"Content-Length: 3\r\n",
    b"Content-Length: 0\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"3\r\nabc\r\n",
    b"0\r\n\r\n",
    b"0\r\nTrailer: x\r\n\r\n",
    b"3;extension=1\r\n",
    b"Connection: close, x-hop\r\nX-Hop: 1\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: host, content-length\r\n",
    b"Expect: 100-continue\r\n",
    b" folded\r\n",
    b"Proxy-Connection: keep-alive\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\n",
)
TARGET = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ (?:/[^\s#]*|\*) HTTP/1\.1")
STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) [^\r\n\0]*")
AUTHORITY = re.compile(rb".*:[0-9]+")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): *([^\r\n\0]*)")


class Message(NamedTuple):
    start: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    whole: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for other, value in self.headers if other == name]


class Told(NamedTuple):
    """What became of a connection, and what both sides were sent."""

    destination: tuple[str, int] | None
    is_tunnel: bool
    over: bool
    is_broken: bool
    error: str
    for_client: bytes
    for_destination: bytes


def seeds() -> list[bytes]:
    get = b"GET http://a.example:81/b?c HTTP/1.1\r\nHost: a.example:81\r\n"
    post = b"POST http://a/ HTTP/1.1\r\nHost: a\r\n"
    ok = b"HTTP/1.1 200 OK\r\n"
    said = [
        (0, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\nearly", b"late"),
        (0, get + b"\r\n", ok + b"Content-Length: 2\r\n\r\nok"),
        (0, get + b"\r\nGET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n", ok + b"\r\nuntil the end"),
        (0, post + b"Content-Length: 3\r\n\r\nabc", b"HTTP/1.1 100 Go on\r\n\r\n" + ok + b"\r\n"),
        (
            0,
            post + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            ok + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        ),
        (
            0,
            get + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nframes",
        ),
        (0, post + b"Connection: close\r\nContent-Length: 3\r\n\r\nabc\r\n", ok + b"\r\n"),
        (0, b"HEAD http://a HTTP/1.0\r\n\r\n", ok + b"Content-Length: 9\r\n\r\n"),
        (0, b"GET /proxy.pac HTTP/1.1\r\nHost: here\r\n\r\n", b""),
        (1, get + b"\r\n", b""),
        (1, get + PASSWORD + b"\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (2, get + b"\r\n", b""),
    ]
    return [bytes((key,)) + chunk(client) + far for key, client, far in said]


def fuzz(data: bytes) -> None:
    program = Program(data)
    key, client, far = program.byte(), program.chunk(), program.rest()
    whole = tell(key, [client], [far])
    check(whole, client)
    for client_parts, far_parts in (
        (pieces(client, key), pieces(far, key + 1)),
        (
            [client[i : i + 1] for i in range(len(client))],
            [far[i : i + 1] for i in range(len(far))],
        ),
    ):
        parts = tell(key, client_parts, far_parts)
        check(parts, client)
        assert meaning(parts, client) == meaning(whole, client)


def tell(key: int, client: list[bytes], far: list[bytes]) -> Told:
    """The connection of one client, whose destination answers when all of it has been read."""
    check_password = (lambda *both: both == ("ann", "s3cret")) if key & 1 else None
    request = HttpRequest(check_password, lambda: PAC)
    for_client, for_destination = bytearray(), bytearray()

    def collect() -> None:
        for_client.extend(request.data_for_client())
        for_destination.extend(request.data_for_destination())

    connected = False
    for part in client:
        if request.is_tunnel:
            for_destination += part
        else:
            request.receive(part)
        assert connected or not request.data_for_destination(), "sent before it is connected"
        if request.destination is not None and not request.over and not connected:
            connected = not key & 2
            if connected:
                request.connected()
            else:
                request.fail(Failure.REFUSED, "it refuses")
        collect()
    if connected:
        for part in (*far, b""):
            if request.is_tunnel:
                for_client += part
            elif part or not request.over:
                request.receive_response(part)
            collect()
    assert (request.is_tunnel, request.over, request.is_broken).count(True) <= 1
    return Told(
        request.destination,
        request.is_tunnel,
        request.over,
        request.is_broken,
        request.error,
        bytes(for_client),
        bytes(for_destination),
    )


def check(told: Told, client: bytes) -> None:
    assert told.error.isprintable(), "an error is one line"
    assert told.error or not told.is_broken
    if told.destination is not None:
        host, port = told.destination
        assert normal_host(host.encode()) == host
        assert 0 < port < 65536
    else:
        assert not told.for_destination
    if told.for_destination and not client.startswith(b"CONNECT "):
        check_request(told)
    if told.for_client:
        check_answers(told, client)


def check_request(told: Told) -> None:
    """The destination gets one request, to itself, and no header that is the proxy's."""
    request, rest = read(told.for_destination, TARGET)
    assert told.is_tunnel or not rest, "more than one request"
    assert told.destination is not None
    (written,) = request.values(b"host")
    name, _, port = written.rpartition(b":") if AUTHORITY.fullmatch(written) else (written, b"", 80)
    assert (normal_host(name), int(port)) == told.destination
    assert request.values(b"connection") in ([b"close"], [b"Upgrade"])
    assert not any(header.startswith(b"proxy-") for header, _ in request.headers)
    assert not request.values(b"te") + request.values(b"keep-alive") + request.values(b"trailer")


def check_answers(told: Told, client: bytes) -> None:
    """The client gets one answer, whole if it is over; what comes before is informational."""
    rest = told.for_client
    has_body = not client.startswith(b"HEAD ")
    while rest:
        answer, rest = read(rest, STATUS, has_body=has_body)
        status = int(answer.start[9:12])
        if told.is_tunnel and (status == 101 or client.startswith(b"CONNECT ")):
            return
        if status < 200:
            continue
        if told.error and not has_body:
            return  # what could not be read as a HEAD request is answered with a body
        assert not rest, "more than one answer"
        assert answer.whole or not told.over
        assert answer.values(b"connection") == [b"close"]
        assert not any(header.startswith(b"proxy-connection") for header, _ in answer.headers)


def read(data: bytes, start: re.Pattern[bytes], *, has_body: bool = True) -> tuple[Message, bytes]:
    """One message, and what follows it."""
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    match = start.fullmatch(first)
    assert match is not None, first
    headers = []
    for line in lines:
        header = HEADER.fullmatch(line)
        assert header is not None, line
        headers.append((header[1].lower(), header[2]))
    message = Message(first, tuple(headers), b"", whole=True)
    lengths, coding = message.values(b"content-length"), message.values(b"transfer-encoding")
    assert len(lengths) + len(coding) <= 1, "two lengths"
    status = int(match[1]) if match.groups() else 0
    if not has_body or 100 <= status < 200 or status in (204, 304):
        return message, rest
    if coding:
        body, rest, whole = read_chunks(rest)
        return message._replace(body=body, whole=whole), rest
    size = int(lengths[0]) if lengths else (len(rest) if status else 0)
    return message._replace(body=rest[:size], whole=len(rest) >= size), rest[size:]


def read_chunks(data: bytes) -> tuple[bytes, bytes, bool]:
    """The body, what follows it, and whether it is whole."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        body += data[:length]
        if length == 0:
            assert data[:2] == b"\r\n", "trailers"
            return body, data[2:], True
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
    return body, b"", False


def meaning(told: Told, client: bytes) -> tuple[object, ...]:
    """What does not depend on the pieces: of what is broken off, only that it is."""
    known = told.destination, told.is_tunnel, told.over, told.is_broken, bool(told.error)
    if told.is_broken or told.error:
        return known
    request: object = told.for_destination
    if told.for_destination and not client.startswith(b"CONNECT "):
        request = read(told.for_destination, TARGET)
    answers: list[object] = []
    rest = told.for_client
    while rest and not (told.is_tunnel and answers):
        answer, rest = read(rest, STATUS, has_body=not client.startswith(b"HEAD "))
        if told.is_tunnel and answer.start[9:12] == b"200":
            break
        answers.append(answer)
    return *known, request, tuple(answers), told.for_client if told.is_tunnel else b""
