"""The wheel and the sdist: what is in them, and that they work where nothing else is installed."""

import asyncio
import re
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from email.parser import Parser
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import environ, pathsep
from pathlib import Path
from shutil import which
from threading import Thread
from typing import NamedTuple

import pytest

from ssmnet import __version__

from .e2e.processes import started

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent
WINDOWS = sys.platform == "win32"
TIMEOUT = 100.0  # s; pip fetches some 15 MB

USER_PROGRAM = """
import asyncio, ssmnet

async def main() -> bytes:
    async with ssmnet.connect("i-0123456789abcdef0", region="eu-west-1") as target:
        reader, writer = await target.open_connection("db.internal", 5432)
        writer.close()
        return await reader.read(1)

answer: str = asyncio.run(main())
"""

IMPORT_ALL = """
import importlib, pkgutil, ssmnet, sys
elsewhere = {"ssmnet.__main__", "ssmnet.testing.pytest_plugin"}  # a program; where pytest is
if sys.platform != "win32":
    elsewhere.add("ssmnet.console")
for name in ssmnet.__all__:
    getattr(ssmnet, name)
for module in pkgutil.walk_packages(ssmnet.__path__, "ssmnet."):
    if module.name not in elsewhere:
        importlib.import_module(module.name)
print(ssmnet.__file__)
"""


class Built(NamedTuple):
    """What is uploaded to PyPI. The wheel is built from the sdist, not from the tree."""

    wheel: Path
    sdist: Path


class Environment(NamedTuple):
    """A virtual environment that holds ssmnet and what it needs, and a folder that is empty."""

    home: Path

    def program(self, name: str) -> str:
        return str(self.home / ("Scripts" if WINDOWS else "bin") / name)

    def run(self, name: str, *arguments: str | Path) -> str:
        return run(self.program(name), *arguments, cwd=self.home.parent)


def run(*command: str | Path, cwd: Path, **env: str | Path) -> str:
    """What a program prints on stdout; it has to succeed, and sees nothing of this environment."""
    hidden = ("VIRTUAL_ENV", "PYTHONPATH", "UV_LOCKED", "UV_PROJECT_ENVIRONMENT", "SSMNET_DEBUG")
    inherited = {name: value for name, value in environ.items() if name not in hidden}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=inherited | {name: str(value) for name, value in env.items()},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    said = f"{done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{command}\n{said}\nThis test needs PyPI: is it reachable?"
    return done.stdout


def find_uv() -> str:
    found = which("uv", path=pathsep.join([str(ROOT / ".tools"), environ["PATH"]]))
    assert found, "uv is missing: run the tests by run.py, which fetches it"
    return found


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("dist")
    run(find_uv(), "build", "--quiet", "--out-dir", folder, cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """By venv and pip, as they come with Python."""
    home = tmp_path_factory.mktemp("installed") / "venv"
    run(sys.executable, "-m", "venv", home, cwd=home.parent)
    environment = Environment(home)
    environment.run("python", "-m", "pip", "install", "--quiet", built.wheel)
    return environment


def members(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        files = [member.name for member in archive if member.isfile()]
    return {name.partition("/")[2] for name in files}


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return Parser().parsestr(
            archive.read(f"ssmnet-{__version__}.dist-info/METADATA").decode("utf-8")
        )


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        names = set(archive.namelist())
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "ssmnet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "ssmnet/py.typed" in ours
    about = f"ssmnet-{__version__}.dist-info"
    files = ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
    assert names == ours | {f"{about}/{name}" for name in files}


def test_the_sdist_holds_what_is_in_the_repository(built: Built) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: what is in the repository is not known")
    tracked = set(run("git", "ls-files", "-z", cwd=ROOT).split("\0")) - {""}
    there = {name for name in tracked if (ROOT / name).is_file()}
    assert there - members(built.sdist) == set()


def test_the_description_and_the_links_work_on_pypi(built: Built) -> None:
    run(find_uv(), "tool", "run", "twine", "check", "--strict", *built, cwd=built.wheel.parent)
    about = metadata(built.wheel)
    description = str(about.get_payload())
    assert description.startswith("# ssmnet\n")
    assert "<!--" not in description
    targets = re.findall(r"\]\(([^)]*)\)|(?:href|src|srcset)=\"([^\"]*)\"", description)
    assert len(targets) > 5
    for target in (markdown or html for markdown, html in targets):
        assert re.match(r"https://|#", target), target
        named = re.match(
            r"https://(?:github\.com/ssmnet/ssmnet/blob|raw\.githubusercontent\.com/ssmnet/ssmnet)"
            rf"/v{re.escape(__version__)}/([^#]+)",
            target,
        )
        assert named is None or (ROOT / named[1]).exists(), target


def test_the_programs_run_from_an_empty_environment(installed: Environment) -> None:
    assert installed.run("ssmnet", "--version") == f"ssmnet {__version__}\n"
    assert installed.run("python", "-m", "ssmnet", "--version") == f"ssmnet {__version__}\n"
    assert re.fullmatch(r"1\.2\.\d+\.\d+\n", installed.run("session-manager-plugin", "--version"))
    assert "All checksums are equal" in installed.run("ssmnet", "demo")


def test_every_module_finds_what_it_needs(installed: Environment) -> None:
    installed.run("python", "-m", "pip", "check")
    file = installed.run("python", "-I", "-W", "error", "-c", IMPORT_ALL).strip()
    assert Path(file).is_relative_to(installed.home)


def test_a_users_program_is_type_checked(installed: Environment) -> None:
    program = installed.home.parent / "program.py"
    program.write_text(USER_PROGRAM)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(program.parent / "mypy"))
    done = subprocess.run(
        (*mypy, "--python-executable", installed.program("python"), str(program)),
        cwd=installed.home.parent,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    # The one mistake in it: that it is found shows that the types of ssmnet are known.
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr
    assert 'has type "bytes", variable has type "str"' in done.stdout


async def test_a_forward_to_this_machine_carries_a_file(
    installed: Environment, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    env = {"PATH": environ["PATH"], "HOME": str(tmp_path)}
    with http_server(tmp_path) as port:
        command = ("forward", "-t", "loopback", "--local", "0", "--remote", str(port))
        async with started(installed.program("ssmnet"), *command, env=env) as program:
            url = f"http://127.0.0.1:{await program.port()}/file"
            received = await asyncio.to_thread(read, url)
    assert received == (tmp_path / "file").read_bytes()


def read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
        content: bytes = response.read()
    return content


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Nobody reads it."""


@contextmanager
def http_server(folder: Path) -> Iterator[int]:
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_the_sdist_installs_and_runs(built: Built, tmp_path: Path) -> None:
    uv, environment = find_uv(), Environment(tmp_path / "venv")
    run(uv, "venv", "--quiet", "--python", sys.executable, environment.home, cwd=tmp_path)
    python = environment.program("python")
    run(uv, "pip", "install", "--quiet", "--python", python, built.sdist, cwd=tmp_path)
    assert environment.run("ssmnet", "--version") == f"ssmnet {__version__}\n"


@pytest.mark.parametrize("way", ["uvx", "uv tool install", "pipx install"])
def test_installers_of_programs_put_both_on_path(way: str, built: Built, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    tool = (find_uv(), "tool")
    python = ("--python", sys.executable)
    if way == "uvx":
        command = (*tool, "run", *python, "--from", built.wheel)
        said = run(*command, "ssmnet", "--version", cwd=tmp_path)
        assert said == f"ssmnet {__version__}\n"
        return
    if way == "uv tool install":
        where = {"UV_TOOL_DIR": tmp_path / "tools", "UV_TOOL_BIN_DIR": programs}
        run(*tool, "install", "--quiet", *python, built.wheel, cwd=tmp_path, **where)
    else:
        where = {"PIPX_HOME": tmp_path / "pipx", "PIPX_BIN_DIR": programs}
        run(*tool, "run", "pipx", "install", *python, built.wheel, cwd=tmp_path, **where)
    assert run(programs / "ssmnet", "--version", cwd=tmp_path) == f"ssmnet {__version__}\n"
    assert run(programs / "session-manager-plugin", "--version", cwd=tmp_path)
