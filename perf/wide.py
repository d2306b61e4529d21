"""A forward over several sessions, and connections that download through it."""

import json
import selectors
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from perf import tunnel
from perf.destination import PIECE, request

TIMEOUT = 60.0
_RESET = struct.pack("ii", 1, 0)


class Forward:
    """``ssmnet forward --sessions N``."""

    def __init__(self, process: subprocess.Popen[str], width: int) -> None:
        self._process = process
        self._width = width
        self._sessions = 1
        self._told = tunnel.output(process)
        self.pid = process.pid
        self.port: int = json.loads(self._told.readline())["port"]

    def wait_wide(self, sessions: int) -> None:
        """Until there are so many sessions, or all that there may be."""
        while self._sessions < min(sessions, self._width):
            line = self._told.readline()
            assert line, "ssmnet forward has ended"
            event = json.loads(line)
            if event["event"] in ("widened", "narrowed"):
                self._sessions = event["sessions"]

    def connect(self, what: str) -> socket.socket:
        """A connection that asks the destination for ``what``; its end drops all."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=TIMEOUT)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.sendall(request(what))
        return connection

    def connect_many(self, number: int, what: str) -> list[socket.socket]:
        """Each once there is a session for it, as far as there may be."""
        made = []
        for count in range(1, number + 1):
            self.wait_wide(count)
            made.append(self.connect(what))
        return made


@contextmanager
def forward(remote: int, sessions: int) -> Iterator[Forward]:
    """Run ``ssmnet forward`` to a port of this machine."""
    options = ("--remote", str(remote), "--output", "json", "--sessions", str(sessions))
    with tunnel.program("ssmnet", "forward", "-t", tunnel.TARGET, *options) as process:
        yield Forward(process, sessions)


def receive(connections: Sequence[socket.socket], seconds: float) -> int:
    """How many bytes come in so many seconds."""
    received, buffer = 0, bytearray(4 * len(PIECE))
    end = time.perf_counter() + seconds
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while (left := end - time.perf_counter()) > 0:
            for key, _ in selector.select(left):
                assert isinstance(key.fileobj, socket.socket)
                size = key.fileobj.recv_into(buffer)
                assert size, "the forward has closed a connection"
                received += size
    return received
