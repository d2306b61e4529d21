"""A destination that speaks, or ends, before the agent knows that it is connected."""

import asyncio
from functools import partial

import pytest

from ssmnet.loopback.destination import Connection, Destination
from tests.io.sessions import eventually

ROUNDS = 30


class Owner:
    def __init__(self) -> None:
        self.received_data = b""
        self.ends = 0
        self.losses = 0

    def received(self, connection: int, data: bytes) -> None:
        self.received_data += data

    def connection_ended(self, connection: int) -> None:
        self.ends += 1

    def connection_lost(self, connection: int, destination: Connection) -> None:
        self.losses += 1

    def set_writable(self, connection: int, writable: bool) -> None:
        pass


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_what_it_says_at_once_is_kept(turns: int) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        for _ in range(ROUNDS):
            owner = Owner()
            loop = asyncio.get_running_loop()
            _, destination = await loop.create_connection(
                partial(Destination, 1, owner), "127.0.0.1", port
            )
            for _ in range(turns):
                await asyncio.sleep(0)
            assert (owner.received_data, owner.ends) == (b"", 0)
            destination.resume_reading()
            await eventually(lambda: owner.ends == 1)
            assert owner.received_data == b"hello"
            destination.close(0)
            await eventually(lambda: owner.losses == 1)
