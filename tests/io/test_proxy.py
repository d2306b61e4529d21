"""Proxies: clients that behave and clients that do not, in front of real connections."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

import ssmnet.greeting
from ssmnet.destination import Destination
from ssmnet.errors import (
    ConnectError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
)
from ssmnet.events import Connected, Disconnected, Event
from ssmnet.greeting import MAX_KEPT_SIZE
from ssmnet.proxy import HTTP, ProxyServer
from tests.io.sessions import (
    TIMEOUT,
    Connection,
    Server,
    closed_port,
    echoing,
    eventually,
    serving,
)

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1024 * 1024
AF_UNIX = getattr(socket, "AF_UNIX", -1)
GRANTED = b"\5\0\0\1" + bytes(6)
SHORT = 0.2
MANY = 1000
ERRORS: dict[str, type[Error]] = {
    "forbidden": DestinationForbidden,
    "unknown": DestinationNotFound,
    "broken": ConnectError,
}


class Dialer:
    """Makes TCP connections on this machine, when it ``may``; some names it only has errors for."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.may.set()
        self.asked: list[Destination] = []
        self.waiting = 0
        self.cancelled = 0

    async def connect(
        self, protocol: asyncio.Protocol, destination: Destination
    ) -> asyncio.Transport:
        self.asked.append(destination)
        self.waiting += 1
        try:
            await self.may.wait()
            return await self._connect(protocol, destination)
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # as one does who has something to put in order
            raise
        finally:
            self.waiting -= 1

    async def _connect(
        self, protocol: asyncio.Protocol, destination: Destination
    ) -> asyncio.Transport:
        if destination.host == "bug":
            raise RuntimeError("secret")
        if destination.host in ERRORS:
            raise ERRORS[destination.host](f"no way to {destination}")
        loop = asyncio.get_running_loop()
        host = "127.0.0.1" if destination.host == "here" else destination.host
        try:
            transport, _ = await loop.create_connection(lambda: protocol, host, destination.port)
        except OSError as error:
            raise DestinationRefused(f"{destination} refused") from error
        return transport


class Front:
    """A proxy with its events, and clients of it."""

    def __init__(self, kind: str = "socks", **options: Any) -> None:
        self.dialer = Dialer()
        self.events: list[Event] = []
        self.clients: list[Connection] = []
        self.server = ProxyServer(self.dialer, kind=kind, on_event=self.events.append, **options)

    @property
    def ended(self) -> list[Disconnected]:
        return [event for event in self.events if isinstance(event, Disconnected)]

    async def client(self, said: bytes = b"", host: str = "127.0.0.1") -> Connection:
        client = Connection(*await asyncio.open_connection(host, self.server.port))
        self.clients.append(client)
        if said:
            await client.send(said)
        return client

    async def joined(self, port: int) -> Connection:
        """A client that has its destination."""
        client = await self.client(asking("127.0.0.1", port))
        assert await client.read(12) == b"\5\0" + GRANTED
        return client

    async def disconnected(self, count: int = 1) -> Disconnected:
        """The event of the end of one connection; the last of ``count``."""
        await eventually(lambda: len(self.ended) >= count)
        assert len(self.ended) == count
        return self.ended[-1]

    async def stop(self, timeout: float = 0) -> bool:
        self.server.close()
        async with asyncio.timeout(timeout + 5):
            return await self.server.wait_closed(timeout)


@asynccontextmanager
async def proxy(kind: str = "socks", **options: Any) -> AsyncIterator[Front]:
    front = Front(kind, **options)
    await front.server.listen_tcp()
    try:
        yield front
    finally:
        await front.stop()
        for client in front.clients:
            client.drop()
        assert front.server.connections == 0
        assert front.dialer.waiting == 0
        greetings = front.server._greetings
        assert not greetings._waiting
        assert not greetings._dialling
        made = [event.connection for event in front.events if isinstance(event, Connected)]
        assert sorted(made) == sorted(event.connection for event in front.ended)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async with echoing() as port:
        yield port


def asking(host: str, port: int) -> bytes:
    name = host.encode()
    return b"\5\1\0" + b"\5\1\0\3" + bytes((len(name),)) + name + port.to_bytes(2)


def asking_4(port: int, name: bytes = b"") -> bytes:
    address = b"\0\0\0\1user\0" + name + b"\0" if name else b"\x7f\0\0\1user\0"
    return b"\4\1" + port.to_bytes(2) + address


async def is_reset(connection: Connection) -> bool:
    """Whether it ends with a reset, and not as if all were well."""
    try:
        assert await connection.rest() == b""
    except ConnectionResetError:
        # The writer knows of it, too, and complains where nobody asks.
        with contextlib.suppress(ConnectionResetError):
            await connection.writer.wait_closed()
        return True
    return False


# What is to work.


@pytest.mark.parametrize(
    ("host", "client_host"),
    [("127.0.0.1", "127.0.0.1"), ("here", "::1"), ("LOCALHOST", "127.0.0.1")],
)
async def test_socks_5(echo: int, host: str, client_host: str) -> None:
    async with proxy() as front:
        client = await front.client(asking(host, echo), client_host)
        assert await client.read(12) == b"\5\0" + GRANTED
        await client.send(b"hello")
        assert await client.read(5) == b"hello"
        assert front.dialer.asked == [Destination(host.lower(), echo)]
        server = front.server
        assert (server.connections, server.accepted) == (1, 1)
        assert (server.sent, server.received) == (5, 5)
        connected = front.events[0]
        assert isinstance(connected, Connected)
        assert connected.destination == f"{host.lower()}:{echo}"
        assert connected.peer.startswith(f"{client_host}:")
        client.writer.close()
        ended = await front.disconnected()
        assert (ended.bytes_sent, ended.bytes_received) == (5, 5)
        assert (ended.error, ended.cause) == ("", "")
        assert (server.connections, server.accepted) == (0, 1)


@pytest.mark.parametrize("name", [b"", b"here"])
async def test_socks_4(echo: int, name: bytes) -> None:
    async with proxy() as front:
        client = await front.client(asking_4(echo, name) + b"early")
        assert await client.read(8) == b"\0\x5a" + bytes(6)
        assert await client.read(5) == b"early"


async def test_a_client_that_waits_for_each_answer_and_sends_byte_by_byte(echo: int) -> None:
    async with proxy() as front:
        client = await front.client()
        said = asking("here", echo)
        for index in range(len(said)):
            await client.send(said[index : index + 1])
            if index == 2:
                assert await client.read(2) == b"\5\0"
        assert await client.read(10) == GRANTED


async def test_what_follows_the_request_goes_first(server: Server) -> None:
    async with proxy() as front:
        front.dialer.may.clear()
        client = await front.client(asking("here", server.port) + b"one ")
        await eventually(lambda: front.dialer.waiting)
        await client.send(b"two ")
        await eventually(lambda: b"two " in kept(front))
        front.dialer.may.set()
        await client.read(12)
        await client.send(b"three")
        assert await (await server.accept()).read(13) == b"one two three"
        assert front.server.sent == 13


def kept(front: Front) -> bytes:
    """What is kept of all clients that wait for their destinations."""
    return b"".join(client._kept for client in front.server._greetings._dialling)


async def test_the_answer_comes_after_the_destination(server: Server) -> None:
    async with proxy() as front:
        front.dialer.may.clear()
        client = await front.client(asking("here", server.port))
        assert await client.read(2) == b"\5\0"
        await eventually(lambda: front.dialer.waiting)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.reader.read(1)
        front.dialer.may.set()
        assert await client.read(10) == GRANTED


async def test_a_destination_that_speaks_first(server: Server) -> None:
    async with proxy() as front:
        client = await front.client(asking("here", server.port))
        destination = await server.accept()
        await destination.send(b"220 ready\r\n")
        destination.writer.close()
        assert await client.rest() == b"\5\0" + GRANTED + b"220 ready\r\n"
        client.writer.close()
        assert (await front.disconnected()).error == ""


async def test_a_large_transfer(echo: int) -> None:
    data = bytes(range(256)) * (4 * MIB // 256)
    async with proxy() as front:
        client = await front.joined(echo)
        sending = asyncio.create_task(client.send(data))
        assert await client.read(len(data)) == data
        await sending


async def test_the_end_of_the_client_s_input_is_passed_on(server: Server) -> None:
    async with proxy() as front:
        client = await front.joined(server.port)
        await client.send(b"question")
        client.writer.write_eof()
        destination = await server.accept()
        assert await destination.rest() == b"question"
        await destination.send(b"answer")
        destination.writer.close()
        assert await client.rest() == b"answer"


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
async def test_a_unix_socket(echo: int, tmp_path: Any) -> None:
    front = Front()
    path = str(tmp_path / "socket")
    await front.server.listen_unix(path)
    assert front.server.address == path
    sock = socket.socket(AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, path)
    client = Connection(*await asyncio.open_connection(sock=sock))
    await client.send(asking("here", echo))
    assert await client.read(12) == b"\5\0" + GRANTED
    client.drop()
    await front.disconnected()
    await front.stop()


# Passwords.


def with_password(user: str, password: str) -> bytes:
    fields = (user.encode(), password.encode())
    return b"\5\1\2\1" + b"".join(bytes((len(field),)) + field for field in fields)


async def test_a_password(echo: int) -> None:
    async with proxy(credentials=("ann", "s3crét")) as front:
        client = await front.client(with_password("ann", "s3crét") + asking("here", echo)[3:])
        assert await client.read(14) == b"\5\2\1\0" + GRANTED


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (with_password("ann", "other"), b"\5\2\1\1"),
        (with_password("bob", "s3cret"), b"\5\2\1\1"),
        (b"\5\1\0", b"\5\xff"),
        (b"\4\1\0\x50\x7f\0\0\1\0", b"\0\x5b" + bytes(6)),
    ],
)
async def test_no_or_a_wrong_password(said: bytes, answer: bytes) -> None:
    async with proxy(credentials=("ann", "s3cret")) as front:
        client = await front.client(said + b"more")
        assert await client.rest() == answer
        ended = await front.disconnected()
        assert ended.error
        assert not {"s3cret", "other", "bob"} & set(ended.error.split())
        assert front.dialer.asked == []


# Destinations that can't be reached.


@pytest.mark.parametrize(
    ("host", "code", "error", "cause"),
    [
        ("here", 5, "here:{port} refused", "DestinationRefused"),
        ("forbidden", 2, "no way to forbidden:{port}", "DestinationForbidden"),
        ("unknown", 4, "no way to unknown:{port}", "DestinationNotFound"),
        ("broken", 1, "no way to broken:{port}", "ConnectError"),
        ("bug", 1, "cannot connect: RuntimeError", "ConnectError"),
    ],
)
async def test_the_answer_says_why_not(host: str, code: int, error: str, cause: str) -> None:
    port = closed_port()
    async with proxy() as front:
        client = await front.client(asking(host, port))
        assert await client.rest() == b"\5\0\5" + bytes((code,)) + b"\0\1" + bytes(6)
        ended = await front.disconnected()
        assert (ended.error, ended.cause) == (error.format(port=port), cause)
        four = await front.client(asking_4(port, host.encode()))
        assert await four.rest() == b"\0\x5b" + bytes(6)


async def test_a_destination_that_takes_too_long(server: Server) -> None:
    async with proxy(dial_timeout=SHORT) as front:
        front.dialer.may.clear()
        client = await front.client(asking("here", server.port))
        assert (await client.rest())[3:4] == b"\1"
        assert "not reached in 0.2 s" in (await front.disconnected()).error
        assert front.dialer.cancelled == 1


async def test_a_client_that_is_still_sending_sees_why_not() -> None:
    """Its bytes are read, so that nothing resets the connection before it has the answer."""
    async with proxy() as front:
        front.dialer.may.clear()
        client = await front.client(asking("unknown", 80))
        client.writer.write(bytes(4 * MIB))
        await eventually(lambda: len(kept(front)) > MAX_KEPT_SIZE)
        front.dialer.may.set()
        assert await client.rest() == b"\5\0\5\4\0\1" + bytes(6)
        client.writer.close()
        await client.writer.wait_closed()


async def test_more_than_connect() -> None:
    async with proxy() as front:
        client = await front.client(b"\5\1\0\5\3\0\1" + bytes(6))
        assert (await client.rest())[:4] == b"\5\0\5\7"
        assert "more than TCP" in (await front.disconnected()).error


# Clients that mean no good.


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1", b"\5\1\0GET"])
async def test_garbage(echo: int, said: bytes) -> None:
    async with proxy() as front:
        other = await front.joined(echo)
        client = await front.client(said)
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() in (b"", b"\5\0")
        ended = await front.disconnected()
        assert ended.destination == ""
        assert ended.error.startswith("the client")
        await other.send(b"still there")
        assert await other.read(11) == b"still there"


@pytest.mark.parametrize("said", [b"", b"\5", b"\5\1\0", b"\4\1\0\x50"])
async def test_a_client_that_says_too_little(said: bytes) -> None:
    async with proxy(timeout=SHORT) as front:
        client = await front.client(said)
        with contextlib.suppress(ConnectionResetError):
            assert await client.rest() in (b"", b"\5\0")
        if said:
            assert (await front.disconnected()).error == "the client made no request within 0.2 s"
        # One that says nothing has changed its mind: browsers do that all the time.
        assert bool(front.events) == bool(said)


async def test_who_has_made_a_request_has_no_deadline(echo: int) -> None:
    async with proxy(timeout=SHORT) as front:
        client = await front.joined(echo)
        later = await front.client()
        assert await is_reset(later)
        await client.send(b"still there")
        assert await client.read(11) == b"still there"


async def test_who_was_refused_and_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssmnet.greeting, "LINGER_TIME", SHORT)
    async with proxy() as front:
        client = await front.client(asking("unknown", 80))
        assert (await client.rest())[3:4] == b"\4"
        assert len(front.server._greetings._waiting) == 1
        await eventually(lambda: not front.server._greetings._waiting)
        await front.disconnected()


async def test_a_byte_now_and_then_is_no_excuse() -> None:
    """All of the request has one deadline."""
    async with proxy(timeout=SHORT) as front:
        client = await front.client(b"\4\1\0\x50\x0a\0\0\1")
        with contextlib.suppress(OSError):
            async with asyncio.timeout(TIMEOUT):
                while not front.ended:
                    await client.send(b"u")
                    await asyncio.sleep(SHORT / 10)
        assert "no request" in (await front.disconnected()).error
        assert len(front.server._greetings._waiting) == 0


@pytest.mark.parametrize("said", [b"", b"\5\1"])
async def test_a_client_that_leaves_before_its_request(said: bytes) -> None:
    async with proxy() as front:
        client = await front.client(said)
        await eventually(lambda: len(front.server._greetings._waiting) == 1)
        client.writer.close()
        await eventually(lambda: not front.server._greetings._waiting)
        assert front.events == []


async def test_of_too_many_without_a_request_the_oldest_is_dropped(echo: int) -> None:
    async with proxy(max_greeting=3) as front:
        old = await front.client(b"\5")
        await eventually(lambda: len(front.server._greetings._waiting) == 1)
        others = [await front.client() for _ in range(2)]
        await eventually(lambda: len(front.server._greetings._waiting) == 3)
        client = await front.joined(echo)
        assert await is_reset(old)
        assert "too many" in (await front.disconnected()).error
        for other in others:
            await other.send(asking("here", echo))
            assert await other.read(12) == b"\5\0" + GRANTED
        await client.send(b"x")
        assert await client.read(1) == b"x"


async def test_too_many_wait_for_their_destinations(echo: int) -> None:
    async with proxy(max_dialling=2) as front:
        front.dialer.may.clear()
        first = [await front.client(asking("here", echo)) for _ in range(2)]
        await eventually(lambda: front.dialer.waiting == 2)
        late = await front.client(asking("here", echo))
        assert (await late.rest())[3:4] == b"\1"
        assert "too many" in (await front.disconnected()).error
        front.dialer.may.set()
        for client in first:
            assert await client.read(12) == b"\5\0" + GRANTED


@pytest.fixture
def files() -> Iterator[None]:
    """As many open files as MANY connections need: four for each."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * MANY + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"at most {hard} files may be open")
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("files")
async def test_a_thousand_clients_at_once(echo: int) -> None:
    """Beside half as many that say nothing."""
    async with proxy() as front:
        silent = await asyncio.gather(*(front.client() for _ in range(MANY // 2)))
        clients = await asyncio.gather(*(front.client() for _ in range(MANY)))

        async def carry(client: Connection, number: int) -> None:
            await client.send(asking("here", echo) + b"%8d" % number)
            async with asyncio.timeout(60):
                assert await client.reader.readexactly(20) == b"\5\0" + GRANTED + b"%8d" % number

        await asyncio.gather(*map(carry, clients, range(MANY)))
        assert front.server.connections == MANY
        assert len(front.server._greetings._waiting) == len(silent)


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_a_client_that_leaves_while_it_is_waited_for(server: Server, how: str) -> None:
    async with proxy() as front:
        front.dialer.may.clear()
        client = await front.client(asking("here", server.port) + b"early")
        await eventually(lambda: front.dialer.waiting)
        await client.read(2)
        if how == "reset":
            client.reset()
        else:
            client.writer.close()
        ended = await front.disconnected()
        assert ended.error
        await eventually(lambda: front.dialer.cancelled == 1)
        assert front.server.connections == 0
        assert server.accepted == 0


async def test_a_client_that_leaves_as_its_destination_is_reached(server: Server) -> None:
    """In whatever order both are told, nothing is left."""
    async with proxy() as front:
        for number in range(20):
            front.dialer.may.clear()
            client = await front.client(asking("here", server.port))
            await eventually(lambda: front.dialer.waiting)
            front.dialer.may.set()
            if number % 2:
                await eventually(lambda: server.accepted > number // 2)
            client.reset()
            await front.disconnected(number + 1)
        await eventually(lambda: not front.dialer.waiting)


async def test_a_client_that_sends_much_before_the_answer(server: Server) -> None:
    """It is not read for long, and nothing is lost."""
    size = 10 * MIB
    async with proxy() as front:
        front.dialer.may.clear()
        client = await front.client(asking("here", server.port))
        sending = asyncio.create_task(client.send(bytes(size)))
        await eventually(lambda: len(kept(front)) > MAX_KEPT_SIZE)
        (waiting,) = front.server._greetings._dialling
        before = len(waiting._kept)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(waiting._kept) == before < MAX_KEPT_SIZE + 512 * 1024
        assert not sending.done()
        front.dialer.may.set()
        destination = await server.accept()
        assert await destination.read(size) == bytes(size)
        await sending


# The end.


async def test_who_is_accepted_as_the_proxy_ends() -> None:
    async with proxy() as front:
        await front.server._greetings.close()
        assert await is_reset(await front.client())
        assert not front.server._greetings._waiting


async def test_the_end_of_a_proxy(echo: int, server: Server) -> None:
    """Who has no connection yet is dropped at once, and the others when the time is over."""
    async with proxy() as front:
        silent = await front.client()
        half = await front.client(b"\5\1")
        joined = await front.joined(echo)
        front.dialer.may.clear()
        dialling = await front.client(asking("here", server.port))
        assert await dialling.read(2) == b"\5\0"
        await eventually(lambda: len(front.server._greetings._waiting) == 2)
        await eventually(lambda: front.dialer.waiting == 1)
        assert await front.stop() is False
        assert (front.dialer.cancelled, front.dialer.waiting) == (1, 0)
        for client in (silent, half, joined, dialling):
            assert await is_reset(client)
        errors = {event.error for event in front.ended}
        assert errors == {"the proxy was closed", "the forward was closed"}
        with pytest.raises(ConnectionRefusedError):
            await front.client()


async def test_connections_may_end_in_their_own_time(server: Server) -> None:
    async with proxy() as front:
        client = await front.joined(server.port)
        destination = await server.accept()
        stopping = asyncio.create_task(front.stop(TIMEOUT))
        await eventually(lambda: not front.server._servers)
        await client.send(b"the last words")
        assert await destination.read(14) == b"the last words"
        client.writer.close()
        assert await destination.rest() == b""
        destination.writer.close()
        assert await stopping is True


# The same for HTTP, as far as it is the same.


def connecting(host: str, port: int) -> bytes:
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()


async def test_http_connect(echo: int) -> None:
    async with proxy(HTTP) as front:
        client = await front.client(connecting("here", echo) + b"early")
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await client.read(len(established) + 5) == established + b"early"
        assert front.dialer.asked == [Destination("here", echo)]
        await client.send(b", late")
        assert await client.read(6) == b", late"
        assert front.server.received == 11
        client.writer.close()
        assert (await front.disconnected()).error == ""


async def test_a_plain_request(server: Server) -> None:
    async with proxy(HTTP) as front:
        url = f"http://here:{server.port}/path"
        client = await front.client(f"GET {url} HTTP/1.1\r\nHost: other\r\n\r\n".encode())
        destination = await server.accept()
        head = await destination.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"GET /path HTTP/1.1\r\n")
        assert f"Host: here:{server.port}\r\n".encode() in head
        await destination.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone")
        assert (await client.rest()).endswith(b"\r\n\r\ndone")


@pytest.mark.parametrize(
    ("host", "status"),
    [("here", 502), ("unknown", 502), ("forbidden", 403), ("broken", 503), ("bug", 503)],
)
async def test_the_http_answer_says_why_not(host: str, status: int) -> None:
    async with proxy(HTTP) as front:
        client = await front.client(connecting(host, closed_port()))
        assert (await client.rest()).startswith(f"HTTP/1.1 {status} ".encode())
        assert (await front.disconnected()).error


async def test_the_http_answer_says_that_it_took_too_long() -> None:
    async with proxy(HTTP, dial_timeout=SHORT) as front:
        front.dialer.may.clear()
        client = await front.client(connecting("here", 1))
        assert (await client.rest()).startswith(b"HTTP/1.1 504 ")
        assert "was not reached in" in (await front.disconnected()).error


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_http_client_that_leaves_while_it_is_waited_for(server: Server, how: str) -> None:
    async with proxy(HTTP) as front:
        front.dialer.may.clear()
        client = await front.client(connecting("here", server.port))
        await eventually(lambda: front.dialer.waiting)
        if how == "reset":
            client.reset()
        else:
            client.writer.close()
        assert (await front.disconnected()).error
        await eventually(lambda: not front.dialer.waiting)
        assert front.dialer.cancelled == 1


async def test_an_http_client_that_never_ends_its_head() -> None:
    async with proxy(HTTP, timeout=SHORT) as front:
        client = await front.client(b"GET http://a/ HTTP/1.1\r\n")
        with contextlib.suppress(OSError):
            async with asyncio.timeout(TIMEOUT):
                while not front.ended:
                    await client.send(b"X: y\r\n")
                    await asyncio.sleep(SHORT / 10)
        assert "no request" in (await front.disconnected()).error


async def test_an_http_client_that_sends_much_before_the_answer(server: Server) -> None:
    size = 10 * MIB
    async with proxy(HTTP) as front:
        front.dialer.may.clear()
        client = await front.client(connecting("here", server.port))
        sending = asyncio.create_task(client.send(bytes(size)))
        await eventually(lambda: len(kept(front)) > MAX_KEPT_SIZE)
        assert not sending.done()
        front.dialer.may.set()
        destination = await server.accept()
        assert await destination.read(size) == bytes(size)
        await sending


async def test_an_http_proxy_s_password_and_pac_file(echo: int) -> None:
    async with proxy(HTTP, credentials=("ann", "s3cret"), pac=lambda host: f"at {host}") as front:
        client = await front.client(connecting("here", echo))
        assert (await client.rest()).startswith(b"HTTP/1.1 407 ")
        said = (
            connecting("here", echo)[:-2] + b"Proxy-Authorization: Basic YW5uOnMzY3JldA==\r\n\r\n"
        )
        assert (await (await front.client(said)).read(12)) == b"HTTP/1.1 200"
        client = await front.client(b"GET /proxy.pac HTTP/1.1\r\nHost: a\r\n\r\n", "::1")
        assert (await client.rest()).endswith(b"\r\n\r\nat ::1")
