"""``ssmnet run``: a command has its forwards for as long as it runs, and we end as it does."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ssmnet import forwarded_command
from ssmnet.config import NamedForward, Place
from ssmnet.events import Event, Listening
from ssmnet.forwards import Forward, Request
from ssmnet.up import run_forwards

if sys.platform == "win32":
    pytest.skip("signals and a Unix terminal", allow_module_level=True)

from .conftest import HttpServer, Postgres
from .processes import SSMNET, Done, FarEnd, run, started
from .terminals import FORKS, on_terminal
from .test_forward import echo_server

PYTHON = sys.executable
# Asks the server behind host and port, and says who it was that answered.
CLIENT = """
import hashlib, sys, urllib.request
with urllib.request.urlopen(f"http://{sys.argv[1]}:{sys.argv[2]}/", timeout=30) as answer:
    print(hashlib.sha256(answer.read()).hexdigest())
"""
# Says which of the signals came, and ends with 5.
WAIT = """
import signal
wanted = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
print("ready", flush=True)
print(signal.sigwait(wanted).name, flush=True)
raise SystemExit(5)
"""


def command(*arguments: str | Path) -> list[str | Path]:
    return [SSMNET, "run", "-t", FarEnd.target, *arguments]


@pytest.fixture
def file(tmp_path: Path, http_server: HttpServer) -> Path:
    """A file with two forwards to the server, one of which the options are to leave alone."""
    path = tmp_path / "ssmnet.toml"
    path.write_text(
        f"""
        [defaults]
        target = "{FarEnd.target}"
        [forwards.web]
        remote = {http_server.port}
        local = 1
        max_restarts = 0
        [forwards."by.name"]
        host = "localhost"
        remote = {http_server.port}
        [proxies.corp]
        socks = 0
        """
    )
    return path


async def test_a_command_with_a_forward(far_env: dict[str, str], http_server: HttpServer) -> None:
    client = (PYTHON, "-c", CLIENT, "{host}", "{port}")
    done = await run(*command("--remote", str(http_server.port), "--", *client), env=far_env)
    assert done == Done(0, http_server.digest + "\n", "")


async def test_what_the_command_finds(far_env: dict[str, str], http_server: HttpServer) -> None:
    script = 'echo "$SSMNET_HOST $SSMNET_PORT $AWS_ACCESS_KEY_ID"; printf "%s\\n" "$@"; exit 7'
    words = (
        "--",
        "{port}",
        "{{port}}",
        '{"a":{port}}',
        "{print $1}",
        "{x.y}",
        "",
        "a b",
        "${port}",
    )
    shell = ("sh", "-c", script, "sh", *words)
    done = await run(*command(f"0:{http_server.port}", "--", *shell), env=far_env)
    assert (done.status, done.err) == (7, "")
    found, *told = done.out.splitlines()
    host, port, key = found.split()
    assert (host, key) == ("127.0.0.1", far_env["AWS_ACCESS_KEY_ID"])
    changed = {"{port}": port, "{{port}}": "{port}", '{"a":{port}}': f'{{"a":{port}}}'}
    assert told == [changed.get(word, word) for word in words[:-1]] + [f"${port}"]


async def test_forwards_of_the_file(
    far_env: dict[str, str], http_server: HttpServer, file: Path
) -> None:
    environment = far_env | {"SSMNET_TARGET": "i-00000000000000000", "SSMNET_CONFIG": str(file)}
    script = (
        'echo "$SSMNET_PORT $SSMNET_WEB_PORT $SSMNET_BY_NAME_PORT"; echo "$1 $2"; '
        f'"{PYTHON}" -c "$0" $SSMNET_BY_NAME_HOST $SSMNET_BY_NAME_PORT'
    )
    shell = ("sh", "-c", script, CLIENT, "{port} {web.port} {by.name.port}", "{by.name.host}")
    done = await run(SSMNET, "run", "web", "by.name", "--", *shell, env=environment)
    assert (done.status, done.err) == (0, "")
    ports, filled_in, digest = done.out.splitlines()
    assert filled_in == f"{ports} 127.0.0.1"
    first, web, other = ports.split()
    assert first == web != other
    assert digest == http_server.digest


async def test_the_file_of_the_folder(
    far_env: dict[str, str], http_server: HttpServer, file: Path
) -> None:
    below = file.parent / "a" / "b"
    below.mkdir(parents=True)
    line = f'cd "{below}" && exec "$0" run web -- "{PYTHON}" -c "$1" {{host}} {{port}}'
    done = await run("sh", "-c", line, SSMNET, CLIENT, env=far_env)
    assert done == Done(0, http_server.digest + "\n", "")


async def test_the_loopback_far_end(aws_env: dict[str, str], http_server: HttpServer) -> None:
    client = (PYTHON, "-c", CLIENT, "{host}", "{port}")
    loopback = ("-t", "loopback", "--remote", str(http_server.port))
    shell = ("sh", "-c", '"$@" && env | grep AWS_', "sh", *client)
    done = await run(SSMNET, "run", *loopback, "--", *shell, env=aws_env)
    digest, *settings = done.out.splitlines()
    assert (done.status, done.err, digest) == (0, "", http_server.digest)
    # The far end's own are not for the command.
    assert sorted(settings) == sorted(f"{k}={v}" for k, v in aws_env.items() if k[:4] == "AWS_")


async def test_a_unix_socket(far_env: dict[str, str], tmp_path: Path) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        "s.sendall(b'bye'); print(s.recv(3).decode())"
    )
    async with echo_server() as port:
        options = ("--local", tmp_path / "s", "--remote", str(port))
        client = (PYTHON, "-c", script, "{host}")
        assert await run(*command(*options, "--", *client), env=far_env) == Done(0, "bye\n", "")


async def test_psql(far_env: dict[str, str], postgres: Postgres) -> None:
    ask = (postgres.binaries / "psql", "-h", "{host}", "-p", "{port}", "-U", postgres.user)
    done = await run(
        *command("--host", "localhost", "--remote", str(postgres.port), "--check"),
        *("--", *ask, "-Atc", "select 6 * 7"),
        env=far_env,
    )
    assert done == Done(0, "42\n", "")


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["sh", "-c", "kill -TERM $$"], 143, ""),
        (["sh", "-c", "kill -KILL $$"], 137, ""),
        (["./no-such-command"], 127, "error: ./no-such-command: there is no such command\n"),
        (["/etc/passwd"], 126, "error: /etc/passwd: cannot be run: Permission denied\n"),
    ],
    ids=["term", "kill", "no such", "not executable"],
)
async def test_how_a_command_ends(
    far_env: dict[str, str], words: list[str], status: int, told: str
) -> None:
    done = await run(*command("--remote", "80", "--", *words), env=far_env)
    assert done == Done(status, "", told)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_what_asks_us_to_end_is_passed_on(far_env: dict[str, str], number: int) -> None:
    words = command("--remote", "80", "--", PYTHON, "-c", WAIT)
    async with started(*words, env=far_env) as program:
        await program.out_line("ready")
        os.kill(program.pid, number)
        done = await program.wait()
        assert (done.status, done.err) == (5, "")
        assert done.out.endswith(f"{signal.Signals(number).name}\n")


async def test_ctrl_c_is_the_command_s(far_env: dict[str, str]) -> None:
    words = command("--remote", "80", "--", PYTHON, "-c", WAIT)
    async with started(*words, env=far_env) as program:
        await program.out_line("ready")
        # To us alone it says nothing; from a terminal, the command has had it already.
        os.kill(program.pid, signal.SIGINT)
        os.kill(program.pid, signal.SIGTERM)
        assert (await program.wait()).out.endswith("ready\nSIGTERM\n")
    async with started(*words, env=far_env) as program:
        await program.out_line("ready")
        done = await program.end(signal.SIGINT)
        assert (done.status, done.out) == (5, "ready\nSIGINT\n")


async def test_a_signal_before_the_command_has_begun(
    far_env: dict[str, str], far_end: FarEnd, tmp_path: Path
) -> None:
    await far_end.fault("blackhole_clients", seconds=60, new=True)
    words = command("--remote", "80", "--debug", "--", "touch", tmp_path / "run")
    async with started(*words, env=far_env) as program:
        await program.err_line("(?i)websocket|session")
        done = await program.end()
        assert done.status == 130
    assert not (tmp_path / "run").exists()


async def test_a_signal_in_the_turn_in_which_the_last_forward_opens(
    far_env: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in far_env.items():
        monkeypatch.setenv(name, value)
    stop = asyncio.Event()
    real: Callable[..., Awaitable[bool]] = run_forwards

    async def run_stopping(*given: Any) -> bool:
        def tell(event: Event) -> None:
            given[3](event)
            if isinstance(event, Listening):
                stop.set()

        return await real(*given[:3], tell, *given[4:])

    monkeypatch.setattr(forwarded_command, "run_forwards", run_stopping)
    place = Place(None, None, None)
    forward = NamedForward(
        name="db", place=place, forward=Forward(0, 80), request=Request(FarEnd.target)
    )
    touch = ("touch", str(tmp_path / "run"))
    status = await forwarded_command.run_with_forwards([forward], touch, None, stop)
    assert status == forwarded_command.INTERRUPTED
    assert not (tmp_path / "run").exists()


async def test_a_forward_that_cannot_be_opened(
    far_env: dict[str, str], closed_port: int, tmp_path: Path
) -> None:
    touch = ("--", "touch", tmp_path / "run")
    refused = command("--remote", str(closed_port), "--check", *touch)
    done = await run(*refused, env=far_env)
    assert (done.status, done.out) == (255, "")
    assert re.fullmatch(r"error: the target could not connect to \S+: [^\n]+\n", done.err)
    assert not (tmp_path / "run").exists()


async def test_a_forward_that_ends_leaves_the_command(
    far_env: dict[str, str], far_end: FarEnd, file: Path
) -> None:
    words = ("run", "--config", file, "web", "--", PYTHON, "-c", WAIT)
    async with started(SSMNET, *words, env=far_env) as program:
        await program.out_line("ready")
        await far_end.fault("end_sessions", output="enough")
        told = await program.err_line("the command goes on without it")
        assert "enough" in told.string
        assert program.running
        os.kill(program.pid, signal.SIGTERM)
        assert (await program.wait()).status == 5


async def test_the_command_s_own_limits_and_signals(far_env: dict[str, str]) -> None:
    script = (
        "import resource, signal; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0]); "
        "print(*[signal.getsignal(n) for n in (signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE)])"
    )
    line = "trap '' HUP; ulimit -Sn 500; exec \"$@\""
    words = command("--remote", "80", "--", PYTHON, "-c", script)
    done = await run("sh", "-c", line, "sh", *words, env=far_env)
    ignored, default = int(signal.SIG_IGN), int(signal.SIG_DFL)
    assert (done.status, done.err) == (0, "")
    # Python ignores SIGPIPE by itself.
    assert done.out.splitlines() == ["500", f"{ignored} {default} {ignored}"]


async def test_much_output_and_an_end_of_its_reader(far_env: dict[str, str]) -> None:
    words = " ".join(f"'{word}'" for word in command("--remote", "80", "--", "yes", "{port}"))
    done = await run("bash", "-c", f"{words} | head -100000 | wc -l", env=far_env)
    assert done.out.split() == ["100000"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["web"], "the command is missing"),
        (["web", "--"], "the command is missing"),
        (["--", "true"], "there is no forward"),
        (["web", "web", "--", "true"], "a forward is named twice"),
        (["corp", "--", "true"], "corp is a proxy"),
        (["wep", "--", "true"], "is web meant?"),
        (["web", "--", "echo", "{wep.port}"], "{wep.port} names no forward"),
        (["web", "by.name", "--local", "5", "--", "true"], "--local is for one forward"),
        (["web", "--local", "/tmp/s", "--", "echo", "{port}"], "a unix socket has no port"),
        (["web", "-t", "loopback", "1:2", "--sessions", "0", "--", "true"], "--sessions '0'"),
    ],
)
async def test_wrong_usage(
    aws_env: dict[str, str], file: Path, arguments: list[str], told: str
) -> None:
    done = await run(SSMNET, "run", "--config", file, *arguments, env=aws_env)
    assert (done.status, done.out) == (2, "")
    assert told in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


@FORKS
async def test_on_a_terminal(far_env: dict[str, str]) -> None:
    script = (
        "import os, signal, sys; signal.signal(signal.SIGINT, lambda *_: sys.exit(6)); "
        "print(os.isatty(0), os.isatty(1), *os.get_terminal_size()); "
        "print('read', input()); signal.pause()"
    )
    words = command("--remote", "80", "--", PYTHON, "-u", "-c", script)

    with on_terminal(*words, env=far_env, rows=30, columns=100) as terminal:
        terminal.expect("True True 100 30\r\n")
        terminal.enter("a line")
        terminal.expect("read a line\r\n")
        terminal.send("\x03")
        status, rest = terminal.end()
    assert (status, rest.replace("^C", "").strip()) == (6, "")
