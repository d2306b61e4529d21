"""Tests without AWS: the fixture `ssm_loopback` comes with ssmnet. pytest test_with_loopback.py"""

import asyncio

import pytest

import ssmnet
from ssmnet.testing import SsmLoopback


async def greet(host: str, port: int, name: str) -> str:  # what is to be tested
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        reader, writer = await target.open_connection(host, port)
        writer.write(f"{name}\n".encode())
        answer = await reader.readline()
        writer.close()
    return answer.decode()


async def server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"Hello, " + await reader.readline())
    writer.close()


@pytest.mark.ssm_loopback(names={"greeter.internal": "127.0.0.1"})
def test_a_greeting(ssm_loopback: SsmLoopback) -> None:
    async def main() -> None:
        async with await asyncio.start_server(server, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            assert await greet("greeter.internal", port, "Ada") == "Hello, Ada\n"

    asyncio.run(main())
    assert [session.state for session in ssm_loopback.sessions] == ["terminated"]


def test_a_wrong_port(ssm_loopback: SsmLoopback) -> None:
    with pytest.raises(ssmnet.DestinationRefused):
        asyncio.run(greet("127.0.0.1", 9, "Ada"))
