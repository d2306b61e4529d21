"""psycopg through a forward: libpq connects to `hostaddr`, and checks the name `host`."""

import asyncio

import psycopg

import ssmnet


async def main() -> None:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.forward(5432, host="db.internal") as listener,
        await psycopg.AsyncConnection.connect(
            host="db.internal",
            hostaddr="127.0.0.1",
            port=listener.port,
            user="app",
            dbname="app",
            sslmode="verify-full",
            sslrootcert="system",
        ) as connection,
    ):
        cursor = await connection.execute("SELECT sum(price) FROM orders")
        print(await cursor.fetchone())


asyncio.run(main())
