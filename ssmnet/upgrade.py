"""Opens WebSockets: TLS, proxies, name look-up and the upgrade are aiohttp's work."""

from __future__ import annotations

import asyncio
import os
import ssl
from base64 import b64encode
from hashlib import sha1
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from .errors import ConnectError, one_line
from .message_socket import Handler
from .websocket import WebSocket

CONNECT_TIMEOUT = 15.0

# As aiohttp found the system's CAs: it makes its TLS context when it is imported.
_STORE_AT_IMPORT = ssl.get_default_verify_paths()

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def connect(
    url: str,
    handler: Handler,
    *,
    headers: dict[str, str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    use_proxy: bool = True,
    timeout: float = CONNECT_TIMEOUT,  # noqa: ASYNC109 - a deadline for all of it
) -> WebSocket:
    """Open a WebSocket to a ``ws`` or ``wss`` URL. Raises ConnectError.

    Without ``ssl_context`` it trusts as aiohttp does: see ``trusts_system``. HTTPS_PROXY and its
    like are honoured, if ``use_proxy``. ``timeout`` is in seconds.
    """
    # HTTPS_PROXY is looked up by the scheme https. The signature covers the URL as it is written.
    http_url = URL(url.replace("ws", "http", 1), encoded=True)
    http = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=1),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    try:
        async with asyncio.timeout(timeout):
            proxy = _proxy(http_url) if use_proxy else (None, {})
            response = await _upgrade(http, http_url, headers or {}, ssl_context, proxy)
        return WebSocket(http, response, handler)
    except BaseException as error:
        await http.close()
        if isinstance(error, TimeoutError):
            raise ConnectError(f"the gateway did not answer within {timeout:g} s") from error
        if isinstance(error, ConnectError):
            raise
        if isinstance(error, (aiohttp.ClientError, OSError, ValueError)):
            raise ConnectError(f"cannot reach the gateway: {_explain(error)}") from error
        raise


def trusts_system() -> bool:
    """Whether aiohttp's own TLS context has the system's CAs; another takes long to make."""
    return has_store() and ssl.get_default_verify_paths() == _STORE_AT_IMPORT


def has_store() -> bool:
    """Whether the system keeps CAs in a file or a folder. Windows does in neither."""
    store = ssl.get_default_verify_paths()
    if store.cafile is not None or store.capath is None:
        return store.cafile is not None
    return any(name.endswith(".0") for name in os.listdir(store.capath))


async def _upgrade(
    http: aiohttp.ClientSession,
    url: URL,
    headers: dict[str, str],
    ssl_context: ssl.SSLContext | None,
    proxied: tuple[URL | None, dict[str, str]],
) -> aiohttp.ClientResponse:
    key = b64encode(os.urandom(16))
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": key.decode(),
    }
    proxy, proxy_headers = proxied
    response = await http.get(
        url,
        headers=upgrade | headers,
        proxy=proxy,
        proxy_headers=proxy_headers,
        ssl=ssl_context or True,
        allow_redirects=False,
        timeout=aiohttp.ClientTimeout(total=None),
    )
    accept = b64encode(sha1(key + _GUID, usedforsecurity=False).digest()).decode()
    if response.status != 101:
        problem = f"the gateway refused the WebSocket with status {response.status}"
    elif response.headers.get("Sec-WebSocket-Accept") != accept:
        problem = "the gateway's answer to the WebSocket upgrade is not valid"
    else:
        return response
    response.close()
    raise ConnectError(problem)


def _proxy(url: URL) -> tuple[URL | None, dict[str, str]]:
    """The proxy for ``url``, and the headers that it gets.

    aiohttp would find it too, but a netrc file's password for the gateway with it.
    """
    found = getproxies().get(url.scheme)
    if not found or proxy_bypass(f"{url.host}:{url.port}"):
        return None, {}
    proxy = URL(found)
    if proxy.user is None:
        return proxy, {}
    credentials = b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return proxy.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"}


def _explain(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        # Its own text shows objects of ours.
        return f"{error.host}:{error.port}: {one_line(error.os_error)}"
    # Nor are URLs for everyone: one may be presigned, and a proxy's hold a password.
    if isinstance(error, aiohttp.ClientResponseError):
        return " ".join(error.message.split()) or "its answer is not HTTP"
    if isinstance(error, aiohttp.InvalidURL):
        return "its URL or its proxy's is not valid"
    return one_line(error)
