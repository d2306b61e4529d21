"""OpenSSH through sessions, to a real sshd: what people do with ``ssh i-0123456789abcdef0``.

The far end fails a test that leaves a session behind.
"""

import asyncio
import hashlib
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from .conftest import HttpServer, free_port
from .processes import TIMEOUT, Done, FarEnd, run
from .sshd import Ssh, find, over_ssh, sshd_running

if sys.platform == "win32":
    pytest.skip("there is no sshd to run as oneself", allow_module_level=True)

from .terminals import FORKS, on_terminal

pytestmark = pytest.mark.long

MIB = 1024 * 1024
SIZE = 64 * MIB
COPY_TIMEOUT = 100.0  # s for 64 MiB each way, on a busy machine
CUT_SIZE = 4 * MIB


@pytest.fixture
async def ssh(far_env: dict[str, str], tmp_path: Path) -> AsyncIterator[Ssh]:
    folder = tmp_path / "ssh"
    folder.mkdir()
    async with sshd_running(folder, far_env) as running:
        yield running


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture
def big_file(tmp_path: Path) -> Path:
    path = tmp_path / "big"
    path.write_bytes(random.Random(1).randbytes(SIZE))
    return path


async def copy(ssh: Ssh, *command: str | Path, **env: str) -> None:
    async with over_ssh(*command, env={**ssh.env, **env}) as program:
        done = await program.wait(COPY_TIMEOUT)
    assert done.status == 0, done


# Commands.


@pytest.mark.parametrize("status", [0, 7, 255])
async def test_a_command_and_its_exit_status(ssh: Ssh, status: int) -> None:
    done = await ssh.run(ssh.host, f"echo out; echo err >&2; exit {status}")
    assert done == Done(status, "out\n", "err\n")


async def test_a_user_and_a_port_of_one_s_own(ssh: Ssh) -> None:
    """``user@host -p port`` as with any host: ssh hands on the name of the host alone."""
    port = ssh.settings("port")
    away = ("-o", "Port=1")
    user = ssh.settings("user")
    done = await ssh.run("-p", port, *away, f"{user}@{ssh.host}", "id -un")
    assert done == Done(0, f"{user}\n", "")


async def test_stdin_is_the_command_s_and_its_end_is_passed_on(ssh: Ssh) -> None:
    payload = random.Random(2).randbytes(MIB)
    process = await asyncio.create_subprocess_exec(
        *ssh.program,
        ssh.host,
        "sha256sum",
        env=ssh.env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(TIMEOUT):
        out, _ = await process.communicate(payload)
    assert out.decode() == f"{hashlib.sha256(payload).hexdigest()}  -\n"
    assert process.returncode == 0


async def test_many_logins_at_once(ssh: Ssh) -> None:
    done = await asyncio.gather(*(ssh.run(ssh.host, f"echo {n}") for n in range(5)))
    assert done == [Done(0, f"{n}\n", "") for n in range(5)]


@FORKS
async def test_a_login_on_a_terminal(ssh: Ssh, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    errors = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = f'"$@" 2>{fifo}'
    login = ("sh", "-c", command, "sh", *ssh.program, "-tt", ssh.host, "exec sh -i")
    with on_terminal(*login, env=ssh.env, rows=30, columns=90) as terminal:
        terminal.enter("PS1='now> '; stty -echo; stty size")
        terminal.expect("30 90\r\n")
        terminal.enter("echo begun; cat")
        terminal.expect("begun\r\n")
        terminal.send("\x03")  # ends cat, not the shell
        terminal.expect("now> ")
        terminal.enter("echo still $((6 * 7))")
        terminal.expect("still 42\r\n")
        terminal.enter("exit 3")
        terminal.expect(r"after 3 ")
        # The ProxyCommand has it open until it ends.
        os.set_blocking(errors, True)
        assert os.read(errors, 1000) == b""
    os.close(errors)


# Copies.


async def test_scp_of_a_big_file_each_way(ssh: Ssh, big_file: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    scp = (find("scp"), "-F", ssh.config)
    await copy(ssh, *scp, big_file, f"{ssh.host}:{there}")
    assert digest(there) == digest(big_file)
    await copy(ssh, *scp, f"{ssh.host}:{there}", back)
    assert digest(back) == digest(big_file)


async def test_rsync_of_a_big_file_each_way(ssh: Ssh, big_file: Path, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    rsync = (find("rsync"), "--whole-file", "-e", " ".join(ssh.program))
    await copy(ssh, *rsync, big_file, f"{ssh.host}:{there}")
    assert digest(there) == digest(big_file)
    await copy(ssh, *rsync, f"{ssh.host}:{there}", back)
    assert digest(back) == digest(big_file)


async def test_a_git_clone(ssh: Ssh, tmp_path: Path) -> None:
    origin, clone = tmp_path / "origin", tmp_path / "clone"
    git = find("git")
    (tmp_path / "home" / ".gitconfig").write_text("[user]\n name = me\n email = me@example.com\n")
    await copy(ssh, git, "init", "-q", origin)
    (origin / "file").write_bytes(random.Random(3).randbytes(MIB))
    await copy(ssh, git, "-C", origin, "add", "file")
    await copy(ssh, git, "-C", origin, "commit", "-q", "-m", "One")
    # What reads there is not the owner in every set-up.
    url = f"ssh://{ssh.host}{origin}"
    pack = f"GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' {git}"
    command = " ".join(ssh.program)
    await copy(
        ssh, git, "clone", "-q", "-u", f"{pack} upload-pack", url, clone, GIT_SSH_COMMAND=command
    )
    assert digest(clone / "file") == digest(origin / "file")


# Forwards of ssh's own.


async def fetch(curl: str, port: int, server: HttpServer, *options: str) -> None:
    url = f"http://127.0.0.1:{port}/"
    done = await run(curl, "-sS", *options, "-T", "-", url + "x", env={"PATH": os.environ["PATH"]})
    assert done == Done(0, hashlib.sha256(b"").hexdigest(), "")
    process = await asyncio.create_subprocess_exec(
        curl, "-sS", *options, url, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(TIMEOUT):
        out, _ = await process.communicate()
    assert hashlib.sha256(out).hexdigest() == server.digest


async def test_a_local_forward(ssh: Ssh, http_server: HttpServer, curl: str) -> None:
    port = free_port()
    async with ssh.held("-L", f"{port}:127.0.0.1:{http_server.port}"):
        await asyncio.gather(*(fetch(curl, port, http_server) for _ in range(3)))


async def test_a_socks_proxy(ssh: Ssh, http_server: HttpServer, curl: str) -> None:
    port = free_port()
    async with ssh.held("-D", str(port)):
        options = ("--socks5-hostname", f"127.0.0.1:{port}")
        await fetch(curl, http_server.port, http_server, *options)


async def test_one_connection_for_many(ssh: Ssh) -> None:
    """ControlMaster: the others start no session, or else their ProxyCommand would fail them."""
    control = ("-o", f"ControlPath={ssh.folder}/master")
    async with ssh.held(*control, "-o", "ControlMaster=yes"):
        done = await asyncio.gather(
            *(
                ssh.run(*control, "-o", "ProxyCommand=false", ssh.host, f"echo {number}; exit 5")
                for number in range(3)
            )
        )
        assert done == [Done(5, f"{number}\n", "") for number in range(3)]


# Losses.


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[asyncio.StreamReader]:
    """Read from a FIFO, whose writer waits for us: we know how far it has come."""
    os.mkfifo(path)
    # Open for both, it has no end before its writer comes.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0) as fifo:
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), fifo
        )
        try:
            yield reader
        finally:
            transport.close()


# The agent repairs one lost message in 100 ms: without its pace, sockets hold a minute's work.
@pytest.mark.parametrize("far_end", [("--pace",)], indirect=True)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
async def test_scp_survives_a_cut_of_the_websocket(
    ssh: Ssh, far_end: FarEnd, tmp_path: Path, up: bool
) -> None:
    file, fifo = tmp_path / "file", tmp_path / "fifo"
    file.write_bytes(random.Random(2).randbytes(CUT_SIZE))
    source, sink = (str(file), f"{ssh.host}:{fifo}") if up else (f"{ssh.host}:{file}", fifo)
    # The older protocol writes one byte after the other, also into a FIFO.
    command = (find("scp"), "-F", ssh.config, "-O", source, sink)
    found = hashlib.sha256()
    async with reading(fifo) as reader, over_ssh(*command, env=ssh.env) as scp:
        async with asyncio.timeout(COPY_TIMEOUT):
            found.update(await reader.readexactly(CUT_SIZE // 2))
            await far_end.fault("cut_clients")
            found.update(await reader.readexactly(CUT_SIZE // 2))
            done = await scp.wait(COPY_TIMEOUT)
    assert (done.status, done.err) == (0, "")
    assert found.hexdigest() == digest(file)


async def test_a_login_survives_a_cut_of_the_websocket(ssh: Ssh, far_end: FarEnd) -> None:
    async with ssh.held():
        await far_end.fault("cut_clients")


async def test_ssh_ends_with_its_session(ssh: Ssh, far_end: FarEnd) -> None:
    async with ssh.held() as held:
        await far_end.fault("end_sessions", output="maximum duration")
        done = await held.wait()
    assert done.status == 255
    assert "error: the session was closed: maximum duration\n" in done.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP, signal.SIGINT])
async def test_no_session_outlives_ssh(ssh: Ssh, number: signal.Signals) -> None:
    """Not even one that is killed, and can't tell its ProxyCommand."""
    async with ssh.held() as held:
        os.kill(held.pid, number)
        await held.wait()


async def test_under_nohup_too(ssh: Ssh) -> None:
    """There the ProxyCommand is deaf to ssh's SIGHUP, and has to notice by itself."""
    command = (find("nohup"), *ssh.program, ssh.host, "echo hi")
    async with over_ssh(*command, env=ssh.env) as program:
        done = await program.wait()
    assert (done.status, done.out) == (0, "hi\n")


async def test_a_port_where_no_sshd_is(ssh: Ssh, closed_port: int) -> None:
    done = await ssh.run("-p", str(closed_port), ssh.host, "true")
    assert done.status == 255
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "Unable to connect to specified port" in line


async def test_an_instance_that_is_not_there(ssh: Ssh) -> None:
    done = await ssh.run("i-00000000000000000", "true")
    assert done.status == 255
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert "i-00000000000000000" in line
