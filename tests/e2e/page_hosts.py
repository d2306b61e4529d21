"""The hosts that pages speak of, as real servers on addresses of a network of their own.

Each is started only for a page that names it. They run in the namespaces that ``pages`` makes, so
they have the ports that users know.
"""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trustme
from aiohttp import web

from .conftest import find_postgres, postgres_owner, server_command
from .sshd import PRIVILEGE_SEPARATION, SSHD, find

if sys.platform == "win32":
    raise ImportError("there are no namespaces on Windows")

INSTANCE = "127.0.0.1"
HOSTS = {
    "db.internal": "127.0.0.2",
    "cache.internal": "127.0.0.3",
    "site.internal": "127.0.0.4",
    "git.internal": "127.0.0.5",
    "bastion.internal": "127.0.0.6",
}
KNOWN = HOSTS | {"localhost": INSTANCE}
# Where Debian's curl, git and OpenSSL look.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
START_TIMEOUT = 30  # s; a busy machine needs some


@asynccontextmanager
async def hosts_running(text: str, folder: Path, env: Mapping[str, str]) -> AsyncIterator[None]:
    """Run those that the page ``text`` names. ``folder`` is for what they keep."""
    async with AsyncExitStack() as stack:
        if "db.internal" in text:
            await stack.enter_async_context(_postgres(folder / "postgres"))
        if "cache.internal" in text:
            await stack.enter_async_context(_redis(folder / "redis"))
        if re.search(r"(site|git)\.internal|\b(80|443)\b", text):
            await stack.enter_async_context(_site(folder))
        if re.search(r"\b(ssh|scp|rsync|sftp)\b|bastion\.internal", text):
            await stack.enter_async_context(_sshd(folder / "sshd", env))
        yield


@asynccontextmanager
async def _postgres(folder: Path) -> AsyncIterator[None]:
    """A server with a database ``app`` of a user ``app``, who needs no password."""
    binaries, owner = find_postgres(), postgres_owner()
    folder.mkdir()
    if owner:
        shutil.chown(folder, owner, owner)
    data, pg_ctl = folder / "data", binaries / "pg_ctl"
    initdb: list[str | Path] = [
        binaries / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--locale=C",
    ]
    server_command([*initdb, "--auth=trust", "--no-sync"], folder, owner)
    options = f"-c listen_addresses={HOSTS['db.internal']} -c unix_socket_directories={folder}"
    options += " -c fsync=off -c shared_buffers=16MB"
    log = folder / "log"
    server_command([pg_ctl, "-D", data, "-l", log, "-o", options, "-w", "start"], folder, owner)
    try:
        psql: list[str | Path] = [binaries / "psql", "-q", "-h", folder, "-U", "postgres"]
        for statement in ("CREATE ROLE app LOGIN", "CREATE DATABASE app OWNER app"):
            server_command([*psql, "-c", statement], folder, owner)
        yield
    finally:
        server_command([pg_ctl, "-D", data, "-m", "immediate", "-w", "stop"], folder, owner)


@asynccontextmanager
async def _redis(folder: Path) -> AsyncIterator[None]:
    folder.mkdir()
    host = HOSTS["cache.internal"]
    options = ("--bind", host, "--save", "", "--dir", str(folder), "--protected-mode", "no")
    async with _server(find("redis-server"), *options, listens=(host, 6379), log=folder / "log"):
        yield


@asynccontextmanager
async def _server(
    *command: str | Path, listens: tuple[str, int], log: Path, env: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    with log.open("wb") as said:
        server = await asyncio.create_subprocess_exec(
            *command, env=env, stdin=DEVNULL, stdout=said, stderr=STDOUT, start_new_session=True
        )
    try:
        await _connectable(server, *listens, log)
        yield
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


async def _connectable(server: asyncio.subprocess.Process, host: str, port: int, log: Path) -> None:
    async with asyncio.timeout(START_TIMEOUT):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                # Nothing tells when a program of others listens.
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
            assert server.returncode is None, log.read_text()


@asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[None]:
    """A page that names its host, on ports 80 and 443, and a git repository to clone from it."""
    repositories = folder / "repositories"
    _make_repository(repositories / "project.git", folder / "project")
    application = web.Application()
    application.add_routes([web.get("/", _page), web.static("/", repositories)])
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority = trustme.CA()
    authority.issue_cert(*HOSTS, "localhost").configure_cert(context)
    _trust(authority, folder / "certificates.pem")
    try:
        for host in (INSTANCE, HOSTS["site.internal"], HOSTS["git.internal"]):
            await web.TCPSite(runner, host, 80).start()
            await web.TCPSite(runner, host, 443, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


async def _page(request: web.Request) -> web.Response:
    return web.Response(text=f"<h1>Hello from {request.url.host}</h1>\n", content_type="text/html")


def _make_repository(bare: Path, work: Path) -> None:
    """One that any web server can offer, as plain files."""
    git = ("git", "-c", "user.name=me", "-c", "user.email=me@example.com")
    commands: tuple[tuple[str | Path, ...], ...] = (
        (*git, "init", "-q", "-b", "main", work),
        (*git, "-C", work, "commit", "-q", "--allow-empty", "-m", "Begin"),
        (*git, "clone", "-q", "--bare", work, bare),
        (*git, "-C", bare, "update-server-info"),
    )
    for command in commands:
        subprocess.run(command, check=True, timeout=START_TIMEOUT)


def _trust(authority: trustme.CA, bundle: Path) -> None:
    """Have every program in this namespace trust the certificate authority."""
    known = CERTIFICATES.read_bytes() if CERTIFICATES.exists() else b""
    bundle.write_bytes(known + authority.cert_pem.bytes())
    if CERTIFICATES.exists():
        subprocess.run(("mount", "--bind", bundle, CERTIFICATES), check=True)


@asynccontextmanager
async def _sshd(folder: Path, env: Mapping[str, str]) -> AsyncIterator[None]:
    """An sshd of the instance and of the bastion host, which knows the key of the user here."""
    folder.mkdir()
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    keys = Path(env["HOME"]) / ".ssh"
    _make_keys(folder, keys)
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress {INSTANCE}\nListenAddress {HOSTS['bastion.internal']}\nPort 22\n"
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {keys}/id_ed25519.pub\nStrictModes no\n"
        "PidFile none\nUsePAM no\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
        f"SetEnv PATH={env['PATH']}\n"
    )
    # The instance knows the names, and this machine doesn't.
    hosts = folder / "hosts"
    hosts.write_text("".join(f"{address} {name}\n" for name, address in KNOWN.items()))
    script = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'
    in_own_mounts = ("unshare", "--mount", "sh", "-c", script, "sh", hosts)
    server = (SSHD, "-D", "-e", "-f", config)
    async with _server(
        *in_own_mounts, *server, listens=(INSTANCE, 22), log=folder / "log", env=env
    ):
        yield


def _make_keys(folder: Path, keys: Path) -> None:
    """The server's, and those of a user who has been there before."""
    keys.mkdir(mode=0o700)
    for key in (folder / "host_key", keys / "id_ed25519"):
        make = (find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", key)
        subprocess.run(make, check=True, timeout=START_TIMEOUT)
    (keys / "known_hosts").write_text("* " + (folder / "host_key.pub").read_text())
