"""An HTTP proxy's clients: curl, aiohttp, httpx and some that misbehave, with real destinations."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import httpx
import pytest
from aiohttp import web

from ssmnet.pac import pac_file
from ssmnet.rules import Rules
from tests.io.sessions import TIMEOUT, Connection, Server, eventually, serving
from tests.io.test_proxy import MIB, Front, is_reset, proxy

pytestmark = pytest.mark.usefixtures("clean")

CURL = shutil.which("curl")
BODY = bytes(range(256)) * (4 * MIB // 256)
DIGEST = hashlib.sha256(BODY).hexdigest()


class Site:
    """A web server that tells what it was asked."""

    def __init__(self) -> None:
        self.port = 0
        self.requests: list[web.Request] = []
        self.gone = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://here:{self.port}"

    async def tell(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        digest = hashlib.sha256(await request.read()).hexdigest()
        told = {"method": request.method, "path": request.path_qs, "digest": digest}
        return web.json_response(told)

    async def give(self, request: web.Request) -> web.StreamResponse:
        """A large body, of known length or chunked."""
        response = web.StreamResponse()
        if "chunked" not in request.query:
            response.content_length = len(BODY)
        await response.prepare(request)
        for at in range(0, len(BODY), 100_000):
            await response.write(BODY[at : at + 100_000])
        return response

    async def echo(self, request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        async for message in response:
            await response.send_bytes(message.data)
        return response

    async def hang(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        try:
            await asyncio.Event().wait()
        finally:
            self.gone.set()
        raise AssertionError

    async def refuse(self, request: web.Request) -> web.Response:
        """An answer before the body was read."""
        return web.Response(status=413, text="too large")


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    app = web.Application(client_max_size=100 * MIB)
    app.router.add_route("*", "/tell", site.tell)
    app.router.add_get("/give", site.give)
    app.router.add_get("/echo", site.echo)
    app.router.add_get("/hang", site.hang)
    app.router.add_post("/refuse", site.refuse)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    site.port = runner.addresses[0][1]
    yield site
    await runner.cleanup()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def get(port: int, path: str = "/", more: str = "") -> bytes:
    return f"GET http://here:{port}{path} HTTP/1.1\r\nHost: x\r\n{more}\r\n".encode()


def url_of(front: Front) -> str:
    return f"http://127.0.0.1:{front.server.port}"


async def curl(front: Front, *arguments: str) -> tuple[int, bytes, str]:
    """What curl says: its status, output and errors."""
    if CURL is None:
        pytest.skip("there is no curl here")
    options = ("-q", "-sS", "--max-time", "30", "--proxy", url_of(front), "--noproxy", "")
    process = await asyncio.create_subprocess_exec(
        CURL,
        *options,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    return process.returncode or 0, output, errors.decode()


@asynccontextmanager
async def upstream(
    front: Front, server: Server, said: bytes
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client that has said something, and its connection at the destination."""
    client = await front.client(said)
    yield client, await server.accept()


async def transports(front: Front) -> tuple[asyncio.Transport, asyncio.Transport]:
    """The proxy's own, once they are joined."""
    (forwarder,) = front.server._forwarders
    await eventually(lambda: forwarder.left.transport)
    assert forwarder.left.transport is not None
    assert forwarder.right.transport is not None
    return forwarder.left.transport, forwarder.right.transport


async def head(connection: Connection) -> bytes:
    async with asyncio.timeout(TIMEOUT):
        return await connection.reader.readuntil(b"\r\n\r\n")


# Real clients.


@pytest.mark.parametrize("tunnel", [False, True])
async def test_curl_gets(site: Site, tunnel: bool) -> None:
    async with proxy("http") as front:
        options = ("--proxytunnel",) if tunnel else ()
        code, output, errors = await curl(front, *options, f"{site.url}/tell?a=b")
        assert (code, errors) == (0, "")
        assert json.loads(output)["path"] == "/tell?a=b"
        assert site.requests[0].headers["Host"] == f"here:{site.port}"
        assert "Proxy-Connection" not in site.requests[0].headers
        await front.disconnected()
        assert front.ended[0].error == ""


@pytest.mark.parametrize("path", ["/give", "/give?chunked"])
async def test_curl_downloads(site: Site, path: str, tmp_path: Path) -> None:
    async with proxy("http") as front:
        file = tmp_path / "body"
        code, _, errors = await curl(front, "--output", str(file), f"{site.url}{path}")
        assert (code, errors) == (0, "")
        assert hashlib.sha256(file.read_bytes()).hexdigest() == DIGEST


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--header", "Transfer-Encoding: chunked"),
        ("--http1.0",),
        ("--expect100-timeout", "30", "--header", "Expect: 100-continue"),
    ],
)
async def test_curl_uploads(site: Site, options: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "body"
    file.write_bytes(BODY)
    async with proxy("http") as front:
        code, output, errors = await curl(
            front, *options, "--data-binary", f"@{file}", f"{site.url}/tell"
        )
        assert (code, errors) == (0, "")
        assert json.loads(output) == {"method": "POST", "path": "/tell", "digest": DIGEST}


async def test_curl_goes_to_several_hosts(site: Site, server: Server) -> None:
    async with proxy("http") as front:
        urls = (f"http://127.0.0.1:{site.port}/tell?1", f"{site.url}/tell?2")
        code, output, _ = await curl(front, *urls, "--head", f"{site.url}/tell?3")
        assert code == 0
        assert [request.path_qs for request in site.requests] == ["/tell?1", "/tell?2", "/tell?3"]
        assert [request.method for request in site.requests] == ["HEAD"] * 3
        assert output.count(b"Connection: close") == 3


@pytest.mark.parametrize("auth", ["--proxy-basic", "--proxy-anyauth"])
@pytest.mark.parametrize("tunnel", ["--no-proxytunnel", "--proxytunnel"])
async def test_curl_has_credentials(site: Site, auth: str, tunnel: str) -> None:
    async with proxy("http", credentials=("us\xe9r", "pass:word")) as front:
        code, output, errors = await curl(
            front, auth, tunnel, "--proxy-user", "us\xe9r:pass:word", f"{site.url}/tell"
        )
        assert (code, errors) == (0, "")
        assert json.loads(output)["path"] == "/tell"
        assert "Proxy-Authorization" not in site.requests[0].headers


async def test_curl_has_the_wrong_credentials(site: Site) -> None:
    async with proxy("http", credentials=("user", "password")) as front:
        options = ("--write-out", "%{http_code}", "--proxy-user", "user:secret")
        _, output, _ = await curl(front, *options, f"{site.url}/tell")
        assert output == b"the proxy wants a name and password\n407"
        code, output, errors = await curl(front, "--proxytunnel", *options, f"{site.url}/tell")
        assert code == 56
        assert "407" in errors
        assert not site.requests
        assert not front.dialer.asked
        assert not any("secret" in str(event) for event in front.events)


async def test_aiohttp_makes_many_requests_at_once(site: Site) -> None:
    async with proxy("http") as front, aiohttp.ClientSession() as client:

        async def ask(number: int) -> str:
            body = BODY[: number * 10_000]
            url = f"{site.url}/tell?{number}"
            async with client.post(url, data=body, proxy=url_of(front)) as response:
                told = await response.json()
            assert told["digest"] == hashlib.sha256(body).hexdigest()
            return str(told["path"])

        paths = await asyncio.gather(*(ask(number) for number in range(30)))
        assert paths == [f"/tell?{number}" for number in range(30)]


async def test_aiohttp_opens_a_websocket(site: Site) -> None:
    async with proxy("http") as front, aiohttp.ClientSession() as client:
        async with client.ws_connect(f"{site.url}/echo", proxy=url_of(front)) as socket:
            for size in (1, 1000, MIB):
                await socket.send_bytes(BODY[:size])
                assert await socket.receive_bytes(timeout=TIMEOUT) == BODY[:size]
        await front.disconnected()


async def test_httpx_makes_requests(site: Site) -> None:
    async with proxy("http") as front:
        async with httpx.AsyncClient(proxy=url_of(front), timeout=TIMEOUT) as client:
            for _ in range(2):
                response = await client.post(f"{site.url}/tell", content=BODY)
                assert response.json()["digest"] == DIGEST
            assert (await client.get(f"{site.url}/give")).content == BODY
            refused = await client.get("http://forbidden/")
            assert refused.status_code == 403


async def test_an_http_1_0_client_gets_a_plain_answer(site: Site) -> None:
    async with proxy("http") as front:
        line = f"GET http://127.0.0.1:{site.port}/give?chunked HTTP/1.0\r\n\r\n"
        client = await front.client(line.encode())
        assert b"chunked" not in await head(client)
        assert await client.rest() == BODY


# What the proxy itself says.


@pytest.mark.parametrize(
    ("host", "status", "word"),
    [
        ("forbidden", 403, "http_request_denied"),
        ("unknown", 502, "dns_error"),
        ("broken", 503, "destination_unavailable"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "CONNECT"])
async def test_why_there_is_no_destination(method: str, host: str, status: int, word: str) -> None:
    async with proxy("http") as front:
        url = f"{host}:80" if method == "CONNECT" else f"http://{host}/"
        client = await front.client(f"{method} {url} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await client.rest()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert f"proxy-status: ssmnet; error={word}".encode() in answer.lower()
        assert answer.endswith(f"\r\n\r\nno way to {host}:80\n".encode())
        client.writer.close()
        assert f"no way to {host}:80" in (await front.disconnected()).error


async def test_a_destination_that_refuses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port = bound.getsockname()[1]
    async with proxy("http") as front:
        client = await front.client(get(port))
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"error=connection_refused" in answer


async def test_an_answer_of_the_proxys_arrives_while_the_client_sends() -> None:
    async with proxy("http") as front:
        more = f"Content-Length: {8 * MIB}\r\n"
        client = await front.client(
            b"POST http://forbidden/ HTTP/1.1\r\nHost: x\r\n" + more.encode()
        )
        client.writer.write(b"\r\n" + bytes(8 * MIB))
        assert (await client.rest()).startswith(b"HTTP/1.1 403 ")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_pac_file_names_the_proxy_as_the_browser_does(host: str) -> None:
    def pac(host: str) -> str:
        return pac_file(Rules(default_target="i-a"), http=f"{host}:1")

    async with proxy("http", pac=pac, credentials=("user", "password")) as front:
        client = await front.client(b"GET /proxy.pac HTTP/1.1\r\nHost: x\r\n\r\n", host)
        answer = await client.rest()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"application/x-ns-proxy-autoconfig" in answer
        assert f'"PROXY {host}:1"'.encode() in answer
        assert front.events == []


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET http://a/ HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000, 431),
    ],
)
async def test_what_is_no_request_of_a_proxy(said: bytes, status: int) -> None:
    async with proxy("http") as front:
        client = await front.client(said)
        assert (await client.rest()).startswith(f"HTTP/1.1 {status} ".encode())
        client.writer.close()
        assert (await front.disconnected()).error


async def test_a_head_that_is_never_whole_has_a_deadline() -> None:
    async with proxy("http", timeout=0.2) as front:
        client = await front.client(get(1)[:-2])
        assert await is_reset(client)
        assert "made no request" in (await front.disconnected()).error


# Destinations and clients that do what they should not.


async def test_a_server_that_keeps_its_connection_open_gets_no_second_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.http_client.LINGER_TIME", 60)
    async with proxy("http") as front:
        other = b"GET http://other/ HTTP/1.1\r\nHost: other\r\n\r\n"
        async with upstream(front, server, get(server.port) + other) as (client, far):
            assert b"Connection: close\r\n" in await head(far)
            await client.send(other)
            await far.send(
                b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
            )
            answer = await client.rest()
            assert answer.endswith(b"Connection: close\r\n\r\nok")
            await client.send(other)
            client.writer.close()
            assert await far.rest() == b""
        assert len(front.dialer.asked) == 1
        assert (await front.disconnected()).error == ""


async def test_an_answer_ends_with_the_servers_connection(server: Server) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await head(far)
            await far.send(b"HTTP/1.1 200 OK\r\n\r\n" + BODY)
            far.writer.close()
            await head(client)
            assert len(await client.rest()) > len(BODY)  # in chunks
        client.writer.close()
        assert (await front.disconnected()).error == ""


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ],
)
@pytest.mark.parametrize("end", ["close", "reset"])
async def test_an_answer_that_is_cut_ends_with_a_reset(
    server: Server, answer: bytes, end: str
) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await head(far)
            await far.send(answer)
            await head(client)
            await client.read(4)
            far.writer.close() if end == "close" else far.reset()
            with pytest.raises(ConnectionResetError):
                await client.rest()
        assert (await front.disconnected()).error


async def test_an_answer_without_an_end_is_cut_by_a_reset(server: Server) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await head(far)
            await far.send(b"HTTP/1.1 200 OK\r\n\r\nhell")
            await head(client)
            await client.read(4)
            far.reset()
            with pytest.raises(ConnectionResetError):
                await client.rest()
        assert (await front.disconnected()).error


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_server_that_does_not_answer(server: Server, end: str) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await head(far)
            far.writer.close() if end == "close" else far.reset()
            assert (await client.rest()).startswith(b"HTTP/1.1 502 ")
        client.writer.close()
        assert (await front.disconnected()).error


async def test_a_server_that_speaks_first_and_no_http(server: Server) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await far.send(b"SSH-2.0-x\r\n")
            answer = await client.rest()
            assert answer.startswith(b"HTTP/1.1 502 ")
            assert b"SSH" not in answer


async def test_an_early_answer_arrives_while_the_client_sends(site: Site) -> None:
    async with proxy("http") as front:
        start = f"POST {site.url}/refuse HTTP/1.1\r\nHost: x\r\nContent-Length: {64 * MIB}\r\n\r\n"
        client = await front.client(start.encode())
        client.writer.write(bytes(8 * MIB))
        assert await client.read(13) == b"HTTP/1.1 413 "
        assert (await client.rest()).endswith(b"too large")


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_client_that_goes_away_is_not_answered(site: Site, end: str) -> None:
    async with proxy("http") as front:
        client = await front.client(get(site.port, "/hang"))
        await eventually(lambda: site.requests)
        client.writer.close() if end == "close" else client.reset()
        async with asyncio.timeout(TIMEOUT):
            await site.gone.wait()
        assert (await front.disconnected()).error


async def test_a_client_that_does_not_close_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.http_client.LINGER_TIME", 0.1)
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            await far.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            await client.rest()
            assert (await front.disconnected()).error == ""


# Backpressure.


async def test_a_slow_client_stops_the_server(server: Server) -> None:
    async with proxy("http") as front:
        async with upstream(front, server, get(server.port)) as (client, far):
            size = 32 * MIB
            far.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
            left, right = await transports(front)
            await eventually(lambda: not right.is_reading())
            assert 0 < left.get_write_buffer_size() < MIB
            assert far.writer.transport.get_write_buffer_size() > MIB
            await head(client)
            assert len(await client.rest()) == size


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_slow_server_stops_the_client(server: Server, chunked: bool) -> None:
    size = 32 * MIB
    length = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {size}\r\n"
    async with proxy("http") as front:
        said = get(server.port, more=length).replace(b"GET", b"PUT")
        async with upstream(front, server, said) as (client, far):
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size)) if chunked else bytes(size)
            client.writer.write(body)
            left, right = await transports(front)
            await eventually(lambda: not left.is_reading())
            assert 0 < right.get_write_buffer_size() < MIB
            assert client.writer.transport.get_write_buffer_size() > MIB
            await head(far)
            got = 0
            while got < size:
                got += len(await far.read(min(size - got, 65536)))
            await far.send(b"HTTP/1.1 204 No Content\r\n\r\n")
            assert (await client.rest()).startswith(b"HTTP/1.1 204 ")


async def test_what_comes_before_a_websocket_is_granted_has_to_wait(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.http_client.LINGER_TIME", 60)
    async with proxy("http") as front:
        said = get(server.port, more="Connection: upgrade\r\nUpgrade: websocket\r\n")
        async with upstream(front, server, said) as (client, far):
            client.writer.write(bytes(32 * MIB))
            left, _ = await transports(front)
            await eventually(lambda: not left.is_reading())
            assert client.writer.transport.get_write_buffer_size() > MIB
            await head(far)
            await far.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
            assert (await client.rest()).endswith(b"\r\n\r\nno")
            client.writer.close()
            assert await far.rest() == b""
        assert (await front.disconnected()).error == ""
