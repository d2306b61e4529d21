"""A FastAPI service that holds a tunnel for its lifetime: uvicorn fastapi_service:app"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
from fastapi import FastAPI

import ssmnet


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.forward(5432, host="db.internal") as listener,
    ):
        app.state.place = f"host=db.internal hostaddr=127.0.0.1 port={listener.port}"
        app.state.target = target
        yield


app = FastAPI(lifespan=lifespan)
USE = "user=app dbname=app sslmode=verify-full sslrootcert=system"


@app.get("/orders/{number}")
async def order(number: int) -> dict[str, int]:
    async with await psycopg.AsyncConnection.connect(f"{app.state.place} {USE}") as connection:
        cursor = await connection.execute("SELECT price FROM orders WHERE number = %s", [number])
        row = await cursor.fetchone()
    return {"price": row[0]} if row else {}


@app.get("/health")
async def health() -> dict[str, str]:
    (forward,) = app.state.target.statistics().listeners
    return {"tunnel": forward.state}
