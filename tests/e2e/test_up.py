"""``ssmnet up``: the forwards and proxies of a file in one process."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import pytest

from .processes import SSMNET, FarEnd, Program, run, started
from .test_forward import answers, echo_server, echoes

if sys.platform == "win32":
    pytest.skip("nothing can be asked there", allow_module_level=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ssmnet.toml"


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


def write(file: Path, **remotes: int) -> None:
    """Have the file name forwards to these ports, each from a free one. A reader sees all of it."""
    lines = ["[defaults]", f'target = "{FarEnd.target}"']
    for name, remote in remotes.items():
        lines += [f"[forwards.{name}]", "local = 0", f"remote = {remote}"]
    new = file.with_suffix(".new")
    new.write_text("\n".join([*lines, ""]))
    os.replace(new, file)


@asynccontextmanager
async def up(file: Path, env: dict[str, str], *options: str) -> AsyncIterator[Program]:
    async with started(SSMNET, "up", "--config", file, *options, env=env) as program:
        yield program


async def ports(program: Program, *names: str) -> dict[str, int]:
    """Wait until those named listen; where."""
    found: dict[str, int] = {}
    while not found.keys() >= set(names):
        line = await program.err_line(r"^(\w+): Listening on 127\.0\.0\.1:(\d+), ")
        found[line[1]] = int(line[2])
    return found


async def test_all_that_the_file_names(file: Path, env: dict[str, str], port: int) -> None:
    write(file, one=port, two=port, three=port)
    async with up(file, env) as program:
        found = await ports(program, "one", "two", "three")
        assert all(await asyncio.gather(*map(answers, found.values())))
        done = await program.end()
    assert done.status == 0
    assert all(f"{name}: session " in done.err for name in found)


async def test_those_named_on_the_command_line(file: Path, env: dict[str, str], port: int) -> None:
    write(file, one=port, two=port)
    async with up(file, env, "two") as program:
        found = await ports(program, "two")
        assert await answers(found["two"])
        done = await program.end()
    assert "one" not in done.err


@pytest.mark.parametrize("names", [["nobody"], ["one", "nobody"]])
async def test_a_name_that_is_not_there(file: Path, env: dict[str, str], names: list[str]) -> None:
    write(file, one=1)
    done = await run(SSMNET, "up", "--config", file, *names, env=env)
    assert done.status == 2
    assert done.err == f"error: {file} has no 'nobody'; there are: one\n"


async def test_a_port_in_use_keeps_only_its_own_from_starting(
    file: Path, env: dict[str, str], port: int
) -> None:
    write(file, one=port)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with file.open("a") as more:
            more.write(f"[forwards.late]\nlocal = {number}\nremote = {port}\n")
        async with up(file, env) as program:
            line = await program.err_line("^late: cannot listen on port .* trying again$")
            assert f"port {number} on 127.0.0.1: it is in use" in line.string
            taken.close()
            found = await ports(program, "late")
            assert found["late"] == number
            assert await answers(number)


async def test_a_change_leaves_the_connections_of_others_alone(
    file: Path, env: dict[str, str], port: int
) -> None:
    write(file, same=port, other=port, gone=port)
    async with up(file, env) as program, echo_server() as second:
        before = await ports(program, "same", "other", "gone")
        stream = await asyncio.open_connection("127.0.0.1", before["same"])
        assert await echoes(*stream, b"before")
        write(file, same=port, other=second, new=port)
        await program.err_line("the file was read again: started new; changed other; stopped gone")
        after = await ports(program, "other", "new")
        assert await echoes(*stream, b"after")
        assert all(await asyncio.gather(*map(answers, after.values())))
        assert await answers(before["same"])
        for name in ("gone", "other"):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", before[name])
        stream[1].close()


async def test_a_file_that_is_wrong_changes_nothing(
    file: Path, env: dict[str, str], port: int
) -> None:
    write(file, one=port)
    async with up(file, env) as program:
        found = await ports(program, "one")
        write(file, one=99999, two=port)
        line = await program.err_line("^nothing was changed: ")
        assert "forwards.one.remote" in line.string
        assert await answers(found["one"])
        write(file, one=port, two=port)
        await program.err_line("^the file was read again: started two$")
        assert await answers((await ports(program, "two"))["two"])
        assert await answers(found["one"])


async def test_events_have_names(file: Path, env: dict[str, str], port: int) -> None:
    write(file, one=port)
    async with up(file, env, "--output", "json") as program:
        event = json.loads((await program.out_line('"event":"listening"')).string)
        assert event["name"] == "one"
        assert event["target"] == FarEnd.target
        assert await answers(event["port"])
        event = json.loads((await program.out_line('"event":"disconnected"')).string)
        assert (event["name"], event["bytes_sent"], event["error"]) == ("one", 3, "")


async def test_what_fails_is_tried_again(
    file: Path, far_end: FarEnd, env: dict[str, str], port: int
) -> None:
    write(file, one=port)
    await far_end.fault("fail_next", code="AccessDeniedException", times=1, action="StartSession")
    async with up(file, env) as program:
        await program.err_line("^one: .*trying again$")
        assert await answers((await ports(program, "one"))["one"])


@pytest.fixture
def proxy_in_file(file: Path) -> None:
    file.write_text(
        f'[proxies.net]\nsocks = 0\nhttp = 0\ntarget = "{FarEnd.target}"\n'
        'deny = ["*.denied"]\nroutes = ["*.elsewhere via i-00000000000000001"]\n'
    )


@pytest.mark.usefixtures("proxy_in_file")
async def test_a_proxy_of_the_file(file: Path, env: dict[str, str], port: int, curl: str) -> None:
    async with up(file, env) as program:
        socks = (await program.err_line(r"^net: Listening on \S+:(\d+), SOCKS proxy"))[1]
        http = (await program.err_line(r"^net: Listening on \S+:(\d+), HTTP proxy"))[1]

        async def status(*options: str, host: str = "localhost") -> tuple[int, str]:
            url = f"telnet://{host}:{port}" if "--socks" in options[0] else f"https://{host}:{port}"
            done = await run(curl, "-sS", "-m", "20", *options, url, env=env)
            return done.status, done.err

        denied = await status("--socks5-hostname", f"127.0.0.1:{socks}", host="a.denied")
        assert denied[0] == 97
        assert "(2)" in denied[1]
        other = await status("--proxy", f"http://127.0.0.1:{http}", host="a.elsewhere")
        assert other[0] == 56
        assert await through_socks(int(socks), "localhost", port)


async def through_socks(socks: int, host: str, port: int) -> bool:
    """Whether the echo server at ``host`` answers through the proxy."""
    reader, writer = await asyncio.open_connection("127.0.0.1", socks)
    name = host.encode()
    writer.write(b"\5\1\0" + b"\5\1\0\3" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
    assert (await reader.readexactly(2 + 10))[:4] == b"\5\0\5\0"
    try:
        return await echoes(reader, writer, b"bye")
    finally:
        writer.close()


async def test_a_proxy_that_others_could_use_needs_a_password(
    file: Path, env: dict[str, str]
) -> None:
    options = ("-t", FarEnd.target, "--socks", "0", "--bind", "0.0.0.0")
    done = await run(SSMNET, "proxy", *options, env=env)
    assert done.status == 2
    assert done.err == "error: others could use this proxy: it needs --user, or no --bind\n"

    done = await run(SSMNET, "proxy", *options, "--user", "me", env=env)
    assert done.status == 2
    assert "SSMNET_PROXY_PASSWORD" in done.err

    secret = env | {"SSMNET_PROXY_PASSWORD": "correct horse"}
    async with started(SSMNET, "proxy", *options, "--user", "me", env=secret) as program:
        assert "warning: listening on 0.0.0.0" in (await program.err_line("warning")).string
        await program.err_line("Listening on 0.0.0.0:")


async def test_where_the_metrics_are_is_told(file: Path, env: dict[str, str], port: int) -> None:
    write(file, one=port)
    async with up(file, env, "--metrics", "0") as program:
        url = (await program.err_line(r"^Metrics at (http://127\.0\.0\.1:\d+/metrics)$"))[1]
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            assert 'ssmnet_up{destination="' in await response.text()


async def test_a_file_that_is_a_pipe(file: Path, env: dict[str, str], port: int) -> None:
    write(file, one=port)
    pipe = file.with_name("pipe")
    os.mkfifo(pipe)
    async with up(pipe, env) as program:
        assert (await run("sh", "-c", 'cat "$0" > "$1"', file, pipe, env=env)).status == 0
        assert await answers((await ports(program, "one"))["one"])
