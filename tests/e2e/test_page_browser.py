"""docs/howto/browser.md, where it opens a window: the same lines with a browser that has none."""

import re
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssmnet.loopback import Loopback

from .browser import browser_running
from .page_blocks import ROOT, read_blocks
from .proxies import Proxy, far_end_with_names, proxy_running
from .site import site_running

if sys.platform == "win32":
    pytest.skip("the browser is driven as POSIX has it", allow_module_level=True)

BLOCKS = read_blocks((ROOT / "docs/howto/browser.md").read_text("utf-8"))


@pytest.fixture
async def far_end() -> AsyncIterator[Loopback]:
    async with far_end_with_names() as running:
        yield running


def command(name: str) -> list[str]:
    """The command line of the page that this test checks."""
    place = f"tests/e2e/test_page_browser.py::{name}"
    (block,) = [block for block in BLOCKS if block.directives.get("checked by") == place]
    return shlex.split(block.text)


def flag(words: list[str], proxy: Proxy) -> str:
    """What the line tells the browser of its proxy, with the ports that the proxy has here."""
    assert words[0] == "chromium"
    assert words[-1] == "http://site.internal/"
    (own,) = [word for word in words if word.startswith("--user-data-dir=")]
    (found,) = set(words[1:-1]) - {own}
    return found.replace(":1080", f":{proxy.socks}").replace(":8080", f":{proxy.http}")


async def show(folder: Path, env: dict[str, str], flag: str) -> None:
    async with site_running() as site, browser_running(folder / "profile", env, flag) as browser:
        assert await browser.load(site.url) == ""
        assert await browser.evaluate("finished") == []


@pytest.mark.long
async def test_chromium_by_socks(
    aws_env: dict[str, str], far_end: Loopback, tmp_path: Path
) -> None:
    async with proxy_running(aws_env | far_end.environment) as proxy:
        await show(tmp_path, aws_env, flag(command("test_chromium_by_socks"), proxy))


@pytest.mark.long
async def test_chromium_by_the_pac_file(
    aws_env: dict[str, str], far_end: Loopback, tmp_path: Path
) -> None:
    async with proxy_running(aws_env | far_end.environment, "--allow", "*.internal") as proxy:
        await show(tmp_path, aws_env, flag(command("test_chromium_by_the_pac_file"), proxy))


def test_the_profile_of_firefox() -> None:
    """The names are Mozilla's; the values have to be the proxy's that the page starts."""
    (file,) = [block for block in BLOCKS if block.directives.get("file") == "through-aws/user.js"]
    lines = file.text.splitlines()
    preferences = dict(re.findall(r'^user_pref\("(.+)", (.+)\);$', file.text, re.MULTILINE))
    assert len(preferences) == len(lines)
    assert preferences == {
        "network.proxy.type": "1",
        "network.proxy.socks": '"127.0.0.1"',
        "network.proxy.socks_port": "1080",
        "network.proxy.socks_version": "5",
        "network.proxy.socks_remote_dns": "true",
        "network.trr.mode": "5",
    }
    words = command("test_the_profile_of_firefox")
    assert words[words.index("--profile") + 1] == "./through-aws"
