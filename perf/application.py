"""The local application: TCP connections to a forward, in a process of their own.

    python -m perf.application PORT CONNECTIONS

It obeys one line of standard input after the other and ends with it: ``U n`` uploads n bytes on
each connection and waits for the far end to say that they came, ``D n`` downloads n bytes on each,
``E n`` sends one byte n times on the first, each after the last one came back. It answers with the
seconds from the order to the end of it, or the times of each exchange, as one line of JSON.
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
        self.done.set_result(None)

    def begin(self, order: str, size: int) -> None:
        """Have the far end take or send ``size`` bytes."""
        self.done = asyncio.get_running_loop().create_future()
        self._transport.write(ORDER.pack(order.encode(), size))
        if order == "U":
            self._to_write, self._expected = size, 1
            self._write()
        elif order == "D":
            self._expected = size

    def exchange(self) -> None:
        """Send one byte that comes back."""
        self.done = asyncio.get_running_loop().create_future()
        self._expected = 1
        self._transport.write(b"x")

    def data_received(self, data: bytes) -> None:
        self._expected -= len(data)
        if self._expected < 0:
            raise ValueError("more has come than was sent")
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
        made += [protocol for _, protocol in pairs]
    return made


async def move(connections: list[Connection], order: str, size: int) -> float:
    began = time.perf_counter()
    for connection in connections:
        connection.begin(order, size)
    for connection in connections:
        await connection.done
    return time.perf_counter() - began


async def echo(connection: Connection, times: int) -> list[float]:
    connection.begin("E", times)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        connection.exchange()
        await connection.done
        took.append(time.perf_counter() - began)
    return took


async def main(port: int, count: int) -> None:
    connections = await connect(port, count)
    print(json.dumps(len(connections)), flush=True)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).split():
        order, size = line[0].decode(), int(line[1])
        answer: float | list[float]
        if order == "E":
            answer = await echo(connections[0], size)
        else:
            answer = await move(connections, order, size)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise_file_limit()
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
