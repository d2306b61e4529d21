"""A real headless browser, driven by its DevTools protocol."""

import base64
import os
import shutil
import signal
import sys
from asyncio import create_subprocess_exec, timeout
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from .processes import TIMEOUT, Program

_FLAGS = (
    "--headless",
    "--no-sandbox",  # which Chromium does not have for root
    "--disable-gpu",
    "--disable-dev-shm-usage",  # in a container that is small
    "--no-first-run",
    "--no-default-browser-check",
    "--password-store=basic",
    # No word of its own to anyone.
    "--disable-background-networking",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-extensions",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--disable-quic",
    "--disable-sync",
    "--metrics-recording-only",
    "--dns-prefetch-disable",
    # What it asks of its makers all the same goes past the proxy, where it finds no name.
    "--proxy-bypass-list=<-loopback>;*.com;*.net;*.org",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--window-size=1024,768",
    "--remote-debugging-port=0",
)
_MAX_ANSWER = 32 * 1024 * 1024  # bytes: a screenshot is one message


class Browser:
    """A browser with one page. Everything has a deadline."""

    def __init__(self, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self._websocket = websocket
        self._session = ""
        self._calls = 0
        self._loaded: set[str] = set()

    async def load(self, url: str) -> str:
        """Show a page and all that belongs to it; the error by its name, or nothing."""
        if not self._session:
            await self._open_page()
        answer = await self._call("Page.navigate", url=url)
        # An error is a page, too, and there is an end of loading that.
        while answer["loaderId"] not in self._loaded:
            await self._receive()
        return str(answer.get("errorText", ""))

    async def evaluate(self, expression: str) -> Any:
        """The value of JavaScript in the page; of a promise what it promises."""
        answer = await self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode((await self._call("Page.captureScreenshot"))["data"])

    async def close(self) -> None:
        """End the browser."""
        self._session = ""
        await self._call("Browser.close")

    async def _open_page(self) -> None:
        target = (await self._call("Target.createTarget", url="about:blank"))["targetId"]
        answer = await self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = answer["sessionId"]
        await self._call("Page.enable")
        await self._call("Page.setLifecycleEventsEnabled", enabled=True)

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        call: dict[str, Any] = {"id": self._calls, "method": method, "params": params}
        if self._session:
            call["sessionId"] = self._session
        await self._websocket.send_json(call)
        while (message := await self._receive()).get("id") != self._calls:
            pass
        assert "error" not in message, message
        result: dict[str, Any] = message["result"]
        return result

    async def _receive(self) -> dict[str, Any]:
        async with timeout(TIMEOUT):
            message: dict[str, Any] = await self._websocket.receive_json()
        params = message.get("params", {})
        if message.get("method") == "Page.lifecycleEvent" and params["name"] == "load":
            self._loaded.add(params["loaderId"])
        return message


@asynccontextmanager
async def browser_running(
    folder: Path, env: Mapping[str, str], *flags: str
) -> AsyncIterator[Browser]:
    """Run one with a profile of its own in ``folder``; ``flags`` say which proxy it takes."""
    program = shutil.which("chromium")
    if program is None or sys.platform == "win32":
        pytest.skip("NO CHROMIUM: run tests/e2e/install.sh as root, or install it")
    command = (program, *_FLAGS, f"--user-data-dir={folder}", *flags, "about:blank")
    process = await create_subprocess_exec(
        *command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    chromium = Program(process)
    try:
        url = (await chromium.err_line(r"^DevTools listening on (ws://\S+)"))[1]
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(url, max_msg_size=_MAX_ANSWER) as websocket,
        ):
            browser = Browser(websocket)
            yield browser
            await browser.close()
            await chromium.wait()
    finally:
        # It is many processes, and may have become an orphans' home.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
