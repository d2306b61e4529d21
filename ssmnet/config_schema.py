"""What may stand in the tables of ``ssmnet.toml``, and what is said to be expected there.

One description a type: it is what an error tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta

from .duration import parse_duration
from .errors import UsageError
from .forwards import MAX_SESSIONS
from .stream_url import check_endpoint, check_region

MAX_ADDRESSES = 16


class Seconds(float):
    """A time in seconds, written ``90``, ``"90s"``, ``"15m"`` or ``"8h"``."""


class Addresses(tuple[str, ...]):
    """Addresses to listen on, written as a text or a list."""

    __slots__ = ()


_ADDRESS = r"\A[^\s/\[\]\x00-\x1f\x7f]+\Z"
Text = Annotated[
    str, Meta(pattern=r"\A[^\x00-\x1f\x7f]+\Z", max_length=1024, description="a line of text")
]
Time = Annotated[Seconds, Meta(description='a time such as "90s", "15m" or "8h"')]
Port = Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")]
LocalPort = Annotated[int, Meta(ge=0, le=65535, description="a port, or 0 for a free one")]
SocketPath = Annotated[
    str, Meta(pattern=r"\A[^\x00-\x1f\x7f]*/[^\x00-\x1f\x7f]*\Z", max_length=1024)
]
Local = Annotated[
    LocalPort | SocketPath,
    Meta(description="a port, 0 for a free one, or the path of a socket with a / in it"),
]
# A type of ours: msgspec 0.22 corrupts memory where a text or a list may stand, both bounded.
Bind = Annotated[Addresses, Meta(description="an address to listen on, or a list of them")]
Host = Annotated[
    str, Meta(pattern=_ADDRESS, max_length=255, description="a host's name or address")
]
Sessions = Annotated[
    Annotated[int, Meta(ge=1, le=MAX_SESSIONS)] | Literal["auto"],
    Meta(description=f'a number from 1 to {MAX_SESSIONS}, or "auto"'),
]
Parameters = Annotated[
    dict[str, str | list[str]],
    Meta(max_length=100, description="a table of texts, or lists of them"),
]
Flag = Annotated[bool, Meta(description="true or false")]
Count = Annotated[int, Meta(ge=0, description="a number from 0")]
_Rules = list[Annotated[str, Meta(max_length=600)]]
Patterns = Annotated[
    _Rules,
    Meta(
        max_length=1000, description='a list of patterns such as ["*.internal", "10.0.0.0/8:443"]'
    ),
]
Routes = Annotated[
    _Rules,
    Meta(max_length=1000, description='a list of routes such as ["*.prod.internal via i-0123"]'),
]
MaxSessions = Annotated[
    int, Meta(ge=1, le=MAX_SESSIONS, description=f"a number from 1 to {MAX_SESSIONS}")
]
Variable = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]*\Z", description="an environment variable's name")
]


class Defaults(msgspec.Struct):
    """``[defaults]``: what forwards and proxies both have."""

    profile: Text | None = None
    region: Text | None = None
    endpoint_url: Text | None = None
    target: Text | None = None
    reason: Text | None = None
    keep_alive: Time | None = None
    max_session_age: Time | None = None
    resume_timeout: Time | None = None
    sessions: Sessions | None = None


class Forward(Defaults):
    """``[forwards.NAME]``."""

    local: Local | None = None
    bind: Bind | None = None
    host: Host | None = None
    remote: Port | None = None
    document: Text | None = None
    parameters: Parameters | None = None
    check: Flag = False
    max_restarts: Count | None = None


class Proxy(Defaults):
    """``[proxies.NAME]``."""

    socks: LocalPort | None = None
    http: LocalPort | None = None
    bind: Bind | None = None
    allow: Patterns = []
    deny: Patterns = []
    routes: Routes = []
    max_sessions: MaxSessions | None = None
    idle: Time | None = None
    user: Text | None = None
    password_env: Variable | None = None


# What the right type may still be wrong for. These raise UsageError.
_CHECKS: Mapping[str, Callable[[str], None]] = {
    "region": check_region,
    "endpoint_url": check_endpoint,
}


class Wrong(Exception):
    """A value is none that may stand there; the text says what may."""


def read_value(kind: type[Defaults], name: str, value: object) -> Any:
    """The value for a field of ``kind``. Raises Wrong."""
    try:
        # Within its struct: msgspec keeps what it has made of that, and of no type by itself.
        table = msgspec.convert({name: value}, kind, dec_hook=_read_ours)
    except msgspec.ValidationError:
        wanted = next(f.type for f in msgspec.structs.fields(kind) if f.name == name)
        # What is no name of a variable may be the password itself.
        found = "" if wanted == Variable | None else f", found {show(value)}"
        raise Wrong(f"expected {_description(wanted)}{found}") from None
    if name in _CHECKS:
        try:
            _CHECKS[name](getattr(table, name))
        except UsageError as error:
            raise Wrong(str(error)) from None
    return getattr(table, name)


def wrong_parameters(given: Mapping[str, object]) -> dict[str, str]:
    """What is wrong in a table of parameters, by its key."""
    return {
        name: f"expected a text or a list of texts, found {show(value)}"
        for name, value in given.items()
        if not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value]))
    }


def _read_ours(kind: type, value: object) -> Seconds | Addresses:
    return _read_seconds(value) if kind is Seconds else _read_addresses(value)


def _read_seconds(value: object) -> Seconds:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    try:
        return Seconds(parse_duration(str(value)))
    except UsageError as error:
        raise ValueError from error


def _read_addresses(value: object) -> Addresses:
    given: list[Any] = value if isinstance(value, list) else [value]
    if not 0 < len(given) <= MAX_ADDRESSES:
        raise ValueError
    if not all(isinstance(one, str) and re.match(_ADDRESS, one) for one in given):
        raise ValueError
    return Addresses(given)


def _description(kind: object) -> str:
    """What the outermost type that says so is for people."""
    for one in reversed(get_args(kind)):
        text = one.description if isinstance(one, Meta) else _description(one)
        if text:
            return str(text)
    return ""


def show(value: object) -> str:
    """A value of the file, for people."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."
