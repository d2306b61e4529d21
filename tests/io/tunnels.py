"""A listener, a pool of real sessions behind it, and real destinations behind those."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from ssmnet.aws import Client
from ssmnet.events import Event
from ssmnet.forward import Listener
from ssmnet.loopback import Loopback
from ssmnet.pool import SessionPool
from ssmnet.session import Session
from ssmnet.target import open_port_session

DEADLINE = 10.0


class Events:
    def __init__(self) -> None:
        self.seen: list[Event] = []
        self.another = asyncio.Event()

    def add(self, event: Event) -> None:
        self.seen.append(event)
        self.another.set()


class Tunnel:
    """An echo server behind a pool behind a listener."""

    def __init__(self, listener: Listener, pool: SessionPool, events: Events) -> None:
        self.listener = listener
        self.pool = pool
        self.events = events
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.listener.port)
        self._writers.append(writer)
        return reader, writer

    def drop(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def echo(self, text: bytes) -> bytes:
        reader, writer = await self.connect()
        try:
            writer.write(text)
            async with asyncio.timeout(DEADLINE):
                return await reader.readexactly(len(text))
        finally:
            writer.close()

    async def seen(self, wanted: Callable[[Event], bool]) -> Event:
        async with asyncio.timeout(DEADLINE):
            while not (found := next(filter(wanted, self.events.seen), None)):
                self.events.another.clear()
                await self.events.another.wait()
            return found


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@asynccontextmanager
async def tunnel(
    far_end: Loopback,
    monkeypatch: pytest.MonkeyPatch,
    *,
    port: int | None = None,
    width: int = 1,
    max_restarts: int | None = None,
    max_age: float | None = None,
    stall_timeout: float = 300.0,
) -> AsyncIterator[Tunnel]:
    """With ``port``, to that instead of the echo server."""

    for name, value in far_end.environment.items():
        monkeypatch.setenv(name, value)
    client = Client()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    port = port or server.sockets[0].getsockname()[1]
    events = Events()

    async def start() -> Session:
        return await open_port_session(
            client, far_end.target, port=port, stall_timeout=stall_timeout, on_event=events.add
        )

    pool = SessionPool(start, events.add, width=width, max_restarts=max_restarts, max_age=max_age)
    listener = Listener(pool.dial, "echo", events.add)
    made = Tunnel(listener, pool, events)
    try:
        await pool.open()
        await listener.listen_tcp()
        yield made
    finally:
        made.drop()
        listener.close()
        await listener.wait_closed(0)
        await pool.close()
        server.close()
        assert far_end.sessions == 0


async def fill(writer: asyncio.StreamWriter) -> int:
    """Write until nothing more is taken for a while; how many bytes."""
    written = 0
    try:
        while True:
            writer.write(bytes(262_144))
            written += 262_144
            async with asyncio.timeout(0.5):
                await writer.drain()
    except TimeoutError:
        return written


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(bytes(65536))
            await writer.drain()
