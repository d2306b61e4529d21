"""Python's HTTP clients through ``ssmnet proxy``, and a hundred destinations at once."""

import asyncio
import hashlib
import random
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import aiohttp
import httpx
import pytest
import trustme
from aiohttp_socks import ProxyConnector, ProxyError
from python_socks.async_.asyncio import Proxy as SocksClient

from ssmnet.loopback import Loopback

from .processes import TIMEOUT
from .proxies import UNKNOWN, Proxy, far_end_with_names, proxy_running
from .site import NAMES, SCRIPTS, Site, site_running

SIZE = 100_000  # bytes each way of each


@pytest.fixture
async def far_end() -> AsyncIterator[Loopback]:
    async with far_end_with_names() as running:
        yield running


@pytest.fixture
async def proxy(aws_env: dict[str, str], far_end: Loopback) -> AsyncIterator[Proxy]:
    async with proxy_running(aws_env | far_end.environment) as running:
        yield running


class Tls:
    """Both ends' settings for a certificate of the site's hosts."""

    def __init__(self) -> None:
        authority = trustme.CA()
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*NAMES).configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


@pytest.fixture(scope="module")
def tls() -> Tls:
    return Tls()


def script_urls(site: Site) -> list[str]:
    scheme = site.url.partition(":")[0]
    return [
        f"{scheme}://{host}:{site.port}{path}" for host, path in site.expected() if "script" in path
    ]


def check(site: Site, texts: list[str]) -> None:
    assert sorted(texts) == sorted(site.script(number) for number in range(SCRIPTS))
    assert site.asked.total() == SCRIPTS


each_site = pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])


@each_site
async def test_aiohttp(proxy: Proxy, tls: Tls, secure: bool) -> None:
    plain = f"http://{proxy.http_address}"
    for kind in ("http", "socks5", "socks4"):
        connector = aiohttp.TCPConnector(ssl=tls.client)
        if kind != "http":
            url = f"{kind}://{proxy.socks_address}"
            connector = ProxyConnector.from_url(url, rdns=True, ssl=tls.client)
        async with (
            site_running(tls.server if secure else None) as site,
            aiohttp.ClientSession(connector=connector) as http,
        ):

            async def fetch(part: str) -> str:
                async with http.get(part, proxy=plain if kind == "http" else None) as response:
                    assert response.status == 200
                    return await response.text()

            check(site, await asyncio.gather(*map(fetch, script_urls(site))))


@each_site
async def test_httpx(proxy: Proxy, tls: Tls, secure: bool) -> None:
    for url in (f"http://{proxy.http_address}", f"socks5h://{proxy.socks_address}"):
        async with (
            site_running(tls.server if secure else None) as site,
            httpx.AsyncClient(
                proxy=url, verify=tls.client, timeout=TIMEOUT, trust_env=False
            ) as http,
        ):
            answers = await asyncio.gather(*map(http.get, script_urls(site)))
            assert {answer.status_code for answer in answers} == {200}
            check(site, [answer.text for answer in answers])


async def test_they_are_told_why_not(proxy: Proxy, closed_port: int) -> None:
    urls = (f"http://host.internal:{closed_port}/", f"http://{UNKNOWN}:{closed_port}/")
    async with httpx.AsyncClient(proxy=f"http://{proxy.http_address}", timeout=TIMEOUT) as http:
        for url in urls:
            assert (await http.get(url)).status_code == 502
    # Not httpx again, which leaves a socket open when SOCKS says no.
    connector = ProxyConnector.from_url(f"socks5://{proxy.socks_address}", rdns=True)
    async with aiohttp.ClientSession(connector=connector) as client:
        for url, reply in zip(urls, (5, 4), strict=True):
            with pytest.raises(ProxyError) as raised:
                await client.get(url)
            assert raised.value.error_code == reply


class Destination:
    """Sends its own data once the whole ``meeting`` is connected, and digests what comes."""

    def __init__(self, number: int, meeting: asyncio.Barrier) -> None:
        self.data = random.Random(number).randbytes(SIZE)
        self.port = 0
        self.received = ""
        self._meeting = meeting

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(TIMEOUT):
            # The proxy asks before whether somebody is here, and has nothing to say then.
            if first := await reader.read(1):
                await self._meeting.wait()
                data = first + await reader.readexactly(SIZE - 1)
                self.received = hashlib.sha256(data).hexdigest()
                writer.write(self.data)
                await writer.drain()
            writer.close()
            await writer.wait_closed()


async def ask(url: str, destination: Destination) -> None:
    """Exchange data with it through a proxy, and see that all of it arrived at both ends."""
    client = SocksClient.from_url(url, rdns=True)
    sock = await client.connect("127.0.0.1", destination.port, timeout=TIMEOUT)
    reader, writer = await asyncio.open_connection(sock=sock)
    data = destination.data[::-1]
    writer.write(data)
    assert await reader.readexactly(SIZE) == destination.data
    assert destination.received == hashlib.sha256(data).hexdigest()
    writer.close()
    await writer.wait_closed()


async def ask_all(
    env: dict[str, str], scheme: str, destinations: list[Destination], sessions: int
) -> None:
    """Exchange data with all of them at once, through so many sessions at most."""
    async with AsyncExitStack() as stack:
        for destination in destinations:
            await stack.enter_async_context(await destination.start())
        proxy = await stack.enter_async_context(proxy_running(env, "--max-sessions", str(sessions)))
        address = proxy.http_address if scheme == "http" else proxy.socks_address
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
            for destination in destinations:
                tasks.create_task(ask(f"{scheme}://{address}", destination))


async def test_a_hundred_destinations_at_once(aws_env: dict[str, str], far_end: Loopback) -> None:
    """All are connected before the first is answered."""
    everyone = asyncio.Barrier(100)
    destinations = [Destination(number, everyone) for number in range(100)]
    await ask_all(aws_env | far_end.environment, "socks5", destinations, sessions=100)
    assert far_end.sessions_started == 100


async def test_more_destinations_than_sessions(aws_env: dict[str, str], far_end: Loopback) -> None:
    """Those that are idle give way."""
    destinations = [Destination(number, asyncio.Barrier(1)) for number in range(30)]
    await ask_all(aws_env | far_end.environment, "http", destinations, sessions=5)
    assert far_end.sessions_started == 30
