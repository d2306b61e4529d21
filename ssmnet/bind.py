"""Sockets that are to listen: one TCP port of several addresses, or a unix socket.

asyncio would bind each address to a port of its own, and take over the socket of a living process.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import ListenError

BACKLOG = 1024
PORT_TRIES = 20
# `localhost` may mean either.
LOOPBACK = ("127.0.0.1", "::1")
# Left out where there is no IPv6 and another address is listened on.
IF_THERE_IS_IPV6 = frozenset({"::1", "::"})


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def bind_tcp(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Sockets on one port of every host; 0 takes a free one. Raises ListenError."""
    if not 0 <= port < 65536:
        raise ListenError(f"cannot listen on port {port}: it is not between 0 and 65535")
    for _ in range(PORT_TRIES):
        sockets: list[socket.socket] = []
        try:
            for host in hosts:
                _bind_host(sockets, host, sockets[0].getsockname()[1] if sockets else port)
            return sockets
        except (OSError, UnicodeError) as error:
            for sock in sockets:
                sock.close()
            # A free port of one address may be taken on the next.
            if port == 0 and sockets and getattr(error, "errno", 0) == errno.EADDRINUSE:
                continue
            place = f"port {port} on {host}" if port else host
            raise ListenError(explain(error, place)) from error
    raise ListenError(f"found no port that is free on all of {', '.join(hosts)}")


def _bind_host(sockets: list[socket.socket], host: str, port: int) -> None:
    family, kind, proto, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    try:
        sock = socket.socket(family, kind, proto)
    except OSError:
        if sockets and host in IF_THERE_IS_IPV6:
            return
        raise
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        if sockets and host in IF_THERE_IS_IPV6 and error.errno == errno.EADDRNOTAVAIL:
            return
        raise
    sockets.append(sock)


def bind_unix(path: str) -> socket.socket:
    """A socket that only this user can connect to. Raises ListenError."""
    if sys.platform == "win32":
        raise ListenError("this system has no unix sockets: give --local a port")
    if not path or "\0" in path:
        raise ListenError("a unix socket needs a path")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        sock.bind(path)
        # Before it listens, so that nobody else can have connected.
        Path(path).chmod(0o600)
    except OSError as error:
        sock.close()
        raise ListenError(explain(error, path)) from error
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on any more: its process was killed."""
    if sys.platform == "win32" or not Path(path).is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        # An owner too busy to accept would make this wait, and is an owner all the same.
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return
        except ConnectionRefusedError:
            Path(path).unlink()


def explain(error: OSError | UnicodeError, what: str) -> str:
    """Why ``what`` can't be listened on, in a line."""
    if isinstance(error, UnicodeError):
        return f"cannot listen on {what}: there is no such name"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {what}: it is in use"
    return f"cannot listen on {what}: {error.strerror or error}"
