"""What a client of the HTTP proxy asks for: bytes in, bytes out."""

from __future__ import annotations

from base64 import b64encode

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.http_head import MAX_HEAD
from ssmnet.http_request import PAC_TYPE, Failure, HttpRequest

HOST = b"Host: ignored\r\n"


def ask(data: bytes, request: HttpRequest | None = None) -> HttpRequest:
    request = request or HttpRequest()
    request.receive(data)
    return request


def let_through(head: bytes) -> bytes:
    """What the destination gets."""
    request = ask(head)
    assert not request.over, request.data_for_client()
    request.connected()
    return request.data_for_destination()


def answered(request: HttpRequest) -> tuple[int, dict[str, str], bytes]:
    """The answer that the client has got, whole."""
    assert request.over
    return parse(request.data_for_client())


def parse(data: bytes, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """A whole answer, read by h11 as a client reads it: whatever follows it is an error."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    response = client.next_event()
    while isinstance(response, h11.InformationalResponse):
        response = client.next_event()
    assert isinstance(response, h11.Response), response
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data[0] == b""
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert headers["connection"] == "close"
    return response.status_code, headers, body


def basic(text: str) -> bytes:
    return b"Proxy-Authorization: Basic " + b64encode(text.encode()) + b"\r\n"


# CONNECT


@pytest.mark.parametrize(
    ("authority", "destination"),
    [
        (b"example.com:443", ("example.com", 443)),
        (b"EXAMPLE.com.:1", ("example.com.", 1)),
        (b"db_1.internal:65535", ("db_1.internal", 65535)),
        (b"10.0.0.1:22", ("10.0.0.1", 22)),
        (b"[FD00::1]:443", ("fd00::1", 443)),
        (b"[::ffff:10.0.0.1]:443", ("10.0.0.1", 443)),
    ],
)
def test_connect(authority: bytes, destination: tuple[str, int]) -> None:
    request = ask(b"CONNECT " + authority + b" HTTP/1.1\r\nHost: " + authority + b"\r\n\r\nearly")
    assert request.destination == destination
    assert request.data_for_client() == b""
    assert not request.wants_data
    request.receive(b", and more")
    request.connected()
    assert request.is_tunnel
    assert not request.over
    assert request.data_for_client() == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert request.data_for_destination() == b"early, and more"


def test_connect_in_http_1_0_needs_no_host_header() -> None:
    assert ask(b"CONNECT a:1 HTTP/1.0\r\n\r\n").destination == ("a", 1)


@pytest.mark.parametrize(
    "authority",
    [
        b"a",
        b"a:",
        b":1",
        b"a:0",
        b"a:65536",
        b"a:000001",
        b"a:x",
        b"a:+1",
        b"a:1/",
        b"a:1:2",
        b"fd00::1:443",
        b"[fd00::1]",
        b"[fd00::1:443",
        b"[fd00:::1]:443",
        b"[10.0.0.1]:443",
        b"[fe80::1%25eth0]:443",
        b"user@a:1",
        b"a%2eb:1",
        b"a,b:1",
        b"127.1:1",
        b"0x7f000001:1",
        b"http://a:1",
        b"/proxy.pac:1",
        b"*",
        b"a" * 255 + b":1",
    ],
)
def test_connect_to_what_is_no_host_and_port_is_refused(authority: bytes) -> None:
    request = ask(b"CONNECT " + authority + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert request.destination is None
    assert answered(request)[0] in (400, 404)


@pytest.mark.parametrize("header", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_connect_with_a_body_is_refused(header: bytes) -> None:
    request = ask(b"CONNECT a:1 HTTP/1.1\r\n" + HOST + header + b"\r\n\r\n")
    assert answered(request)[0] == 400


# Plain requests


@pytest.mark.parametrize(
    ("url", "destination", "host", "target"),
    [
        (b"http://a/", ("a", 80), b"a", b"/"),
        (b"http://a", ("a", 80), b"a", b"/"),
        (b"HTTP://A.b:8080/c?d=e://f", ("a.b", 8080), b"A.b:8080", b"/c?d=e://f"),
        (b"http://a?b", ("a", 80), b"a", b"/?b"),
        (b"http://[fd00::1]/x", ("fd00::1", 80), b"[fd00::1]", b"/x"),
        (b"http://[fd00::1]:81/x", ("fd00::1", 81), b"[fd00::1]:81", b"/x"),
        (b"http://a//b/@c:1", ("a", 80), b"a", b"//b/@c:1"),
    ],
)
def test_a_url_is_split(
    url: bytes, destination: tuple[str, int], host: bytes, target: bytes
) -> None:
    request = ask(b"GET " + url + b" HTTP/1.1\r\nX-A: b\r\n" + HOST + b"\r\n")
    assert request.destination == destination
    request.connected()
    head = b"GET " + target + b" HTTP/1.1\r\nHost: " + host
    assert request.data_for_destination() == head + b"\r\nX-A: b\r\nConnection: close\r\n\r\n"


def test_options_of_a_whole_host() -> None:
    sent = let_through(b"OPTIONS http://a:1 HTTP/1.1\r\n" + HOST + b"\r\n")
    assert sent.startswith(b"OPTIONS * HTTP/1.1\r\nHost: a:1\r\n")


@pytest.mark.parametrize(
    "url",
    [
        b"https://a/",
        b"ftp://a/",
        b"ws://a/",
        b"http:a",
        b"http:/a",
        b"http:///a",
        b"http://",
        b"http://:80/",
        b"http://a:/",
        b"http://a:0/",
        b"http://a:65536/",
        b"http://user@a/",
        b"http://user:password@a/",
        b"http://a\\b/",
        b"http://a#b",
        b"http://a/#b",
        b"http://a%62/",
        b"http://fd00::1/",
        b"http://[fd00::g]/",
        b"http://[fe80::1%25eth0]/",
        b"http://a,b/",
        b"a/b",
        b"a",
        b"*",
    ],
)
def test_what_is_no_plain_url_is_refused(url: bytes) -> None:
    request = ask(b"GET " + url + b" HTTP/1.1\r\n" + HOST + b"\r\n")
    assert request.destination is None
    status, headers, body = answered(request)
    assert status == 400
    assert headers["content-type"].startswith("text/plain")
    assert b"password" not in body
    assert body.count(b"\n") == 1


def test_headers_for_this_proxy_alone_are_not_passed_on() -> None:
    sent = let_through(
        b"GET http://a/ HTTP/1.1\r\nHost: elsewhere\r\nX-Kept: 1\r\n"
        b"Connection: keep-alive, X-Named\r\nconnection: x-other\r\nX-Named: 1\r\nX-OTHER: 1\r\n"
        b"Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic secret\r\nPROXY-X: 1\r\n"
        b"Keep-Alive: 5\r\nTE: trailers\r\nTrailer: X\r\nUpgrade: h2c\r\nCookie: c=d\r\n\r\n"
    )
    assert sent == (
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\nCookie: c=d\r\nConnection: close\r\n\r\n"
    )


def test_what_connection_names_changes_no_body_and_no_host() -> None:
    sent = let_through(
        b"POST http://a/ HTTP/1.1\r\nHost: b\r\nConnection: host, content-length\r\n"
        b"Content-Length: 3\r\n\r\nabc"
    )
    assert sent == (
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )


def test_a_body_of_known_length_is_streamed() -> None:
    request = ask(b"POST http://a/ HTTP/1.1\r\n" + HOST + b"Content-Length: 6\r\n\r\nab")
    assert request.data_for_destination() == b""
    request.receive(b"c")
    request.connected()
    assert request.data_for_destination().endswith(b"\r\n\r\nabc")
    request.receive(b"d")
    assert request.data_for_destination() == b"d"
    request.receive(b"efGET http://b/ HTTP/1.1\r\n\r\n")
    assert request.data_for_destination() == b"ef"


def test_a_chunked_body_is_streamed_without_its_trailers() -> None:
    request = ask(b"POST http://a/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    request.connected()
    request.data_for_destination()
    request.receive(b"3;x=y\r\nabc\r\n2\r\nd")
    assert request.data_for_destination() == b"3\r\nabc\r\n1\r\nd\r\n"
    request.receive(b"e\r\n0\r\nX-Trailer: 1\r\n\r\nGET http://b/ HTTP/1.1\r\n\r\n")
    assert request.data_for_destination() == b"1\r\ne\r\n0\r\n\r\n"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_what_follows_the_last_request_breaks_nothing(version: str) -> None:
    """Old programs send an empty line after a body."""
    request = HttpRequest()
    head = f"POST http://a/ HTTP/{version}\r\nHost: a\r\nConnection: close\r\n"
    request.receive(f"{head}Content-Length: 3\r\n\r\nabc\r\n".encode())
    request.connected()
    assert request.error == ""
    assert request.data_for_destination().endswith(b"\r\n\r\nabc")
    request.receive(b"more")
    assert request.error == ""


def test_a_second_request_reaches_nobody() -> None:
    first = b"GET http://a/ HTTP/1.1\r\n" + HOST + b"\r\n"
    second = b"GET http://b/ HTTP/1.1\r\nHost: b\r\n\r\n"
    request = ask(first + second)
    request.receive(second)
    request.connected()
    request.receive(second * 10)
    assert request.data_for_destination().count(b"HTTP/1.1") == 1
    assert len(request._client.trailing_data[0]) <= 2 * len(second), "what came late is kept"
    request.receive_response(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    request.receive(second)
    assert request.data_for_destination() == b""
    assert answered(request)[0] == 200


def test_an_expectation_is_the_destinations_to_meet() -> None:
    head = (
        b"POST http://a/ HTTP/1.%d\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    request = ask(head % 1)
    request.connected()
    assert b"Expect: 100-continue\r\n" in request.data_for_destination()
    request.receive_response(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert request.data_for_client() == b"HTTP/1.1 100 Continue\r\n\r\n"
    request.receive(b"ab")
    assert request.data_for_destination() == b"ab"
    assert b"Expect" not in let_through(head % 0)


# Smuggling


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", 400),
        (b"Content-Length: 3\r\nContent-Length: 4\r\n", 400),
        (b"Content-Length: 3, 4\r\n", 400),
        (b"Content-Length: +3\r\n", 400),
        (b"Content-Length: -1\r\n", 400),
        (b"Content-Length: 0x3\r\n", 400),
        (b"Content-Length: 3_0\r\n", 400),
        (b"Content-Length : 3\r\n", 400),
        (b"Content-Length: 3\r\n Content-Length: 4\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", 501),
        (b"Transfer-Encoding: identity\r\n", 501),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
        (b"Transfer-Encoding: \x0bchunked\r\n", 400),
        (b"Transfer-Encoding : chunked\r\n", 400),
        (b"Transfer-Encoding:\r\n chunked, identity\r\n", 501),
        (b"Host: other\r\n", 400),
        (b"X: a\x00b\r\n", 400),
        (b"X: a\rb\r\n", 400),
        (b"X\x00: a\r\n", 400),
        (b"no colon\r\n", 400),
        (b": no name\r\n", 400),
    ],
)
def test_what_two_servers_could_read_in_two_ways_is_refused(headers: bytes, status: int) -> None:
    request = ask(b"POST http://a/ HTTP/1.1\r\n" + HOST + headers + b"\r\n")
    assert request.destination is None
    assert answered(request)[0] == status


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://a/ HTTP/1.1\r\n\r\n",  # without Host
        b"GET http://a/ HTTP/1.1\r\n X: folded\r\n" + HOST + b"\r\n",
        b"GET  http://a/ HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://a/ b HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://a/\tHTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://a/\r\n\r\n",
        b"POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"\x05\x01\x00" + bytes(20),  # SOCKS
        b"SSH-2.0-x\r\n\r\n",
    ],
)
def test_garbage_is_refused(head: bytes) -> None:
    request = ask(head)
    assert request.destination is None
    assert answered(request)[0] == 400


def test_other_versions_are_refused() -> None:
    request = ask(b"GET http://a/ HTTP/2.0\r\n" + HOST + b"\r\n")
    assert answered(request)[0] == 505


def test_folded_lines_are_unfolded() -> None:
    sent = let_through(b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: a\r\n\tb\r\n\r\n")
    assert b"X: a b\r\n" in sent


def test_an_answer_shows_nothing_of_a_bad_header() -> None:
    request = ask(b"GET http://a/ HTTP/1.1\r\n" + HOST + b"Proxy-Authorization secret\r\n\r\n")
    assert b"secret" not in answered(request)[2]
    assert "secret" not in request.error


def test_a_bad_body_ends_the_request() -> None:
    request = ask(b"POST http://a/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    request.connected()
    request.receive(b"xyz\r\n")
    assert answered(request)[0] == 400


def test_a_bad_body_after_the_answer_began_breaks_it() -> None:
    request = ask(b"POST http://a/ HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
    request.connected()
    request.receive_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab")
    request.receive(b"xyz\r\n")
    assert request.is_broken
    assert not request.over


# Bounds


@pytest.mark.parametrize("size", [16384, 1])
def test_a_head_that_does_not_end_is_refused(size: int) -> None:
    request = ask(b"GET http://a/ HTTP/1.1\r\n" + HOST + b"X: ")
    sent = 0
    while not request.over:
        request.receive(b"a" * size)
        sent += size
        assert sent <= MAX_HEAD + size
    assert answered(request)[0] == 431
    request.receive(b"a" * size)
    assert request.data_for_client() == b""


def test_a_long_head_in_one_piece_is_refused() -> None:
    head = b"GET http://a/ HTTP/1.1\r\n" + HOST + b"X: " + b"a" * MAX_HEAD + b"\r\n\r\n"
    assert answered(ask(head))[0] == 431


def test_a_head_of_nearly_the_limit_is_let_through() -> None:
    head = b"GET http://a/ HTTP/1.1\r\n" + HOST + b"X: " + b"a" * (MAX_HEAD - 200) + b"\r\n\r\n"
    assert ask(head).destination == ("a", 80)


# Credentials


def check(user: str, password: str) -> bool:
    return (user, password) == ("us\xe9r", "pass:word")


@pytest.mark.parametrize("line", [b"GET http://a/ HTTP/1.1\r\n", b"CONNECT a:80 HTTP/1.1\r\n"])
def test_the_right_credentials_open(line: bytes) -> None:
    request = ask(line + HOST + basic("us\xe9r:pass:word") + b"\r\n", HttpRequest(check))
    assert request.destination == ("a", 80)
    request.connected()
    assert b"roxy" not in request.data_for_destination()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        basic("us\xe9r:wrong"),
        basic("us\xe9r"),
        basic("us\xe9r:pass:word") * 2,
        basic("us\xe9r:pass:word").replace(b"Basic", b"Bearer"),
        b"Authorization: Basic " + b64encode("us\xe9r:pass:word".encode()) + b"\r\n",
        b"Proxy-Authorization: Basic\r\n",
        b"Proxy-Authorization: Basic ***\r\n",
        b"Proxy-Authorization: Basic /////w==\r\n",
    ],
)
def test_other_credentials_do_not(header: bytes) -> None:
    request = ask(b"GET http://a/ HTTP/1.1\r\n" + HOST + header + b"\r\n", HttpRequest(check))
    assert request.destination is None
    status, headers, body = answered(request)
    assert status == 407
    assert headers["proxy-authenticate"] == 'Basic realm="ssmnet", charset="UTF-8"'
    assert body == b"the proxy wants a name and password\n"


# Answers


def asked(head: bytes = b"GET http://a/ HTTP/1.1\r\n" + HOST + b"\r\n") -> HttpRequest:
    """A request that the destination has got."""
    request = ask(head)
    request.connected()
    request.data_for_destination()
    return request


@pytest.mark.parametrize("piece", [1, 7, 10000])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\n\r\nhello", b"hello"),
    ],
)
def test_an_answer_is_streamed(answer: bytes, body: bytes, piece: int) -> None:
    request = asked()
    data = b""
    for at in range(0, len(answer), piece):
        request.receive_response(answer[at : at + piece])
        data += request.data_for_client()
    request.receive_response(b"")
    assert request.over
    assert not request.is_broken
    status, _, got = parse(data + request.data_for_client())
    assert got == body
    assert status == int(answer.split()[1]) or status == 200


def test_an_answer_of_known_length_is_over_before_the_connection_is() -> None:
    request = asked()
    request.receive_response(
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab, and what nobody asked"
    )
    assert answered(request)[2] == b"ab"


def test_the_answer_to_head_has_no_body() -> None:
    request = asked(b"HEAD http://a/ HTTP/1.1\r\n" + HOST + b"\r\n")
    request.receive_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
    assert request.over
    status, headers, body = parse(request.data_for_client(), "HEAD")
    assert (status, headers["content-length"], body) == (200, "5", b"")


def test_an_http_1_0_client_gets_what_it_understands() -> None:
    request = asked(b"GET http://a/ HTTP/1.0\r\n\r\n")
    request.receive_response(
        b"HTTP/1.1 100 Continue\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    )
    assert request.over
    data = request.data_for_client()
    assert data == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


def test_an_answers_headers_for_this_proxy_alone_are_not_passed_on() -> None:
    request = asked()
    request.receive_response(
        b"HTTP/1.1 200 OK\r\nServer: x\r\nConnection: keep-alive, X-Named\r\nKeep-Alive: 5\r\n"
        b"X-Named: 1\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\nSet-Cookie: a=b\r\n"
        b"set-cookie: c=d\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"
    )
    assert request.data_for_client() == (
        b"HTTP/1.1 200 OK\r\nServer: x\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n"
        b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )


def test_an_early_answer_ends_the_request() -> None:
    request = asked(b"POST http://a/ HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\na")
    request.receive_response(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    assert answered(request)[0] == 413
    request.receive(b"a" * 1000)
    assert request.data_for_destination() == b""


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n", b"\x15\x03\x01\x00\x02\x02\x50", b"x" * 70000]
)
def test_an_answer_that_is_not_http(answer: bytes) -> None:
    request = asked()
    request.receive_response(answer)
    request.receive_response(b"")
    status, headers, body = answered(request)
    assert status == 502
    assert headers["proxy-status"].startswith("ssmnet; error=")
    assert body.isascii()
    assert b"SSH" not in body


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Len"])
def test_a_destination_that_does_not_answer(answer: bytes) -> None:
    request = asked()
    if answer:
        request.receive_response(answer)
    request.receive_response(b"")
    assert answered(request)[0] == 502


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_an_answer_that_was_cut_is_not_taken_for_a_whole_one(answer: bytes) -> None:
    request = asked()
    request.receive_response(answer)
    request.receive_response(b"")
    assert request.is_broken
    assert not request.over
    assert request.error


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (Failure.REFUSED, 502),
        (Failure.NOT_FOUND, 502),
        (Failure.FORBIDDEN, 403),
        (Failure.TIMED_OUT, 504),
        (Failure.UNAVAILABLE, 503),
    ],
)
@pytest.mark.parametrize("line", [b"GET http://a/ HTTP/1.1\r\n", b"CONNECT a:80 HTTP/1.1\r\n"])
def test_why_there_is_no_destination_is_told(line: bytes, failure: Failure, status: int) -> None:
    request = ask(line + HOST + b"\r\n")
    request.fail(failure, "because\r\nof \xe9")
    got, headers, body = answered(request)
    assert got == status
    assert body == b"because of \\xe9\n"
    assert headers["proxy-status"] == f"ssmnet; error={failure.value[1]}"
    assert headers["x-content-type-options"] == "nosniff"
    assert request.error == "because of \\xe9"
    request.connected()
    assert request.data_for_destination() == b""


# WebSockets

WEBSOCKET = (
    b"GET http://a/x HTTP/1.1\r\nHost: a\r\nUpgrade: WebSocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: k\r\n\r\n"
)


def test_a_websocket_becomes_a_tunnel() -> None:
    request = ask(WEBSOCKET + b"early")
    request.connected()
    assert request.data_for_destination() == (
        b"GET /x HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )
    assert not request.wants_data
    request.receive_response(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: v\r\n\r\nframes"
    )
    assert request.is_tunnel
    assert request.data_for_client() == (
        b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: v\r\n"
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nframes"
    )
    assert request.data_for_destination() == b"early"


def test_a_websocket_that_is_refused_is_a_request_like_others() -> None:
    request = ask(WEBSOCKET + b"GET http://b/ HTTP/1.1\r\n\r\n")
    request.connected()
    request.data_for_destination()
    request.receive_response(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert not request.is_tunnel
    assert answered(request)[0] == 403
    assert request.data_for_destination() == b""


@pytest.mark.parametrize(
    "old",
    [b"GET http", b"Upgrade: WebSocket\r\n", b"Upgrade: WebSocket", b"keep-alive, Upgrade"],
)
def test_other_upgrades_are_not_asked_for(old: bytes) -> None:
    new = {
        b"GET http": b"PUT http",
        b"Upgrade: WebSocket\r\n": b"Upgrade: websocket\r\nContent-Length: 1\r\n",
        b"Upgrade: WebSocket": b"Upgrade: h2c",
        b"keep-alive, Upgrade": b"keep-alive",
    }[old]
    request = ask(WEBSOCKET.replace(old, new))
    request.connected()
    sent = request.data_for_destination()
    assert b"pgrade" not in sent
    request.receive_response(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    assert answered(request)[0] == 502


# The proxy itself


@pytest.mark.parametrize("path", [b"/proxy.pac", b"/wpad.dat", b"/proxy.pac?x=y"])
def test_the_pac_file_is_for_everyone(path: bytes) -> None:
    request = ask(
        b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n", HttpRequest(check, lambda: "pac")
    )
    status, headers, body = answered(request)
    assert (status, headers["content-type"], body) == (200, PAC_TYPE, b"pac")
    assert request.error == ""


def test_the_head_of_the_pac_file() -> None:
    request = ask(
        b"HEAD /proxy.pac HTTP/1.1\r\n" + HOST + b"\r\n", HttpRequest(None, lambda: "pac")
    )
    assert request.over
    status, headers, body = parse(request.data_for_client(), "HEAD")
    assert (status, headers["content-length"], body) == (200, "3", b"")


@pytest.mark.parametrize("path", [b"/", b"/index.html", b"/proxy.pac/", b"//proxy.pac"])
def test_there_is_nothing_else_here(path: bytes) -> None:
    request = ask(
        b"GET " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n", HttpRequest(None, lambda: "pac")
    )
    status, _, body = answered(request)
    assert status == 404
    assert body.count(b"\n") == 1


@pytest.mark.parametrize("method", [b"CONNECT", b"POST", b"OPTIONS"])
def test_the_pac_file_is_to_be_read_only(method: bytes) -> None:
    head = method + b" /proxy.pac HTTP/1.1\r\n" + HOST + b"\r\n"
    assert answered(ask(head, HttpRequest(None, lambda: "pac")))[0] == 404


def test_without_a_pac_file_there_is_none() -> None:
    assert answered(ask(b"GET /proxy.pac HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 404


# Any bytes


PIECES = st.lists(
    st.binary(max_size=40)
    | st.sampled_from(
        [
            b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"POST http://a/ HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
            WEBSOCKET,
            b"4\r\nabcd\r\n",
            b"0\r\n\r\n",
            b"abcd",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ]
    ),
    max_size=8,
)


@given(st.booleans(), PIECES, PIECES)
def test_any_bytes_of_both_sides_are_borne(
    fails: bool, of_client: list[bytes], of_destination: list[bytes]
) -> None:
    request = HttpRequest()
    for data in of_client:
        if data:
            request.receive(data)
        if request.destination is not None:
            break
    if request.destination is not None and fails:
        request.fail(Failure.REFUSED, "no")
        assert request.over
    elif request.destination is not None:
        assert request.data_for_destination() == b""
        request.connected()
        for data in of_destination:
            if not request.is_tunnel:
                request.receive_response(data)
            if of_client and not request.is_tunnel:
                request.receive(of_client.pop() or b"x")
    ended = [request.is_tunnel, request.over, request.is_broken]
    assert sum(ended) <= 1
    assert bool(request.error) <= (request.over or request.is_broken)
