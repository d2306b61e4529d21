"""aiohttp without a local port: any number of hosts, http and https, connections kept alive."""

import asyncio
import ssl
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

import ssmnet

URLS = ("http://site.internal/", "https://site.internal/", "https://site.internal/about")


class TunnelConnector(aiohttp.BaseConnector):  # certificates are checked against the host's name
    def __init__(self, target: ssmnet.Target, **options: Any) -> None:
        super().__init__(**options)
        self.target = target

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        tls = (req.ssl if isinstance(req.ssl, ssl.SSLContext) else True) if req.is_ssl() else None
        async with asyncio.timeout(timeout.sock_connect):
            _, protocol = await self.target.create_connection(
                self._factory, req.url.raw_host, req.url.port or 0, ssl=tls
            )
        return protocol


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        async with aiohttp.ClientSession(connector=TunnelConnector(target)) as http:
            for url in URLS:
                async with http.get(url) as response:
                    print(await response.text(), response.headers["Connection-Number"])


asyncio.run(main())
