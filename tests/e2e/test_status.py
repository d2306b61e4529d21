"""``ssmnet status``, ``down`` and ``reload``, and metrics, of an ``ssmnet up`` that runs."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .processes import SSMNET, TIMEOUT, Done, FarEnd, Program, run, started
from .test_forward import answers, echo_server, echoes

if sys.platform == "win32":
    pytest.skip("nothing can be asked there", allow_module_level=True)

from .terminals import FORKS, on_terminal


@pytest.fixture
def env(far_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """Sockets of running processes go into a folder of the test's own, with a short name."""
    with TemporaryDirectory() as folder:
        yield far_env | {"XDG_RUNTIME_DIR": folder}


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """Return the port of a server that sends everything back."""
    async with echo_server() as port:
        yield port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a project of its own, in which nothing above is looked for."""
    return project(tmp_path, "here")


def project(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    (folder / ".git").mkdir(parents=True)
    return folder


def write(folder: Path, local: int = 0, **remotes: int) -> Path:
    """Have the folder's file name forwards to these ports. A reader sees all of it or none."""
    lines = ["[defaults]", f'target = "{FarEnd.target}"']
    for name, remote in remotes.items():
        lines += [f"[forwards.{name}]", f"local = {local}", f"remote = {remote}"]
    new = folder / "new"
    new.write_text("\n".join([*lines, ""]))
    return new.replace(folder / "ssmnet.toml")


def within(folder: Path, *arguments: str | Path) -> tuple[str | Path, ...]:
    """The command line that runs ssmnet in that folder."""
    return ("/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder, SSMNET, *arguments)


async def ssmnet(folder: Path, env: dict[str, str], *arguments: str | Path) -> Done:
    return await run(*within(folder, *arguments), env=env)


@asynccontextmanager
async def up(folder: Path, env: dict[str, str], *options: str) -> AsyncIterator[Program]:
    """Run all that the folder's file names, once every one of it listens."""
    forwards = (folder / "ssmnet.toml").read_text().count("[forwards.")
    async with started(*within(folder, "up", *options), env=env) as program:
        for _ in range(forwards):
            await program.err_line(r"^\w+: Listening on ")
        yield program


async def services(folder: Path, env: dict[str, str]) -> dict[str, dict[str, Any]]:
    done = await ssmnet(folder, env, "status", "--json")
    assert done.status == 0, done
    return {one["name"]: one for one in json.loads(done.out)["services"]}


def local_port(service: dict[str, Any]) -> int:
    return int(service["addresses"][0].rpartition(":")[2])


async def test_a_status_shows_what_moves(folder: Path, env: dict[str, str], port: int) -> None:
    write(folder, db=port, cache=1)
    async with up(folder, env) as program:
        db = (await services(folder, env))["db"]
        stream = await asyncio.open_connection("127.0.0.1", local_port(db))
        assert await echoes(*stream, b"x" * 5000)

        done = await ssmnet(folder, env, "status", "--json", "db")
        status = json.loads(done.out)
        assert status["pid"] == program.pid
        assert status["config"] == os.path.realpath(folder / "ssmnet.toml")
        assert status["started"].endswith("Z")
        (db,) = status["services"]
        assert (db["state"], db["kind"], db["target"]) == ("up", "forward", FarEnd.target)
        assert (db["connections"], db["accepted"], db["sessions"]) == (1, 1, 1)
        assert (db["sent"], db["received"]) == (5000, 5000)
        assert db["round_trip_time"] > 0

        done = await ssmnet(folder, env, "status")
        header, first, second = done.out.splitlines()
        assert header.startswith("name   local address ")
        assert first.split()[:2] == ["db", f"127.0.0.1:{local_port(db)}"]
        assert "4.9 KiB  4.9 KiB" in first
        assert second.startswith("cache ")
        assert "\x1b" not in done.out
        assert done.err == ""

        done = await ssmnet(folder, env, "status", "nobody")
        assert done.status == 2
        assert done.err == "error: 'nobody' does not run there: it runs db, cache\n"
        stream[1].close()


async def test_watching_ends_with_ctrl_c_without_a_word(
    folder: Path, env: dict[str, str], port: int
) -> None:
    write(folder, db=port, cache=1)
    async with up(folder, env):
        command = within(folder, "status", "--watch", "--json", "db")
        async with started(*command, env=env) as watching:
            status = json.loads((await watching.out_line()).string)
            assert [one["name"] for one in status["services"]] == ["db"]
            assert await answers(local_port(status["services"][0]))
            await watching.out_line('"accepted":1,.*"sent":3,')
            done = await watching.end()
        assert (done.status, done.err) == (0, "")
        async with started(*within(folder, "status", "--watch"), env=env) as watching:
            for _ in range(2):
                await watching.out_line("^name +local address")
                await watching.out_line("^db .* up ")


async def test_watching_ends_with_the_process(folder: Path, env: dict[str, str]) -> None:
    write(folder, db=1)
    async with up(folder, env) as program:
        command = within(folder, "status", "--watch", "--json")
        async with started(*command, env=env) as watching:
            await watching.out_line('"state":"up"')
            assert (await program.end()).status == 0
            done = await watching.wait()
    assert (done.status, done.err) == (1, "error: the process has ended\n")


async def test_a_watcher_whose_reader_is_gone_ends(folder: Path, env: dict[str, str]) -> None:
    write(folder, db=1)
    async with up(folder, env):
        script = '"$0" status --watch --json --config "$1" | head -n 1'
        done = await run("/bin/sh", "-c", script, SSMNET, folder / "ssmnet.toml", env=env)
        assert done.status == 0
        assert done.out.count("\n") == 1
        assert done.err == ""


async def test_one_is_stopped_and_the_others_go_on(
    folder: Path, env: dict[str, str], port: int
) -> None:
    write(folder, db=port, cache=port)
    async with up(folder, env):
        before = await services(folder, env)
        stream = await asyncio.open_connection("127.0.0.1", local_port(before["db"]))
        assert await echoes(*stream, b"before")
        done = await ssmnet(folder, env, "down", "cache")
        assert (done.status, done.out, done.err) == (0, "stopped cache\n", "")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", local_port(before["cache"]))
        assert await echoes(*stream, b"after")
        states = {name: one["state"] for name, one in (await services(folder, env)).items()}
        assert states == {"db": "up", "cache": "stopped"}
        table = (await ssmnet(folder, env, "status", "cache")).out.splitlines()
        assert " stopped " in table[1]
        done = await ssmnet(folder, env, "down", "cache")
        assert (done.status, done.out, done.err) == (0, "nothing of it was running\n", "")
        done = await ssmnet(folder, env, "down", "nobody")
        assert (done.status, done.err) == (2, "error: 'nobody' does not run here\n")
        assert (await ssmnet(folder, env, "reload")).status == 0
        cache = (await services(folder, env))["cache"]
        assert cache["state"] == "up"
        assert await answers(local_port(cache))
        stream[1].close()


async def test_after_all_was_stopped_it_can_be_started_at_once(
    folder: Path, env: dict[str, str], port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    write(folder, local=number, db=port)
    async with up(folder, env) as program:
        done = await ssmnet(folder, env, "down")
        assert (done.status, done.out, done.err) == (0, "stopped db\n", "")
        async with up(folder, env):
            assert await answers(number)
        assert (await program.wait()).status == 0
    done = await ssmnet(folder, env, "status")
    assert (done.status, done.err) == (1, "error: nothing runs: see 'ssmnet up'\n")


async def test_a_reload_is_done_when_it_returns(
    folder: Path, env: dict[str, str], port: int
) -> None:
    write(folder, db=port)
    async with up(folder, env):
        done = await ssmnet(folder, env, "reload")
        assert (done.status, done.out, done.err) == (0, "nothing has changed\n", "")
        write(folder, db=port, cache=port)
        assert (await ssmnet(folder, env, "reload")).status == 0
        assert (await services(folder, env)).keys() == {"db", "cache"}
        write(folder, db=99999)
        done = await ssmnet(folder, env, "reload")
        assert done.status == 2
        assert "forwards.db.remote" in done.err
        assert (await services(folder, env)).keys() == {"db", "cache"}


async def test_which_process_is_asked(tmp_path: Path, env: dict[str, str]) -> None:
    one, other, empty = (project(tmp_path, name) for name in ("one", "other", "empty"))
    idle = project(tmp_path, "idle")
    for folder in (one, other, idle):
        write(folder, **{folder.name: 1})
    done = await ssmnet(empty, env, "status")
    assert (done.status, done.err) == (1, "error: nothing runs: see 'ssmnet up'\n")
    async with up(one, env) as first:
        assert "one" in await services(empty, env)
        done = await ssmnet(idle, env, "status")
        assert done.status == 0
        assert done.err == f"running with {one / 'ssmnet.toml'} (pid {first.pid})\n"
        # What would be stopped is not what the file here says.
        for command in ("down", "reload"):
            done = await ssmnet(idle, env, command)
            assert done.status == 1
            assert done.err.startswith(f"error: nothing runs with {idle / 'ssmnet.toml'}, but ")
        async with up(other, env) as second:
            assert "one" in await services(one, env)
            assert "other" in await services(other, env)
            for command in ("status", "down"):
                done = await ssmnet(empty, env, command)
                assert done.status == 2
                assert f"{one / 'ssmnet.toml'} (pid {first.pid})" in done.err
                assert f"{other / 'ssmnet.toml'} (pid {second.pid})" in done.err
            done = await ssmnet(empty, env, "down", "--config", other / "ssmnet.toml")
            assert (done.status, done.out) == (0, "stopped other\n")
            assert (await second.wait()).status == 0
        assert "one" in await services(one, env)
        assert (await ssmnet(empty, env, "down")).out == "stopped one\n"
        assert (await first.wait()).status == 0


async def test_the_file_that_the_environment_names(tmp_path: Path, env: dict[str, str]) -> None:
    folder, elsewhere = project(tmp_path, "there"), project(tmp_path, "elsewhere")
    named = env | {"SSMNET_CONFIG": str(write(folder, db=1, cache=1))}
    write(elsewhere, other=1)
    async with up(folder, env) as program:
        assert (await services(elsewhere, named)).keys() == {"db", "cache"}
        done = await ssmnet(elsewhere, named, "reload")
        assert (done.status, done.out, done.err) == (0, "nothing has changed\n", "")
        done = await ssmnet(elsewhere, named, "down", "db", "db")
        assert (done.status, done.out, done.err) == (0, "stopped db\n", "")
        done = await ssmnet(elsewhere, named, "down")
        assert (done.status, done.err) == (0, "")
        assert (await program.wait()).status == 0


@pytest.mark.parametrize("command", [["status"], ["down"], ["up"], ["config", "path"]])
async def test_a_working_folder_that_is_gone(
    folder: Path, env: dict[str, str], command: list[str]
) -> None:
    words = ("/bin/sh", "-c", 'cd "$1" && rm -r "$1" && shift && exec "$@"', "sh", folder, SSMNET)
    done = await run(*words, *command, env=env)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "error: cannot tell the working folder: No such file or directory; change to another\n"
    )


async def test_a_file_has_one_process(folder: Path, env: dict[str, str]) -> None:
    file = write(folder, db=1)
    async with up(folder, env) as program:
        done = await ssmnet(folder, env, "up")
        assert done.status == 1
        assert done.err == f"error: already running with {file}, pid {program.pid}\n"
        assert (await services(folder, env))["db"]["state"] == "up"


async def test_a_killed_process_is_in_nobody_s_way(
    folder: Path, far_end: FarEnd, env: dict[str, str]
) -> None:
    write(folder, db=1)
    far_end.left_open = 1
    async with up(folder, env) as program:
        program.kill()
        await program.wait()
    done = await ssmnet(folder, env, "status")
    assert (done.status, done.err) == (1, "error: nothing runs: see 'ssmnet up'\n")
    async with up(folder, env):
        assert (await services(folder, env))["db"]["state"] == "up"


async def test_a_process_that_hangs_is_told_of(folder: Path, env: dict[str, str]) -> None:
    write(folder, db=1)
    async with up(folder, env) as program:
        os.kill(program.pid, signal.SIGSTOP)
        try:
            done = await ssmnet(folder, env, "status")
        finally:
            os.kill(program.pid, signal.SIGCONT)
        assert done.status == 1
        pid = program.pid
        assert done.err == (
            f"error: process {pid} does not answer; "
            f"if it is suspended, kill -CONT {pid} has it go on\n"
        )


async def test_prometheus_sees_what_moves(
    folder: Path, env: dict[str, str], port: int, closed_port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
        write(folder, db=port, closed=closed_port)
        done = await ssmnet(folder, env, "up", "--metrics", f"127.0.0.1:{number}")
        assert done.status == 1
        assert done.err == f"error: cannot listen on port {number} on 127.0.0.1: it is in use\n"
    async with up(folder, env, "--metrics", f"127.0.0.1:{number}"), AsyncExitStack() as stack:
        found = await services(folder, env)
        assert await answers(local_port(found["db"]))
        with pytest.raises(ConnectionResetError):  # as soon as it connects, or when it reads
            closed = await asyncio.open_connection("127.0.0.1", local_port(found["closed"]))
            stack.callback(closed[1].close)
            await asyncio.wait_for(closed[0].read(), TIMEOUT)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        async with http.get(f"http://localhost:{number}/metrics") as response:
            text = await response.text()
    values = {
        (one.name, one.labels.get("name"), one.labels.get("direction")): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }
    assert values["ssmnet_up", "db", None] == 1
    assert values["ssmnet_bytes_total", "db", "sent"] == 3
    assert values["ssmnet_bytes_total", "db", "received"] == 3
    assert values["ssmnet_connections_accepted_total", "db", None] == 1
    assert values["ssmnet_errors_total", "closed", None] == 1
    assert ("ssmnet_errors_total", "db", None) not in values


@FORKS
async def test_the_table_on_a_terminal(folder: Path, env: dict[str, str]) -> None:
    write(folder, db=1)

    def see(*command: str) -> None:
        with on_terminal(*within(folder, *command), env=env) as terminal:
            terminal.expect(r"name\b.*local address.*destination.*target.*state.*\r\n")
            terminal.expect(r"db +127\.0\.0\.1:\d+ .*\x1b\[32mup")
            # And again, where it stands.
            terminal.expect(r"\x1b\[2A\x1b\[J[^\r]*name\b[^\r]*\r\n[^\r]*db ")
            terminal.resize(24, 40)
            terminal.expect(r"local address(?:(?!destination)[^\r])*state[^\r]*\r\n")
            terminal.send("\x03")
            ended = terminal.end()
            assert ended.status == 0
            assert "Traceback" not in ended.rest

    async with up(folder, env):
        await asyncio.to_thread(see, "status", "--watch")
    await asyncio.to_thread(see, "up")
