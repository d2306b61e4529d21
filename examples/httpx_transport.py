"""httpx on streams of a tunnel: any number of hosts, http and https, connections kept alive."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpcore
import httpx

import ssmnet


@asynccontextmanager
async def within(seconds: float | None, late: Any, failed: Any) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, ssmnet.Error) as error:
        raise failed(str(error)) from error


class TunnelStream(httpcore.AsyncNetworkStream):
    """Connects when it is known whether with TLS: by start_tls, or else with the first write."""

    writer: asyncio.StreamWriter | None = None

    def __init__(self, target: ssmnet.Target, host: str, port: int, timeout: float | None) -> None:
        self.open, self.timeout = partial(target.open_connection, host, port), timeout

    async def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "TunnelStream":
        tls = {"ssl": ssl_context, "server_hostname": server_hostname} if ssl_context else {}
        async with within(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            self.reader, self.writer = await self.open(**tls)
        return self

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        async with within(timeout, httpcore.ReadTimeout, httpcore.ReadError):
            return await self.reader.read(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self.writer is None:
            await self.start_tls(None, timeout=self.timeout)
        assert self.writer is not None
        async with within(timeout, httpcore.WriteTimeout, httpcore.WriteError):
            self.writer.write(buffer)
            await self.writer.drain()

    async def aclose(self) -> None:
        if self.writer is not None:
            self.writer.close()


class TunnelBackend(httpcore.AsyncNetworkBackend):
    def __init__(self, target: ssmnet.Target) -> None:
        self.target = target

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any
    ) -> TunnelStream:
        return TunnelStream(self.target, host, port, timeout)


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        transport = httpx.AsyncHTTPTransport()
        transport._pool._network_backend = TunnelBackend(target)  # httpx has no other way in
        async with httpx.AsyncClient(transport=transport) as http:
            for scheme in ("http", "https", "https"):
                response = await http.get(f"{scheme}://site.internal/")
                print(response.text, response.headers.get("Connection-Number"))


asyncio.run(main())
