"""Ask a target whether it can connect to a host and port, without opening a local one."""

import asyncio
import os
import socket

from ssmnet.aws import Client
from ssmnet.errors import DestinationRefused
from ssmnet.loopback import Loopback
from ssmnet.target import open_port_session


async def is_up(target: str, host: str, port: int) -> bool:
    session = await open_port_session(Client(), target, host=host, port=port)
    try:
        return await session.probe()
    except DestinationRefused:
        return False
    finally:
        await session.close()


async def main() -> None:
    async with Loopback() as far_end:  # with AWS, leave this out and name your own target
        os.environ.update(far_end.environment)
        with socket.create_server(("127.0.0.1", 0)) as service:
            port = service.getsockname()[1]
            print("while it listens:", await is_up(far_end.target, "localhost", port))
        print("afterwards:", await is_up(far_end.target, "localhost", port))


asyncio.run(main())
