"""What happens in a tunnel, as events, and how it is, as figures."""

import asyncio
import logging

import redis.asyncio as redis

import ssmnet


async def tell(events: ssmnet.EventStream) -> None:
    async for event in events:
        print(type(event).__name__)


async def main() -> None:
    logging.basicConfig(level=logging.WARNING)  # ssmnet's loggers are named ssmnet.*
    async with asyncio.TaskGroup() as group:
        async with ssmnet.connect("i-0123456789abcdef0") as target:
            group.create_task(tell(target.events()))  # ends when the target is closed
            async with target.forward(6379, host="cache.internal") as listener:
                async with redis.Redis(port=listener.port) as cache:
                    await cache.ping()
                    (forward,) = target.statistics().listeners
                    print(f"{forward.state}: {forward.connections} connection")


asyncio.run(main())
