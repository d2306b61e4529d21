"""Targets of the public API on real far ends, and real destinations behind them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trustme

import ssmnet
from ssmnet.loopback import Loopback
from ssmnet.starting import Starting

DEADLINE = 20.0


def keys(far: Loopback) -> ssmnet.Credentials:
    return ssmnet.Credentials(far.access_key_id, far.secret_access_key)


def reach(far: Loopback, **options: Any) -> Starting[ssmnet.Target]:
    """A target of ``far`` alone: nothing of it is in the environment."""
    given: dict[str, Any] = {
        "region": far.region,
        "credentials": keys(far),
        "endpoint_url": far.endpoint_url,
        "messages_endpoint_url": far.endpoint_url,
    }
    return ssmnet.connect(far.target, **given | options)


class Authority:
    """A certificate authority that nobody else trusts."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(self, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def serving(
    handler: Handler = echo, context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """The port of a destination; its connections end with it."""
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.append(writer)
        await handler(reader, writer)

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        if tasks:
            await asyncio.wait(tasks)


async def echoed(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"hello"
) -> bytes:
    writer.write(data)
    async with asyncio.timeout(DEADLINE):
        return await reader.readexactly(len(data))


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    async with asyncio.timeout(DEADLINE):
        await writer.wait_closed()
