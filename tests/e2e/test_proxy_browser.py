"""A real browser through ``ssmnet proxy``: a page of many parts, from hosts it cannot look up."""

import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from ssmnet.loopback import Loopback

from .browser import browser_running
from .proxies import FORBIDDEN, UNKNOWN, Proxy, far_end_with_names, proxy_running
from .site import NAMES, Site, site_running

if sys.platform == "win32":
    pytest.skip("the browser is driven as POSIX has it", allow_module_level=True)

pytestmark = pytest.mark.long

# A page without the parts takes a tenth of it: noise cannot be compressed.
SCREENSHOT_SIZE = 200_000


@pytest.fixture
async def far_end() -> AsyncIterator[Loopback]:
    async with far_end_with_names() as running:
        yield running


@pytest.fixture
async def proxy(aws_env: dict[str, str], far_end: Loopback) -> AsyncIterator[Proxy]:
    async with proxy_running(aws_env | far_end.environment) as running:
        yield running


def proxy_flag(proxy: Proxy, scheme: str) -> str:
    address = proxy.http_address if scheme == "http" else proxy.socks_address
    return f"--proxy-server={scheme}://{address}"


async def show(site: Site, folder: Path, env: dict[str, str], *flags: str) -> None:
    """Load the page, and compare every byte of it, there and at the site."""
    async with browser_running(folder / "profile", env, *flags) as browser:
        assert await browser.load(site.url) == ""
        assert await browser.evaluate("finished") == []
        assert await browser.evaluate("document.title") == "complete"
        screenshot = await browser.screenshot()
        (folder / "page.png").write_bytes(screenshot)
        assert len(screenshot) > SCREENSHOT_SIZE
        assert await browser.evaluate("document.cookie") == "a=b"
    assert site.asked == site.expected()


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_a_page_of_many_parts(
    aws_env: dict[str, str], far_end: Loopback, proxy: Proxy, tmp_path: Path, scheme: str
) -> None:
    async with site_running() as site:
        await show(site, tmp_path, aws_env, proxy_flag(proxy, scheme))
    # Each host is another destination, and one session is enough for what is asked of it.
    assert far_end.sessions_started == len({host for host, _ in site.expected()})


async def test_a_page_by_the_pac_file(
    aws_env: dict[str, str], far_end: Loopback, tmp_path: Path
) -> None:
    env = aws_env | far_end.environment
    async with site_running() as site, proxy_running(env, "--allow", "*.internal") as proxy:
        flag = f"--proxy-pac-url=http://{proxy.http_address}/proxy.pac"
        await show(site, tmp_path, aws_env, flag)
    assert far_end.sessions_started == len({host for host, _ in site.expected()})


@pytest.mark.parametrize("scheme", ["socks5", "http"])
async def test_a_page_by_https(
    aws_env: dict[str, str], proxy: Proxy, tmp_path: Path, scheme: str
) -> None:
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*NAMES).configure_cert(tls)
    async with site_running(tls) as site:
        flags = (proxy_flag(proxy, scheme), "--ignore-certificate-errors")
        await show(site, tmp_path, aws_env, *flags)


async def test_a_host_that_is_not_there(
    aws_env: dict[str, str], proxy: Proxy, tmp_path: Path, closed_port: int
) -> None:
    hosts = (f"127.0.0.1:{closed_port}", f"{UNKNOWN}:{closed_port}", FORBIDDEN)
    flag = proxy_flag(proxy, "socks5")
    async with browser_running(tmp_path / "profile", aws_env, flag) as browser:
        for host in hosts:
            assert await browser.load(f"http://{host}/") == "net::ERR_SOCKS_CONNECTION_FAILED"
        async with site_running() as site:
            assert await browser.load(site.url) == ""
            assert await browser.evaluate("finished") == []
