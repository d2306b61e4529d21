"""What can't be done is told in one clear line with the right exit status, and leaves nothing."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from .conftest import Start
from .processes import SSMNET, TIMEOUT, Program, run

Environment = dict[str, str]


async def one_line(program: Program, status: int) -> str:
    """Return the one line that a program says before it ends with ``status``."""
    done = await program.wait()
    assert done.status == status, done
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: "), done.err
    return done.err.removeprefix("error: ").strip()


async def test_a_port_in_use(forward: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = await one_line(await forward("--local", str(port), "--remote", "80"), 1)
    assert told == f"cannot listen on port {port} on 127.0.0.1: it is in use"


async def test_an_address_that_is_not_here(forward: Start) -> None:
    done = await (await forward("--bind", "192.0.2.1", "--remote", "80")).wait()
    assert done.status == 1
    assert done.err.splitlines()[1].startswith("error: cannot listen on 192.0.2.1: ")


async def test_one_of_several_forwards_that_cannot_listen_ends_all(
    forward: Start, free_ports: list[int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await (
            await forward(f"{free_ports[0]}:80", f"{port}:80", f"{free_ports[1]}:80")
        ).wait()
    assert done.status == 1
    assert done.err.splitlines()[-1] == (
        f"error: cannot listen on port {port} on 127.0.0.1: it is in use"
    )
    for free in free_ports[:2]:
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", free)


async def test_a_socket_in_a_folder_that_is_not_there(forward: Start) -> None:
    told = await one_line(await forward("--local", "/nowhere/socket", "--remote", "80"), 1)
    assert told == "cannot listen on /nowhere/socket: No such file or directory"


async def test_an_unknown_target(forward: Start, far_env: Environment) -> None:
    env = far_env | {"SSMNET_TARGET": "i-0"}
    done = await run(SSMNET, "forward", "--remote", "80", env=env)
    assert done.status == 1
    assert done.err == (
        "error: i-0 is not connected in us-east-1:"
        " its agent is offline, or the id or the region is wrong\n"
    )


async def test_a_document_that_does_not_exist(forward: Start) -> None:
    told = await one_line(await forward("--document", "Mine", "--parameter", "a=b"), 2)
    assert "Document with name Mine does not exist" in told


def without(*names: str) -> Callable[[Environment], Environment]:
    return lambda env: {name: value for name, value in env.items() if name not in names}


def with_setting(name: str, value: str) -> Callable[[Environment], Environment]:
    return lambda env: env | {name: value}


@pytest.mark.parametrize(
    ("change", "status", "told"),
    [
        pytest.param(
            without("AWS_REGION", "AWS_DEFAULT_REGION"),
            2,
            "no region: pass --region or set AWS_REGION",
            id="no region",
        ),
        pytest.param(
            without("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            1,
            "no AWS credentials: run `aws sso login`, or pass --profile",
            id="no credentials",
        ),
        pytest.param(
            with_setting("AWS_SECRET_ACCESS_KEY", "wrong"),
            1,
            "AWS rejects the credentials: ",
            id="wrong credentials",
        ),
        pytest.param(
            with_setting("AWS_PROFILE", "nobody"),
            2,
            "The config profile (nobody) could not be found; ",
            id="unknown profile",
        ),
        pytest.param(
            with_setting("AWS_REGION", "not a region"),
            2,
            "",
            id="no such region",
        ),
        pytest.param(
            with_setting("AWS_ENDPOINT_URL_SSM", "nonsense"),
            2,
            "",
            id="nonsense for an endpoint",
        ),
    ],
)
async def test_settings_that_do_not_do(
    forward: Start,
    far_env: Environment,
    change: Callable[[Environment], Environment],
    status: int,
    told: str,
) -> None:
    program = await forward("--remote", "80", env=change(far_env))
    assert (await one_line(program, status)).startswith(told)


async def test_an_endpoint_that_cannot_be_reached(
    forward: Start, far_env: Environment, closed_port: int
) -> None:
    endpoint = f"http://127.0.0.1:{closed_port}"
    told = await one_line(await forward("--remote", "80", "--endpoint-url", endpoint), 1)
    assert endpoint in told
    assert "check the network" in told


@pytest.fixture
async def wrong_api() -> AsyncIterator[tuple[str, list[str]]]:
    """An API that hands out a StreamUrl of a host that is not AWS's; what it was asked."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.headers["X-Amz-Target"])
        session = {
            "SessionId": "somebody-0123456789abcdef0",
            "TokenValue": "THE-SECRET-TOKEN",
            "StreamUrl": "wss://ssmmessages.us-east-1.evil.example/v1/data-channel/s?role=publish",
        }
        return web.json_response(session, content_type="application/x-amz-json-1.1")

    application = web.Application()
    application.router.add_post("/", answer)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    await runner.cleanup()


async def test_a_stream_url_of_a_foreign_host(
    aws_env: Environment, wrong_api: tuple[str, list[str]]
) -> None:
    endpoint, asked = wrong_api
    command = (SSMNET, "forward", "-t", "i-0123456789abcdef0", "--remote", "80", "--debug")
    done = await run(*command, "--endpoint-url", endpoint, env=aws_env)
    assert done.status == 1
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "ssmmessages.us-east-1.evil.example" in errors[0]
    assert "THE-SECRET-TOKEN" not in done.err + done.out
    assert asked == ["AmazonSSM.StartSession", "AmazonSSM.TerminateSession"]


async def test_a_loopback_s_port_in_use(aws_env: Environment) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = await run(SSMNET, "loopback", "--port", str(port), env=aws_env)
    assert (done.status, done.out) == (1, "")
    assert done.err == f"error: cannot listen on port {port}: Address already in use\n"


async def test_a_gateway_that_is_not_one(forward: Start, far_env: Environment) -> None:
    """The WebSocket is refused: told, with the session terminated (see the far_end fixture)."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        env = far_env | {"AWS_ENDPOINT_URL_SSMMESSAGES": url}
        async with asyncio.timeout(TIMEOUT):
            told = await one_line(await forward("--remote", "80", env=env), 1)
    assert "403" in told
