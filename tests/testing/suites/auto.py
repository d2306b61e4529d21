"""pytest-asyncio in auto mode."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.closing(writer):
        writer.write((await reader.readline()).upper())


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A service in the loop of the test."""
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.ssm_loopback(names={"db.internal": "127.0.0.1"})
async def test_a_stream(ssm_loopback: SsmLoopback, port: int) -> None:
    async with ssmnet.connect(TARGET) as target:
        reader, writer = await target.open_connection("db.internal", port)
        ssm_loopback.cut_clients()
        writer.write(b"hello\n")
        assert await reader.readline() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()
