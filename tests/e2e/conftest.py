"""Real programs for the end-to-end tests: the AWS CLI, PostgreSQL, ssmnet's own, HTTP to talk."""

import hashlib
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from aiohttp import web

from .aws_cli import AwsCli, Command, find_aws_cli
from .processes import SSMNET, FarEnd, Program, far_end_running, started

SERVER_TIMEOUT = 30  # s, to make a database cluster or to start it; a busy machine needs some


@pytest.fixture
def aws_env(tmp_path: Path) -> dict[str, str]:
    """Return an environment with throw-away credentials, in which nothing of the user's is found.

    No profile, proxy, endpoint or certificate comes from outside, and no instance metadata is asked
    for. ``ssmnet`` and its ``session-manager-plugin`` are first on PATH.
    """
    home = tmp_path / "home"
    home.mkdir()
    passed_on = ("LANG", "LC_ALL", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR")
    return {name: os.environ[name] for name in passed_on if name in os.environ} | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(home),
        "USERPROFILE": str(home),
        "AWS_CONFIG_FILE": str(home / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "credentials"),
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_PAGER": "",
        "AWS_CLI_AUTO_PROMPT": "off",
    }


@pytest.fixture
async def far_end(aws_env: dict[str, str], request: pytest.FixtureRequest) -> AsyncIterator[FarEnd]:
    """Run ``ssmnet loopback``, with the options that an indirect parameter names.

    The test fails if it leaves a session open there.
    """
    async with far_end_running(aws_env, *getattr(request, "param", ())) as running:
        yield running


@pytest.fixture
def far_env(aws_env: dict[str, str], far_end: FarEnd) -> dict[str, str]:
    """Return the environment of a shell in which the exports of the far end were run."""
    return aws_env | far_end.exports


Start = Callable[..., Awaitable[Program]]


@pytest.fixture
async def forward(far_env: dict[str, str]) -> AsyncIterator[Start]:
    """Start ``ssmnet forward`` through the far end, any number of times.

    The test fails if one does not end well on Ctrl-C, or leaves a process behind.
    """
    async with AsyncExitStack() as stack:

        async def start(*arguments: str | Path, env: dict[str, str] = far_env) -> Program:
            command = (SSMNET, "forward", "-t", FarEnd.target, *arguments)
            return await stack.enter_async_context(started(*command, env=env))

        yield start


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port on which nobody listens: it is taken, but not to listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def free_ports() -> list[int]:
    """Return ports that are free on 127.0.0.1 and ::1, at least for now."""
    return [free_port() for _ in range(4)]


class HttpServer(NamedTuple):
    """Sends ``data`` to a GET, and answers a PUT with the SHA-256 of what came."""

    port: int
    data: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@pytest.fixture
async def http_server() -> AsyncIterator[HttpServer]:
    data = random.Random(1).randbytes(16 * 1024 * 1024)

    async def get(_: web.Request) -> web.Response:
        return web.Response(body=data)

    async def put(request: web.Request) -> web.Response:
        digest = hashlib.sha256()
        async for chunk in request.content.iter_any():
            digest.update(chunk)
        return web.Response(text=digest.hexdigest())

    application = web.Application()
    application.add_routes([web.get("/", get), web.put("/{name}", put)])
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield HttpServer(runner.addresses[0][1], data)
    await runner.cleanup()


@pytest.fixture(scope="session")
def curl() -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("NO CURL: run tests/e2e/install.sh as root, or install it")
    return program


@pytest.fixture(scope="session")
def aws_cli() -> Path:
    """Return the real AWS CLI of version 1, which is on PyPI."""
    return find_aws_cli(1).program


@pytest.fixture(scope="session", params=[1, 2], ids=["v1", "v2"])
def each_aws_cli(request: pytest.FixtureRequest) -> AwsCli:
    """Run the test with either version of the real AWS CLI."""
    return find_aws_cli(request.param)


class Postgres(NamedTuple):
    """A running PostgreSQL server that trusts everyone on this machine."""

    binaries: Path
    port: int
    host: str = "127.0.0.1"
    user: str = "postgres"

    def env(self, port: int | None = None) -> dict[str, str]:
        """Return the environment that leads libpq's programs here, or to another local port."""
        return {
            "PATH": os.pathsep.join([str(self.binaries), os.environ["PATH"]]),
            "PGHOST": self.host,
            "PGPORT": str(port or self.port),
            "PGUSER": self.user,
            "PGDATABASE": "postgres",
            "PGCONNECT_TIMEOUT": "10",
        }

    def run(self, *command: str, port: int | None = None, timeout: float = 60) -> str:
        """Run psql, pgbench and the like against the server, or through a forward of it."""
        done = subprocess.run(
            [self.binaries / command[0], *command[1:]],
            env=self.env(port),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL server with a database cluster of its own; stop it at the end."""
    binaries = find_postgres()
    owner = postgres_owner()
    # Not below pytest's own folder, which is closed to the server's user.
    with tempfile.TemporaryDirectory(prefix="ssmnet-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if owner:
            shutil.chown(folder, owner, owner)
        data = folder / "data"
        initdb: Command = [binaries / "initdb", "-D", data, "-U", "postgres", "-E", "UTF8"]
        server_command([*initdb, "--locale=C", "--auth=trust", "--no-sync"], folder, owner)
        port = start_postgres(binaries / "pg_ctl", folder, owner)
        try:
            yield Postgres(binaries, port)
        finally:
            pg_ctl = binaries / "pg_ctl"
            server_command([pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"], folder, owner)


def find_postgres() -> Path:
    """Return the folder with the server's programs; Debian does not put them on PATH."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/pg_ctl")
    found = max(debian, key=lambda path: float(path.parts[4]), default=None)
    anywhere = found or shutil.which("pg_ctl")
    if anywhere is None:
        pytest.skip("NO POSTGRESQL SERVER: run tests/e2e/install.sh as root, or install one")
    return Path(anywhere).parent


def postgres_owner() -> str | None:
    """Return the user to run the server as: PostgreSQL refuses root. None means ourselves."""
    if sys.platform == "win32" or os.geteuid() != 0:
        return None
    import pwd

    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("NO USER postgres: the server refuses to run as root, and there is none else")


def start_postgres(pg_ctl: Path, folder: Path, owner: str | None) -> int:
    """Start the server and return its port. A free port may be gone by then, so try a few."""
    for last_try in (False, False, True):
        port = free_port()
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder}"
        )
        options += " -c fsync=off -c max_connections=200"
        start: Command = [pg_ctl, "-D", folder / "data", "-l", folder / "log", "-o", options]
        try:
            server_command([*start, "-w", "start"], folder, owner)
        except ServerCommandError as error:
            error.add_note((folder / "log").read_text())
            if last_try:
                raise
        else:
            break
    return port


class ServerCommandError(Exception):
    """initdb or pg_ctl failed; says what it said."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def server_command(command: Command, folder: Path, owner: str | None) -> None:
    """Run one of the server's programs as its user. What it says goes to a file: the server that
    pg_ctl leaves behind would hold a pipe open.
    """
    transcript = folder / "commands"
    with transcript.open("ab") as said:
        done = subprocess.run(
            command,
            cwd=folder,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            timeout=SERVER_TIMEOUT,
            check=False,
            user=owner,
            group=owner,
            extra_groups=[] if owner else None,
        )
    if done.returncode:
        raise ServerCommandError(f"{command}: {transcript.read_text()}")
