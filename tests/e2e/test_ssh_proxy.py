"""``ssmnet ssh-proxy`` by itself: what stdin and stdout may be, and how it ends.

The far end is in this process, and fails a test that leaves a session behind.
"""

import asyncio
import hashlib
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from ssmnet.loopback import Loopback

from .processes import SSMNET, TIMEOUT, Done, run

if sys.platform == "win32":
    pytest.skip("terminals and descriptors as POSIX has them", allow_module_level=True)

import pty
import termios
import tty

# Lines: a terminal hands them over one by one, and an end of input only between them.
LINES = "".join(f"{number:063d}\n" for number in range(4096)).encode()
ANSWER = bytes(reversed(LINES[:-1])) + b"\n"
INPUTS = ["pipe", "terminal", "socket", "file", "null", "closed"]
OUTPUTS = INPUTS
EMPTY = ("null", "closed")
MIB = 1024 * 1024


@pytest.fixture
async def far_end(request: pytest.FixtureRequest) -> AsyncIterator[Loopback]:
    async with Loopback(**getattr(request, "param", {})) as running:
        yield running
        assert running.sessions == 0


@pytest.fixture
def far_env(aws_env: dict[str, str], far_end: Loopback) -> dict[str, str]:
    return aws_env | far_end.environment


class Input(NamedTuple):
    """A descriptor for stdin, and what has ``LINES`` come there, and their end."""

    descriptor: int
    feed: Callable[[], None] = lambda: None


class Output(NamedTuple):
    """A descriptor for stdout, and what gives all that was written there until its end."""

    descriptor: int
    collect: Callable[[], bytes | None] = lambda: None


def make_input(kind: str, path: Path) -> Input:
    if kind == "file":
        path.write_bytes(LINES)
        return Input(os.open(path, os.O_RDONLY))
    if kind == "pipe":
        source, sink = os.pipe()
        return Input(source, lambda: write_all(sink, LINES))
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return Input(theirs.detach(), lambda: write_all(ours.detach(), LINES))
    if kind == "terminal":
        master, slave = pty.openpty()
        settings = termios.tcgetattr(slave)
        settings[3] &= ~termios.ECHO
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        return Input(slave, lambda: write_all(master, LINES + b"\x04", keep=True))
    return Input(os.open(os.devnull, os.O_RDONLY))


def make_output(kind: str, path: Path) -> Output:
    if kind == "file":
        return Output(os.open(path, os.O_WRONLY | os.O_CREAT), path.read_bytes)
    if kind == "pipe":
        source, sink = os.pipe()
        return Output(sink, lambda: read_all(source))
    if kind == "socket":
        ours, theirs = socket.socketpair()
        return Output(theirs.detach(), lambda: read_all(ours.detach()))
    if kind == "terminal":
        master, slave = pty.openpty()
        tty.setraw(slave)
        return Output(slave, lambda: read_all(master))
    return Output(os.open(os.devnull, os.O_WRONLY))


def write_all(descriptor: int, data: bytes, *, keep: bool = False) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
    if not keep:
        os.close(descriptor)


def read_all(descriptor: int) -> bytes:
    data = b""
    with suppress(OSError):  # how the end of a terminal is told
        while more := os.read(descriptor, 65536):
            data += more
    os.close(descriptor)
    return data


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def destination(serve: Serve) -> AsyncIterator[str]:
    """A server that ends each connection after ``serve``; its port."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield str(server.sockets[0].getsockname()[1])
    finally:
        server.close()


async def answer_lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await reader.readexactly(len(LINES)) == LINES:
        writer.write(ANSWER)
        await writer.drain()


async def answer_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(ANSWER)
    await writer.drain()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Then say nothing more."""
    writer.write(b"hello\n")
    await reader.read()


async def end(process: asyncio.subprocess.Process) -> Done:
    """Wait for it; its stdout is not in it."""
    assert process.stderr is not None
    async with asyncio.timeout(TIMEOUT):
        err = await process.stderr.read()
        return Done(await process.wait(), "", err.decode())


def command(port: str) -> tuple[str, ...]:
    return (str(SSMNET), "ssh-proxy", Loopback.target, port)


@asynccontextmanager
async def talking(
    port: str, env: Mapping[str, str], *options: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program with a pipe for each of its descriptors."""
    process = await asyncio.create_subprocess_exec(
        *command(port), *options, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def stdout_of(process: asyncio.subprocess.Process) -> asyncio.ReadTransport:
    """What the stream reads from, so that it can read no more."""
    assert process.stdout is not None
    transport = vars(process.stdout)["_transport"]
    assert isinstance(transport, asyncio.ReadTransport)
    return transport


# What stdin and stdout may be.


async def carry(source: str, sink: str, folder: Path, env: Mapping[str, str]) -> str:
    """Carry lines there and an answer back; what was wrong with that."""
    fed, got = make_input(source, folder / "in"), make_output(sink, folder / "out")
    closing = ("<&-" if source == "closed" else "") + (" >&-" if sink == "closed" else "")
    serve = answer_at_once if source in EMPTY else answer_lines
    async with destination(serve) as port:
        process = await asyncio.create_subprocess_exec(
            *("/bin/sh", "-c", f'exec "$@" {closing}', "sh", *command(port)),
            env=env,
            stdin=fed.descriptor,
            stdout=got.descriptor,
            stderr=PIPE,
            start_new_session=True,
        )
        os.close(fed.descriptor)
        os.close(got.descriptor)
        feeding = asyncio.create_task(asyncio.to_thread(fed.feed))
        if sink == "file":
            done = await end(process)
            out = got.collect()
        else:
            collecting = asyncio.create_task(asyncio.to_thread(got.collect))
            done = await end(process)
            out = await collecting
        await feeding
    if done != Done(0, "", ""):
        return f"{done}"
    return "" if sink in EMPTY or out == ANSWER else f"{out!r:.200}"


@pytest.mark.parametrize("source", INPUTS)
async def test_stdin_and_stdout_may_be_anything(
    far_env: dict[str, str], tmp_path: Path, source: str
) -> None:
    wrong = {}
    for sink in OUTPUTS:
        (tmp_path / sink).mkdir()
        wrong[sink] = await carry(source, sink, tmp_path / sink, far_env)
    assert wrong == dict.fromkeys(OUTPUTS, "")


@pytest.mark.parametrize("half", [True, False], ids=["half-closed", "closed by the far side"])
async def test_they_may_be_one_socket(far_env: dict[str, str], half: bool) -> None:
    """As inetd has it."""
    ours, theirs = socket.socketpair()
    serve = answer_lines if half else answer_at_once
    async with destination(serve) as port:
        process = await asyncio.create_subprocess_exec(
            *command(port), env=far_env, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=PIPE
        )
        theirs.close()
        reader, writer = await asyncio.open_connection(sock=ours)
        if half:
            writer.write(LINES)
            writer.write_eof()
        async with asyncio.timeout(TIMEOUT):
            assert await reader.read() == ANSWER
        assert await end(process) == Done(0, "", "")
        writer.close()


async def test_nothing_but_data_is_on_stdout(far_env: dict[str, str]) -> None:
    async with destination(answer_at_once) as port:
        done = await run(*command(port), "--debug", env=far_env)
    assert (done.status, done.out) == (0, ANSWER.decode())
    assert "ssmnet.session" in done.err


async def test_it_works_without_aws(aws_env: dict[str, str]) -> None:
    async with destination(answer_at_once) as port:
        done = await run(SSMNET, "ssh-proxy", "loopback", port, env=aws_env)
    assert done == Done(0, ANSWER.decode(), "")


# Bytes.


async def test_a_reader_that_is_slow_stops_the_destination_and_gets_all(
    far_env: dict[str, str],
) -> None:
    data = random.Random(1).randbytes(64 * MIB)
    sent = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        sent.set()

    async with destination(serve) as port, talking(port, far_env) as process:
        assert process.stdout is not None
        transport = stdout_of(process)
        transport.pause_reading()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sent.wait(), 3)
        transport.resume_reading()
        digest = hashlib.sha256()
        async with asyncio.timeout(TIMEOUT):
            while more := await process.stdout.read(MIB):
                digest.update(more)
        assert digest.digest() == hashlib.sha256(data).digest()
        assert (await end(process)).status == 0


# The agent repairs one lost message in 100 ms, and none once its destination has closed: without
# its pace, sockets hold megabytes that a cut loses.
@pytest.mark.parametrize("far_end", [{"pace": True}], indirect=True)
async def test_both_ways_at_once_and_over_a_new_websocket(
    far_env: dict[str, str], far_end: Loopback
) -> None:
    data = random.Random(2).randbytes(2 * MIB)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(0, len(data), 65536):
            writer.write(await reader.readexactly(65536))
            await writer.drain()
        await reader.read()

    async with destination(serve) as port, talking(port, far_env) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(data)
        async with asyncio.timeout(TIMEOUT):
            first = await process.stdout.readexactly(MIB)
            far_end.cut_clients()
            assert first + await process.stdout.readexactly(MIB) == data
        process.stdin.close()
        assert (await end(process)).status == 0


# Ends.


async def test_after_the_end_of_stdin_it_waits_for_quiet(far_env: dict[str, str]) -> None:
    """The destination would wait for ever."""
    async with destination(greet) as port:
        done = await run(*command(port), env=far_env)
    assert done == Done(0, "hello\n", "")


@pytest.mark.parametrize("talks", [True, False], ids=["with more to say", "with none"])
async def test_it_ends_when_nobody_reads_stdout_any_more(
    far_env: dict[str, str], talks: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello\n")
        while talks:
            writer.write(bytes(65536))
            await writer.drain()
        await reader.read()

    async with destination(serve) as port, talking(port, far_env) as process:
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stdout.readexactly(6) == b"hello\n"
        stdout_of(process).close()
        assert await end(process) == Done(1, "", "")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it_at_once(far_env: dict[str, str], number: signal.Signals) -> None:
    async with destination(greet) as port, talking(port, far_env) as process:
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stdout.readexactly(6) == b"hello\n"
        process.send_signal(number)
        assert await end(process) == Done(130, "", "")


async def test_a_session_that_is_ended_is_told_of(
    far_env: dict[str, str], far_end: Loopback
) -> None:
    async with destination(greet) as port, talking(port, far_env) as process:
        assert process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stdout.readexactly(6) == b"hello\n"
        far_end.end_sessions("maximum duration")
        done = await end(process)
    assert done == Done(1, "", "error: the session was closed: maximum duration\n")


async def test_a_port_that_nobody_listens_on_is_told_of(
    far_env: dict[str, str], closed_port: int
) -> None:
    done = await run(*command(str(closed_port)), env=far_env)
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("error: the session was closed: Unable to connect to specified port")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("i-00000000000000000",), 1, "i-00000000000000000"),
        ((Loopback.target, "0"), 2, "'PORT'"),
        ((Loopback.target, "ssh"), 2, "'PORT'"),
        ((Loopback.target, "--parameter", "a=b"), 2, "--parameter goes with --document"),
        ((Loopback.target, "--document", "NoSuchDocument"), 2, "NoSuchDocument"),
        ((), 2, "TARGET"),
    ],
)
async def test_what_can_not_be_started_is_one_line(
    far_env: dict[str, str], arguments: tuple[str, ...], status: int, told: str
) -> None:
    done = await run(SSMNET, "ssh-proxy", *arguments, env=far_env)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("error: ")
    assert told in done.err
    assert done.err.count("\n") == 1


# A host that the target reaches, by a document for ports.

REMOTE_HOST = ("--document", "AWS-StartPortForwardingSessionToRemoteHost")


async def test_a_remote_host_by_a_document_of_one_s_own(far_env: dict[str, str]) -> None:
    async with destination(answer_lines) as port:
        options = (*REMOTE_HOST, "--parameter", "host=127.0.0.1")
        async with talking(port, far_env, *options) as process:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(LINES)
    assert (process.returncode, out, err) == (0, ANSWER, b"")


async def test_a_remote_host_that_refuses_is_told_of(
    far_env: dict[str, str], closed_port: int
) -> None:
    options = (*REMOTE_HOST, "--parameter", "host=127.0.0.1")
    done = await run(*command(str(closed_port)), *options, env=far_env)
    assert done == Done(1, "", "error: the target could not connect to the destination\n")
