"""Every example runs as it stands, with real servers behind the far end, and is short."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from ssmnet.loopback import Loopback
from tests.io.sessions import eventually

from . import servers
from .processes import TIMEOUT, Done, far_end_running, run, started

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MAX_LINES = 39
LONGER = {"httpx_transport": 80}  # httpx connects before it tells of TLS: there is a class to write
# Whatever is not closed is told on stderr, where nothing may be.
PYTHON = (sys.executable, "-W", "default::ResourceWarning")

# Without what other plugins of this environment warn of.
PYTEST = ("-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:hypothesispytest", "-W", "error")

# What the programs print, as patterns, by who has to be there for it.
BY_DATABASE = {
    "asyncpg_forward": r"3 orders",
    "notebook": r"order 1: 10 EUR\norder 2: 20 EUR\norder 3: 30 EUR\nfree disk: plenty",
    "psycopg_async": r"\(60,\)",
    "sqlalchemy_engine": r"1 10\n2 20\n3 30",
}
BY_CACHE = {
    "events_and_statistics": r"Listening\nConnected\nup: 1 connection\nDisconnected\nClosed",
    "is_it_up": r"cache\.internal:6379 up\ncache\.internal:9 DestinationRefused",
    "redis_connection": r"b'hello'",
}
BY_SITE = {
    "aiohttp_client": r"hello by http 1\nhello by https 2\nhello by https 2",
    "httpx_client": r"hello by https 1\nhello by https 1",
    "httpx_transport": r"hello by http 1\nhello by https 2\nhello by https 2",
    "proxy_in_application": r"hello by https\nhello by http",
    "tls_stream": r"certificate of site\.internal\nHTTP/1\.1 200 OK",
}
BY_BASTION = {
    "asyncssh_tunnel": r"hello from the bastion",
    "banner_protocol": r"SSH-2\.0-OpenSSH.*",
}
# Each of these has a test of its own.
OTHERS = {
    "aiohttp_service",
    "attach_session",
    "fastapi_service",
    "run_command",
    "test_with_loopback",
}
ALL = sorted([*BY_DATABASE, *BY_CACHE, *BY_SITE, *BY_BASTION, *OTHERS])
# The loop is the program's own choice, so this makes it uvloop's.
ON_UVLOOP = """
import asyncio, runpy, sys, uvloop
def run(main):
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
asyncio.run = run
runpy.run_path(sys.argv[1], run_name="__main__")
"""
WRONG_NAME = r"Hostname mismatch|does not match host name"


@pytest.fixture(scope="module")
def address() -> str:
    return servers.unused_address()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> servers.Authority:
    return servers.Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def database(address: str, authority: servers.Authority) -> Iterator[None]:
    with servers.postgres_running(address, authority):
        yield


@pytest.fixture(scope="module")
def cache(address: str) -> Iterator[None]:
    with servers.redis_running(address):
        yield


@pytest.fixture(scope="module")
def bastion(address: str, home: Path) -> Iterator[None]:
    with servers.sshd_running(address, home):
        yield


@pytest.fixture
async def site(address: str, authority: servers.Authority) -> AsyncIterator[None]:
    async with servers.site_running(address, authority):
        yield


@pytest.fixture
async def far(address: str) -> AsyncIterator[Loopback]:
    """The far end. An example fails that leaves a session or a connection there."""
    names = servers.far_names(address) | {"wrong.internal": address}
    async with Loopback(names=names, first_output_delay=0.0, allow_unsigned=True) as loopback:
        yield loopback
        assert loopback.sessions_started > 0
        await eventually(lambda: not loopback.sessions and not loopback.connections)


@pytest.fixture
def env(
    aws_env: dict[str, str], far: Loopback, home: Path, authority: servers.Authority
) -> dict[str, str]:
    """What a shell has after the exports of ``ssmnet loopback``; and whom to trust."""
    trusted = {"SSL_CERT_FILE": str(authority.file)}
    return aws_env | far.environment | trusted | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def path(name: str) -> Path:
    return EXAMPLES / f"{name}.py"


def check(done: Done, expected: str) -> None:
    assert (done.status, done.err) == (0, ""), done
    assert re.fullmatch(expected, done.out.strip()), done.out


async def talk(program: Path, *, env: dict[str, str], given: str = "") -> Done:
    """Run a program to its end, which may be a traceback, with something on its stdin."""
    process = await asyncio.create_subprocess_exec(
        *PYTHON, program, env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    try:
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate(given.encode())
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


def test_each_example_is_run_and_told_of() -> None:
    assert sorted(found.stem for found in EXAMPLES.glob("*.py")) == ALL
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.py\) \|", readme, re.MULTILINE)) == ALL


@pytest.mark.parametrize("name", ALL)
def test_an_example_is_short(name: str) -> None:
    assert len(path(name).read_text("utf-8").splitlines()) <= LONGER.get(name, MAX_LINES)


@pytest.mark.parametrize("name", BY_DATABASE)
@pytest.mark.usefixtures("database")
async def test_with_a_database(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, path(name), env=env), BY_DATABASE[name])


@pytest.mark.parametrize("name", BY_CACHE)
@pytest.mark.usefixtures("cache")
async def test_with_a_cache(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, path(name), env=env), BY_CACHE[name])


@pytest.mark.parametrize("name", BY_SITE)
@pytest.mark.usefixtures("site")
async def test_with_a_site(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, path(name), env=env), BY_SITE[name])


@pytest.mark.parametrize("name", BY_BASTION)
@pytest.mark.usefixtures("bastion")
async def test_with_a_bastion(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, path(name), env=env), BY_BASTION[name])


@pytest.mark.usefixtures("cache")
async def test_as_people_are_told_to(aws_env: dict[str, str], home: Path, address: str) -> None:
    """With ``ssmnet loopback`` and its exports; the servers are at another address than theirs."""
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    names = re.findall(r"--name ([a-z.]+)=127\.0\.0\.1\b", readme)
    assert sorted(names) == sorted(servers.NAMES)
    options = [text for name in names for text in ("--name", f"{name}={address}")]
    async with far_end_running(aws_env, *options) as far_end:
        env = aws_env | far_end.exports | {"HOME": str(home)}
        done = await run(*PYTHON, path("redis_connection"), env=env)
    check(done, BY_CACHE["redis_connection"])


async def test_with_the_instance_alone(env: dict[str, str]) -> None:
    check(await run(*PYTHON, path("run_command"), env=env), "3 out err")


# The certificate is that of the host, whichever loop checks it; and it is checked.


@pytest.mark.long
@pytest.mark.parametrize("name", BY_SITE)
@pytest.mark.usefixtures("site")
async def test_with_a_site_on_uvloop(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, "-c", ON_UVLOOP, path(name), env=env), BY_SITE[name])


@pytest.mark.long
@pytest.mark.parametrize("name", ["asyncpg_forward", "psycopg_async"])
@pytest.mark.usefixtures("database")
async def test_with_a_database_on_uvloop(name: str, env: dict[str, str]) -> None:
    check(await run(*PYTHON, "-c", ON_UVLOOP, path(name), env=env), BY_DATABASE[name])


@pytest.mark.long
@pytest.mark.usefixtures("bastion")
async def test_with_a_bastion_on_uvloop(env: dict[str, str]) -> None:
    name = "asyncssh_tunnel"
    check(await run(*PYTHON, "-c", ON_UVLOOP, path(name), env=env), BY_BASTION[name])


@pytest.mark.long
@pytest.mark.parametrize("name", BY_SITE)
@pytest.mark.usefixtures("site")
async def test_a_site_of_another_name(name: str, env: dict[str, str], tmp_path: Path) -> None:
    await check_refused(name, "site.internal", env, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", BY_DATABASE)
@pytest.mark.usefixtures("database")
async def test_a_database_of_another_name(name: str, env: dict[str, str], tmp_path: Path) -> None:
    await check_refused(name, "db.internal", env, tmp_path)


async def check_refused(name: str, host: str, env: dict[str, str], folder: Path) -> None:
    """The example, led to a server whose certificate names another host."""
    changed = folder / "changed.py"
    changed.write_text(path(name).read_text("utf-8").replace(host, "wrong.internal"), "utf-8")
    done = await talk(changed, env=env)
    assert done.status == 1, done
    assert re.search(WRONG_NAME, done.err), done


# Services, and what others have to do with.


@pytest.mark.usefixtures("database")
async def test_a_fastapi_service(env: dict[str, str]) -> None:
    command = (*PYTHON, "-m", "uvicorn", "--port", "0", "--app-dir", EXAMPLES)
    async with started(*command, "fastapi_service:app", env=env) as service:
        url = (await service.err_line(r"running on (http://\S+)"))[1]
        async with aiohttp.ClientSession(raise_for_status=True) as http:
            async with http.get(f"{url}/orders/2") as response:
                assert await response.json() == {"price": 20}
            async with http.get(f"{url}/health") as response:
                assert await response.json() == {"tunnel": "up"}
        assert (await service.end()).status == 0


@pytest.mark.usefixtures("cache")
async def test_an_aiohttp_service(env: dict[str, str], tmp_path: Path) -> None:
    socket = tmp_path / "socket"
    command = (*PYTHON, "-u", "-m", "aiohttp.web", "-U", socket, "aiohttp_service:make_app")
    async with started(*command, env=env | {"PYTHONPATH": str(EXAMPLES)}) as service:
        await service.out_line("Running on")
        connector = aiohttp.UnixConnector(str(socket))
        async with aiohttp.ClientSession(connector=connector, raise_for_status=True) as http:
            for number in (1, 2):
                async with http.get("http://localhost/") as response:
                    assert await response.text() == f"visit {number}\n"
        assert (await service.end()).status == 0


# As another program starts a session, with credentials that are its own.
START = """
import json, sys, botocore.session
ssm = botocore.session.get_session().create_client("ssm")
parameters = {"host": ["cache.internal"], "portNumber": ["6379"]}
answer = ssm.start_session(
    Target="i-0123456789abcdef0",
    DocumentName="AWS-StartPortForwardingSessionToRemoteHost",
    Parameters=parameters,
)
print(json.dumps(answer))
"""


@pytest.mark.usefixtures("cache")
async def test_a_session_started_elsewhere(env: dict[str, str]) -> None:
    answer = await run(*PYTHON, "-c", START, env=env)
    assert json.loads(answer.out)["SessionId"], answer
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del env[name]
    done = await talk(path("attach_session"), env=env, given=answer.out)
    check(done, r"\+PONG")


async def test_the_tests_of_a_user(aws_env: dict[str, str], tmp_path: Path) -> None:
    """Outside this project, whose own fixtures it must not need."""
    example = tmp_path / "test_with_loopback.py"
    example.write_bytes(path("test_with_loopback").read_bytes())
    done = await run(*PYTHON, *PYTEST, example, env=aws_env)
    assert (done.status, done.err) == (0, ""), done
    assert re.search(r"^2 passed", done.out, re.MULTILINE), done.out
