"""A real sshd on this machine, and the ssh that reaches it through the far end."""

import asyncio
import getpass
import os
import re
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from .processes import SSMNET, Done, FarEnd, Program, run

SSHD = "/usr/sbin/sshd"
# Where it wants an empty folder when it runs as root.
PRIVILEGE_SEPARATION = Path("/run/sshd")
PORT_TRIES = 3


def find(program: str) -> str:
    """Return where a program is, or skip the test loudly."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"NO {program.upper()}: run tests/e2e/install.sh as root, or install it")
    return found


def _kill_group(program: Program) -> None:
    if sys.platform != "win32":
        program.send_signal(signal.SIGKILL)


@asynccontextmanager
async def over_ssh(*command: str | Path, env: Mapping[str, str]) -> AsyncIterator[Program]:
    """Run what ssh is a part of. Its end is that of the ProxyCommand, too: that has its stderr."""
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    program = Program(process)
    try:
        yield program
        await program.wait()
    finally:
        if program.running:
            _kill_group(program)
            await program.wait()


class Ssh(NamedTuple):
    """What it takes to log in by ``ssh`` as ourselves, on the far end's instance."""

    config: Path
    folder: Path
    env: Mapping[str, str]
    host: str = FarEnd.target

    @property
    def program(self) -> tuple[str, ...]:
        """The command for programs that start ssh themselves."""
        return (find("ssh"), "-F", str(self.config))

    def settings(self, name: str) -> str:
        """What ssh makes of its files for the host."""
        done = subprocess.run(
            [*self.program, "-G", self.host], capture_output=True, text=True, timeout=60, check=True
        )
        (value,) = re.findall(rf"^{name} (.*)$", done.stdout, re.MULTILINE)
        return str(value)

    async def run(self, *arguments: str) -> Done:
        """Run ssh to its end."""
        async with over_ssh(*self.program, *arguments, env=self.env) as ssh:
            return await ssh.wait()

    @asynccontextmanager
    async def held(self, *options: str) -> AsyncIterator[Program]:
        """Be logged in, with everything that ``options`` ask for set up."""
        process = await asyncio.create_subprocess_exec(
            *self.program,
            *options,
            self.host,
            "echo ready; cat >/dev/null",
            env=self.env,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        program = Program(process)
        assert process.stdin is not None
        try:
            await program.out_line("^ready$")
            yield program
            if program.running:
                process.stdin.close()
                done = await program.wait()
                assert (done.status, done.err) == (0, ""), done
        finally:
            process.stdin.close()
            if program.running:
                _kill_group(program)
                await program.wait()


@asynccontextmanager
async def sshd_running(folder: Path, env: Mapping[str, str]) -> AsyncIterator[Ssh]:
    """Run sshd as this user, who alone may log in, and have ssh's settings for it."""
    if sys.platform == "win32" or not os.access(SSHD, os.X_OK):
        pytest.skip("NO SSHD: run tests/e2e/install.sh as root, or install it")
    if os.geteuid() == 0:
        PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
    for name in ("host_key", "user_key"):
        key: tuple[str | Path, ...] = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "")
        done = await run(*key, "-f", folder / name, env=env)
        assert done.status == 0, done
    async with _listening(folder, env) as port:
        yield await _settings(folder, env, port)


@asynccontextmanager
async def _listening(folder: Path, env: Mapping[str, str]) -> AsyncIterator[int]:
    """A port that was free may be gone by then, so try a few."""
    from .conftest import free_port

    config = folder / "sshd_config"
    for tries_left in reversed(range(PORT_TRIES)):
        port = free_port()
        config.write_text(
            f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\nPidFile none\n"
            "UsePAM no\nMaxStartups 100\nSubsystem sftp internal-sftp\n"
            f"SetEnv PATH={env['PATH']}\n"
        )
        command = (SSHD, "-D", "-e", "-f", str(config))
        process = await asyncio.create_subprocess_exec(
            *command, env=env, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        sshd = Program(process)
        try:
            try:
                await sshd.err_line(f"Server listening on 127.0.0.1 port {port}")
            except AssertionError:
                if not tries_left:
                    raise
                continue
            yield port
            return
        finally:
            if sshd.running:
                process.terminate()
            await sshd.wait()


async def _settings(folder: Path, env: Mapping[str, str], port: int) -> Ssh:
    """What a user has in a file of ssh; ours goes before it as ours does for everyone."""
    config = folder / "config"
    config.write_text(
        f"Host *\n    Port {port}\n    IdentityFile {folder}/user_key\n    IdentitiesOnly yes\n"
        f"    UserKnownHostsFile {folder}/known_hosts\n    StrictHostKeyChecking accept-new\n"
        "    GlobalKnownHostsFile none\n    BatchMode yes\n    LogLevel ERROR\n"
        "    ExitOnForwardFailure yes\n    ProxyCommand none\n"
    )
    options = ("--install", "--file", str(config), "--user", getpass.getuser())
    done = await run(SSMNET, "ssh-config", *options, env=env)
    assert done.status == 0, done
    return Ssh(config, folder, env)
