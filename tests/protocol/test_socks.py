import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.socks import Outcome, SocksError, SocksRequest, normal_host

OK_5 = bytes.fromhex("05 00 00 01 00000000 0000")
NAME, V4, V6 = 3, 1, 4


def right(user: str, password: str) -> bool:
    return (user, password) == ("ann", "s3cret ☂")


def credentials(user: bytes = b"ann", password: bytes = "s3cret ☂".encode()) -> bytes:
    return b"\1" + bytes((len(user),)) + user + bytes((len(password),)) + password


def request_5(
    kind: int = NAME, address: bytes = b"db", port: int = 5432, command: int = 1
) -> bytes:
    if kind == NAME:
        address = bytes((len(address),)) + address
    return bytes((5, command, 0, kind)) + address + port.to_bytes(2)


def request_4(
    address: bytes = bytes((10, 1, 2, 3)), port: int = 80, *, command: int = 1, tail: bytes = b"\0"
) -> bytes:
    return bytes((4, command)) + port.to_bytes(2) + address + tail


def one_5(address: bytes, kind: int = NAME) -> SocksRequest:
    request = SocksRequest(None)
    request.receive(b"\5\1\0" + request_5(kind, address))
    return request


def fed(data: bytes, *, password: bool = False, size: int = 0) -> tuple[SocksRequest, bytes]:
    """A request that got ``data`` in pieces of ``size``, and what it answered."""
    request = SocksRequest(right if password else None)
    pieces = [data[i : i + size] for i in range(0, len(data), size)] if size else [data]
    return request, b"".join(request.receive(piece) for piece in pieces)


# Requests that are granted.


def test_socks_5_without_a_password() -> None:
    request = SocksRequest(None)
    assert request.receive(b"\5\2\0\2") == b"\5\0"
    assert (request.destination, request.outcome) == (None, None)
    assert request.receive(request_5(NAME, b"db.prod.internal", 5432)) == b""
    assert request.destination == ("db.prod.internal", 5432)
    assert request.outcome is None
    assert request.rest == b""
    assert request.reply(Outcome.GRANTED) == OK_5


def test_socks_5_with_a_password() -> None:
    request = SocksRequest(right)
    assert request.receive(b"\5\3\0\1\2") == b"\5\2"
    assert request.receive(credentials()) == b"\1\0"
    assert request.receive(request_5()) == b""
    assert request.destination == ("db", 5432)


@pytest.mark.parametrize(
    ("kind", "address", "host"),
    [
        (V4, bytes((192, 168, 0, 1)), "192.168.0.1"),
        (V6, bytes(15) + b"\1", "::1"),
        (V6, bytes.fromhex("20010db8000000000000000000000001"), "2001:db8::1"),
        (V6, bytes(10) + b"\xff\xff" + bytes((169, 254, 169, 254)), "169.254.169.254"),
        (NAME, b"::1", "::1"),
        (NAME, b"[::1]", "::1"),
        (NAME, b"10.0.0.1", "10.0.0.1"),
        (NAME, b"DB.Prod", "db.prod"),
    ],
)
def test_kinds_of_addresses_in_socks_5(kind: int, address: bytes, host: str) -> None:
    assert one_5(address, kind).destination == (host, 5432)


def test_socks_4() -> None:
    request, answer = fed(request_4(tail=b"somebody\0"))
    assert answer == b""
    assert request.destination == ("10.1.2.3", 80)
    assert request.reply(Outcome.GRANTED) == bytes((0, 90, 0, 0, 0, 0, 0, 0))


def test_socks_4a() -> None:
    request, _ = fed(request_4(bytes((0, 0, 0, 7)), 443, tail=b"somebody\0example.com\0"))
    assert request.destination == ("example.com", 443)


def test_what_everyone_calls_nowhere_is_no_name_in_socks_4() -> None:
    request, _ = fed(request_4(bytes(4)))
    assert request.destination == ("0.0.0.0", 80)


@pytest.mark.parametrize(
    "data",
    [
        b"\5\1\0" + request_5(),
        request_4(tail=b"x\0"),
        request_4(bytes((0, 0, 0, 1)), tail=b"\0name\0"),
    ],
)
def test_what_follows_the_request_is_kept_as_it_is(data: bytes) -> None:
    request, _ = fed(data + b"\5\1\0")
    assert request.destination is not None
    assert request.rest == b"\5\1\0"
    assert request.receive(b" and more") == b""
    assert request.rest == b"\5\1\0 and more"


# Replies.


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.GRANTED, 0),
        (Outcome.FAILED, 1),
        (Outcome.TIMED_OUT, 1),
        (Outcome.FORBIDDEN, 2),
        (Outcome.NOT_FOUND, 4),
        (Outcome.REFUSED, 5),
        (Outcome.UNSUPPORTED_COMMAND, 7),
        (Outcome.UNSUPPORTED_ADDRESS, 8),
    ],
)
def test_replies(outcome: Outcome, code: int) -> None:
    five, _ = fed(b"\5\1\0" + request_5())
    assert five.reply(outcome) == bytes((5, code, 0, 1)) + bytes(6)
    four, _ = fed(request_4())
    assert four.reply(outcome) == bytes((0, 91 if code else 90)) + bytes(6)


# Refusals that need no destination.


def refused(data: bytes, *, password: bool = False) -> tuple[Outcome | None, str, bytes]:
    request, answer = fed(data + b"tail", password=password)
    assert request.destination is None
    assert request.rest == b""
    return request.outcome, request.error, answer


@pytest.mark.parametrize("command", [0, 2, 3, 255])
def test_more_than_connect_is_not_supported(command: int) -> None:
    outcome, error, answer = refused(b"\5\1\0" + request_5(command=command))
    assert (outcome, answer) == (Outcome.UNSUPPORTED_COMMAND, b"\5\0\5\7\0\1" + bytes(6))
    assert error == "the client asks for more than TCP"
    outcome, _, answer = refused(request_4(command=command))
    assert (outcome, answer) == (Outcome.UNSUPPORTED_COMMAND, b"\0\x5b" + bytes(6))


@pytest.mark.parametrize("kind", [0, 2, 5, 255])
def test_unknown_kinds_of_addresses(kind: int) -> None:
    outcome, _, answer = refused(b"\5\1\0" + bytes((5, 1, 0, kind)) + bytes(30))
    assert (outcome, answer) == (Outcome.UNSUPPORTED_ADDRESS, b"\5\0\5\x08\0\1" + bytes(6))


def test_a_host_that_is_none() -> None:
    outcome, error, answer = refused(b"\5\1\0" + request_5(NAME, b"a b"))
    assert (outcome, answer[2:4]) == (Outcome.UNSUPPORTED_ADDRESS, b"\5\x08")
    assert error == "the host is neither name nor address"
    outcome, _, answer = refused(request_4(bytes((0, 0, 0, 1)), tail=b"\0a b\0"))
    assert (outcome, answer[:2]) == (Outcome.UNSUPPORTED_ADDRESS, b"\0\x5b")


def test_port_0() -> None:
    assert refused(b"\5\1\0" + request_5(port=0))[:2] == (
        Outcome.UNSUPPORTED_ADDRESS,
        "the port is 0",
    )


@pytest.mark.parametrize(
    ("methods", "password"), [(b"\2", False), (b"\0\1", True), (b"", False), (b"", True)]
)
def test_no_method_that_would_do(methods: bytes, password: bool) -> None:
    outcome, error, answer = refused(b"\5" + bytes((len(methods),)) + methods, password=password)
    assert (outcome, answer) == (Outcome.FORBIDDEN, b"\5\xff")
    assert ("password" in error) == password


@pytest.mark.parametrize(
    "wrong",
    [
        credentials(b"bob"),
        credentials(password=b"s3cret"),
        credentials(b"", b""),
        credentials(password=b"\xff\xfe"),
    ],
)
def test_a_wrong_password(wrong: bytes) -> None:
    outcome, error, answer = refused(b"\5\1\2" + wrong + request_5(), password=True)
    assert (outcome, answer) == (Outcome.FORBIDDEN, b"\5\2\1\1")
    assert error == "the client's user name or password is wrong"


def test_socks_4_where_a_password_is_needed() -> None:
    outcome, error, answer = refused(request_4(), password=True)
    assert (outcome, answer) == (Outcome.FORBIDDEN, b"\0\x5b" + bytes(6))
    assert "SOCKS 4" in error


# What is no SOCKS.


@pytest.mark.parametrize(
    ("data", "password", "text"),
    [
        (b"GET / HTTP/1.1\r\n", False, "HTTP or another protocol of lines"),
        (b"\x16\3\1", False, "its first byte is 22"),
        (b"\0", False, "its first byte is 0"),
        (b"\5\1\2\2", True, "RFC 1929"),
        (b"\5\1\0\4", False, "not one of SOCKS 5"),
        (request_4(tail=b"u" * 256), False, "longer than 255"),
        (request_4(bytes((0, 0, 0, 1)), tail=b"\0" + b"n" * 256), False, "longer than 255"),
    ],
)
@pytest.mark.parametrize("size", [0, 1])
def test_garbage(data: bytes, password: bool, text: str, size: int) -> None:
    with pytest.raises(SocksError, match=text) as caught:
        fed(data, password=password, size=size)
    assert "\n" not in str(caught.value)


def test_texts_of_255_bytes_are_taken_in_socks_4() -> None:
    name = b"n" * 50 + (b"." + b"n" * 50) * 4
    request, _ = fed(request_4(bytes((0, 0, 0, 1)), tail=b"u" * 255 + b"\0" + name[:253] + b"\0"))
    assert request.destination == (name[:253].decode(), 80)


# Hosts.


@pytest.mark.parametrize(
    ("written", "host"),
    [
        (b"localhost", "localhost"),
        (b"EXAMPLE.com", "example.com"),
        (b"example.com.", "example.com."),
        (b"_service._tcp.example.com", "_service._tcp.example.com"),
        (b"a-1.b--2", "a-1.b--2"),
        (b"1.example", "1.example"),
        (b"x" * 63, "x" * 63),
        ("bücher.example".encode(), "xn--bcher-kva.example"),
        ("例え.jp".encode(), "xn--r8jz45g.jp"),
        (b"127.0.0.1", "127.0.0.1"),
        (b"::ffff:127.0.0.1", "127.0.0.1"),
        (b"[2001:DB8::0:1]", "2001:db8::1"),
    ],
)
def test_hosts(written: bytes, host: str) -> None:
    assert normal_host(written) == host


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b".",
        b"..",
        b".a",
        b"a..b",
        b"a b",
        b"a\0b",
        b"a\n",
        b"\n",
        b"a\x7f",
        b"a/b",
        b"a@b",
        b"*",
        b"a%25",
        b"-a",
        b"a-",
        b"x" * 64,
        b".".join([b"x" * 60] * 5),
        b"\xff\xfe",
        "a\u2028b".encode(),
        "a\u202eb".encode(),
        ("ü" * 63).encode(),
        "\ud800".encode("utf-8", "surrogatepass"),
        # Some would take these for addresses, and rules about addresses would not.
        b"127.1",
        b"2130706433",
        b"0x7f000001",
        b"0X7F.1",
        b"0177.0.0.1",
        b"256.0.0.1",
        b"1.2.3.4.",
        b"a.1",
        b"[127.0.0.1]",
        b"[a]",
        b":",
        b"::1]",
        b"[::1",
        b"[[::1]]",
        b"fe80::1%eth0",
        b"::1::",
        b"a:80",
    ],
)
def test_no_hosts(written: bytes) -> None:
    assert normal_host(written) is None


@given(st.ip_addresses())
def test_an_address_is_written_in_one_way(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    expected: object = address
    if isinstance(address, ipaddress.IPv6Address):
        expected = address.ipv4_mapped or address
        assert normal_host(f"[{address.exploded}]".encode()) == str(expected)
    assert normal_host(str(address).encode()) == str(expected)


@given(st.one_of(st.binary(max_size=255), st.text(max_size=80).map(str.encode)))
def test_a_host_is_plain_and_stays_as_it_is(written: bytes) -> None:
    host = normal_host(written)
    if host is not None:
        assert host.isascii()
        assert host.isprintable()
        assert not set(host) & set(" /@[]%*\\\"'")
        assert normal_host(host.encode()) == host


# Any bytes in any pieces.

LABELS = st.from_regex("[a-z0-9]{0,5}[a-z]", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join(labels).encode())
USERS = st.binary(max_size=60)


@st.composite
def conversations(draw: st.DrawFn) -> bytes:
    """What a client may say that is right in most ways."""
    command = draw(st.sampled_from([1, 1, 1, 1, 2, 3, 77]))
    port = draw(st.integers(0, 65535))
    if draw(st.booleans()):
        user = draw(USERS).replace(b"\0", b"")
        name = draw(st.one_of(NAMES, st.binary(max_size=40))).replace(b"\0", b"")
        if draw(st.booleans()):
            return request_4(b"\0\0\0\1", port, command=command, tail=user + b"\0" + name + b"\0")
        return request_4(draw(st.binary(min_size=4, max_size=4)), port, tail=user + b"\0")
    methods = bytes(draw(st.lists(st.sampled_from([0, 0, 2, 2, 1, 128]), max_size=5)))
    said = bytes((5, len(methods))) + methods
    said += draw(st.sampled_from([b"", credentials(), credentials(b"bob")]))
    kind = draw(st.sampled_from([V4, V6, NAME, NAME, 9]))
    address = draw(
        st.binary(min_size=16, max_size=16)
        if kind == V6
        else st.binary(min_size=4, max_size=4)
        if kind == V4
        else st.one_of(NAMES, st.binary(max_size=255))
    )
    return said + request_5(kind, address, port, command)


def told(pieces: list[bytes], password: bool) -> tuple[object, ...]:
    request = SocksRequest(right if password else None)
    answers = b""
    error = ""
    for piece in pieces:
        try:
            answers += request.receive(piece)
        except SocksError as caught:
            # What was answered before is not told along with an error.
            return None, str(caught)
        if request.outcome is not None:
            break
    return request.destination, request.outcome, request.error, request.rest, answers, error


@given(
    st.one_of(st.binary(max_size=300), st.builds(bytes.__add__, conversations(), st.binary())),
    st.booleans(),
    st.data(),
)
def test_pieces_mean_the_same(said: bytes, password: bool, data: st.DataObject) -> None:
    whole = told([said], password)
    assert told([said[i : i + 1] for i in range(len(said))], password) == whole
    edges = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=6)))
    cut = [said[start:end] for start, end in zip([0, *edges], [*edges, len(said)], strict=True)]
    assert told(cut, password) == whole


@given(NAMES, st.integers(1, 65535), st.binary(max_size=40), st.booleans())
def test_a_right_request_is_understood(name: bytes, port: int, rest: bytes, password: bool) -> None:
    said = b"\5\1\2" + credentials() if password else b"\5\1\0"
    five, _ = fed(said + request_5(NAME, name, port) + rest, password=password)
    four, _ = fed(request_4(b"\0\0\0\1", port, tail=b"u\0" + name + b"\0") + rest)
    assert five.destination == four.destination == (name.decode(), port)
    assert five.rest == four.rest == rest


@pytest.mark.parametrize(
    "beginning", [b"\5\xff", b"\5\1\2\1\xff", b"\5\1\2" + credentials() + b"\5\1\0\3\xff", b"\4"]
)
def test_what_is_kept_is_bounded(beginning: bytes) -> None:
    """However long a client goes on: by then it is understood, refused or found out."""
    request = SocksRequest(right)
    found_out = False
    for byte in beginning + b"\1" * 600:
        try:
            request.receive(bytes((byte,)))
        except SocksError:
            found_out = True
            break
    assert found_out or request.outcome is not None
