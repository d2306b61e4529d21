"""How ``ssmnet forward`` ends: on signals, with its session, and with those who follow it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import sys
from pathlib import Path

import pytest

from .conftest import Start
from .processes import SSMNET, TIMEOUT, FarEnd, run, started
from .test_forward import answers, echo_server, echoes

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)


async def refuses(port: int) -> None:
    """Wait until nobody listens on ``port`` any more."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        while True:
            with socket.socket() as sock:
                sock.setblocking(False)
                # Closed with a reset, so that it does not count as one that may finish.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                try:
                    await loop.sock_connect(sock, ("127.0.0.1", port))
                except ConnectionRefusedError:
                    return
                except ConnectionResetError:
                    pass  # it was in the backlog of the socket that was closed
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_in_good_order(forward: Start, number: int) -> None:
    async with echo_server() as remote:
        program = await forward("--remote", str(remote))
        port = await program.port()
        assert await answers(port)
        done = await program.end(number)
    assert done.status == 0
    assert done.err.endswith(": stopped\n")
    await refuses(port)


async def test_a_signal_during_the_start_ends_it_too(
    forward: Start, far_env: dict[str, str]
) -> None:
    asked = asyncio.Event()

    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never_answer, "127.0.0.1", 0) as api:
        url = f"http://127.0.0.1:{api.sockets[0].getsockname()[1]}"
        program = await forward("--remote", "80", env=far_env | {"AWS_ENDPOINT_URL_SSM": url})
        async with asyncio.timeout(TIMEOUT):
            await asked.wait()
        done = await program.end()
    assert (done.status, done.out, done.err) == (0, "", "")


async def test_open_connections_may_finish(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward("--remote", str(remote))
        port = await program.port()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await echoes(reader, writer, b"before")
        program.send_signal()
        await refuses(port)
        assert await echoes(reader, writer, b"after, bye")
        writer.close()
        done = await program.wait()
    assert done.status == 0
    assert "connection 1 " not in done.err


async def test_connections_that_do_not_finish_are_reset(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward("--remote", str(remote))
        reader, writer = await asyncio.open_connection("127.0.0.1", await program.port())
        assert await echoes(reader, writer, b"before")
        program.send_signal()
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(TIMEOUT):
                await reader.read()
        writer.close()
        done = await program.wait()
    assert done.status == 0
    assert "connection 1 " in done.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_ends_it_at_once(
    forward: Start, far_end: FarEnd, number: int
) -> None:
    far_end.left_open = 1  # nobody has terminated it
    async with echo_server() as remote:
        program = await forward("--remote", str(remote))
        port = await program.port()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await echoes(reader, writer, b"before")
        program.send_signal(number)
        await refuses(port)
        async with asyncio.timeout(TIMEOUT):
            while program.running:  # one that comes too soon counts as the first one, told twice
                with contextlib.suppress(ProcessLookupError):
                    program.send_signal(number)
                await asyncio.sleep(0.1)
        assert (await program.wait()).status == 128 + number
        writer.close()


async def test_the_first_signal_is_the_first_where_it_is_about_to_end_already() -> None:
    """As with ``--output json | tee``, where Ctrl-C ends the reader, too."""
    program = """
import asyncio, os, signal, sys
from ssmnet.runner import run

async def main(stop):
    stop.set()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.sleep(0.1)
    return 7

sys.exit(run(main))
"""
    done = await run(sys.executable, "-c", program, env=dict(os.environ))
    assert done.status == 7, done


async def test_the_same_signal_told_twice_is_one(forward: Start) -> None:
    program = await forward("--remote", "80")
    await program.port()
    program.send_signal()
    done = await program.end()
    assert done.status == 0
    assert done.err.endswith(": stopped\n")


async def test_nohup_outlives_its_terminal(far_env: dict[str, str]) -> None:
    async with echo_server() as remote:
        command = ("nohup", SSMNET, "forward", "-t", FarEnd.target, "--remote", str(remote))
        async with started(*command, env=far_env) as program:
            port = await program.port()
            program.send_signal(signal.SIGHUP)
            assert await answers(port)
            assert await answers(port)
            assert (await program.end()).status == 0


async def test_a_killed_one_leaves_a_socket_that_the_next_replaces(
    forward: Start, far_end: FarEnd, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    far_end.left_open = 1
    first = await forward("--local", path, "--remote", "80")
    await first.err_line("^Listening")
    await first.end(signal.SIGKILL)
    assert path.is_socket()
    second = await forward("--local", path, "--remote", "80")
    await second.err_line("^Listening")
    assert (await second.end()).status == 0
    assert not path.exists()


async def test_json_is_one_object_a_line(forward: Start) -> None:
    async with echo_server() as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        listening = json.loads((await program.out_line()).string)
        reader, writer = await asyncio.open_connection("127.0.0.1", listening["port"])
        peer = writer.get_extra_info("sockname")
        assert await echoes(reader, writer, b"bye" * 100)
        writer.close()
        connected = json.loads((await program.out_line()).string)
        disconnected = json.loads((await program.out_line()).string)
        done = await program.end()
    assert (done.status, done.err) == (0, "")
    closed = json.loads(done.out.splitlines()[-1])
    destination = f"{FarEnd.target}:{remote}"
    session_id = listening["session_id"]
    assert session_id
    assert [listening, connected, disconnected, closed] == [
        {
            "event": "listening",
            "address": "127.0.0.1",
            "port": listening["port"],
            "session_id": session_id,
            "target": FarEnd.target,
            "destination": destination,
            "kind": "forward",
        },
        {
            "event": "connected",
            "connection": 1,
            "peer": f"127.0.0.1:{peer[1]}",
            "destination": destination,
        },
        {
            "event": "disconnected",
            "connection": 1,
            "destination": destination,
            "bytes_sent": 300,
            "bytes_received": 300,
            "error": "",
            "cause": "",
        },
        {"event": "closed", "session_id": session_id, "reason": "stopped"},
    ]


async def test_json_tells_of_refused_connections(forward: Start, closed_port: int) -> None:
    program = await forward("--remote", str(closed_port), "--output", "json")
    port = json.loads((await program.out_line()).string)["port"]
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    disconnected = json.loads((await program.out_line('"disconnected"')).string)
    writer.close()
    assert disconnected["error"] == "the target could not connect to the destination"


async def terminate(aws_cli: Path, env: dict[str, str], session_id: str) -> None:
    """End a session from outside, as an administrator does."""
    done = await run(aws_cli, "ssm", "terminate-session", "--session-id", session_id, env=env)
    assert done.status == 0, done.err


async def test_a_session_that_is_ended_from_outside_is_followed_by_another(
    forward: Start, aws_cli: Path, far_env: dict[str, str]
) -> None:
    async with echo_server() as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        listening = json.loads((await program.out_line()).string)
        await terminate(aws_cli, far_env, listening["session_id"])
        restarting = json.loads((await program.out_line()).string)
        restarted = json.loads((await program.out_line()).string)
        assert await answers(listening["port"])
        done = await program.end()
    assert (done.status, done.err) == (0, "")
    assert (restarting["event"], restarted["event"]) == ("restarting", "restarted")
    assert restarting["session_id"] == listening["session_id"]
    closed = json.loads(done.out.splitlines()[-1])
    assert closed["session_id"] == restarted["session_id"] != listening["session_id"]


async def test_without_restart_json_tells_why_it_ended(
    forward: Start, aws_cli: Path, far_env: dict[str, str]
) -> None:
    program = await forward("--remote", "80", "--output", "json", "--no-restart")
    listening = json.loads((await program.out_line()).string)
    await terminate(aws_cli, far_env, listening["session_id"])
    done = await program.wait()
    assert (done.status, done.err) == (1, "")
    assert json.loads(done.out.splitlines()[-1]) == {
        "event": "closed",
        "session_id": listening["session_id"],
        "reason": "the session was closed",
    }


async def test_when_the_reader_of_the_json_is_gone_it_ends(
    far_env: dict[str, str],
) -> None:

    read, write = os.pipe()
    command = (SSMNET, "forward", "-t", FarEnd.target, "--output", "json", "--remote")
    async with echo_server() as remote:
        process = await asyncio.create_subprocess_exec(
            *command, str(remote), env=far_env, stdout=write, stderr=asyncio.subprocess.PIPE
        )
        os.close(write)
        try:
            line = await asyncio.to_thread(os.read, read, 4096)
            os.close(read)
            assert json.loads(line)["event"] == "listening"
            async with asyncio.timeout(TIMEOUT):
                _, err = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, err) == (0, b"")
