"""Acceptor: a TCP port or a unix socket that is listened on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .bind import BACKLOG, LOOPBACK, bind_tcp, bind_unix, explain
from .destination import in_url
from .errors import ListenError


class Acceptor:
    """Accepts connections and gives each the protocol that ``make`` makes.

    ``address`` is the first address, or the socket's path, and ``port`` the TCP port; ``places``
    are all of it, as ``127.0.0.1:1080``. They stay after ``close``.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol]) -> None:
        self._make = make
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._socket_file: tuple[Path, int] | None = None
        self.address = ""
        self.port: int | None = None
        self.places: tuple[str, ...] = ()

    def bind_tcp(self, hosts: Sequence[str] = LOOPBACK, port: int = 0) -> None:
        """Take one port of all ``hosts``, and accept nothing yet; 0 takes a free one.

        Raises ListenError.
        """
        self._sockets = bind_tcp(hosts, port)
        self.address, self.port = self._sockets[0].getsockname()[:2]
        self.places = tuple(
            f"{in_url(address)}:{port}"
            for address, port, *_ in (sock.getsockname() for sock in self._sockets)
        )

    def bind_unix(self, path: str) -> None:
        """Make a unix socket that only this user can open. Raises ListenError."""
        self._sockets = [bind_unix(path)]
        self.address = path
        self.places = (path,)
        self._socket_file = Path(path), os.stat(path).st_ino

    async def listen(self) -> None:
        """Accept connections from now on. Raises ListenError."""
        loop = asyncio.get_running_loop()
        while self._sockets:
            sock = self._sockets[0]
            try:
                sock.listen(BACKLOG)  # uvloop would not tell that it can't
                is_tcp = sock.family in (socket.AF_INET, socket.AF_INET6)
                create: Any = loop.create_server if is_tcp else loop.create_unix_server
                server = await create(self._make, sock=sock, backlog=BACKLOG, start_serving=False)
            except OSError as error:
                # Another program has bound the port, too, and was faster to listen.
                self.close()
                raise ListenError(explain(error, self.place)) from error
            # Who cancels this from here on can still close it.
            self._servers.append(server)
            del self._sockets[0]
            await server.start_serving()

    async def listen_tcp(self, hosts: Sequence[str] = LOOPBACK, port: int = 0) -> None:
        """Bind and listen. Raises ListenError."""
        self.bind_tcp(hosts, port)
        await self.listen()

    async def listen_unix(self, path: str) -> None:
        """Bind and listen. Raises ListenError."""
        self.bind_unix(path)
        await self.listen()

    @property
    def place(self) -> str:
        """Where it listens first, for people: ``127.0.0.1:1080``, or a path."""
        return self.places[0]

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What is listened on, as asyncio.Server has it; for a look only."""
        return tuple(sock for server in self._servers for sock in server.sockets)

    def close(self) -> None:
        """Accept no more. Connections go on."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()
        if self._socket_file is not None:
            # Once: a file with the same inode may be another's by the next time.
            path, inode = self._socket_file
            self._socket_file = None
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()
