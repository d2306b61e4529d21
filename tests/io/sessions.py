"""Real sessions with the loopback far end, and real destinations behind them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NoReturn, cast

import aiohttp

from ssmnet.aws import StartedSession
from ssmnet.errors import ConnectError, ServiceError
from ssmnet.loopback import Loopback
from ssmnet.message_socket import Handler
from ssmnet.session import Session
from ssmnet.transport import StreamTransport
from ssmnet.upgrade import connect
from ssmnet.websocket import WebSocket
from tests.io.far_client import sign

TIMEOUT = 15.0
FORWARD = "AWS-StartPortForwardingSession"
RAW = "AWS-StartSSHSession"
# A version before each change of habit.
NO_MULTIPLEXING = "3.0.196.0"
NO_TERMINATE_FLAG = "2.3.722.0"


class Access:
    """A session's calls to the far end, counted. Signed by botocore; see far_client."""

    def __init__(self, loopback: Loopback) -> None:
        self.loopback = loopback
        self.resumed = 0
        self.terminated = 0
        self.websockets: list[WebSocket] = []
        self.may_resume = asyncio.Event()
        self.may_resume.set()

    async def connect(self, stream_url: str, handler: Handler) -> WebSocket:
        headers = sign(self.loopback, "GET", stream_url)
        self.websockets.append(await connect(stream_url, handler, headers=headers))
        return self.websockets[-1]

    async def resume_session(self, session_id: str) -> StartedSession | None:
        self.resumed += 1
        await self.may_resume.wait()
        answer = await self.call("ResumeSession", SessionId=session_id)
        return started(answer) if answer["TokenValue"] else None

    async def generate_data_key(self, key_id: str, context: object) -> NoReturn:
        raise ConnectError(f"there is no key {key_id}")

    async def terminate_session(self, session_id: str) -> None:
        self.terminated += 1
        await self.call("TerminateSession", SessionId=session_id)

    async def call(self, action: str, **arguments: object) -> dict[str, str]:
        url = self.loopback.endpoint_url + "/"
        body = json.dumps(arguments).encode()
        headers = {
            "X-Amz-Target": f"AmazonSSM.{action}",
            "Content-Type": "application/x-amz-json-1.1",
        }
        headers = sign(self.loopback, "POST", url, body=body, headers=headers, service="ssm")
        try:
            async with (
                aiohttp.ClientSession() as http,
                http.post(url, data=body, headers=headers) as response,
            ):
                answer: dict[str, str] = await response.json(content_type=None)
        except aiohttp.ClientError as error:
            raise ServiceError(str(error)) from error
        if response.status != 200:
            raise ServiceError(answer["__type"])
        return answer


def started(answer: dict[str, str]) -> StartedSession:
    return StartedSession(answer["SessionId"], answer["TokenValue"], answer["StreamUrl"])


class FarEnd:
    """A loopback, and sessions with it."""

    def __init__(self, loopback: Loopback) -> None:
        self.loopback = loopback
        self.access = Access(loopback)

    async def grant(self, port: int, document: str = FORWARD) -> StartedSession:
        return started(
            await self.access.call(
                "StartSession",
                Target=self.loopback.target,
                DocumentName=document,
                Parameters={"portNumber": [str(port)]},
            )
        )

    async def session(
        self, port: int, document: str = FORWARD, *, resume_timeout: float | None = None
    ) -> Session:
        """One that is granted and not open."""
        grant = await self.grant(port, document)
        return Session(self.access, grant, resume_timeout=resume_timeout)

    async def terminate(self, session: Session) -> None:
        """As somebody else does, an administrator for instance."""
        await self.access.call("TerminateSession", SessionId=session.session_id)

    @asynccontextmanager
    async def opened(self, port: int, document: str = FORWARD) -> AsyncIterator[Session]:
        session = await self.session(port, document)
        async with asyncio.timeout(TIMEOUT):
            await session.open()
        try:
            yield session
        finally:
            async with asyncio.timeout(30):
                await session.close()


@asynccontextmanager
async def far_end(**options: Any) -> AsyncIterator[FarEnd]:
    async with Loopback(**options) as loopback:
        yield FarEnd(loopback)


class Connection:
    """A connection that a Server has accepted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self, size: int) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.readexactly(size)

    async def rest(self) -> bytes:
        async with asyncio.timeout(TIMEOUT):
            return await self.reader.read()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        async with asyncio.timeout(TIMEOUT):
            await self.writer.drain()

    def reset(self) -> None:
        reset(self.writer)

    def drop(self) -> None:
        """Close it, if nothing else has; asyncio's transports are not made for both."""
        if not self.writer.transport.is_closing():
            self.writer.transport.abort()


class Server:
    """A destination whose connections a test takes one after the other."""

    def __init__(self) -> None:
        self.port = 0
        self.accepted = 0
        self._waiting: asyncio.Queue[Connection] = asyncio.Queue()
        self._all: list[Connection] = []

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        connection = Connection(reader, writer)
        self._all.append(connection)
        self._waiting.put_nowait(connection)

    async def accept(self) -> Connection:
        async with asyncio.timeout(TIMEOUT):
            return await self._waiting.get()

    def abort(self) -> None:
        for connection in self._all:
            connection.drop()


@asynccontextmanager
async def serving(*, limit: int = 65536) -> AsyncIterator[Server]:
    """``limit`` bytes and twice that are read ahead of the test."""
    served = Server()
    server = await asyncio.start_server(served.connected, "127.0.0.1", 0, limit=limit)
    served.port = server.sockets[0].getsockname()[1]
    try:
        yield served
    finally:
        server.close()
        served.abort()


class Echo(asyncio.Protocol):
    """Sends back what it gets, and nothing ahead of a peer that does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def pause_writing(self) -> None:
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.transport.resume_reading()


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a destination that echoes."""
    loop = asyncio.get_running_loop()
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    server = await loop.create_server(make, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for protocol in made:
            if not protocol.transport.is_closing():
                protocol.transport.abort()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def reset(writer: asyncio.StreamWriter) -> None:
    """End a TCP connection with a reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Collector(asyncio.Protocol):
    """A stream's protocol that writes down what it is told."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.log: list[str] = []
        self.error: Exception | None = None
        self.transport: StreamTransport | None = None
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, StreamTransport)
        self.transport = transport
        self._note("made")

    def data_received(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        assert data
        assert "lost" not in self.log
        self.data += data
        self._changed.set()

    def eof_received(self) -> bool:
        self._note("eof")
        return False

    def pause_writing(self) -> None:
        self._note("pause")

    def resume_writing(self) -> None:
        self._note("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.error = exc
        self._note("lost")

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_size(self, size: int) -> None:
        """Until so many bytes have come, or more."""
        await self.until(lambda: len(self.data) >= size)

    async def until_lost(self) -> Exception | None:
        await self.until(lambda: "lost" in self.log)
        assert self.log.count("lost") == 1
        return self.error

    def _note(self, entry: str) -> None:
        self.log.append(entry)
        self._changed.set()


def open_stream(session: Session) -> tuple[StreamTransport, Collector]:
    collector = Collector()
    return session.create_stream(collector), collector


def websocket_of(session: Session) -> WebSocket:
    websocket = session._driver.websocket
    assert isinstance(websocket, WebSocket)
    return websocket


async def eventually(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """For what nobody tells of: look again in every few turns of the loop."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.002)
