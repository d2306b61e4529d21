"""SocksRequest: what a client of a SOCKS proxy wants, version 4, 4a or 5.

SOCKS 5 is RFC 1928, its user name and password RFC 1929; 4 and 4a have never been more than memos.
Names are not looked up here: the target does that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from enum import StrEnum
from functools import partial

VERSION_4 = 4
VERSION_5 = 5
CONNECT = 1
NO_PASSWORD = 0
PASSWORD = 2
NO_METHOD = 0xFF
PASSWORD_VERSION = 1
IPV4, NAME, IPV6 = 1, 3, 4
MAX_TEXT = 255  # bytes of a SOCKS 4 user id or name; SOCKS 5 can't have longer ones
MAX_HOST = 253
GRANTED_4 = 90
REJECTED_4 = 91

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
# What some resolvers take for an IPv4 address, and others for a name: 127.1, 0x7f000001.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class SocksError(ValueError):
    """The client does not speak SOCKS. The text is one line."""


class Outcome(StrEnum):
    """What became of a request, for any kind of proxy."""

    GRANTED = "granted"
    REFUSED = "refused"  # or unreachable: the agent can't tell these apart
    NOT_FOUND = "not found"
    FORBIDDEN = "forbidden"
    TIMED_OUT = "timed out"
    FAILED = "failed"
    UNSUPPORTED_COMMAND = "unsupported command"
    UNSUPPORTED_ADDRESS = "unsupported address"


_REPLIES_5 = {
    Outcome.GRANTED: 0,
    Outcome.FAILED: 1,
    Outcome.TIMED_OUT: 1,
    Outcome.FORBIDDEN: 2,
    Outcome.NOT_FOUND: 4,
    Outcome.REFUSED: 5,
    Outcome.UNSUPPORTED_COMMAND: 7,
    Outcome.UNSUPPORTED_ADDRESS: 8,
}


class SocksRequest:
    """Reads one request. It is over when ``destination`` or ``outcome`` is there.

    ``destination`` is (host, port), and ``rest`` what came after it. ``outcome`` is a refusal that
    was decided here, ``error`` says why in one line, and the client has been told with what
    ``receive`` gave. ``check_password`` gets user name and password, and has to take the same time
    for any; without it, nobody is asked.
    """

    def __init__(self, check_password: Callable[[str, str], bool] | None) -> None:
        self._check_password = check_password
        self._buffer = b""
        self._version = VERSION_5
        # Each reads one part: what to answer, or None if there is more to come.
        self._step: Callable[[], bytes | None] = self._read_version
        self.destination: tuple[str, int] | None = None
        self.outcome: Outcome | None = None
        self.error = ""

    @property
    def rest(self) -> bytes:
        """What came after the request."""
        return b"" if self.destination is None else self._buffer

    def receive(self, data: bytes) -> bytes:
        """Read more; what to answer now. Raises SocksError."""
        self._buffer += data
        answers = []
        while self.destination is None and self.outcome is None:
            answer = self._step()
            if answer is None:
                break
            answers.append(answer)
        return b"".join(answers)

    def reply(self, outcome: Outcome) -> bytes:
        """What tells the client what became of its request."""
        if self._version == VERSION_4:
            code = GRANTED_4 if outcome is Outcome.GRANTED else REJECTED_4
            return bytes((0, code)) + bytes(6)
        # The address that the target connects from is not known.
        return bytes((VERSION_5, _REPLIES_5[outcome], 0, IPV4)) + bytes(6)

    def _read_version(self) -> bytes | None:
        if not self._buffer:
            return None
        self._version = self._buffer[0]
        if self._version == VERSION_5:
            self._step = self._read_methods
        elif self._version == VERSION_4:
            self._step = self._read_request_4
        elif self._buffer[:1].isalpha():
            raise SocksError("the client speaks HTTP or another protocol of lines, not SOCKS")
        else:
            raise SocksError(f"the client does not speak SOCKS: its first byte is {self._version}")
        return b""

    # SOCKS 5.

    def _read_methods(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2 or (part := self._take(2 + buffer[1])) is None:
            return None
        check = self._check_password
        method = NO_PASSWORD if check is None else PASSWORD
        if method not in part[2:]:
            needed = "to be asked for a password" if method == PASSWORD else "to do without one"
            self.error = f"the client does not offer {needed}"
            self.outcome = Outcome.FORBIDDEN
            return bytes((VERSION_5, NO_METHOD))
        self._step = self._read_request_5 if check is None else partial(self._read_password, check)
        return bytes((VERSION_5, method))

    def _read_password(self, check: Callable[[str, str], bool]) -> bytes | None:
        buffer = self._buffer
        if buffer[:1] not in (b"", bytes((PASSWORD_VERSION,))):
            raise SocksError("the client's user name and password are not as in RFC 1929")
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return None
        user_end = 2 + buffer[1]
        part = self._take(user_end + 1 + buffer[user_end])
        if part is None:
            return None
        if _is_right(part[2:user_end], part[user_end + 1 :], check):
            self._step = self._read_request_5
            return bytes((PASSWORD_VERSION, 0))
        self.outcome = Outcome.FORBIDDEN
        self.error = "the client's user name or password is wrong"
        return bytes((PASSWORD_VERSION, 1))

    def _read_request_5(self) -> bytes | None:
        buffer = self._buffer
        if buffer[:1] not in (b"", bytes((VERSION_5,))):
            raise SocksError("the client's request is not one of SOCKS 5")
        if len(buffer) < 5:
            return None
        command, kind = buffer[1], buffer[3]
        if kind not in (IPV4, NAME, IPV6):
            return self._refuse(Outcome.UNSUPPORTED_ADDRESS, "the address is of an unknown kind")
        start = 5 if kind == NAME else 4
        end = start + {IPV4: 4, NAME: buffer[4], IPV6: 16}[kind]
        part = self._take(end + 2)
        if part is None:
            return None
        host, port = part[start:end], int.from_bytes(part[end:])
        if kind == NAME:
            return self._accept(command, normal_host(host), port)
        return self._accept(command, normal_host(str(ipaddress.ip_address(host)).encode()), port)

    # SOCKS 4, 4a.

    def _read_request_4(self) -> bytes | None:
        buffer = self._buffer
        if (user_end := self._end_of_text(8)) is None:
            return None
        address = buffer[4:8]
        # 0.0.0.x, which nobody can mean, says that a name follows.
        if any(address[:3]) or not address[3]:
            end, host = user_end, normal_host(str(ipaddress.ip_address(address)).encode())
        elif (name_end := self._end_of_text(user_end + 1)) is None:
            return None
        else:
            end, host = name_end, normal_host(buffer[user_end + 1 : name_end])
        self._take(end + 1)
        if self._check_password is not None:
            return self._refuse(Outcome.FORBIDDEN, "SOCKS 4 has no password, and one is needed")
        return self._accept(buffer[1], host, int.from_bytes(buffer[2:4]))

    def _end_of_text(self, start: int) -> int | None:
        """Where the zero is that ends what begins at ``start``; None if it is still to come."""
        end = self._buffer.find(b"\0", start, start + MAX_TEXT + 1)
        if end < 0 and len(self._buffer) > start + MAX_TEXT:
            raise SocksError(f"the client sent a user id or name longer than {MAX_TEXT} bytes")
        return end if end >= 0 else None

    # Both.

    def _take(self, size: int) -> bytes | None:
        if len(self._buffer) < size:
            return None
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        return part

    def _accept(self, command: int, host: str | None, port: int) -> bytes:
        if command != CONNECT:
            return self._refuse(Outcome.UNSUPPORTED_COMMAND, "the client asks for more than TCP")
        if host is None:
            return self._refuse(Outcome.UNSUPPORTED_ADDRESS, "the host is neither name nor address")
        if port == 0:
            return self._refuse(Outcome.UNSUPPORTED_ADDRESS, "the port is 0")
        self.destination = host, port
        return b""

    def _refuse(self, outcome: Outcome, error: str) -> bytes:
        self.outcome = outcome
        self.error = error
        return self.reply(outcome)


def _is_right(user: bytes, password: bytes, check: Callable[[str, str], bool]) -> bool:
    try:
        return check(user.decode(), password.decode())
    except UnicodeDecodeError:
        return False


def normal_host(host: bytes) -> str | None:
    """A host as clients write it, in one way of writing; None if it is none.

    Addresses lose their brackets, and an IPv4 address in IPv6 is the IPv4 address: rules about
    addresses are not to be got round. Names are ASCII in lower case, in IDNA where they were not.
    """
    try:
        text = host.decode().encode("idna").decode() if not host.isascii() else host.decode()
    except UnicodeError:
        return None
    text = text.lower()
    if ":" in text:
        return _ipv6(text[1:-1] if text[0] == "[" and text[-1] == "]" else text)
    labels = text.removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(text)
    if len(text) > MAX_HOST + 1 or not all(map(_LABEL.fullmatch, labels)):
        return None
    return text


def _ipv4(text: str) -> str | None:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        return None


def _ipv6(text: str) -> str | None:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        return None
    if address.scope_id is not None:
        return None  # an interface of which host?
    return str(address.ipv4_mapped or address)
