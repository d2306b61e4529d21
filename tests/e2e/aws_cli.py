"""The real AWS CLI: version 1 comes from PyPI, version 2 is Debian's package, unpacked."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

import pytest

from .processes import FarEnd

ROOT = Path(__file__).parent.parent.parent
FOLDERS = {1: ROOT / ".tools" / "awscli", 2: ROOT / ".tools" / "aws-cli-v2"}
VERSION_1 = "awscli>=1.40,<2"
BINARIES = "Scripts" if sys.platform == "win32" else "bin"
INSTALL_TIMEOUT = 50  # s a command, within the time that a test has

Command = list[str | Path]
Parameters = Mapping[str, list[str]]


class AwsCli(NamedTuple):
    """One that runs, and which version it is."""

    program: Path
    version: int

    def command(self, env: Mapping[str, str], service: str, *arguments: str) -> Command:
        """Return its command line, for an environment that leads to a far end on this machine."""
        endpoint = env[f"AWS_ENDPOINT_URL_{service.upper()}"]
        # Debian's is older than 2.13, which was the first to read the variable.
        endpoint_url = () if self.version == 1 else ("--endpoint-url", endpoint)
        return [self.program, *endpoint_url, service, *arguments]

    def start_session(
        self, env: Mapping[str, str], document: str = "", parameters: Parameters | None = None
    ) -> Command:
        """Return the command line that starts a session; a shell, unless a document is named."""
        arguments = ["--target", FarEnd.target]
        if document:
            arguments += ["--document-name", document]
        if parameters:
            arguments += ["--parameters", json.dumps(parameters)]
        return self.command(env, "ssm", "start-session", *arguments)


def find_aws_cli(version: int) -> AwsCli:
    """Return one that runs, installed if it can be; or else the test skips, and fails in CI."""
    if version == 1:
        program = FOLDERS[1] / BINARIES / ("aws.cmd" if sys.platform == "win32" else "aws")
        if not runs(program):
            install_version_1()
            assert runs(program), f"{program} was installed and does not run"
        return AwsCli(program, 1)
    program = FOLDERS[2] / "aws"
    if not runs(program):
        missing("NO AWS CLI, VERSION 2: tests/e2e/install.sh unpacks it on Debian")
    return AwsCli(program, 2)


def runs(program: Path) -> bool:
    """Tell whether it can say its version."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, timeout=60)
    except OSError:  # not there, or its interpreter is gone
        return False
    return done.returncode == 0


def install_version_1() -> None:
    """Install it into an environment of its own, which is kept."""
    folder = FOLDERS[1]
    python = folder / BINARIES / "python"
    uv = shutil.which("uv", path=os.pathsep.join([str(ROOT / ".tools"), os.environ["PATH"]]))
    make: Command = [sys.executable, "-m", "venv", "--clear", folder]
    install: Command = [python, "-m", "pip", "install", VERSION_1]
    if uv:
        make = [uv, "venv", "--clear", "--python", sys.executable, folder]
        install = [uv, "pip", "install", "--python", python, VERSION_1]
    try:
        for command in (make, install):
            subprocess.run(
                command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True
            )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        missing(f"NO AWS CLI: it could not be installed from PyPI: {error}: {error.stderr!r}")


def missing(why: str) -> NoReturn:
    """Skip the test. In CI nothing may be missing."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)
