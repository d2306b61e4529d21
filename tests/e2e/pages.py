"""Runs the blocks of a page of the documents, from top to bottom, as its readers would.

    python -m tests.e2e.pages docs/howto/exec.md

A page has a network, a process table and a list of users of its own, by Linux namespaces: every
port on 127.0.0.1 is free whatever else runs on this machine, so pages are run to the letter with
the ports that they name, 22 and 80 included. ``db.internal`` and the others (``page_hosts``) are
addresses such as 127.0.0.2, which the agent of a real ``ssmnet loopback`` knows by name: a forward
at 127.0.0.1:5432 and the database that it leads to don't meet. Programs find a HOME of the page's
also where they look it up in /etc/passwd, as ssh does, and there is a user ``ec2-user``.

The blocks of a page are typed into one terminal, so to speak: exported variables, functions and
the working directory stay. What the comments above blocks mean is told in ``page_blocks``. In the
end what runs in the background gets Ctrl-C and must end well, and no process and no session may be
left.

The exit status is 0, or 1 if the page is not as it says, or 77 if it can't be run here.
"""

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import pytest

from .aws_cli import find_aws_cli
from .network import NotAllowed
from .page_blocks import Block, PageError, matches, read_blocks
from .page_hosts import HOSTS, hosts_running
from .page_namespace import (
    MARK,
    commands_of_the_page,
    environment,
    listening,
    make_namespace,
    new_namespaces,
)
from .processes import SSMNET, far_end_running

if sys.platform == "win32":
    raise ImportError("there are no namespaces on Windows")

GONE_TIMEOUT = 10.0  # s until the last process is gone
BLOCK_TIMEOUT = 60.0  # s for what takes a second or two: the machine may be busy
SKIPPED = 77
INSIDE = "--inside"
# Nothing tells when a program of others listens, has printed something or is gone: look again.
LOOK_AGAIN = 0.05
# The local ports that a command names, by an option or as ssh does.
LOCAL_PORT = re.compile(
    r"--(?:local|socks|http|port|metrics)[ =](?:\S+:)?(\d+)\b"
    r"|(?<=\s)(?:[\w.]+:)?(\d+):(?:[\w.-]+:)?\d+\b"
)


class Running:
    """The program of one block, in a session of its own. What it prints goes to a file."""

    def __init__(self, block: Block, process: asyncio.subprocess.Process, output: Path) -> None:
        self.block = block
        self.process = process
        self._output = output

    @property
    def printed(self) -> str:
        return self._output.read_text("utf-8", "replace")

    def wrong(self, text: str) -> PageError:
        """What to raise, with all that the block has printed."""
        told = f"{text}\n{self.block.text}it printed:\n{self.printed}"
        return PageError(self.block.line, told)

    def send_signal(self, number: int) -> None:
        """To all of them, as a terminal does."""
        os.killpg(self.process.pid, number)

    @property
    def due(self) -> tuple[int, ...]:
        """The exit statuses that are right."""
        if self.block.has("fails"):
            return (int(self.block.directives["fails"]),)
        return (0, 128 + signal.SIGINT) if self.block.has("background") else (0,)

    async def wait(self) -> int:
        """Its exit status, as a shell tells it."""
        try:
            async with asyncio.timeout(BLOCK_TIMEOUT):
                status = await self.process.wait()
        except TimeoutError:
            self.send_signal(signal.SIGKILL)
            raise self.wrong(f"it had not ended after {BLOCK_TIMEOUT:g} s") from None
        return status if status >= 0 else 128 - status

    async def end(self) -> None:
        """End it as Ctrl-C does, if it has not ended by itself."""
        if self.process.returncode is None:
            self.send_signal(signal.SIGINT)
        status = await self.wait()
        if status not in self.due:
            raise self.wrong(f"in the background, it ended with exit status {status}")


class Page:
    """Runs blocks, one after another."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self._folder = folder
        self._env = env
        self._work = folder / "work"
        self._work.mkdir()
        self._state = folder / "state"
        self._last: Running | None = None
        self._background: list[Running] = []
        self._started = 0

    async def run(self, block: Block) -> None:
        """Do with it what it says. Raises PageError."""
        if block.has("stop"):
            await self.stop(latest=block.directives["stop"] == "latest")
        if block.has("new terminal"):
            self._state.unlink(missing_ok=True)
        if block.has("file"):
            self._write(block)
        elif block.has("prints"):
            self._compare(block)
        elif block.has("background prints"):
            await self._find(block)
        elif block.has("background"):
            await self._run_in_background(block)
        elif not block.has("checked by"):
            await self._run_to_its_end(block)

    async def stop(self, *, latest: bool = False) -> None:
        """End what runs in the background, the latest first, or only that."""
        while self._background:
            await self._background.pop().end()
            if latest:
                return

    def _write(self, block: Block) -> None:
        name = block.directives["file"]
        home = Path(self._env["HOME"])
        path = home / name[2:] if name.startswith("~/") else self._cwd() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, "utf-8")

    def _cwd(self) -> Path:
        """Where the last block has gone."""
        if self._state.exists():
            return Path(re.findall(r"^cd (.+)$", self._state.read_text("utf-8"), re.MULTILINE)[-1])
        return self._work

    def _compare(self, block: Block) -> None:
        if self._last is None:
            raise PageError(block.line, "nothing was run before it")
        if not matches(block.text, self._last.printed):
            printed = f"the block before it does not print\n{block.text}but\n{self._last.printed}"
            raise PageError(block.line, printed)

    async def _find(self, block: Block) -> None:
        deadline = time.monotonic() + BLOCK_TIMEOUT
        while not any(matches(block.text, it.printed, whole=False) for it in self._background):
            if time.monotonic() > deadline:
                printed = "".join(running.printed for running in self._background)
                raise PageError(block.line, f"nothing prints\n{block.text}but\n{printed}")
            await asyncio.sleep(LOOK_AGAIN)

    async def _start(self, block: Block) -> Running:
        self._started += 1
        script = self._folder / f"{self._started}.sh"
        script.write_text(block.text, "utf-8")
        if block.language == "python":
            program = script.rename(script.with_suffix(".py"))
            script.write_text(f"exec python {program}\n", "utf-8")
        prologue = self._folder / f"{self._started}.prologue"
        prologue.write_text(self._prologue(block), "utf-8")
        output = self._folder / f"{self._started}.output"
        with output.open("wb") as printed:
            process = await asyncio.create_subprocess_exec(
                *("bash", "-eu", script),
                cwd=self._work,
                env=self._env | {"BASH_ENV": str(prologue)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=printed,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        return Running(block, process, output)

    def _prologue(self, block: Block) -> str:
        """What its shell runs first: it begins where the last one ended, and says where it ends."""
        text = "unset BASH_ENV\n"
        if self._state.exists():
            text += f". {self._state}\n"
        if not block.has("background"):
            save = 'export -p; declare -f; printf "cd %q\\n" "$PWD"'
            text += f"trap '{{ {save}; }} >{self._state}' EXIT\n"
        return text

    async def _run_to_its_end(self, block: Block) -> None:
        self._last = await self._start(block)
        status = await self._last.wait()
        if status not in self._last.due:
            raise self._last.wrong(f"its exit status is {status}, not {self._last.due[0]}")

    async def _run_in_background(self, block: Block) -> None:
        before = listening()
        self._last = await self._start(block)
        self._background.append(self._last)
        deadline = time.monotonic() + BLOCK_TIMEOUT
        while not await self._ready(self._last, before):
            if self._last.process.returncode is not None:
                raise self._last.wrong("it has ended, and is to run in the background")
            if time.monotonic() > deadline:
                raise self._last.wrong(f"it was not ready after {BLOCK_TIMEOUT:g} s")
            await asyncio.sleep(LOOK_AGAIN)

    async def _ready(self, running: Running, before: set[str]) -> bool:
        block = running.block
        if until := block.directives["background"]:
            return until in running.printed
        new = listening() - before
        named = {port for pair in LOCAL_PORT.findall(block.text) for port in pair if port}
        if not new or named - {"0"} - {address.rpartition(":")[2] for address in new}:
            return False
        return not re.search(r"\bssmnet up\b", block.text) or await self._is_up()

    async def _is_up(self) -> bool:
        """Tell whether all that ``ssmnet up`` runs is up."""
        status = await asyncio.create_subprocess_exec(
            SSMNET,
            *("status", "--json"),
            cwd=self._cwd(),
            env=self._env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        printed, _ = await status.communicate()
        states = re.findall(rb'"state": ?"(\w+)"', printed)
        return bool(states) and set(states) == {b"up"}


async def none_left() -> None:
    """See that no process is left of those that a page has started. Raises PageError."""
    deadline = time.monotonic() + GONE_TIMEOUT
    looks = 0  # that found none: one that is about to run another program shows nothing meanwhile
    while looks < 3:
        left = commands_of_the_page()
        looks = 0 if left else looks + 1
        if left and time.monotonic() > deadline:
            raise PageError(1, "these processes are left:\n" + "\n".join(left))
        await asyncio.sleep(LOOK_AGAIN)


async def run_page(path: Path, folder: Path) -> None:
    """Run a page in the namespaces that this process is in. Raises PageError."""
    text = path.read_text("utf-8")
    blocks = read_blocks(text)
    env = environment(folder)
    instance = folder / "instance"
    names = (f"--name={name}={address}" for name, address in HOSTS.items())
    far_env = env | {"HOME": str(instance)}
    async with hosts_running(text, folder, env), far_end_running(far_env, *names) as far_end:
        page = Page(folder, env | far_end.exports | {MARK: "1"})
        try:
            for block in blocks:
                await page.run(block)
            await page.stop()
            await none_left()
        finally:
            far_end.killed = True
            left = await far_end.end()
        if left:
            raise PageError(1, f"{left} sessions are left open")


def enter_namespaces(page: str) -> NoReturn:
    """Run this program again, in namespaces of its own. Raises NotAllowed."""
    command = (*new_namespaces(), sys.executable, "-m", __spec__.name, INSIDE, page)
    if re.search(r"^ *aws ", Path(page).read_text("utf-8"), re.MULTILINE):
        find_aws_cli(1)  # there is no network inside to install it by
    os.execvp(command[0], command)


def main(arguments: list[str]) -> int:
    """Run a page; the exit status."""
    if arguments[0] != INSIDE:
        enter_namespaces(arguments[0])
    path = Path(arguments[1]).resolve()
    # What was ignored when this was started, as in the background of a script, would be by all.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    with tempfile.TemporaryDirectory(prefix="ssmnet-page-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL runs as another user
        make_namespace(folder)
        os.chdir(folder / "instance")  # where the agent's shells and commands begin
        try:
            asyncio.run(run_page(path, folder))
        except PageError as error:
            print(f"{path}:{error.line}: {error}")
            return 1
        finally:
            os.chdir("/")
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except (NotAllowed, pytest.skip.Exception) as reason:
        print(f"NOT RUN: {reason}")
        status = SKIPPED
    sys.exit(status)
