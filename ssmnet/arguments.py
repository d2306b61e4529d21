"""What an application's arguments mean, and an error in a line for those that mean nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from .bind import LOOPBACK
from .config import EVERYWHERE, NamedProxy, Place
from .destination import Destination
from .errors import UsageError
from .forwards import Forward, Request, make_forward
from .proxy import HTTP, SOCKS


def destination(host: str | None, port: int) -> Destination:
    """Where a connection leads; None is the target itself. Raises UsageError."""
    forward = make_forward("0", str(number(port)), _text(host))
    return Destination(forward.host or "localhost", port)


def forward(
    port: int | None,
    host: str | None,
    local_port: int,
    local_path: str | None,
    bind: str | Sequence[str] | None,
) -> Forward:
    """See Target.forward. Raises UsageError."""
    local = str(number(local_port)) if local_path is None else _path(local_path)
    made = make_forward(local, None if port is None else str(number(port)), _text(host))
    return replace(made, bind=addresses(bind))


def proxy(
    kind: str,
    port: int,
    bind: str | Sequence[str] | None,
    rules: tuple[Sequence[str], Sequence[str]],
    max_sessions: int,
    idle_time: float,
    request: Request,
) -> NamedProxy:
    """See Target.proxy. ``rules`` are what is allowed and what is denied. Raises UsageError."""
    if kind not in (SOCKS, HTTP):
        raise UsageError(f"a proxy is {SOCKS!r} or {HTTP!r}, not {kind!r}")
    check_counts(max_sessions=max_sessions)
    check_times(idle_time=idle_time)
    allow, deny = rules
    for name, patterns in (("allow", allow), ("deny", deny)):
        if isinstance(patterns, str):
            raise UsageError(f"{name} is a list of patterns, not one text")
    return NamedProxy(
        name="",
        place=Place(None, None, None),
        socks=number(port) if kind == SOCKS else None,
        http=number(port) if kind == HTTP else None,
        bind=addresses(bind),
        allow=tuple(allow),
        deny=tuple(deny),
        routes=(),
        max_sessions=max_sessions,
        idle=idle_time,
        user=None,
        password_env=None,
        request=request,
    )


def check_counts(**counts: int) -> None:
    """Raise UsageError for what is not at least one."""
    for name, value in counts.items():
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} is a number from 1, not {value!r}")


def check_times(**times: float | None) -> None:
    """Raise UsageError for what is no time in seconds; None is none at all."""
    for name, value in times.items():
        if value is not None and (not isinstance(value, int | float) or not value >= 0):
            raise UsageError(f"{name} is in seconds, not {value!r}")


def check_periods(**times: float | None) -> None:
    """As check_times, where no time at all would never end."""
    check_times(**times)
    for name, value in times.items():
        if value == 0:
            raise UsageError(f"{name} is more than no seconds")


def check_document(
    document: str | None, parameters: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]] | None:
    """The parameters of a document of one's own. Raises UsageError."""
    if parameters and document is None:
        raise UsageError("parameters go with a document")
    for name, value in (parameters or {}).items():
        if isinstance(value, str):
            raise UsageError(f"the parameter {name!r} has a list of values, not one text")
    return parameters


def number(port: int) -> int:
    """The number of a port. Raises UsageError."""
    if not isinstance(port, int):
        raise UsageError(f"a port is an int, not {port!r}")
    return port


def _text(host: str | None) -> str | None:
    if host is not None and not isinstance(host, str):
        raise UsageError(f"a host is a str, not {host!r}")
    return host


def addresses(bind: str | Sequence[str] | None) -> tuple[str, ...]:
    """What to listen on."""
    if bind is None:
        return LOOPBACK
    if isinstance(bind, str):
        return EVERYWHERE if bind in ("", "*") else (bind,)
    return tuple(bind)


def _path(path: str) -> str:
    """A path that can't be taken for a port."""
    return path if "/" in path else f"./{path}"
