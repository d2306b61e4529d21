"""A proxy within an application, for a client that takes one: any host the target reaches."""

import asyncio

import httpx

import ssmnet


async def main() -> None:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.proxy(kind="http", allow=["*.internal:80", "*.internal:443"]) as proxy,
        httpx.AsyncClient(proxy=f"http://127.0.0.1:{proxy.port}") as http,
    ):
        print((await http.get("https://site.internal/")).text)
        print((await http.get("http://site.internal/")).text)


asyncio.run(main())
