"""ssh with the real AWS CLI as its ProxyCommand, as its manual has it, and our plugin."""

import filecmp
import random
import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .aws_cli import AwsCli
from .sshd import Ssh, find, over_ssh, sshd_running

if sys.platform == "win32":
    pytest.skip("there is no sshd to run as oneself", allow_module_level=True)


@pytest.fixture
async def ssh(far_env: dict[str, str], tmp_path: Path) -> AsyncIterator[Ssh]:
    folder = tmp_path / "ssh"
    folder.mkdir()
    async with sshd_running(folder, far_env) as running:
        yield running


@pytest.fixture
def proxy(each_aws_cli: AwsCli, far_env: dict[str, str]) -> tuple[str, str]:
    """The option of ssh that makes it go by the AWS CLI."""
    start = each_aws_cli.start_session(far_env, "AWS-StartSSHSession", {"portNumber": ["%p"]})
    return "-o", f"ProxyCommand={shlex.join(map(str, start))}"


@pytest.mark.parametrize("status", [0, 7])
async def test_a_command_and_its_exit_status(ssh: Ssh, proxy: tuple[str, str], status: int) -> None:
    done = await ssh.run(*proxy, ssh.host, f"echo out; echo err >&2; exit {status}")
    assert (done.status, done.out, done.err) == (status, "out\n", "err\n")


async def test_a_file_goes_there_and_back(ssh: Ssh, proxy: tuple[str, str], tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    (tmp_path / "file").write_bytes(random.Random(1).randbytes(4 * 1024 * 1024))
    for source, copy in ((tmp_path / "file", f"{ssh.host}:{there}"), (f"{ssh.host}:{there}", back)):
        command = (find("scp"), "-q", "-F", ssh.config, *proxy, source, copy)
        async with over_ssh(*command, env=ssh.env) as scp:
            done = await scp.wait()
        assert (done.status, done.out, done.err) == (0, "", "")
    assert filecmp.cmp(tmp_path / "file", back, shallow=False)


async def test_a_port_where_nobody_listens_is_said(
    ssh: Ssh, proxy: tuple[str, str], closed_port: int
) -> None:
    done = await ssh.run(*proxy, "-p", str(closed_port), ssh.host, "true")
    assert done.status == 255
    assert "Unable to connect to specified port" in done.err
