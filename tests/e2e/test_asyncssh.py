"""asyncssh through a target: it takes one as ``tunnel``, since that has ``create_connection``."""

import asyncio
import getpass
import os
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ssmnet
from tests.io.sessions import eventually

from .sshd import sshd_running

if TYPE_CHECKING:
    import asyncssh
else:
    try:
        import asyncssh
    except ImportError:
        pytest.skip("NO ASYNCSSH: install the group examples", allow_module_level=True)

if sys.platform == "win32":
    pytest.skip("there is no sshd to run as oneself", allow_module_level=True)

TIMEOUT = 30.0


@pytest.fixture
async def login(tmp_path: Path) -> AsyncIterator[dict[str, Any]]:
    """How to log in to a real sshd, as ourselves, with its host key checked."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    async with sshd_running(tmp_path, env) as ssh:
        yield {
            "host": "127.0.0.1",
            "port": int(ssh.settings("port")),
            "username": getpass.getuser(),
            "client_keys": [str(tmp_path / "user_key")],
            "known_hosts": ([str(tmp_path / "host_key.pub")], [], []),
            "config": None,
            "agent_path": None,
        }


async def test_a_target_is_a_tunnel(login: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(random.Random(5).randbytes(2_000_000))
    async with asyncio.timeout(TIMEOUT), ssmnet.connect("loopback") as target:
        async with asyncssh.connect(**login, tunnel=target) as ssh:
            done = await ssh.run("echo out; exit 3")
            assert (done.exit_status, done.stdout) == (3, "out\n")
            async with ssh.start_sftp_client() as sftp:
                await sftp.put(str(file), str(tmp_path / "copy"))
                await sftp.get(str(tmp_path / "copy"), str(tmp_path / "again"))
            assert (tmp_path / "again").read_bytes() == file.read_bytes()
            assert target.statistics().connections == 1
        await eventually(lambda: target.statistics().connections == 0)
        async with asyncssh.connect(**login, tunnel=target) as ssh:  # the target is as it was
            assert (await ssh.run("true")).exit_status == 0
        assert not target.is_closing()


async def test_errors_are_those_of_the_target(login: dict[str, Any]) -> None:
    async with asyncio.timeout(TIMEOUT), ssmnet.connect("loopback") as target:
        with pytest.raises(ssmnet.DestinationNotFound):
            await asyncssh.connect(**(login | {"host": "no-such-host.invalid"}), tunnel=target)
        with pytest.raises(asyncssh.HostKeyNotVerifiable):
            await asyncssh.connect(**(login | {"known_hosts": ([], [], [])}), tunnel=target)
        await eventually(lambda: target.statistics().connections == 0)


async def test_a_tunnel_that_ends_ends_ssh(login: dict[str, Any]) -> None:
    async with asyncio.timeout(TIMEOUT):
        target = await ssmnet.connect("loopback")
        ssh = await asyncssh.connect(**login, tunnel=target)
        target.close()
        await target.wait_closed()
        await ssh.wait_closed()
