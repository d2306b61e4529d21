"""``ssmnet forward`` as a user runs it: bytes, connections, and where it listens."""

import asyncio
import hashlib
import random
import re
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from .conftest import HttpServer, Start
from .processes import SSMNET, TIMEOUT, FarEnd, run, started

MIB = 1024 * 1024


@asynccontextmanager
async def echo_server(host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Sends everything back, and closes after "bye"."""
    writers: set[asyncio.StreamWriter] = set()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        while data := await reader.read(65536):
            writer.write(data)
            if data.endswith(b"bye"):
                break
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, host, 0, backlog=1024)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for writer in writers:
        writer.transport.abort()


async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> bool:
    async with asyncio.timeout(TIMEOUT):
        writer.write(data)
        await writer.drain()
        return await reader.readexactly(len(data)) == data


async def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Whether an echo server answers behind ``port``."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        return await echoes(reader, writer, b"bye")
    finally:
        writer.close()


async def test_curl_uploads_64_mib_and_downloads_16(
    forward: Start,
    http_server: HttpServer,
    curl: str,
    tmp_path: Path,
    aws_env: dict[str, str],
) -> None:
    program = await forward("--remote", str(http_server.port))
    url = f"http://127.0.0.1:{await program.port()}/"
    upload = tmp_path / "upload"
    upload.write_bytes(random.Random(2).randbytes(64 * MIB))

    put = await run(curl, "-sSf", "-T", upload, url, env=aws_env)
    assert put.out == hashlib.sha256(upload.read_bytes()).hexdigest(), put.err

    download = tmp_path / "download"
    get = await run(curl, "-sSf", "-o", download, url, env=aws_env)
    assert get.status == 0, get.err
    assert hashlib.sha256(download.read_bytes()).hexdigest() == http_server.digest


async def test_500_connections_are_open_at_once(forward: Start, many_files: None) -> None:
    count = 500
    async with echo_server() as remote:
        program = await forward("--remote", str(remote))
        port = await program.port()
        opening = (asyncio.open_connection("127.0.0.1", port) for _ in range(count))
        connections = await asyncio.gather(*opening)
        try:
            for size in (1, 1000):  # first all are open, then each has its own bytes
                talks = (
                    echoes(reader, writer, number.to_bytes(2) * size)
                    for number, (reader, writer) in enumerate(connections)
                )
                assert sum(await asyncio.gather(*talks)) == count
        finally:
            for _, writer in connections:
                writer.close()
        assert (await program.end()).status == 0


@pytest.fixture
def many_files() -> None:
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


async def test_a_refused_connection_is_reset_and_told_in_one_line(
    forward: Start, closed_port: int
) -> None:
    program = await forward("--host", "127.0.0.1", "--remote", str(closed_port))
    port = await program.port()
    for number in (1, 2):  # the forward goes on
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(TIMEOUT):
                await reader.read()
        writer.close()
        line = await program.err_line()
        assert line.string == (
            f"connection {number} to 127.0.0.1:{closed_port}:"
            " the target could not connect to the destination\n"
        )


async def test_a_forbidden_host_ends_it_with_the_agent_s_message(forward: Start) -> None:
    program = await forward("--host", "169.254.169.254", "--remote", "80")
    done = await program.wait()
    assert done.status == 1
    assert done.err.splitlines()[-1].endswith(
        "Forwarding to IP address 169.254.169.254 is forbidden."
    )


async def test_an_unresolvable_host_ends_it_with_the_agent_s_message(forward: Start) -> None:
    done = await (await forward("--host", "nowhere.invalid", "--remote", "80")).wait()
    assert done.status == 1
    assert "lookup nowhere.invalid" in done.err.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("far_end", [("--ideal",)], indirect=True)
async def test_a_slow_reader_loses_nothing_and_costs_little_memory(forward: Start) -> None:
    size, rate, chunk = 30 * MIB, 2e6, 65536
    data = random.Random(3).randbytes(size)

    async def send(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(send, "127.0.0.1", 0) as server:
        program = await forward("--remote", str(server.sockets[0].getsockname()[1]))
        port = await program.port()
        before = peak_memory(program.pid)
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=chunk)
        started_at = loop.time()
        received = hashlib.sha256()
        total = 0
        while part := await reader.read(chunk):
            received.update(part)
            total += len(part)
            await asyncio.sleep(max(0, started_at + total / rate - loop.time()))
        writer.close()
        assert total == size
        assert received.digest() == hashlib.sha256(data).digest()
        assert loop.time() - started_at > 0.9 * size / rate
        assert peak_memory(program.pid) - before < 12 * MIB


def peak_memory(pid: int) -> int:
    """Return the largest resident set of a process so far, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


async def test_several_forwards_in_one_command(forward: Start, free_ports: list[int]) -> None:
    first, second = free_ports[:2]
    async with echo_server() as remote, echo_server() as other:
        program = await forward(
            f"{first}:{remote}", f"127.0.0.1:{second}:localhost:{other}", "--remote", str(remote)
        )
        ports = [await program.port() for _ in range(3)]
        assert {first, second} < set(ports)
        assert all([await answers(port) for port in ports])
        done = await program.end()
        assert done.status == 0
        assert len(re.findall("^session .*: stopped$", done.err, re.MULTILINE)) == 3


async def test_ipv6_addresses_stand_in_brackets(forward: Start, free_ports: list[int]) -> None:
    async with echo_server("::1") as remote:
        program = await forward(f"[::1]:{free_ports[0]}:[::1]:{remote}")
        line = await program.err_line("^Listening")
        assert f"Listening on [::1]:{free_ports[0]}, forwarding to [::1]:{remote} " in line.string
        assert await answers(free_ports[0], "::1")
        with pytest.raises(ConnectionRefusedError):
            await answers(free_ports[0], "127.0.0.1")


async def test_it_listens_on_both_loopback_addresses(forward: Start) -> None:
    async with echo_server() as remote:
        port = await (await forward("--remote", str(remote))).port()
        assert await answers(port, "127.0.0.1")
        assert await answers(port, "::1")


async def test_bind_to_every_address_warns(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward("--bind", "0.0.0.0", "--remote", str(remote))
        warning = await program.err_line()
        assert warning.string.startswith("warning: listening on 0.0.0.0: ")
        assert await answers(await program.port(), "127.0.0.2" if sys.platform == "linux" else "")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets in Python")
async def test_a_unix_socket_is_for_its_user_alone_and_goes_with_the_forward(
    forward: Start, tmp_path: Path
) -> None:
    if sys.platform == "win32":
        return
    path = tmp_path / "socket"
    async with echo_server() as remote:
        program = await forward("--local", path, "--remote", str(remote))
        await program.err_line(f"^Listening on {re.escape(str(path))}, ")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(path)
        assert await echoes(reader, writer, b"bye")
        writer.close()
        assert (await program.end()).status == 0
    assert not path.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no unix sockets in Python")
async def test_a_unix_socket_in_use_is_left_alone_and_a_stale_one_is_replaced(
    forward: Start, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    first = await forward("--local", path, "--remote", "80")
    await first.err_line("^Listening")
    second = await (await forward("--local", path, "--remote", "80")).wait()
    assert (second.status, second.err) == (
        1,
        f"error: cannot listen on {path}: it is in use\n",
    )
    assert path.is_socket()


async def test_the_target_may_be_a_far_end_in_the_same_process(aws_env: dict[str, str]) -> None:
    # What the user has set for AWS must not get in its way.
    hostile = {"AWS_PROFILE": "nobody", "AWS_SESSION_TOKEN": "x", "AWS_CA_BUNDLE": "/nowhere"}
    proxies = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    env = aws_env | hostile | proxies | {"SSMNET_TARGET": "loopback"}
    async with echo_server() as remote:
        command = (SSMNET, "forward", "--local", "0", "--remote", str(remote))
        async with started(*command, env=env) as program:
            assert await answers(await program.port())
            assert (await program.end()).status == 0


async def test_the_target_may_come_from_the_environment(
    far_env: dict[str, str], far_end: FarEnd
) -> None:
    env = far_env | {"SSMNET_TARGET": far_end.target}
    async with echo_server() as remote:
        command = (SSMNET, "forward", "--local", "0", "--remote", str(remote), "--check")
        async with started(*command, env=env) as program:
            assert await answers(await program.port())


async def test_check_passes_where_the_destination_answers(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward("--check", "--remote", str(remote))
        assert await answers(await program.port())


async def test_check_fails_before_it_listens(forward: Start, closed_port: int) -> None:
    done = await (await forward("--check", "--remote", str(closed_port))).wait()
    assert done.status == 1
    assert done.err == (
        f"error: the target could not connect to {FarEnd.target}:{closed_port}:"
        " it refuses, or cannot be reached\n"
    )


async def test_a_document_of_one_s_own_with_its_parameters(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward(
            "--document",
            "AWS-StartPortForwardingSessionToRemoteHost",
            "--parameter",
            "host=localhost",
            "--parameter",
            f"portNumber={remote}",
        )
        assert await answers(await program.port())
