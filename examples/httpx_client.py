"""httpx without a local port: its transport has a unix socket, and checks the real host's name."""

import asyncio
from tempfile import TemporaryDirectory

import httpx

import ssmnet


async def main() -> None:
    with TemporaryDirectory() as folder:
        async with (
            ssmnet.connect("i-0123456789abcdef0") as target,
            target.forward(443, host="site.internal", local_path=f"{folder}/site") as site,
            httpx.AsyncClient(
                base_url="https://site.internal",
                transport=httpx.AsyncHTTPTransport(uds=site.host),
            ) as http,
        ):
            for path in ("/", "/about"):  # one connection for both
                response = await http.get(path)
                print(response.text, response.headers.get("Connection-Number"))


asyncio.run(main())
