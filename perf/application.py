"""The local application: TCP connections to a forward, in a process of their own.

    python -m perf.application PORT CONNECTIONS

It obeys one line of standard input after the other, and ends with it. A line is a JSON list: what
to do, with how many bytes, how often, and on how many of the connections at a time. ``U`` uploads
and waits for the far end to say that all has come, ``D`` downloads, ``E`` has the bytes sent back.
The answer is a list of the seconds that each time took.
"""

import asyncio
import json
import signal
import sys
import time
from typing import cast

import uvloop

from perf.far_agent import ORDER
from perf.near_end import raise_file_limit

HOST = "127.0.0.1"
CHUNK = bytes(256 * 1024)
# What goes with an order in one write.
FIRST = 1024
# How many connections are opened at once; a listener's queue is short.
OPENING = 100


class Connection(asyncio.Protocol):
    """One connection. ``done`` is set when the last of ``expected`` bytes has come."""

    def __init__(self) -> None:
        self._to_write = 0
        self._paused = False
        self._expected = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def begin(self, order: str, size: int) -> None:
        """Have the far end take, send or send back ``size`` bytes."""
        self.done = asyncio.get_running_loop().create_future()
        self._expected = 1 if order == "U" else size
        self._to_write = 0 if order == "D" else size
        first = min(self._to_write, FIRST)
        self._to_write -= first
        # One write: a small exchange is one message each way.
        self._transport.write(ORDER.pack(order.encode(), size) + CHUNK[:first])
        self._write()

    def data_received(self, data: bytes) -> None:
        self._expected -= len(data)
        if not self._expected:
            self.done.set_result(None)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the forward closed a connection"))

    def _write(self) -> None:
        while self._to_write and not self._paused:
            size = min(self._to_write, len(CHUNK))
            self._to_write -= size
            self._transport.write(CHUNK[:size])


async def connect(port: int, connections: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    made: list[Connection] = []
    while len(made) < connections:
        opening = range(min(OPENING, connections - len(made)))
        pairs = await asyncio.gather(
            *(loop.create_connection(Connection, HOST, port) for _ in opening)
        )
        some = [protocol for _, protocol in pairs]
        # Nothing else tells that a connection has got through.
        await move(some, "E", 1)
        made += some
    return made


async def move(connections: list[Connection], order: str, size: int) -> float:
    began = time.perf_counter()
    for connection in connections:
        connection.begin(order, size)
    for connection in connections:
        await connection.done
    return time.perf_counter() - began


async def main(port: int, count: int) -> None:
    began = time.perf_counter()
    connections = await connect(port, count)
    print(json.dumps(time.perf_counter() - began), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        order, size, times, active = json.loads(line)
        answer = [await move(connections[:active], order, size) for _ in range(times)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
