"""``ssmnet.toml`` as a file: where it is, whether it can be trusted, which key is on which line."""

from __future__ import annotations

import errno
import os
import re
import select
import stat
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import UsageError

NAME = "ssmnet.toml"
MAX_SIZE = 256 * 1024  # bytes; thousands of forwards
# Seconds in which what is no regular file, as ``<(...)`` of a shell, must have been written.
WRITER_TIMEOUT = 10.0

# A key is told by the names that lead to it: ("forwards", "db", "remote").
Key = tuple[str, ...]

# What may hold a bracket or a line end that means nothing, and those that do mean something.
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)


def find_config() -> Path | None:
    """The file of this folder or the nearest one above it, or else the user's own; None if none.

    The search ends with the folder of a git repository, or the home folder. Raises UsageError for a
    file that somebody else could have put there: it decides where connections lead.
    """
    try:
        folder = Path.cwd()
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"cannot tell the working folder: {why}; change to another") from error
    for path in (*_project_files(folder), user_file()):
        if os.path.isfile(path):  # Path.is_file raises where a folder can't be looked into
            _check_owner(path)
            return path
    return None


def user_file() -> Path:
    """Where the user's own file is, whether it exists or not."""
    if sys.platform == "win32":
        folder = os.environ.get("APPDATA", "")
    else:
        folder = os.environ.get("XDG_CONFIG_HOME", "")
    # As the XDG specification has it: what is not absolute does not count.
    base = Path(folder) if os.path.isabs(folder) else Path.home() / ".config"
    return base / "ssmnet" / NAME


def read_text(path: Path) -> str:
    """What is in the file. Raises UsageError."""
    try:
        data = _read(path)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if len(data) > MAX_SIZE:
        raise UsageError(f"{path} is longer than {MAX_SIZE // 1024} KiB")
    try:
        text = data.decode("utf-8-sig")  # some editors of Windows begin with a mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: expected UTF-8 text") from None
    return text.replace("\r\n", "\n")


def parse(path: Path, text: str) -> dict[str, Any]:
    """The tables of the file. Raises UsageError, which says where."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{path}: brackets in brackets, too deep") from None
    except ValueError as error:
        told = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
        where = f", line {told[2]}, column {told[3]}" if told else ""
        what = told[1] if told else str(error)
        raise UsageError(f"{path}{where}: {what[:200]}") from None


def key_lines(text: str) -> dict[Key, int]:
    """The line on which each key of a file stands first. The file is one that can be parsed."""
    lines: dict[Key, int] = {}
    table: Key = ()
    for line, statement in _statements(text):
        try:
            found = list(_paths(tomllib.loads(statement)))
        except (ValueError, RecursionError):
            continue  # a line that is not told is no reason to fail
        if statement.startswith("["):
            table = found[-1]
            found = [table[:end] for end in range(1, len(table) + 1)]
        else:
            found = [table + key for key in found]
        for key in found:
            lines.setdefault(key, line)
    return lines


def _read(path: Path) -> bytes:
    """At most a byte more than there may be. A pipe that nobody writes to is not waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        deadline = time.monotonic() + WRITER_TIMEOUT
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
        data = b""
        waited = False
        while len(data) <= MAX_SIZE:
            try:
                more = os.read(descriptor, MAX_SIZE + 1 - len(data))
            except BlockingIOError:
                more = None
            if more:
                data += more
            elif more is not None and (data or waited or not is_pipe):
                break
            else:
                # Nothing yet, or an end because nobody has opened it to write.
                _wait(descriptor, deadline)
                waited = True
        return data
    finally:
        os.close(descriptor)


def _wait(descriptor: int, deadline: float) -> None:
    within = max(0.0, deadline - time.monotonic())
    if not select.select((descriptor,), (), (), within)[0]:
        raise TimeoutError(errno.ETIMEDOUT, f"nothing was written to it in {WRITER_TIMEOUT:g} s")


def _project_files(folder: Path) -> Iterator[Path]:
    home = Path.home()
    for one in (folder, *folder.parents):
        yield one / NAME
        if one == home or os.path.exists(one / ".git"):
            return


def _check_owner(path: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(f"{path} belongs to another user; to use it all the same, give --config")
    if status.st_mode & stat.S_IWOTH:
        raise UsageError(f"{path} can be written by everyone: run chmod o-w on it")


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Each header, or key with its value, and the line that it begins on."""
    depth = start = 0
    line = first = 1
    for token in _TOKEN.finditer(text + "\n"):
        word = token[0]
        if word in ("[", "{"):
            depth += 1
        elif word in ("]", "}"):
            depth -= 1
        line += word.count("\n")
        if word == "\n" and depth == 0:
            if statement := text[start : token.start()].strip():
                yield first, statement
            start, first = token.end(), line


def _paths(table: Mapping[str, Any]) -> Iterator[Key]:
    for name, value in table.items():
        yield (name,)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                yield from ((name, *rest) for rest in _paths(one))
