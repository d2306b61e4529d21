"""Forwards and proxies that an application opens."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

import ssmnet
from ssmnet.loopback import Loopback
from tests.io.sessions import closed_port, eventually

from .targets import DEADLINE, echoed, hang_up, reach, serving

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
async def far(ssm_loopback: Loopback) -> AsyncIterator[Loopback]:
    yield ssm_loopback
    assert ssm_loopback.sessions == 0
    assert ssm_loopback.connections == 0


def accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


async def test_a_local_port(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        async with target.forward(port) as listener:
            assert listener.host == "127.0.0.1"
            assert listener.is_serving()
            assert listener.sockets[0].getsockname()[1] == listener.port
            assert f"127.0.0.1:{listener.port}" in listener.addresses
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
            await eventually(lambda: not listener.statistics().connections)
            told = listener.statistics()
            assert (told.accepted, told.sent, told.received) == (1, 5, 5)
        assert not listener.is_serving()
        assert not accepts(listener.port)
        assert far.sessions == 0


async def test_a_forward_may_be_awaited_and_closed_by_hand(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        listener = await target.forward(port, host="127.0.0.1", bind="127.0.0.1")
        assert len(listener.sockets) == 1
        listener.close()
        await listener.wait_closed()
        assert not accepts(listener.port)


async def test_closing_the_target_closes_its_listeners(far: Loopback) -> None:
    async with serving() as port:
        async with reach(far) as target:
            listener = await target.forward(port)
            proxy = await target.proxy()
            assert len(target.statistics().listeners) == 2
        assert not listener.is_serving()
        assert not accepts(listener.port)
        assert not accepts(proxy.port)
        with pytest.raises(ssmnet.SessionClosed):
            await target.forward(port)


async def test_a_certain_local_port_or_one_that_is_taken(far: Loopback) -> None:
    local = closed_port()
    async with serving() as port, reach(far) as target:
        async with target.forward(port, local_port=local) as listener:
            assert listener.port == local
            with pytest.raises(ssmnet.ListenError, match="in use"):
                await target.forward(port, local_port=local)
        assert far.sessions_started == 1


async def test_a_unix_socket(far: Loopback, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("no unix sockets")
    path = str(tmp_path / "socket")
    async with serving() as port, reach(far) as target:
        async with target.forward(port, local_path=path) as listener:
            assert (listener.host, listener.port) == (path, 0)
            reader, writer = await asyncio.open_unix_connection(path)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
        assert not Path(path).exists()


async def test_a_check_fails_where_nobody_listens(far: Loopback) -> None:
    async with reach(far) as target:
        with pytest.raises(ssmnet.DestinationRefused):
            await target.forward(closed_port(), check=True)
        far.fail_next("TargetNotConnected")
        with pytest.raises(ssmnet.TargetNotConnected):
            await target.forward(1)
        assert not target.statistics().listeners


async def test_an_exception_waits_for_no_connection(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        with pytest.raises(KeyError):
            async with target.forward(port) as listener:
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                await echoed(reader, writer)
                raise KeyError
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await reader.readexactly(1)
        writer.close()


@pytest.mark.parametrize("turns", [0, 1, 3, 8, 20, 50])
async def test_cancelled_anywhere_it_leaves_nothing(far: Loopback, turns: int) -> None:
    async def use(port: int) -> None:
        async with reach(far) as target, target.forward(port):
            await asyncio.Event().wait()

    async with serving() as port:
        task = asyncio.create_task(use(port))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE):
                await task
        await eventually(lambda: far.sessions == 0)


async def test_an_http_proxy_with_a_password(far: Loopback) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")
        writer.close()

    async with serving(answer) as port, reach(far) as target:
        async with target.proxy(kind="http", credentials=("ada", "secret")) as proxy:
            url = f"http://127.0.0.1:{port}/"
            where = f"http://127.0.0.1:{proxy.port}"
            async with aiohttp.ClientSession() as http:
                async with http.get(url, proxy=where) as response:
                    assert response.status == 407
                with_password = where.replace("//", "//ada:secret@")
                async with http.get(url, proxy=with_password) as response:
                    assert await response.text() == "hi"


async def test_a_socks_proxy_with_rules(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        async with target.proxy(deny=["10.0.0.0/8"]) as proxy:
            for address, outcome in ((b"\x7f\x00\x00\x01", 0), (b"\x0a\x00\x00\x01", 2)):
                reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
                writer.write(b"\x05\x01\x00")
                assert await reader.readexactly(2) == b"\x05\x00"
                writer.write(b"\x05\x01\x00\x01" + address + port.to_bytes(2, "big"))
                async with asyncio.timeout(DEADLINE):
                    assert (await reader.readexactly(10))[1] == outcome
                if not outcome:
                    assert await echoed(reader, writer) == b"hello"
                writer.close()
        with pytest.raises(ssmnet.UsageError):
            target.proxy(kind="ftp")
