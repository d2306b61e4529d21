"""asyncpg through a forward. It takes no transport, so it connects to a local port."""

import asyncio
import ssl
from typing import Any

import asyncpg  # type: ignore[import-untyped]

import ssmnet


class ServerContext(ssl.SSLContext):
    """Checks the certificate against the database's name, not against 127.0.0.1."""

    server_hostname = "db.internal"

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        return super().wrap_bio(*args, **kwargs | {"server_hostname": self.server_hostname})


async def main() -> None:
    context = ServerContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.forward(5432, host="db.internal") as listener,
        asyncpg.create_pool(
            host="127.0.0.1", port=listener.port, user="app", database="app", ssl=context
        ) as pool,
    ):
        print(await pool.fetchval("SELECT count(*) FROM orders"), "orders")


asyncio.run(main())
