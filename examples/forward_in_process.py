"""A forward inside a program: a session, a local port, and an ordinary client of that port."""

import asyncio
import os

from ssmnet.aws import Client
from ssmnet.forward import Listener
from ssmnet.loopback import Loopback
from ssmnet.target import open_port_session


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The service on the far side."""
    name = await reader.readline()
    writer.write(b"Hello, " + name)
    writer.close()


async def main() -> None:
    service = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with Loopback() as far_end:  # with AWS, leave this out and name your own target
        os.environ.update(far_end.environment)
        session = await open_port_session(
            Client(), far_end.target, port=service.sockets[0].getsockname()[1]
        )
        listener = Listener(session.create_stream, "the greeter", on_event=print)
        await listener.listen_tcp()
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        writer.write(b"Ada\n")
        print(await reader.read())
        writer.close()
        listener.close()
        await listener.wait_closed(timeout=3)
        await session.close()
    service.close()


asyncio.run(main())
