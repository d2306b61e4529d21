"""Finds the ``ssmnet up`` that runs with a file, and asks it: one request, then answers, as lines.

Its socket is in a folder of this user's alone, under a name that is made of the file's path.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
import stat
import struct
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
# Bytes of a socket's path, of which the system holds one for its end.
MAX_PATH = 103 if sys.platform == "darwin" else 107


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
    """Where the process that runs with this file listens.

    Raises UsageError on Windows, and where there is no path that a socket can have.
    """
    try:
        resolved = Path(os.path.realpath(config))
    except OSError as error:
        raise UsageError(f"cannot find {config}: {error.strerror or error}") from error
    readable = re.sub("[^A-Za-z0-9_-]+", "-", resolved.parent.name)[:16]
    digest = hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]
    path = runtime_folder() / f"{readable}-{digest}.sock"
    if len(os.fsencode(path)) > MAX_PATH:
        variable = "TMPDIR" if path.parent.name != "ssmnet" else "XDG_RUNTIME_DIR"
        raise UsageError(f"{path} is too long for a socket: set {variable} to a shorter path")
    return path


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
    if not _is_there(folder):
        return []
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
    _is_there(path.parent)
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
        async with asyncio.timeout(None) as deadline:
            keep_on = True
            while keep_on:
                deadline.reschedule(asyncio.get_running_loop().time() + within)
                keep_on = take(await _read(reader, path))
    except TimeoutError:
        raise ConnectError(_silent(path, writer)) from None
    finally:
        writer.transport.abort()


def _is_there(folder: Path) -> bool:
    """Whether it is there. Raises ListenError when it isn't this user's alone."""
    if not os.path.exists(folder):  # Path.exists raises where a folder can't be looked into
        return False
    check_private(folder)
    return True


def peer_option(descriptor: int, level: int, name: int, size: int) -> bytes:
    """An option of a unix socket; empty where the system can't tell."""
    if sys.platform == "win32":
        return b""
    try:
        # No copy of the descriptor: there may be no more to be had.
        borrowed = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
    except OSError:
        return b""
    try:
        return borrowed.getsockopt(level, name, size)
    except OSError:
        return b""
    finally:
        borrowed.detach()


def peer_process(descriptor: int) -> int | None:
    """The process that listens at the other end of a unix socket; None where it is not known."""
    told = b""
    if sys.platform == "linux":
        told = peer_option(descriptor, socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    elif sys.platform == "darwin":
        sol_local, local_peerpid = 0, 2  # of <sys/un.h>
        told = peer_option(descriptor, sol_local, local_peerpid, 4)
    # On Linux user and group follow. 0 is a process that is out of sight, as in a container.
    return (struct.unpack("i", told[:4])[0] or None) if told else None


def _silent(path: Path, writer: asyncio.StreamWriter) -> str:
    pid = peer_process(writer.get_extra_info("socket").fileno())
    if pid is None:
        return f"what listens on {path} does not answer"
    return f"process {pid} does not answer; if it is suspended, kill -CONT {pid} has it go on"


async def _read(reader: asyncio.StreamReader, path: Path) -> Answer:
    try:
        line = await reader.readline()
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
