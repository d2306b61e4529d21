"""docs/howto/private-network.md, with a real proxy and TLS of an authority that nobody knows."""

import re
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from ssmnet.errors import RemoteProtocolError
from ssmnet.loopback import Loopback
from ssmnet.stream_url import check_stream_url
from tests.io.http_proxy import Proxy, http_proxy

from .page_blocks import ROOT, matches, read_blocks
from .processes import Done, run

if sys.platform == "win32":
    pytest.skip("the lines are for a POSIX shell", allow_module_level=True)

pytestmark = pytest.mark.long  # together: an API that is not there is tried again

PAGE = (ROOT / "docs/howto/private-network.md").read_text("utf-8")
BLOCKS = read_blocks(PAGE)
SYSTEM = "Linux\n" if sys.platform == "linux" else "Darwin\n"


def blocks_of(name: str) -> list[str]:
    """The blocks that this test checks."""
    place = f"tests/e2e/test_page_private_network.py::{name}"
    return [block.text for block in BLOCKS if block.directives.get("checked by") == place]


async def sh(text: str, env: dict[str, str], **changed: str) -> Done:
    """Run a block, with some of what is exported changed to what there is here."""
    for name, value in changed.items():
        text, count = re.subn(rf"(?m)^(export {name}=).*", rf"\1{value}", text)
        assert count == 1
    return await run("bash", "-euc", text, env=env)


@asynccontextmanager
async def far_end(env: dict[str, str], folder: Path) -> AsyncIterator[tuple[Loopback, Path]]:
    """A far end with a certificate, and the file that makes it trusted; it is not yet."""
    authority, bundle = trustme.CA(), folder / "corp.pem"
    authority.cert_pem.write_to_path(bundle)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    async with Loopback(tls=server) as far:
        env |= far.environment
        yield far, bundle
        assert far.sessions == 0


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with http_proxy() as running:
        yield running


async def test_through_a_proxy(aws_env: dict[str, str], proxy: Proxy, tmp_path: Path) -> None:
    (text,) = blocks_of("test_through_a_proxy")
    async with far_end(aws_env, tmp_path) as (far, bundle):
        done = await sh(text, aws_env | {"AWS_CA_BUNDLE": str(bundle)}, HTTPS_PROXY=proxy.url)
        assert done == (0, SYSTEM, "")
        place = far.endpoint_url.removeprefix("https://")
        # The API and the WebSocket.
        assert proxy.requests == [f"CONNECT {place} HTTP/1.1"] * 2
        proxy.refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        done = await sh(text, aws_env | {"AWS_CA_BUNDLE": str(bundle)}, HTTPS_PROXY=proxy.url)
    assert done.status == 255
    assert told(done)


async def test_an_authority_of_one_s_own(aws_env: dict[str, str], tmp_path: Path) -> None:
    text, error = blocks_of("test_an_authority_of_one_s_own")
    async with far_end(aws_env, tmp_path) as (far, bundle):
        done = await sh(text, aws_env, AWS_CA_BUNDLE=str(bundle))
        assert done == (0, SYSTEM, "")
        done = await sh(text.partition("\n")[2], aws_env)
        assert done.status == 255
        here = error.replace("https://ssm.eu-west-1.amazonaws.com", far.endpoint_url)
        assert matches(here, done.err), done


async def test_endpoints(aws_env: dict[str, str]) -> None:
    (text,) = blocks_of("test_endpoints")
    # What stands in the page is trusted as it is.
    url = re.findall(r"AWS_ENDPOINT_URL_SSMMESSAGES=https://(\S+)", text)[0]
    check_stream_url(f"wss://{url}/v1/data-channel/x", "eu-west-1")
    async with Loopback() as far:
        env = {n: v for n, v in far.environment.items() if not n.startswith("AWS_ENDPOINT_URL")}
        place = far.endpoint_url
        both = {"AWS_ENDPOINT_URL_SSM": place, "AWS_ENDPOINT_URL_SSMMESSAGES": place}
        assert await sh(text, aws_env | env, **both) == (0, SYSTEM, "")


def test_another_host_is_refused() -> None:
    (text,) = blocks_of("test_another_host_is_refused")
    with pytest.raises(RemoteProtocolError) as refused:
        check_stream_url("wss://gateway.corp.example/v1/data-channel/x", "eu-west-1")
    assert text == f"error: {refused.value}\n"


async def test_fips(aws_env: dict[str, str], proxy: Proxy) -> None:
    """A proxy that refuses to go there says where that is."""
    (text,) = blocks_of("test_fips")
    proxy.refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    done = await sh(text, aws_env | {"HTTPS_PROXY": proxy.url})
    assert done.status == 255
    assert set(proxy.requests) == {"CONNECT ssm-fips.us-east-1.amazonaws.com:443 HTTP/1.1"}
    url = re.findall(r"AWS_ENDPOINT_URL_SSMMESSAGES=https://(ssmmessages-fips[\w.-]+)", PAGE)[0]
    check_stream_url(f"wss://{url}/v1/data-channel/x", "us-east-1")


async def test_what_is_said_where_there_is_no_way(
    aws_env: dict[str, str], closed_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{closed_port}"
    text = "ssmnet exec i-0123456789abcdef0 -- true"
    assert told(await sh(text, aws_env | {"AWS_ENDPOINT_URL_SSM": nowhere}))
    assert told(await sh(text, aws_env | {"HTTPS_PROXY": nowhere}))
    async with Loopback() as far:
        env = aws_env | far.environment
        assert told(await sh(text, env | {"AWS_ENDPOINT_URL_SSMMESSAGES": nowhere}))
        assert told(await sh(text, env | {"SSM_PLUGIN_SKIP_CLIENT_CONFIGURE": "true"}))
    assert len(set(LINES)) == 5


def told(done: Done) -> list[str]:
    """The lines of the page's table that the error is one of."""
    return [line for line in LINES if line in done.err]


LINES = [
    line
    for row in PAGE.partition("## When it does not connect")[2].splitlines()
    if row.startswith("|")
    for line in re.findall(r"`([^`]+)`", row.split("|")[1])
]
