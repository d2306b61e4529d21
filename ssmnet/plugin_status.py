"""Which ``session-manager-plugin`` runs, whose it is, and what the AWS CLI makes of its version.

Programs start the plugin by its name, so the first on PATH runs. AWS's own may be installed, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

NAME = "session-manager-plugin"
# The AWS CLI asks every plugin before every session, and has no deadline at all. In seconds.
VERSION_TIMEOUT = 10.0
# How long one that is killed may take to be gone, in seconds.
EXIT_TIMEOUT = 1.0
# Bytes of what a program says; more is not read.
_OUTPUT_LIMIT = 256 * 1024
# Where AWS's installers put theirs, which may not be on PATH.
_USUAL_PLACES = (
    "/usr/local/sessionmanagerplugin/bin",
    "/usr/local/bin",
    "/usr/bin",
    "/opt/homebrew/bin",
    r"C:\Program Files\Amazon\SessionManagerPlugin\bin",
)
# The AWS CLI's own: up to the first it passes the token as an argument, below the second it warns.
_LAST_BY_ARGUMENT = (1, 2, 497, 0)
_RECOMMENDED = (1, 2, 764, 0)


class Plugin(msgspec.Struct, frozen=True):
    """One program of that name.

    ``version`` is what it answers, empty where that is none; ``error`` says why then.
    ``token_in_environment`` and ``outdated`` are what the AWS CLI makes of the version.
    """

    path: str
    resolved: str
    on_path: bool
    ssmnet: bool
    version: str = ""
    error: str = ""

    @property
    def token_in_environment(self) -> bool:
        """Whether the AWS CLI passes the session's token in the environment, not in argv."""
        numbers = _numbers(self.version)
        return numbers is not None and numbers > _LAST_BY_ARGUMENT

    @property
    def outdated(self) -> bool:
        """Whether the AWS CLI warns of it."""
        numbers = _numbers(self.version)
        return numbers is not None and numbers < _RECOMMENDED


async def find_plugins() -> list[Plugin]:
    """All plugins there are: those on PATH in its order, then those that are elsewhere."""
    on_path = _on_path(os.environ.get("PATH", os.defpath))
    paths = [*on_path, *_elsewhere(on_path)]
    answers = await asyncio.gather(*(_ask(path) for path in paths))
    resolved = [os.path.realpath(path) for path in paths]  # noqa: ASYNC240 - a few local links
    return [
        Plugin(path, leads_to, path in on_path, ours, version, error)
        for path, leads_to, (version, error, ours) in zip(paths, resolved, answers, strict=True)
    ]


def is_chosen(plugins: Sequence[Plugin]) -> bool:
    """Whether ssmnet's is the one that runs."""
    return bool(plugins) and plugins[0].on_path and plugins[0].ssmnet


def as_text(plugins: Sequence[Plugin]) -> str:
    """What people want to know of ``plugins``."""
    lines = []
    for number, plugin in enumerate(plugins):
        if not plugin.on_path:
            place = "is not on PATH"
        else:
            place = "comes later on PATH" if number else "is the one that runs"
        whose = "ssmnet's" if plugin.ssmnet else "not ssmnet's"
        version = f"version {plugin.version}" if plugin.version else plugin.error
        lines.append(f"{plugin.path} {place}: {whose}, {version}")
        if plugin.resolved != plugin.path:
            lines.append(f"    leads to {plugin.resolved}")
    if not plugins or not plugins[0].on_path:
        lines.append(f"No {NAME} is on PATH: the AWS CLI says that it is not found.")
    else:
        lines += ["", _cli_says(plugins[0])]
    return "\n".join([*lines, *_advice(plugins)])


def as_json(plugins: Sequence[Plugin]) -> str:
    """The same for programs, as one object on a line."""
    found = [
        msgspec.structs.asdict(plugin)
        | {"token_in_environment": plugin.token_in_environment, "outdated": plugin.outdated}
        for plugin in plugins
    ]
    return msgspec.json.encode({"chosen": is_chosen(plugins), "plugins": found}).decode()


def _cli_says(plugin: Plugin) -> str:
    if plugin.error:
        return "The AWS CLI can't start a session with it."
    said = "passes it the session's token in the environment"
    if not plugin.token_in_environment:
        said = "passes it the session's token as an argument, which other users here can see"
    warned = ", and warns that it is outdated" if plugin.outdated else ""
    return f"The AWS CLI {said}{warned}."


def _advice(plugins: Sequence[Plugin]) -> list[str]:
    """How to have the other one."""
    ours = next((plugin for plugin in plugins if plugin.ssmnet), None)
    other = next((plugin for plugin in plugins if not plugin.ssmnet), None)
    if is_chosen(plugins):
        if other is None:
            return ["To undo it, uninstall ssmnet."]
        return [f"To have the other, uninstall ssmnet, or in your shell: {_first(other)}"]
    if ours is None:
        return [f"There is none of ssmnet's beside {sys.executable}."]
    return [f"To have ssmnet's, in your shell: {_first(ours)}"]


def _first(plugin: Plugin) -> str:
    """How a shell is told to look there first."""
    folder = str(Path(plugin.path).parent)
    if sys.platform == "win32":
        return f"set PATH={folder};%PATH%"
    return f"export PATH={shlex.quote(folder)}:$PATH"


def _numbers(version: str) -> tuple[int, ...] | None:
    """A version as the AWS CLI reads it; None for what it can't read."""
    if not re.fullmatch(r"\d+(\.\d+){0,3}", version, re.ASCII):
        return None
    numbers = [int(number) for number in version.split(".")]
    return tuple(numbers + [0] * (4 - len(numbers)))


def _on_path(variable: str) -> list[str]:
    folders = (folder or os.curdir for folder in variable.split(os.pathsep))
    found = (shutil.which(NAME, path=folder) for folder in folders)
    return list(dict.fromkeys(os.path.abspath(path) for path in found if path))


def _elsewhere(on_path: Sequence[str]) -> list[str]:
    """Our own, should PATH not lead here, and those of AWS."""
    places = (str(Path(sys.executable).parent), *_USUAL_PLACES)
    found = (shutil.which(NAME, path=place) for place in places)
    known = {os.path.realpath(path) for path in on_path}
    return [path for path in dict.fromkeys(found) if path and os.path.realpath(path) not in known]


async def _ask(path: str) -> tuple[str, str, bool]:
    """A program's version, or else why it has none; and whether it is ssmnet's."""
    err = b""
    try:
        async with asyncio.timeout(VERSION_TIMEOUT):
            status, out, err = await _run(path)
    except TimeoutError:
        version, error = "", f"no answer to --version within {VERSION_TIMEOUT:g} s"
    except OSError as failure:
        version, error = "", f"can't be run: {failure.strerror or failure}"
    else:
        version, error = _read_answer(status, out)
    # Its interpreter lists what it imports, also behind the launchers of pyenv and others.
    ours = re.search(rb"\| +ssmnet\.entry\r?$", err, re.MULTILINE) is not None
    return version, error, ours or _names_us(path)


def _read_answer(status: int, out: bytes) -> tuple[str, str]:
    """The version that was answered, or else what is wrong with the answer."""
    version = "".join(out.decode("ascii", "replace").split())
    if status:
        return "", f"exit status {status} for --version"
    if _numbers(version) is None:
        return "", "no version for an answer to --version"
    return version, ""


class _Answer(asyncio.SubprocessProtocol):
    """What a program says on stdout and stderr, and when it is over."""

    def __init__(self) -> None:
        self.said = {1: bytearray(), 2: bytearray()}
        self.ended = asyncio.Event()
        self.exited = asyncio.Event()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep it, within reason."""
        if len(self.said[fd]) < _OUTPUT_LIMIT:
            self.said[fd] += data

    def process_exited(self) -> None:
        """It has ended itself."""
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """It has ended, and all who could have said something for it."""
        self.ended.set()


async def _run(path: str) -> tuple[int, bytes, bytes]:
    """Exit status, stdout and stderr of ``path --version``."""
    transport, answer = await asyncio.get_running_loop().subprocess_exec(
        _Answer,
        path,
        "--version",
        stdin=asyncio.subprocess.DEVNULL,
        env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"},
        start_new_session=True,
    )
    try:
        await answer.ended.wait()
        return transport.get_returncode() or 0, bytes(answer.said[1]), bytes(answer.said[2])
    finally:
        if not answer.ended.is_set():
            _kill(transport)
        transport.close()
        # What was killed is gone in a moment, unless the system holds it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_TIMEOUT):
                await answer.exited.wait()


def _kill(transport: asyncio.SubprocessTransport) -> None:
    """End what it has started, too, such as the program behind a launcher."""
    if sys.platform != "win32":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(transport.get_pid(), signal.SIGKILL)


def _names_us(path: str) -> bool:
    """Whether it is a script that starts us: what can't be run can't be asked."""
    try:
        with open(path, "rb") as file:
            return b"ssmnet.entry" in file.read(_OUTPUT_LIMIT)
    except OSError:
        return False
