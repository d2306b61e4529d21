"""Answers ``ssmnet status``, ``down`` and ``reload`` in a process that runs, on a unix socket.

The socket is this user's alone, by the rights of its folder and its own; who connects is asked of
the system besides.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import msgspec

from .acceptor import Acceptor
from .control_client import (
    Answer,
    Do,
    Request,
    Status,
    ask,
    check_private,
    peer_option,
    socket_path,
)
from .errors import ConnectError, Error, ListenError, UsageError
from .snapshot import Snapshot

logger = logging.getLogger("ssmnet.control")

# Whether a running process can be asked here at all.
AVAILABLE = sys.platform != "win32"

MAX_CLIENTS = 32
MAX_WATCHERS = 16  # so that there is always room for one who asks for an end
MAX_REQUEST = 64 * 1024  # bytes
# Seconds, for a request to come, and for an answer to be taken.
CLIENT_TIMEOUT = 10.0
WATCH_INTERVAL = 1.0
LOCK_TRIES = 100  # each but the last because another process has just ended
# Who is at the other end: pid, user, group; and xucred of <sys/ucred.h>: version, user, groups.
_LINUX = struct.Struct("3i")
_DARWIN = struct.Struct("2Ih2x16I")


class Controlled(Protocol):
    """What runs here. ``started_at`` is in seconds since 1970."""

    @property
    def config_path(self) -> str:
        """The file that it runs with."""

    @property
    def pid(self) -> int:
        """The process."""

    @property
    def started_at(self) -> float:
        """When it began."""

    def snapshots(self) -> Sequence[Snapshot]:
        """How its services are now."""

    async def down(self, names: Sequence[str]) -> Sequence[str]:
        """Stop these services, or all and the process with them; the names of those stopped.

        Raises UsageError for a name that is not there.
        """

    async def reload(self) -> str:
        """Read the file again; a line of what has changed. Raises UsageError."""


class ControlServer:
    """Listens for as long as ``controlled`` runs. One process for a file: see ``listen``."""

    def __init__(self, controlled: Controlled) -> None:
        self._controlled = controlled
        self._acceptor = Acceptor(lambda: _Client(self))
        self._lock: _Lock | None = None
        self._clients: set[_Client] = set()
        self._watchers: set[_Client] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._timer: asyncio.TimerHandle | None = None

    async def listen(self) -> Path:
        """Listen; where. Raises ListenError, as when another process runs with the same file."""
        path = socket_path(self._controlled.config_path)
        try:
            path.parent.mkdir(mode=0o700)
        except FileExistsError:
            pass
        except OSError as error:
            why = error.strerror or error
            raise ListenError(
                f"cannot make {path.parent}: {why}; set XDG_RUNTIME_DIR to a folder of yours"
            ) from error
        check_private(path.parent)
        self._lock = _lock(path.with_suffix(".lock"))
        if self._lock is None:
            raise ListenError(await _who_runs(path, self._controlled.config_path))
        try:
            await self._acceptor.listen_unix(str(path))
        except BaseException:
            self._stop_listening()
            raise
        return path

    def close(self) -> None:
        """Listen no more, and let go of those who watch. Answers on their way still come."""
        self._stop_listening()
        for client in tuple(self._clients):
            if not client.is_served:
                client.close()

    async def wait_closed(self, timeout: float) -> None:  # noqa: ASYNC109 - then it acts
        """Wait for those who are to be answered, and then drop them. Never from ``down``."""
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            for task in tuple(self._tasks):
                task.cancel()
            for client in tuple(self._clients):
                client.abort()
            await self._empty.wait()

    def _stop_listening(self) -> None:
        self._acceptor.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- for _Client

    def joined(self, client: _Client) -> bool:
        """Whether there is room for one more."""
        self._clients.add(client)
        self._empty.clear()
        return len(self._clients) <= MAX_CLIENTS

    def left(self, client: _Client) -> None:
        """A client is gone."""
        self._watchers.discard(client)
        self._clients.discard(client)
        if not self._clients:
            self._empty.set()

    def asked(self, client: _Client, line: bytes) -> None:
        """A client has sent its line."""
        try:
            request = msgspec.json.decode(line, type=Request)
        except msgspec.DecodeError as error:
            client.answer(Answer(usage_error=f"not a request: {error}"))
            return
        if request.do is Do.WATCH:
            self._begin_to_watch(client)
        else:
            client.is_served = True
            task = asyncio.ensure_future(self._serve(client, request))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, client: _Client, request: Request) -> None:
        try:
            answer = await self._act(request)
        except UsageError as error:
            answer = Answer(usage_error=str(error))
        except Error as error:
            answer = Answer(error=str(error))
        except Exception as error:
            logger.exception("%s failed", request.do)
            answer = Answer(error=f"{request.do} failed: {type(error).__name__}")
        client.answer(answer)

    async def _act(self, request: Request) -> Answer:
        if request.do is Do.STATUS:
            return Answer(status=self._status())
        if request.do is Do.RELOAD:
            return Answer(changed=await self._controlled.reload())
        stopped = await self._controlled.down(request.names)
        if not request.names:
            # Whoever is answered may start another at once.
            self._stop_listening()
        return Answer(stopped=tuple(stopped))

    def _status(self) -> Status:
        controlled = self._controlled
        started = datetime.fromtimestamp(controlled.started_at, UTC)
        return Status(
            controlled.pid, controlled.config_path, started, tuple(controlled.snapshots())
        )

    # --- those who watch

    def _begin_to_watch(self, client: _Client) -> None:
        if len(self._watchers) >= MAX_WATCHERS:
            client.answer(Answer(error=f"{MAX_WATCHERS} others watch already"))
            return
        self._watchers.add(client)
        client.show(_encode(Answer(status=self._status())))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self._show)

    def _show(self) -> None:
        self._timer = None
        if self._watchers:
            self._timer = asyncio.get_running_loop().call_later(WATCH_INTERVAL, self._show)
            line = _encode(Answer(status=self._status()))
            for client in self._watchers:
                client.show(line)


class _Client(asyncio.Protocol):
    """One connection: a line comes, and one goes back, or many to those who watch."""

    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._received = bytearray()
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None
        # Whether something is done for it that takes time.
        self.is_served = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Know who it is."""
        self._transport = cast(asyncio.Transport, transport)
        if not is_our_own(transport.get_extra_info("socket").fileno()):
            self._asked = True  # what it may have sent is nothing to us
            self.abort()
        elif not self._server.joined(self):
            self.answer(Answer(error="too many ask at once"))
        else:
            self._expect_within(CLIENT_TIMEOUT)

    def data_received(self, data: bytes) -> None:
        """Take the line. What comes after it is nothing to us."""
        if self._asked:
            return
        self._received += data
        line, newline, _ = self._received.partition(b"\n")
        if newline and len(line) <= MAX_REQUEST:
            self._asked = True
            self._expect_within(None)
            self._server.asked(self, bytes(line))
        elif len(self._received) > MAX_REQUEST:
            self.answer(Answer(usage_error=f"a request has no more than {MAX_REQUEST} bytes"))

    def eof_received(self) -> bool:
        """Whoever has asked may have nothing more to say; whoever watches is gone."""
        return self.is_served

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It is gone. What it asked for is done all the same."""
        self._expect_within(None)
        self._server.left(self)

    def answer(self, answer: Answer) -> None:
        """Send the only answer, and close."""
        self._asked = True
        self._transport.write(_encode(answer))
        self.close()

    def show(self, line: bytes) -> None:
        """Send one of many answers, unless the last is still on its way."""
        if not self._transport.get_write_buffer_size():
            self._transport.write(line)

    def close(self) -> None:
        """Close, once it has what was sent, or soon."""
        self._transport.close()
        self._expect_within(CLIENT_TIMEOUT)

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def _expect_within(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)


def is_our_own(descriptor: int) -> bool:
    """Whether this user's process, or root's, is at the other end of a unix socket."""
    return sys.platform != "win32" and peer_user(descriptor) in (0, os.geteuid())


def peer_user(descriptor: int) -> int | None:
    """The id of the user at the other end of a unix socket; None where the system can't tell."""
    user: int | None = None
    if sys.platform == "linux":
        told = peer_option(descriptor, socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX.size)
        user = _LINUX.unpack(told)[1] if told else None
    elif sys.platform == "darwin":
        sol_local, local_peercred = 0, 1  # of <sys/un.h>
        told = peer_option(descriptor, sol_local, local_peercred, _DARWIN.size)
        user = _DARWIN.unpack(told)[1] if told else None
    return user


class _Lock(NamedTuple):
    """A file that is held until it is released, or its process ends."""

    path: Path
    descriptor: int

    def release(self) -> None:
        """Remove the file. Whoever has opened it meanwhile finds that it is another's now."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self.descriptor)


def _lock(path: Path) -> _Lock | None:
    """Hold the file; None when another process does."""
    for _ in range(LOCK_TRIES):
        descriptor = _hold(path)
        if descriptor is None:
            return None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return _Lock(path, descriptor)
        # It was opened before another process removed it, and held after.
        os.close(descriptor)
    return None


def _hold(path: Path) -> int | None:
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenError(f"cannot open {path}: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


async def _who_runs(path: Path, config: str) -> str:
    try:
        answer = await ask(path, Request(Do.STATUS))
    except ConnectError:
        answer = None
    pid = f", pid {answer.status.pid}" if answer is not None and answer.status is not None else ""
    return f"already running with {config}{pid}"


def _encode(answer: Answer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"
