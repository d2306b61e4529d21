"""Servers as users have them behind an instance, at their usual ports, for examples and pages.

They are at an address of this machine that nothing else uses, and the far end knows their names:
``db.internal`` is PostgreSQL, ``cache.internal`` Redis, ``site.internal`` a site with and without
TLS, ``bastion.internal`` sshd. See ``NAMES`` and ``far_names``.
"""

import getpass
import os
import random
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

import pytest
import trustme
from aiohttp import web

from .aws_cli import Command
from .conftest import find_postgres, postgres_owner, server_command
from .sshd import PRIVILEGE_SEPARATION, SSHD, find

NAMES = ("db.internal", "cache.internal", "site.internal", "bastion.internal")
TIMEOUT = 30  # s for what takes a second or two: the machine may be busy

# What is in the database: whose it is, and what an example can count.
USER = DATABASE = "app"
ORDERS = 3


def far_names(address: str) -> dict[str, str]:
    """What a far end has to know, as Loopback(names=...) takes it."""
    return dict.fromkeys(NAMES, address)


def unused_address() -> str:
    """An address of this machine. Who else runs these tests has another: there are 16 million."""
    return ".".join(["127", *(str(random.randrange(1, 255)) for _ in range(3))])


def need(address: str, *ports: int) -> None:
    """Skip the test, loudly, where the ports can't be had."""
    for port in ports:
        try:
            socket.create_server((address, port)).close()
        except OSError as error:  # port 443 is for root, or there is a server at 0.0.0.0:22
            pytest.skip(f"NO PORT {port} at {address}: {error}")


class Authority:
    """A certificate authority that programs trust by ``SSL_CERT_FILE``, and nobody else."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server needs to be one of those names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*names).configure_cert(context)
        return context

    def files(self, name: str, folder: Path) -> tuple[Path, Path]:
        """The same for a program: its certificate and its private key."""
        certificate, key = folder / "server.crt", folder / "server.key"
        issued = self._ca.issue_cert(name)
        issued.cert_chain_pems[0].write_to_path(certificate)
        key.touch(mode=0o600)
        issued.private_key_pem.write_to_path(key)
        return certificate, key


@contextmanager
def postgres_running(address: str, authority: Authority, port: int = 5432) -> Iterator[None]:
    """Run PostgreSQL as ``db.internal``. By TCP it accepts TLS only; it trusts this machine.

    The user ``app`` has a database of that name, with three orders in it.
    """
    binaries, owner = find_postgres(), postgres_owner()
    need(address, port)
    with TemporaryDirectory(prefix="ssmnet-postgres-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        data = folder / "data"
        certificate, key = authority.files("db.internal", folder)
        if owner:
            for path in (folder, certificate, key):
                shutil.chown(path, owner, owner)
        initdb: Command = [
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
        hba = data / "pg_hba.conf"
        hba.write_text("local all all trust\nhostssl all all 127.0.0.0/8 trust\n")
        settings = {
            "listen_addresses": address,
            "port": port,
            "unix_socket_directories": folder,
            "fsync": "off",
            "ssl": "on",
            "ssl_cert_file": certificate,
            "ssl_key_file": key,
        }
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        pg_ctl: Command = [binaries / "pg_ctl", "-D", data]
        server_command([*pg_ctl, "-l", folder / "log", "-o", options, "-w", "start"], folder, owner)
        try:
            psql: Command = [
                binaries / "psql",
                "-q",
                "-h",
                folder,
                "-p",
                str(port),
                "-U",
                "postgres",
            ]
            for text in (f"CREATE ROLE {USER} LOGIN", f"CREATE DATABASE {DATABASE} OWNER {USER}"):
                server_command([*psql, "-c", text], folder, owner)
            table = "CREATE TABLE orders AS SELECT number, number * 10 AS price"
            table += f" FROM generate_series(1, {ORDERS}) AS number;"
            table += f" ALTER TABLE orders OWNER TO {USER}"
            server_command([*psql, "-d", DATABASE, "-c", table], folder, owner)
            yield
        finally:
            server_command([*pg_ctl, "-m", "immediate", "-w", "stop"], folder, owner)


@contextmanager
def redis_running(address: str, port: int = 6379) -> Iterator[None]:
    """Run Redis as ``cache.internal``. It keeps nothing."""
    need(address, port)
    with TemporaryDirectory(prefix="ssmnet-redis-") as folder:
        # The proxy in between is on another address of this machine: nothing to protect.
        options = {"bind": address, "port": port, "save": "", "protected-mode": "no"}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        with _daemon(find("redis-server"), *arguments, says="Ready to accept", folder=folder):
            yield


@contextmanager
def sshd_running(address: str, home: Path, port: int = 22) -> Iterator[None]:
    """Run sshd as ``bastion.internal``; the user's files are in ``home``, as for any other host.

    Only this user may log in, with the key in ``home``.
    """
    if sys.platform == "win32" or not os.access(SSHD, os.X_OK):
        pytest.skip("NO SSHD: run tests/e2e/install.sh as root, or install it")
    need(address, port)
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    with TemporaryDirectory(prefix="ssmnet-sshd-") as name:
        host_key = Path(name) / "host_key"
        for key in (host_key, ssh / "id_ed25519"):
            make = [find("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
            subprocess.run(make, check=True, timeout=TIMEOUT)
        known = host_key.with_suffix(".pub").read_text()
        (ssh / "known_hosts").write_text(f"bastion.internal {known}")
        config = Path(name) / "sshd_config"
        config.write_text(
            f"ListenAddress {address}\nPort {port}\nHostKey {host_key}\n"
            f"AuthorizedKeysFile {ssh}/id_ed25519.pub\nAllowUsers {getpass.getuser()}\n"
            "StrictModes no\nPidFile none\nUsePAM no\nSubsystem sftp internal-sftp\n"
        )
        with _daemon(SSHD, "-D", "-e", "-f", str(config), says="Server listening on", folder=name):
            yield


@asynccontextmanager
async def site_running(
    address: str, authority: Authority, port: int = 80, tls_port: int = 443
) -> AsyncIterator[None]:
    """Run a site as ``site.internal``, which says hello by http and https, and counts connections.

    ``wrong.internal`` may lead there, too: the certificate has another name.
    """
    need(address, port, tls_port)
    numbers: dict[object, int] = {}  # of connections, from 1

    async def hello(request: web.Request) -> web.Response:
        number = numbers.setdefault(request.transport, len(numbers) + 1)
        scheme = "http" if request.secure is False else "https"
        return web.Response(text=f"hello by {scheme}", headers={"Connection-Number": str(number)})

    application = web.Application()
    application.add_routes([web.get("/{path:.*}", hello)])
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, address, port).start()
        context = authority.server("site.internal")
        await web.TCPSite(runner, address, tls_port, ssl_context=context).start()
        yield
    finally:
        await runner.cleanup()


@contextmanager
def _daemon(program: str, *arguments: str, says: str, folder: str) -> Iterator[None]:
    """Run a server that stays in the foreground, from when it has said that it is ready."""
    process = subprocess.Popen(
        [program, *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    try:
        _read_until(process.stdout, says)
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _read_until(said: IO[str], text: str) -> None:
    lines = []
    for line in said:
        lines.append(line)
        if text in line:
            return
    raise AssertionError(f"it did not say {text!r}, but {lines}")
