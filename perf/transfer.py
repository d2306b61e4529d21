"""Transfers through a forward: what they took of time, and of the forward's CPU time."""

import contextlib
import socket
import struct
import time
from typing import NamedTuple

from perf import tunnel
from perf.destination import PIECE, request

TIMEOUT = 120.0
# How long a transfer runs before it is measured: the window grows, as a share of the time.
WARM_UP = 0.4
# How often a sender that can send nothing looks at the clock, in seconds.
PATIENCE = 0.02
_RESET = struct.pack("ii", 1, 0)


class Moved(NamedTuple):
    """So many bytes in so many seconds, with the forward's CPU time."""

    size: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.wall

    @property
    def cpu_per_kib(self) -> float:
        """Seconds of the forward's CPU time for 1,024 bytes."""
        return self.cpu / self.size * 1024 if self.size else float("inf")


class _Mark(NamedTuple):
    size: int
    at: float
    cpu: float


def upload(forward: tunnel.Running, remote: tunnel.Running, seconds: float) -> Moved:
    """Send for so long. What counts is what arrives after the warm-up."""
    marks: list[_Mark] = []
    with _connected(forward.port) as connection:
        connection.sendall(request("u"))
        connection.settimeout(PATIENCE)
        began = time.perf_counter()
        for end in (began + seconds * WARM_UP, began + seconds):
            while time.perf_counter() < end:
                with contextlib.suppress(TimeoutError):
                    connection.send(PIECE)
            marks.append(_mark(arrived(remote), forward))
    return _between(*marks)


def download(forward: tunnel.Running, seconds: float) -> Moved:
    """Receive for so long. What counts is what comes after the warm-up."""
    marks: list[_Mark] = []
    buffer = bytearray(4 * len(PIECE))
    received = 0
    with _connected(forward.port) as connection:
        connection.sendall(request("d"))
        connection.settimeout(PATIENCE)
        began = time.perf_counter()
        for end in (began + seconds * WARM_UP, began + seconds):
            while time.perf_counter() < end:
                with contextlib.suppress(TimeoutError):
                    received += connection.recv_into(buffer)
            marks.append(_mark(received, forward))
    return _between(*marks)


def upload_whole(forward: tunnel.Running, size: int) -> Moved:
    """Open a connection, send ``size`` bytes, and wait until the destination has them all."""
    began = _mark(0, forward)
    with socket.create_connection(("127.0.0.1", forward.port), timeout=TIMEOUT) as connection:
        connection.sendall(request("u", size) + bytes(size))
        assert connection.recv(1) == b"!"
    return _between(began, _mark(size, forward))


def arrived(remote: tunnel.Running) -> int:
    """How many bytes the destination has taken in all."""
    with socket.create_connection(("127.0.0.1", remote.port), timeout=TIMEOUT) as connection:
        connection.sendall(request("n"))
        return int.from_bytes(connection.recv(8))


def _connected(port: int) -> socket.socket:
    """One whose end drops what is on its way."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    return connection


def _mark(size: int, forward: tunnel.Running) -> _Mark:
    return _Mark(size, time.perf_counter(), tunnel.cpu_time(forward.pid))


def _between(first: _Mark, last: _Mark) -> Moved:
    return Moved(last.size - first.size, last.at - first.at, last.cpu - first.cpu)
