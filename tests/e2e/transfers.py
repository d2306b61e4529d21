"""Transfers that wait: a test can do something at a byte of its choice, in the middle of them."""

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from .processes import TIMEOUT

# Kept back until a transfer may end: what happens at ``position`` happens in its middle.
TAIL = 1024
ECHO = b"\0\0\0\0"


class Transfer:
    """``size`` random bytes up or down. ``reached`` is set when ``position`` of them are there; the
    last ones go out after ``may_end``.
    """

    def __init__(self, number: int, *, up: bool, size: int, position: int) -> None:
        assert 0 < position <= size - TAIL
        self.number = number
        self.up = up
        self.position = position
        self.data = random.Random(number).randbytes(size)
        self.received = 0
        self.reached = asyncio.Event()
        self.may_end = asyncio.Event()
        self._digest = hashlib.sha256()

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.data).digest()

    async def run(self, port: int) -> bytes:
        """Do it through ``port``; the SHA-256 of what arrived."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(self.number.to_bytes(4))
            if self.up:
                await self.send(writer)
                digest = await reader.readexactly(32)
                assert await reader.read() == b""
                return digest
            return await self.receive(reader)
        finally:
            writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The other end of ``run``."""
        if self.up:
            writer.write(await self.receive(reader))
        else:
            await self.send(writer)

    async def send(self, writer: asyncio.StreamWriter) -> None:
        writer.write(self.data[:-TAIL])
        await writer.drain()
        await self.may_end.wait()
        writer.write(self.data[-TAIL:])
        await writer.drain()

    async def receive(self, reader: asyncio.StreamReader) -> bytes:
        while self.received < len(self.data):
            data = await reader.read(65536)
            if not data:
                raise EOFError(f"only {self.received} of {len(self.data)} bytes, and then an end")
            self._digest.update(data)
            self.received += len(data)
            if self.received >= self.position:
                self.reached.set()
        return self._digest.digest()


@asynccontextmanager
async def serving(*transfers: Transfer) -> AsyncIterator[int]:
    """A destination for ``transfers``, and for echoes; its port."""
    known = {transfer.number.to_bytes(4): transfer for transfer in transfers}
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with suppress(ConnectionError, EOFError):
            name = await reader.readexactly(4)
            if name == ECHO:
                while data := await reader.read(65536):
                    writer.write(data)
            else:
                await known[name].serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


class Echo:
    """A connection whose answers show that its session works just now."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answers(self) -> bool:
        async with asyncio.timeout(TIMEOUT):
            self._writer.write(b"?")
            return await self._reader.readexactly(1) == b"?"


@asynccontextmanager
async def echo(port: int) -> AsyncIterator[Echo]:
    """An echo of ``serving`` through ``port``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ECHO)
    yield Echo(reader, writer)
    writer.close()
