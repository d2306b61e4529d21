"""pytest-asyncio in strict mode, anyio beside it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"


@pytest_asyncio.fixture
async def target(ssm_loopback: SsmLoopback) -> AsyncIterator[ssmnet.Target]:
    async with ssmnet.connect(TARGET) as target:
        yield target


@pytest.mark.asyncio
async def test_asyncio(target: ssmnet.Target, ssm_loopback: SsmLoopback) -> None:
    running = asyncio.create_task(target.run("sh", "-c", "read line; echo $line"))
    await asyncio.sleep(0)  # the far end does not stand in the way of this loop
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await target.run("echo", "a")).stdout == b"a\n"
    await asyncio.to_thread(ssm_loopback.assert_no_sessions_left, 20.0)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_anyio(ssm_loopback: SsmLoopback, anyio_backend: str) -> None:
    async with ssmnet.connect(TARGET) as target:
        assert (await target.run("echo", "a")).stdout == b"a\n"
    ssm_loopback.assert_no_sessions_left()
    assert [session.state for session in ssm_loopback.sessions] == ["terminated"]
