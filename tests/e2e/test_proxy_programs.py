"""Real programs through ``ssmnet proxy``: curl, psql, git and ssh.

The hosts' names are known to the far end only. It fails a test that leaves a session behind.
"""

import hashlib
import random
import subprocess
import sys
from asyncio import create_subprocess_exec
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from ssmnet.loopback import Loopback

from .conftest import HttpServer, Postgres
from .processes import TIMEOUT, Done, run
from .proxies import FORBIDDEN, UNKNOWN, Proxy, far_end_with_names, proxy_running
from .site import site_running
from .sshd import find, sshd_running

pytestmark = pytest.mark.long

MIB = 1024 * 1024
# Where Debian has what `git` calls, which is in no PATH.
GIT_BACKEND = Path("/usr/lib/git-core/git-http-backend")
SOCKS_REPLIES = {"refused": 5, "unknown": 4, "forbidden": 2}
HTTP_REPLIES = {"refused": "502", "unknown": "502", "forbidden": "403"}
# curl's own: a SOCKS proxy says no, an HTTP server does, and a proxy's CONNECT.
PROXY_FAILED = 97
HTTP_ERROR = 22
RECEIVE_FAILED = 56


@pytest.fixture
async def far_end() -> AsyncIterator[Loopback]:
    async with far_end_with_names() as running:
        yield running


@pytest.fixture
async def proxy(aws_env: dict[str, str], far_end: Loopback) -> AsyncIterator[Proxy]:
    async with proxy_running(aws_env | far_end.environment) as running:
        yield running


# curl


CURL_OPTIONS = {
    "socks5": ("--socks5-hostname", "{socks}"),
    "socks4a": ("--socks4a", "{socks}"),
    "http": ("--proxy", "http://{http}"),
    "connect": ("--proxytunnel", "--proxy", "http://{http}"),
}


def curl_options(proxy: Proxy, kind: str) -> list[str]:
    addresses = {"socks": proxy.socks_address, "http": proxy.http_address}
    return [option.format(**addresses) for option in CURL_OPTIONS[kind]]


@pytest.mark.parametrize("kind", CURL_OPTIONS)
async def test_curl_fetches_and_sends(
    proxy: Proxy,
    curl: str,
    http_server: HttpServer,
    aws_env: dict[str, str],
    tmp_path: Path,
    kind: str,
) -> None:
    fetched, data = tmp_path / "fetched", tmp_path / "data"
    data.write_bytes(http_server.data)
    url = f"http://files.internal:{http_server.port}/"
    command = (curl, "--no-progress-meter", "--fail", *curl_options(proxy, kind))
    done = await run(*command, "--output", fetched, url, env=aws_env)
    assert done.status == 0, done
    assert hashlib.sha256(fetched.read_bytes()).hexdigest() == http_server.digest
    done = await run(*command, "--upload-file", data, f"{url}data", env=aws_env)
    assert (done.status, done.out) == (0, http_server.digest), done


async def test_curl_by_its_environment(
    proxy: Proxy, curl: str, http_server: HttpServer, aws_env: dict[str, str]
) -> None:
    url = f"http://files.internal:{http_server.port}/"
    for value in (f"socks5h://{proxy.socks_address}", f"http://{proxy.http_address}"):
        done = await run(curl, "--head", "--fail", url, env=aws_env | {"ALL_PROXY": value})
        assert done.status == 0, done


async def test_curl_many_at_once(
    proxy: Proxy, curl: str, aws_env: dict[str, str], far_end: Loopback, tmp_path: Path
) -> None:
    parallel = ("--parallel", "--parallel-max", "64", "--parallel-immediate", "--remote-name-all")
    command = (curl, "--silent", "--fail", *parallel, "--output-dir", tmp_path)
    async with site_running() as site:
        parts = [part for part in site.expected() if part[1].startswith(("/image", "/script"))]
        urls = [f"http://{host}:{site.port}{path}" for host, path in parts]
        for kind in CURL_OPTIONS:
            site.asked.clear()
            done = await run(*command, *curl_options(proxy, kind), *urls, env=aws_env)
            assert done.status == 0, done
            assert site.asked == dict.fromkeys(parts, 1)
    # SOCKS and HTTP share them.
    assert far_end.sessions_started == len({host for host, _ in parts})


async def test_curl_to_an_ipv6_literal(proxy: Proxy, curl: str, aws_env: dict[str, str]) -> None:
    async with site_running() as site:
        url = f"http://[::1]:{site.port}/script/3"
        for kind in CURL_OPTIONS:
            done = await run(curl, "--fail", *curl_options(proxy, kind), url, env=aws_env)
            assert (done.status, done.out) == (0, site.script(3)), done
        assert site.asked == {("::1", "/script/3"): len(CURL_OPTIONS)}


async def test_curl_has_to_know_the_password(
    curl: str, aws_env: dict[str, str], far_end: Loopback, http_server: HttpServer
) -> None:
    env = aws_env | far_end.environment | {"SSMNET_PROXY_PASSWORD": "it's a secret"}
    url = f"http://files.internal:{http_server.port}/"
    async with proxy_running(env, "--user", "me") as proxy:
        for kind in ("socks5", "http", "connect"):
            command = (curl, "--no-progress-meter", "--fail", "--head", *curl_options(proxy, kind))
            done = await run(*command, "--proxy-user", "me:it's a secret", url, env=aws_env)
            assert done.status == 0, done
            for wrong in ((), ("--proxy-user", "me:it's another")):
                done = await run(*command, *wrong, url, env=aws_env)
                assert done.status in {PROXY_FAILED, RECEIVE_FAILED, HTTP_ERROR}, done
    assert far_end.sessions_started == 1


def failing_urls(closed_port: int) -> dict[str, str]:
    return {
        "refused": f"http://host.internal:{closed_port}/",
        "unknown": f"http://{UNKNOWN}:{closed_port}/",
        "forbidden": f"http://{FORBIDDEN}/",
    }


async def test_curl_is_told_by_socks_why_not(
    proxy: Proxy, curl: str, aws_env: dict[str, str], closed_port: int
) -> None:
    command = (curl, "--no-progress-meter", *curl_options(proxy, "socks5"))
    for why, url in failing_urls(closed_port).items():
        done = await run(*command, url, env=aws_env)
        assert done.status == PROXY_FAILED, done
        assert f"({SOCKS_REPLIES[why]})" in done.err


async def test_curl_is_told_by_http_why_not(
    proxy: Proxy, curl: str, aws_env: dict[str, str], closed_port: int
) -> None:
    command = (curl, "--no-progress-meter", "--write-out")
    for why, url in failing_urls(closed_port).items():
        plain = ("\n%{http_code}", *curl_options(proxy, "http"))
        done = await run(*command, *plain, url, env=aws_env)
        assert done.status == 0, done
        assert done.out.endswith(f"\n{HTTP_REPLIES[why]}")
        tunnel = ("\n%{http_connect}", *curl_options(proxy, "connect"))
        done = await run(*command, *tunnel, url, env=aws_env)
        assert done.status == RECEIVE_FAILED, done
        assert done.out.endswith(f"\n{HTTP_REPLIES[why]}")


# psql


async def test_psql_through_a_socks_wrapper(
    proxy: Proxy, postgres: Postgres, tmp_path: Path
) -> None:
    wrapper = find("proxychains4")
    config = tmp_path / "proxychains.conf"
    ask = "select n || repeat('x', 1000) from generate_series(1, 5000) n"
    expected = postgres.run("psql", "-Atc", ask)
    psql = (postgres.binaries / "psql", "-At", "-h", "db.internal", "-c", ask)
    for kind, port in (("socks5", proxy.socks), ("socks4", proxy.socks), ("http", proxy.http)):
        config.write_text(
            f"strict_chain\nquiet_mode\nproxy_dns\n[ProxyList]\n{kind} 127.0.0.1 {port}\n"
        )
        done = await run(wrapper, "-f", config, *psql, env=postgres.env())
        assert done.status == 0, done
        assert done.out == expected


# git


@pytest.fixture
async def git_server(tmp_path: Path) -> AsyncIterator[int]:
    """Serve the repositories in a folder as git does by HTTP, with its own program."""
    if not GIT_BACKEND.exists():
        pytest.skip("NO GIT-HTTP-BACKEND: run tests/e2e/install.sh as root, or install git")
    folder = tmp_path / "served"
    folder.mkdir()

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        env = {
            "GIT_PROJECT_ROOT": str(folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "HTTP_GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "REMOTE_USER": "somebody",  # who may push
        }
        process = await create_subprocess_exec(GIT_BACKEND, env=env, stdin=PIPE, stdout=PIPE)
        head, _, content = (await process.communicate(body))[0].partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        status = int(headers.pop("Status", "200").split()[0])
        return web.Response(status=status, body=content, headers=headers)

    application = web.Application(client_max_size=64 * MIB)
    application.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield int(runner.addresses[0][1])
    await runner.cleanup()


def commit_something(folder: Path, env: dict[str, str]) -> None:
    """Have a repository, with some MB in it, that can be pushed to from elsewhere."""
    origin = folder / "served" / "project.git"
    git(env, "init", "--quiet", "--initial-branch=main", str(origin))
    (origin / "data").write_bytes(random.Random(2).randbytes(4 * MIB))
    git(env, "-C", str(origin), "add", "data")
    git(env, "-C", str(origin), "commit", "--quiet", "--message=One")
    git(env, "-C", str(origin), "config", "receive.denyCurrentBranch", "ignore")


def git(env: dict[str, str], *arguments: str) -> str:
    command = ("git", *arguments)
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("scheme", ["http", "socks5h", "socks4a"])
async def test_git_clones_and_pushes(
    proxy: Proxy, git_server: int, aws_env: dict[str, str], tmp_path: Path, scheme: str
) -> None:
    find("git")
    who = {
        f"GIT_{role}_{what}": "me" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    env = aws_env | who | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0"}
    commit_something(tmp_path, env)
    clone = tmp_path / "clone"

    address = proxy.http_address if scheme == "http" else proxy.socks_address
    # The small buffer makes git send what it pushes in chunks, of a length that is not told before.
    options = ("-c", f"http.proxy={scheme}://{address}", "-c", "http.postBuffer=65536")
    url = f"http://git.internal:{git_server}/project.git"
    done = await run("git", *options, "clone", "--quiet", url, clone, env=env)
    assert done.status == 0, done
    assert (clone / "data").read_bytes() == random.Random(2).randbytes(4 * MIB)

    (clone / "more").write_bytes(random.Random(3).randbytes(2 * MIB))
    git(env, "-C", str(clone), "add", "more")
    git(env, "-C", str(clone), "commit", "--quiet", "--message=Two")
    done = await run("git", *options, "-C", clone, "push", "--quiet", "origin", "main", env=env)
    assert done.status == 0, done
    origin = str(tmp_path / "served" / "project.git")
    assert git(env, "-C", origin, "rev-parse", "main") == git(
        env, "-C", str(clone), "rev-parse", "main"
    )
    git(env, "-C", origin, "fsck", "--full", "--strict")


# ssh


@pytest.mark.skipif(sys.platform == "win32", reason="there is no sshd to run as oneself")
@pytest.mark.parametrize("kind", ["5", "connect"])
async def test_ssh_by_a_proxy_command(
    proxy: Proxy, aws_env: dict[str, str], tmp_path: Path, kind: str
) -> None:
    netcat = find("nc")
    address = proxy.http_address if kind == "connect" else proxy.socks_address
    command = f"ProxyCommand={netcat} -X {kind} -x {address} %h %p"
    folder = tmp_path / "ssh"
    folder.mkdir()
    data = random.Random(4).randbytes(MIB)
    (tmp_path / "data").write_bytes(data)
    async with sshd_running(folder, aws_env) as ssh:
        done: Done = await ssh.run("-o", command, "host.internal", f"sha256sum {tmp_path}/data")
    assert done.status == 0, done
    assert done.out.split()[0] == hashlib.sha256(data).hexdigest()
