"""The forwards and proxies that ``ssmnet.toml`` names.

Each value is checked by itself, so that all that is wrong in a file is told at once, each with its
line, its key and what was expected there.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from . import config_schema
from .bind import LOOPBACK
from .config_file import Key, find_config, key_lines, parse, read_text
from .errors import UsageError
from .forwards import Forward, Request, parse_sessions
from .rules import parse_pattern, parse_route

_T = TypeVar("_T", bound=config_schema.Defaults)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - where the user asks for it
PASSWORD_VARIABLE = "SSMNET_PROXY_PASSWORD"  # noqa: S105 - its name
MAX_NAMES = 1000  # forwards and proxies


class Place(NamedTuple):
    """Which part of AWS, and as whom; None for what the AWS settings say."""

    profile: str | None
    region: str | None
    endpoint_url: str | None


class NamedForward(msgspec.Struct, frozen=True, kw_only=True):
    """A forward of the file. Its request's ``target`` is empty where the file names none."""

    name: str
    place: Place
    forward: Forward
    request: Request


class NamedProxy(msgspec.Struct, frozen=True, kw_only=True):
    """A proxy of the file: SOCKS, HTTP or both, each on a port of its own; 0 takes a free one.

    Its request's ``target`` is the one for what no route fits, and empty where there is none.
    ``idle`` is in seconds. The password of ``user`` is in the environment variable
    ``password_env``.
    """

    name: str
    place: Place
    socks: int | None
    http: int | None
    bind: tuple[str, ...]
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    routes: tuple[str, ...]
    max_sessions: int | None
    idle: float | None
    user: str | None
    password_env: str | None
    request: Request


class Config(msgspec.Struct, frozen=True):
    """What a file says, with its defaults in every place that they are for."""

    path: Path
    forwards: dict[str, NamedForward]
    proxies: dict[str, NamedProxy]

    def forward(self, name: str) -> NamedForward:
        """The forward of that name. Raises UsageError."""
        if found := self.forwards.get(name):
            return found
        raise UsageError(self._unknown(name, self.forwards))

    def check_names(self, names: Sequence[str]) -> None:
        """Raise UsageError for a name that is neither a forward's nor a proxy's."""
        for name in names:
            if name not in self.forwards and name not in self.proxies:
                raise UsageError(self._unknown(name, [*self.forwards, *self.proxies]))

    def _unknown(self, name: str, known: Iterable[str]) -> str:
        if name in self.proxies:
            return f"{name} is a proxy in {self.path}, and no forward"
        there = ", ".join(sorted(known)[:20]) or "none"
        near = difflib.get_close_matches(name, known, 1)
        hint = f"is {near[0]} meant?" if near else f"there are: {there}"
        return f"{self.path} has no {name!r}; {hint}"


def load_config(path: Path | None = None) -> Config:
    """Read the file, or the one that is found where none is given.

    Raises UsageError, which tells of the first that is wrong in it.
    """
    path = path or find_config()
    if path is None:
        raise UsageError("there is no ssmnet.toml: 'ssmnet config example' shows how to write one")
    config, problems = check_config(path)
    if problems:
        more = f" (and {len(problems) - 1} more: see ssmnet config check)" if problems[1:] else ""
        raise UsageError(problems[0] + more)
    return config


def check_config(path: Path) -> tuple[Config, list[str]]:
    """Read the file; what can be used of it, and a line for each thing that is wrong in it.

    Raises UsageError where it can't be read at all.
    """
    text = read_text(path)
    reader = _Reader(path, key_lines(text))
    config = reader.read(parse(path, text))
    return config, [told for _, told in sorted(reader.problems)]


class _Reader:
    def __init__(self, path: Path, lines: dict[Key, int]) -> None:
        self.problems: list[tuple[int, str]] = []
        self._path = path
        self._folder = Path(os.path.abspath(path)).parent
        self._lines = lines
        self._defaults = config_schema.Defaults()

    def read(self, tables: dict[str, Any]) -> Config:
        for name in tables.keys() - {"defaults", "forwards", "proxies"}:
            self._tell_unknown((name,), ("defaults", "forwards", "proxies"), tables[name])
        self._defaults = self._convert(
            ("defaults",), tables.get("defaults", {}), config_schema.Defaults
        )
        forwards = {
            key[-1]: self._forward(key, table) for key, table in self._named("forwards", tables)
        }
        proxies = {
            key[-1]: self._proxy(key, table) for key, table in self._named("proxies", tables)
        }
        for name in forwards.keys() & proxies.keys():
            self._tell(("proxies", name), f"there is a forward named {name} already")
        self._check_distinct(forwards, proxies)
        return Config(self._path, forwards, proxies)

    def _named(self, kind: str, tables: dict[str, Any]) -> Iterator[tuple[Key, Any]]:
        group = tables.get(kind, {})
        if not isinstance(group, dict):
            self._tell((kind,), f"expected tables such as [{kind}.db]")
            return
        if len(group) > MAX_NAMES:
            self._tell((kind,), f"there are {len(group)}: more than {MAX_NAMES}")
            return
        for name, table in group.items():
            if _NAME.fullmatch(name):
                yield (kind, name), table
            else:
                self._tell((kind, name), "expected a name of letters, digits, _, . and -")

    def _forward(self, key: Key, table: Any) -> NamedForward:
        given = self._convert(key, table, config_schema.Forward)
        if given.remote is None and given.document is None and "remote" not in _keys(table):
            self._tell(key, "remote is missing: the port to forward to")
        if given.parameters is not None and given.document is None:
            self._tell((*key, "parameters"), "parameters go with document")
        if isinstance(given.local, str) and given.bind is not None:
            self._tell((*key, "bind"), "a unix socket has no address to listen on")
        bind = _addresses(given.bind)
        self._check_bind(key, bind)
        return NamedForward(
            name=key[-1],
            place=Place(given.profile, given.region, given.endpoint_url),
            forward=Forward(self._local(given), given.remote, given.host, bind),
            request=Request(
                target=given.target or "",
                reason=given.reason,
                document=given.document,
                parameters=_lists(given.parameters),
                check=given.check,
                sessions=parse_sessions(str(given.sessions or 1)),
                max_restarts=given.max_restarts,
                resume_timeout=given.resume_timeout,
                keep_alive=given.keep_alive,
                max_session_age=given.max_session_age,
            ),
        )

    def _local(self, given: config_schema.Forward) -> int | str:
        if given.local is None:
            return given.remote or 0
        if isinstance(given.local, int):
            return given.local
        # Programs are started in any folder; the file is in one.
        return str(self._folder / os.path.expanduser(given.local))

    def _proxy(self, key: Key, table: Any) -> NamedProxy:
        given = self._convert(key, table, config_schema.Proxy)
        if not {"socks", "http"} & _keys(table):
            self._tell(key, "expected a port for socks, http or both")
        self._check_rules(key, given)
        bind = _addresses(given.bind)
        self._check_bind(key, bind)
        if given.user is None and given.password_env is not None:
            self._tell((*key, "password_env"), "user is missing: who the password is for")
        elif given.user is None and Forward(0, None, bind=bind).is_exposed:
            self._tell(
                (*key, "bind"), "others could use this proxy: it needs a user, with a password"
            )
        return NamedProxy(
            name=key[-1],
            place=Place(given.profile, given.region, given.endpoint_url),
            socks=given.socks,
            http=given.http,
            bind=bind,
            allow=tuple(given.allow),
            deny=tuple(given.deny),
            routes=tuple(given.routes),
            max_sessions=given.max_sessions,
            idle=given.idle,
            user=given.user,
            password_env=given.password_env or (PASSWORD_VARIABLE if given.user else None),
            request=Request(
                target=given.target or "",
                reason=given.reason,
                sessions=parse_sessions(str(given.sessions or 1)),
                resume_timeout=given.resume_timeout,
                keep_alive=given.keep_alive,
                max_session_age=given.max_session_age,
            ),
        )

    def _check_rules(self, key: Key, given: config_schema.Proxy) -> None:
        patterns = [("allow", text) for text in given.allow]
        patterns += [("deny", text) for text in given.deny]
        for name, text in [*patterns, *(("routes", text) for text in given.routes)]:
            try:
                (parse_route if name == "routes" else parse_pattern)(text)
            except UsageError as error:
                self._tell((*key, name), str(error))

    def _convert(self, key: Key, table: Any, kind: type[_T]) -> _T:
        """The values of ``table`` that are right, with the defaults for those it has not."""
        fields = kind.__struct_fields__
        values = {
            name: value
            for name, value in msgspec.structs.asdict(self._defaults).items()
            if name in fields and value is not None
        }
        if not isinstance(table, dict):
            self._tell(key, f"expected a table, found {config_schema.show(table)}")
            table = {}
        for name, value in table.items():
            if name not in fields:
                self._tell_unknown((*key, name), fields, value)
                continue
            try:
                values[name] = config_schema.read_value(kind, name, value)
            except config_schema.Wrong as error:
                self._tell_wrong((*key, name), value, str(error))
        return kind(**values)

    def _check_distinct(
        self, forwards: dict[str, NamedForward], proxies: dict[str, NamedProxy]
    ) -> None:
        places: list[tuple[Key, int | str, tuple[str, ...]]] = [
            (("forwards", name), _one_path(one.forward.local), one.forward.bind)
            for name, one in forwards.items()
        ]
        for name, one in proxies.items():
            for port, kind in ((one.socks, "socks"), (one.http, "http")):
                if port is not None:
                    places.append((("proxies", name, kind), port, one.bind))
        for (first, local, bind), (second, other, other_bind) in combinations(places, 2):
            if local != other or local == 0:
                continue
            if isinstance(local, str) or _overlap(bind, other_bind):
                self._tell(second, f"listens on {local}, and so does {'.'.join(first)}")

    def _check_bind(self, key: Key, bind: tuple[str, ...]) -> None:
        for one, other in combinations(bind, 2):
            if _overlap((one,), (other,)):
                self._tell((*key, "bind"), f"{one} and {other} can't both be listened on")
                return

    def _tell_wrong(self, key: Key, value: object, what: str) -> None:
        wrong: dict[str, str] = {}
        if key[-1] == "parameters" and isinstance(value, dict):
            wrong = config_schema.wrong_parameters(value)
        for name, why in wrong.items():
            self._tell((*key, name), why)
        if not wrong:
            self._tell(key, what)

    def _tell_unknown(self, key: Key, known: tuple[str, ...], value: object) -> None:
        if key[-1] == "password":
            hint = "a password does not stand here: password_env names the variable that holds it"
        elif near := difflib.get_close_matches(key[-1], known, 1):
            hint = f"unknown; is {near[0]} meant?"
        elif len(key) == 3 and isinstance(value, dict):
            hint = f'unknown; a name with a dot stands in quotes: [{key[0]}."{key[1]}.{key[2]}"]'
        else:
            hint = f"unknown; there are {', '.join(known)}"
        self._tell(key, hint)

    def _tell(self, key: Key, what: str) -> None:
        lines = (self._lines.get(key[:end]) for end in range(len(key), 0, -1))
        line = next(filter(None, lines), 0)
        where = f"{self._path}, line {line}" if line else str(self._path)
        self.problems.append((line, f"{where}, {'.'.join(key)}: {what}"))


def _keys(table: object) -> set[str]:
    return set(table) if isinstance(table, dict) else set()


def _lists(parameters: dict[str, str | list[str]] | None) -> dict[str, tuple[str, ...]] | None:
    if parameters is None:
        return None
    return {
        name: (value,) if isinstance(value, str) else tuple(value)
        for name, value in parameters.items()
    }


def _addresses(bind: config_schema.Addresses | None) -> tuple[str, ...]:
    if bind is None:
        return LOOPBACK
    return tuple(a for one in bind for a in (EVERYWHERE if one == "*" else (one,)))


def _one_path(local: int | str) -> int | str:
    """A port; or of all paths to the same socket, which need not be there, always the same one."""
    if isinstance(local, int):
        return local
    folder, name = os.path.split(local)
    return os.path.join(os.path.realpath(folder), name)


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    for a in map(_normal, one):
        for b in map(_normal, other):
            same_kind = (":" in a) == (":" in b)
            if a == b or (same_kind and ({a, b} & set(EVERYWHERE))):
                return True
    return False


def _normal(address: str) -> str:
    if address.lower() == "localhost":
        return LOOPBACK[0]
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address.lower()
