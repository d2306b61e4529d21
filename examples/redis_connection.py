"""redis-py without a local port: its connections are streams of the tunnel."""

import asyncio
from typing import Any

import redis.asyncio as redis

import ssmnet


class TunnelConnection(redis.Connection):
    """A connection through `target`, to the `host` and `port` that redis-py was given."""

    def __init__(self, *, target: ssmnet.Target, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    async def _connect(self) -> None:
        async with asyncio.timeout(self.socket_connect_timeout):
            streams = await self.target.open_connection(self.host, self.port)
        self._reader, self._writer = streams


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        pool = redis.ConnectionPool(
            connection_class=TunnelConnection,
            target=target,
            host="cache.internal",
            port=6379,
            retry_on_error=[redis.ConnectionError],  # such as one whose session has ended
        )
        async with redis.Redis.from_pool(pool) as cache:
            await cache.set("greeting", "hello")
            print(await cache.get("greeting"))


asyncio.run(main())
