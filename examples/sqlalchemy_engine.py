"""SQLAlchemy's async engine over a forward, with psycopg: the URL names the real host."""

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

import ssmnet


async def main() -> None:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.forward(5432, host="db.internal") as listener,
    ):
        engine = create_async_engine(
            "postgresql+psycopg://app@db.internal/app?sslmode=verify-full&sslrootcert=system",
            connect_args={"hostaddr": "127.0.0.1", "port": listener.port},
        )
        async with engine.connect() as connection:
            for number, price in await connection.execute(text("SELECT * FROM orders")):
                print(number, price)
        await engine.dispose()


asyncio.run(main())
