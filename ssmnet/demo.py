"""``ssmnet demo``: the main job on this machine alone, with checks and a few figures.

Nothing is simulated: a gateway and an agent on loopback, an HTTP server as the destination, a
forward with its session and listener, and an HTTP client that uses the local port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256

import aiohttp
import typer
from aiohttp import web

from .aws import Client
from .errors import DestinationRefused
from .forward import Listener
from .loopback import Loopback
from .runner import see_no_aws_but, unless
from .target import open_port_session

FILE_SIZE = 16 * 1024 * 1024
CHUNK = 256 * 1024
ROUND_TRIPS = 100
CONNECTIONS = 100


async def run_demo(stop: asyncio.Event) -> bool:
    """Run it, print what is seen, and return whether all was as it should be."""
    return await unless(stop, _demo()) or False


async def _demo() -> bool:
    data = os.urandom(FILE_SIZE)
    async with _destination(data) as port, Loopback() as far_end:
        see_no_aws_but(far_end.environment)
        client = Client()
        typer.echo(f"An HTTP server with a file of 16 MiB listens on port {port}.")
        typer.echo(f"A gateway and the agent of {far_end.target} run on this machine, too.")
        async with _forward(client, far_end.target, port) as local_port:
            typer.echo(f"Port {local_port} is forwarded to it through them.\n")
            ok = await _exercise(f"http://127.0.0.1:{local_port}", data)
        ok &= await _show_refusal(client, far_end.target)
    typer.echo("\nAll checksums are equal." if ok else "\nFAILED: something differs.")
    return ok


async def _exercise(url: str, data: bytes) -> bool:
    digest = sha256(data).hexdigest()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        downloaded, down = await _timed("Download", partial(_download, http, url))
        uploaded, up = await _timed("Upload", partial(_upload, http, url, data))
        round_trip = await _round_trip(http, url)
        answered = await _connect_many(http, url)
    ok = downloaded == digest and uploaded == digest and answered == CONNECTIONS
    rows = (
        ("download", f"{FILE_SIZE / down / 1e6:.1f} MB/s", _verdict(downloaded == digest)),
        ("upload", f"{FILE_SIZE / up / 1e6:.1f} MB/s", _verdict(uploaded == digest)),
        ("HTTP round trip", f"{round_trip * 1e3:.2f} ms", f"median of {ROUND_TRIPS}"),
        ("connections at once", str(CONNECTIONS), f"{answered} answered"),
    )
    for name, value, remark in rows:
        typer.echo(f"  {name:<20}{value:>14}   {remark}")
    return ok


def _verdict(equal: bool) -> str:
    return "SHA-256 equal" if equal else "SHA-256 DIFFERS"


async def _download(http: aiohttp.ClientSession, url: str, moved: Callable[[int], None]) -> str:
    digest = sha256()
    async with http.get(url) as response:
        async for chunk in response.content.iter_chunked(CHUNK):
            digest.update(chunk)
            moved(len(chunk))
    return digest.hexdigest()


async def _upload(
    http: aiohttp.ClientSession, url: str, data: bytes, moved: Callable[[int], None]
) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
            moved(CHUNK)

    async with http.put(url, data=chunks()) as response:
        return await response.text()


async def _timed(
    name: str, transfer: Callable[[Callable[[int], None]], Awaitable[str]]
) -> tuple[str, float]:
    """The transfer's digest and how many seconds it took, with a bar on a terminal."""
    started = time.perf_counter()
    if sys.stderr.isatty():
        with typer.progressbar(length=FILE_SIZE, label=f"{name:<8}", file=sys.stderr) as bar:
            digest = await transfer(bar.update)
    else:
        digest = await transfer(lambda _: None)
    return digest, time.perf_counter() - started


async def _round_trip(http: aiohttp.ClientSession, url: str) -> float:
    times = []
    for _ in range(ROUND_TRIPS):
        started = time.perf_counter()
        async with http.head(url):
            times.append(time.perf_counter() - started)
    return statistics.median(times)


async def _connect_many(http: aiohttp.ClientSession, url: str) -> int:
    async def ask() -> bool:
        async with http.head(url, headers={"Connection": "close"}) as response:
            return response.status == 200

    return sum(await asyncio.gather(*(ask() for _ in range(CONNECTIONS))))


async def _show_refusal(client: Client, target: str) -> bool:
    """A forward to a port where nobody listens: the connection is reset, and we know why."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        session = await open_port_session(client, target, port=port)
        try:
            await session.probe()
        except DestinationRefused as error:
            typer.echo(f"  {'a closed port':<20}{'refused':>14}   {error}")
            return True
        finally:
            await session.close()
    return False


@asynccontextmanager
async def _forward(client: Client, target: str, port: int) -> AsyncIterator[int]:
    session = await open_port_session(client, target, port=port)
    listener = Listener(session.create_stream, f"{target}:{port}", lambda _: None)
    try:
        await listener.listen_tcp()
        yield listener.port or 0
    finally:
        listener.close()
        await listener.wait_closed(1)
        await session.close()


@asynccontextmanager
async def _destination(data: bytes) -> AsyncIterator[int]:
    async def get(_: web.Request) -> web.Response:
        return web.Response(body=data)

    async def put(request: web.Request) -> web.Response:
        digest = sha256()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
        return web.Response(text=digest.hexdigest())

    application = web.Application(client_max_size=0)
    application.add_routes([web.get("/", get), web.put("/", put)])
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
