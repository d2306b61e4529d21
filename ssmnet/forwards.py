"""Forward and Request: a forward as a user asks for it, and how it is written on a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from .bind import LOOPBACK, is_loopback
from .destination import in_url, is_address
from .errors import UsageError

_FIELD = re.compile(r"\[([^\[\]]+)\](?=:|$)|([^:\[\]]*)(?=:|$)")

# What ``--sessions auto`` is: AWS lets an account start a few a second, and counts those open.
AUTO_SESSIONS = 4
MAX_SESSIONS = 200


class Forward(msgspec.Struct, frozen=True):
    """From a local port or unix socket to a port of the target, or of a ``host`` that it reaches.

    ``local`` is a port, 0 for a free one, or the path of a socket; ``remote`` may be None where a
    document of one's own names the port. ``bind`` holds the addresses to listen on.
    """

    local: int | str
    remote: int | None
    host: str | None = None
    bind: tuple[str, ...] = LOOPBACK

    def destination(self, target: str) -> str:
        """What it leads to, for people."""
        host = in_url(self.host) if self.host else target
        return host if self.remote is None else f"{host}:{self.remote}"

    @property
    def names_host(self) -> bool:
        """Whether the target looks up a name to find the destination."""
        return self.host is not None and not is_address(self.host)

    @property
    def is_exposed(self) -> bool:
        """Whether other hosts can use it."""
        return isinstance(self.local, int) and is_exposed(self.bind)


class Request(msgspec.Struct, frozen=True):
    """Whom to forward through, and how.

    Up to ``sessions`` share the connections of each forward. ``max_restarts`` bounds how many may
    be started for those that are over; None for no bound. The others are in seconds: see Session
    for ``resume_timeout`` and ``keep_alive``, SessionPool for ``max_session_age``.
    """

    target: str
    reason: str | None = None
    document: str | None = None
    parameters: Mapping[str, Sequence[str]] | None = None
    check: bool = False
    sessions: int = 1
    max_restarts: int | None = None
    resume_timeout: float | None = None
    keep_alive: float | None = None
    max_session_age: float | None = None


def parse_forward(text: str, bind: str | None = None) -> Forward:
    """Read ssh's grammar: ``[bind:]port:host:hostport``, or ``port:hostport`` of the target.

    IPv6 addresses stand in brackets; a path with a ``/`` instead of the port is a unix socket.
    ``bind`` is for those that name no address. Raises UsageError.
    """
    fields = _split(text)
    if fields is None or not 2 <= len(fields) <= 4 or "" in fields[1:]:
        raise UsageError(
            f"{text!r} is not a forward: write [bind:]port:host:hostport or port:hostport"
        )
    own_bind = fields.pop(0) if len(fields) == 4 else None
    if own_bind is not None and bind is not None:
        raise UsageError(f"{text!r} names an address to listen on, and so does --bind")
    host = fields[1] if len(fields) == 3 else None
    return make_forward(fields[0], fields[-1], host, own_bind if bind is None else bind)


def make_forward(
    local: str, remote: str | None, host: str | None = None, bind: str | None = None
) -> Forward:
    """A Forward of its parts as they are written. Raises UsageError."""
    is_path = "/" in local
    if is_path and bind is not None:
        raise UsageError(f"{local} is a unix socket: it has no address to listen on")
    if host is not None and not re.fullmatch(r"[^\s/\[\]]+", host):
        raise UsageError(f"{host!r} is not a host")
    return Forward(
        local=local if is_path else _port(local, lowest=0),
        remote=None if remote is None else _port(remote, lowest=1),
        host=host,
        bind=_addresses(bind),
    )


def check_distinct(forwards: Sequence[Forward]) -> None:
    """Raise UsageError when two forwards listen on the same port and address, or socket."""
    seen: set[tuple[int | str, str]] = set()
    for forward in forwards:
        for address in forward.bind if isinstance(forward.local, int) else ("",):
            place = (forward.local, address)
            if forward.local != 0 and place in seen:
                raise UsageError(f"two forwards listen on {forward.local}")
            seen.add(place)


def is_exposed(addresses: Sequence[str]) -> bool:
    """Whether other hosts can reach what listens there."""
    return not all(map(is_loopback, addresses))


def parse_sessions(text: str) -> int:
    """Read how many sessions a forward may have: a number, or ``auto``. Raises UsageError."""
    if text == "auto":
        return AUTO_SESSIONS
    if not re.fullmatch("[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_SESSIONS:
        raise UsageError(f"--sessions {text!r} is neither auto nor from 1 to {MAX_SESSIONS}")
    return int(text)


def _split(text: str) -> list[str] | None:
    fields = []
    position = 0
    while True:
        match = _FIELD.match(text, position)
        if match is None:
            return None
        fields.append(match[1] if match[1] is not None else match[2])
        if match.end() == len(text):
            return fields
        position = match.end() + 1


def _addresses(bind: str | None) -> tuple[str, ...]:
    if bind is None:
        return LOOPBACK
    # As in ssh: an empty address or * means every one.
    return ("0.0.0.0", "::") if bind in ("", "*") else (bind,)  # noqa: S104 - asked for


def _port(text: str, *, lowest: int) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not lowest <= int(text) <= 65535:
        raise UsageError(f"{text!r} is not a port: a number from {lowest} to 65535")
    return int(text)
