"""No local port: an asyncio Protocol of one's own, right on a stream of a session."""

import asyncio
import os

from ssmnet.aws import Client
from ssmnet.loopback import Loopback
from ssmnet.target import open_port_session


class Print(asyncio.Protocol):
    def __init__(self) -> None:
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        print(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 mail.internal ready\r\n")
    writer.close()


async def main() -> None:
    service = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = service.sockets[0].getsockname()[1]
    async with Loopback() as far_end:  # with AWS, leave this out and name your own target
        os.environ.update(far_end.environment)
        session = await open_port_session(Client(), far_end.target, port=port)
        session.create_stream(protocol := Print())
        await protocol.closed.wait()
        await session.close()


asyncio.run(main())
