"""SOCKS requests against any bytes.

The first byte of an input says whether a password is needed, and how the rest comes in pieces: what
is understood must be the same in one piece, in these, and byte by byte. A plain reading of the same
bytes says where a client wants to go.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from ssmnet.protocol import socks
from ssmnet.protocol.socks import Outcome, SocksError, SocksRequest, normal_host
from tests.fuzz.program import pieces

SUBJECTS = (socks,)
USER, PASSWORD = b"ann", b"s3cret"
CREDENTIALS = b"\1\3ann\6s3cret"
MAX_KEPT = 600
TOKENS = (
    b"\5\1\0",
    b"\5\2\0\2",
    b"\5\1\2",
    CREDENTIALS,
    b"\1\0\0",
    b"\5\1\0\1\x7f\0\0\1\0\x50",
    b"\5\1\0\3\x0bexample.com\1\xbb",
    b"\5\1\0\4" + bytes(15) + b"\1\0\x50",
    b"\5\2\0\1",
    b"\5\3\0\1",
    b"\4\1\0\x50\x0a\0\0\1",
    b"\4\1\0\x50\0\0\0\1",
    b"\4\2\0\x50\x0a\0\0\1",
    b"user\0",
    b"example.com\0",
    b"\3\3::1",
    b"\3\5[::1]",
    b"\3\x09127.0.0.1",
    b"::ffff:1.2.3.4",
    b"0x7f.1",
    "ü。é".encode(),
    b"xn--",
    b"%eth0",
    b"x" * 64,
    b"u" * 256,
    b"\xff",
)


class Told(NamedTuple):
    destination: tuple[str, int] | None
    outcome: Outcome | None
    error: str
    rest: bytes
    answers: bytes


def seeds() -> list[bytes]:
    greeting = b"\5\1\0"
    said = [
        greeting + b"\5\1\0\3\x0bexample.com\1\xbbrest",
        greeting + b"\5\1\0\1\x0a\0\0\1\0\x50",
        greeting + b"\5\1\0\4" + bytes(15) + b"\1\0\x50",
        greeting + "\5\1\0\3\7bücher\0\x50".encode(),
        b"\4\1\0\x50\x0a\0\0\1user\0rest",
        b"\4\1\0\x50\0\0\0\1user\0example.com\0rest",
        b"GET / HTTP/1.1\r\n\r\n",
    ]
    return [b"\0" + one for one in said] + [
        b"\1\5\1\2" + CREDENTIALS + b"\5\1\0\3\3::1\1\xbb",
        b"\1\5\2\0\2\1\0\0",
    ]


def check_password(user: str, password: str) -> bool:
    return (user.encode(), password.encode()) == (USER, PASSWORD)


def fuzz(data: bytes) -> None:
    key, said = (data[0], data[1:]) if data else (0, b"")
    password = bool(key & 1)
    whole = tell([said], password)
    assert tell([said[i : i + 1] for i in range(len(said))], password) == whole
    assert tell(pieces(said, key), password) == whole
    if isinstance(whole, str):
        assert whole.isprintable(), "an error is one line"
        return
    assert whole.destination is None or whole.outcome is None
    assert bool(whole.error) == (whole.outcome is not None)
    assert whole.error.isprintable()
    plain = read_plainly(said, password)
    assert whole.destination == (plain[:2] if plain else None)
    assert whole.rest == (plain[2] if plain else b"")
    if whole.destination is not None:
        check_host(whole.destination[0])
    check_host_of(said)


def tell(parts: list[bytes], password: bool) -> Told | str:
    """All that a client is told, up to its end; or what is wrong with it."""
    request = SocksRequest(check_password if password else None)
    answers = b""
    for part in parts:
        try:
            answers += request.receive(part)
        except SocksError as error:
            return str(error)
        if request.outcome is not None:
            break
        kept = len(request._buffer)
        assert request.destination is not None or kept < MAX_KEPT, "it keeps too much"
    return Told(request.destination, request.outcome, request.error, request.rest, answers)


def read_plainly(said: bytes, password: bool) -> tuple[str, int, bytes] | None:
    """Host, port and rest of a request to connect that is whole and right; None of any other."""
    try:
        if said[0] == 4:
            return None if password else read_4(said)
        return read_5(said, password)
    except (IndexError, ValueError):
        return None  # there is not enough


def read_4(said: bytes) -> tuple[str, int, bytes] | None:
    address = said[4:8]
    _, _, rest = cut_text(said[8:])
    host = ".".join(map(str, address)).encode()
    if address[:3] == bytes(3) and address[3]:
        host, _, rest = cut_text(rest)
    return checked(said[1], host, said[2:4], rest)


def cut_text(data: bytes) -> tuple[bytes, bytes, bytes]:
    end = data.index(b"\0")
    return data[:end], b"\0", data[end + 1 :]


def read_5(said: bytes, password: bool) -> tuple[str, int, bytes] | None:
    methods, rest = said[2 : 2 + said[1]], said[2 + said[1] :]
    if said[0] != 5 or len(methods) < said[1] or (2 if password else 0) not in methods:
        return None
    if password:
        if not rest.startswith(CREDENTIALS):
            return None
        rest = rest[len(CREDENTIALS) :]
    if rest[0] != 5:
        return None
    command, kind, rest = rest[1], rest[3], rest[4:]
    if kind == 3:
        size = rest[0]
        host, rest = rest[1 : 1 + size], rest[1 + size :]
    else:
        size = {1: 4, 4: 16}.get(kind, 0)
        host, rest = rest[:size], rest[size:]
        host = str(ipaddress.ip_address(host)).encode()
    return checked(command, host, rest[:2], rest[2:])


def checked(command: int, host: bytes, port: bytes, rest: bytes) -> tuple[str, int, bytes] | None:
    if len(port) < 2 or command != 1 or port == b"\0\0":
        return None
    name = normal_host(host)
    return None if name is None else (name, int.from_bytes(port), rest)


def check_host_of(said: bytes) -> None:
    """Any bytes as a host."""
    host = normal_host(said[:255])
    if host is not None:
        check_host(host)


def check_host(host: str) -> None:
    """It is plain, and in one way of writing."""
    assert host.isascii()
    assert host.isprintable()
    assert len(host) <= 254
    assert not set(host) & set(" /\\@[]%*?#\"'<>")
    assert normal_host(host.encode()) == host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        assert not host.removesuffix(".").rpartition(".")[2].isdigit()
    else:
        assert str(address) == host
        assert getattr(address, "ipv4_mapped", None) is None
