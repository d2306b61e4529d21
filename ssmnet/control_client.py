"""Finds the ``ssmnet up`` that runs with a file, and asks it: one request, then answers, as lines.

Its socket is in a folder of this user's alone, under a name that is made of the file's path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from .errors import ConnectError, ListenError, UsageError
from .snapshot import Snapshot

MAX_ANSWER = 16 * 1024 * 1024  # bytes; a service takes some 500
# Seconds. What is running answers at once; stopping has connections finish before.
STATUS_TIMEOUT = 5.0
ACTION_TIMEOUT = 60.0
# A status comes every second. So long without one, and the process is stopped or hangs.
WATCH_TIMEOUT = 30.0


class Do(StrEnum):
    """What can be asked for."""

    STATUS = "status"
    WATCH = "watch"  # a status now, and then every second
    DOWN = "down"
    RELOAD = "reload"


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """The line that a client sends; ``names`` are for DOWN, all when there are none."""

    do: Do
    names: tuple[str, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """What runs in a process, ``started`` when, with which file."""

    pid: int
    config: str
    started: datetime
    services: tuple[Snapshot, ...]


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line that comes back: what was asked for, or why not.

    ``usage_error`` is for what makes no sense, as a name that is not there.
    """

    status: Status | None = None
    stopped: tuple[str, ...] | None = None
    changed: str | None = None
    error: str | None = None
    usage_error: str | None = None


class Running(NamedTuple):
    """A process that answers on a socket."""

    socket: Path
    status: Status


def runtime_folder() -> Path:
    """The folder of the sockets, which may not be there. Raises UsageError on Windows."""
    if sys.platform == "win32":
        raise UsageError("there are no unix sockets here, by which a running ssmnet is asked")
    user = os.geteuid()
    # What starts without it, as from cron, has systemd's folder all the same.
    for given in (os.environ.get("XDG_RUNTIME_DIR", ""), f"/run/user/{user}"):
        if os.path.isabs(given) and is_private(Path(given)):
            return Path(given) / "ssmnet"
    return Path(tempfile.gettempdir()) / f"ssmnet-{user}"


def is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, in which no other can put or replace anything.

    In /tmp anyone may have made it before us, or a link of its name.
    """
    if sys.platform == "win32":
        return False
    try:
        found = folder.lstat()
    except OSError:
        return False
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not writable


def check_private(folder: Path) -> None:
    """Raises ListenError unless ``is_private``."""
    if not is_private(folder):
        raise ListenError(
            f"{folder} is not a folder of yours alone: remove it, or set XDG_RUNTIME_DIR to one"
        )


def socket_path(config: str | Path) -> Path:
    """Where the process that runs with this file listens. Raises UsageError on Windows."""
    resolved = Path(os.path.realpath(config))
    # Its length is bounded: a path of a socket has 103 bytes on macOS, 107 on Linux.
    readable = re.sub("[^A-Za-z0-9_-]+", "-", resolved.parent.name)[:16]
    digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
    return runtime_folder() / f"{readable}-{digest}.sock"


async def ask(path: Path, request: Request) -> Answer | None:
    """The answer; None when nobody listens there.

    Raises UsageError or ConnectError for what is answered instead, and for no answer.
    """
    within = STATUS_TIMEOUT if request.do is Do.STATUS else ACTION_TIMEOUT
    answer: Answer | None = None

    def take(one: Answer) -> bool:
        nonlocal answer
        answer = one
        return False

    await _converse(path, request, take, within)
    return answer


async def watch(path: Path, show: Callable[[Status], None]) -> None:
    """Call ``show`` with a status every second, until the process ends. Raises ConnectError."""

    def take(answer: Answer) -> bool:
        if answer.status is not None:
            show(answer.status)
        return True

    await _converse(path, Request(Do.WATCH), take, WATCH_TIMEOUT)


async def find_running() -> list[Running]:
    """All processes of this user that answer; ConnectError if there are some, and none does."""
    folder = runtime_folder()
    if not folder.exists():
        return []
    check_private(folder)
    paths = sorted(folder.glob("*.sock"))
    answers = await asyncio.gather(
        *(ask(path, Request(Do.STATUS)) for path in paths), return_exceptions=True
    )
    running = [
        Running(path, answer.status)
        for path, answer in zip(paths, answers, strict=True)
        if isinstance(answer, Answer) and answer.status is not None
    ]
    for answer in answers:
        if not running and isinstance(answer, BaseException):
            raise answer
    return running


async def _converse(
    path: Path, request: Request, take: Callable[[Answer], bool], within: float
) -> None:
    """Send a request and ``take`` answers while it says so; nothing when nobody listens."""
    if sys.platform == "win32":
        raise UsageError("there are no unix sockets here")
    if path.parent.exists():
        check_private(path.parent)
    try:
        async with asyncio.timeout(within):
            reader, writer = await asyncio.open_unix_connection(str(path), limit=MAX_ANSWER)
    except (FileNotFoundError, ConnectionRefusedError):
        return
    except TimeoutError:
        raise ConnectError(f"what listens on {path} does not answer") from None
    except OSError as error:
        raise ConnectError(f"cannot ask on {path}: {error.strerror or error}") from error
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        while take(await _read(reader, path, within)):
            pass
    finally:
        writer.transport.abort()


async def _read(reader: asyncio.StreamReader, path: Path, within: float) -> Answer:
    try:
        async with asyncio.timeout(within):
            line = await reader.readline()
    except TimeoutError:
        raise ConnectError(f"what listens on {path} does not answer") from None
    except (OSError, ValueError) as error:
        raise ConnectError(f"no answer can be read from {path}") from error
    if not line.endswith(b"\n"):
        raise ConnectError("the process has ended")
    try:
        answer = msgspec.json.decode(line, type=Answer)
    except msgspec.DecodeError as error:
        raise ConnectError("the process that runs is another version of ssmnet") from error
    if answer.usage_error is not None:
        raise UsageError(answer.usage_error)
    if answer.error is not None:
        raise ConnectError(answer.error)
    return answer
