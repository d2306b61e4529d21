"""aiohttp without a local port: any number of hosts, http and https, connections kept alive."""

import asyncio
import ssl
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

import ssmnet


class TunnelConnector(aiohttp.BaseConnector):  # certificates are checked against the host's name
    def __init__(self, target: ssmnet.Target, **options: Any) -> None:
        super().__init__(**options)
        self.target = target

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: Any, timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        place = req.url.raw_host, req.url.port or 0
        tls = req.is_ssl() and (req.ssl if isinstance(req.ssl, ssl.SSLContext) else True)
        try:
            async with asyncio.timeout(timeout.sock_connect):
                _, protocol = await self.target.create_connection(self._factory, *place, ssl=tls)
        except ssmnet.Error as error:  # aiohttp wraps those of sockets and TLS itself
            raise aiohttp.ClientConnectionError(str(error)) from error
        return protocol


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        async with aiohttp.ClientSession(connector=TunnelConnector(target)) as http:
            for scheme in ("http", "https", "https"):
                async with http.get(f"{scheme}://site.internal/") as response:
                    print(await response.text(), response.headers.get("Connection-Number"))


asyncio.run(main())
