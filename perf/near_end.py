"""What a measurement in the client's process uses: sessions with perf.far_end, forwards, a client.

The far end and the local application are processes of their own, so that this process's CPU time
is the client's alone. They end with this process, whatever becomes of it.
"""

import asyncio
import json
import ssl
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import aiohttp

from ssmnet.errors import ConnectError
from ssmnet.forward import Listener
from ssmnet.message_socket import Handler
from ssmnet.session import Session
from ssmnet.upgrade import connect
from ssmnet.websocket import WebSocket

HOST = "127.0.0.1"
# For whatever is waited for, in seconds.
TIMEOUT = 300.0


class Spent(NamedTuple):
    """Seconds."""

    wall: float
    cpu: float


async def spent(work: Awaitable[object]) -> Spent:
    """What ``work`` takes, in time and in this process's CPU time."""
    began, began_cpu = time.perf_counter(), time.process_time()
    async with asyncio.timeout(TIMEOUT):
        await work
    return Spent(time.perf_counter() - began, time.process_time() - began_cpu)


def raise_file_limit() -> None:
    """Each connection takes a descriptor."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Grant(NamedTuple):
    session_id: str
    token_value: str
    stream_url: str


class FarEnd:
    """The far end's process, and how to reach it. ``scheme`` is ws or wss, or after ``aiohttp``
    for the server that is aiohttp's own."""

    def __init__(self, ports: dict[str, int], context: ssl.SSLContext) -> None:
        self._ports = ports
        self.context = context

    def url(self, scheme: str, path: str) -> str:
        """Of the WebSocket for ``path``."""
        return f"{scheme.split()[-1]}://{HOST}:{self._ports[scheme]}/{path}"

    # A session's calls to AWS.

    async def connect(self, stream_url: str, handler: Handler) -> WebSocket:
        """Open a data channel."""
        return await connect(stream_url, handler, ssl_context=self.context)

    async def resume_session(self, session_id: str) -> None:
        """Nothing is resumed: what is lost ends the measurement."""

    async def generate_data_key(self, key_id: str, context: object) -> NoReturn:
        raise ConnectError(f"there is no key {key_id}")

    async def terminate_session(self, session_id: str) -> None:
        """The far end's sessions end with their WebSockets."""

    @asynccontextmanager
    async def session(self, scheme: str, kind: str) -> AsyncIterator[Session]:
        """An open session; ``kind`` is raw or mux."""
        session = Session(self, _Grant(f"{scheme}-{kind}", "token", self.url(scheme, kind)))
        await session.open()
        try:
            yield session
        finally:
            await session.close()

    @asynccontextmanager
    async def bare(self, scheme: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """aiohttp's own WebSocket, for calibration."""
        async with (
            aiohttp.ClientSession() as http,
            http.ws_connect(self.url(scheme, "bare"), ssl=self.context) as websocket,
        ):
            yield websocket


class Application:
    """The local application's process."""

    def __init__(self, process: Process, opening: float) -> None:
        self._process = process
        self.opening = opening  # s until all connections had got through

    async def order(
        self, letter: str, size: int, *, times: int = 1, connections: int | None = None
    ) -> list[float]:
        """Have it do something, see application.py; the seconds that each time took."""
        if self._process.stdin is None:
            raise RuntimeError("the application has no standard input")
        line = json.dumps([letter, size, times, connections])
        self._process.stdin.write(f"{line}\n".encode())
        answer: list[float] = await _answer(self._process)
        return answer


async def _answer(process: Process) -> Any:
    if process.stdout is None or not (line := await process.stdout.readline()):
        raise RuntimeError("a process has ended before its time")
    return json.loads(line)


@asynccontextmanager
async def _running(module: str, *arguments: str) -> AsyncIterator[Process]:
    """A Python process that ends with its standard input."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments), stdin=PIPE, stdout=PIPE, limit=1 << 24
    )
    try:
        yield process
    finally:
        await process.communicate()


@asynccontextmanager
async def far_end() -> AsyncIterator[FarEnd]:
    """A far end of its own."""
    with tempfile.TemporaryDirectory() as folder:
        ca_file = Path(folder) / "ca.pem"
        async with _running("perf.far_end", str(ca_file)) as process:
            ports = await _answer(process)
            yield FarEnd(ports, ssl.create_default_context(cafile=ca_file))


@asynccontextmanager
async def application(session: Session, connections: int = 1) -> AsyncIterator[Application]:
    """A local application with ``connections`` to a port that is forwarded through ``session``."""
    listener = Listener(session.create_stream, "the far end", lambda _: None)
    await listener.listen_tcp([HOST])
    try:
        async with _running("perf.application", str(listener.port), str(connections)) as process:
            yield Application(process, await _answer(process))
    finally:
        listener.close()
        await listener.wait_closed(5)


@asynccontextmanager
async def applications(
    far_end: FarEnd, scheme: str, kinds: tuple[str, ...]
) -> AsyncIterator[dict[str, Application]]:
    """One for each kind of session."""
    async with AsyncExitStack() as stack:
        made = {}
        for kind in kinds:
            session = await stack.enter_async_context(far_end.session(scheme, kind))
            made[kind] = await stack.enter_async_context(application(session))
        yield made
