"""A terminal for a program to run on, as a person has one; and what it leaves behind there."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from .leaks import session_members
from .processes import TIMEOUT

if sys.platform == "win32":
    pytest.skip("pexpect needs a Unix terminal", allow_module_level=True)

import pexpect

# Forking a terminal's process is what pexpect does; this process has no other thread of note.
FORKS = pytest.mark.filterwarnings("ignore:.*forkpty:DeprecationWarning")

# What a Ctrl-C means is the program's to decide, as it is in an interactive shell.
_AROUND = 'trap : INT QUIT; echo "before $(stty -g)"; "$@"; echo "after $? $(stty -g)"'


class Ended(NamedTuple):
    """How a program ended, and what it had not been expected to say until then."""

    status: int
    rest: str


class Terminal:
    """A program on a terminal of its own. Waiting for anything has a deadline."""

    def __init__(self, child: "pexpect.spawn[str]") -> None:
        self._child = child
        child.delaybeforesend = None  # or else each key takes 50 ms
        self._settings = self.expect(r"before (\S+)\r\n")[1]

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until ``pattern`` comes; a line ends with CR LF."""
        self._child.expect(pattern)
        match = self._child.match
        assert isinstance(match, re.Match)
        return match

    @property
    def before(self) -> str:
        """What came before that which was expected last."""
        return str(self._child.before)

    def find(self, program: str | Path) -> int:
        """The process id of a program that runs here."""
        shell = int(self._child.pid or 0)
        for pid in session_members(shell) - {shell}:
            if os.fsencode(program) in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
        raise AssertionError(f"{program} does not run here")

    def send(self, keys: str) -> None:
        """Press keys."""
        self._child.send(keys)

    def enter(self, line: str) -> None:
        """Type a line."""
        self._child.send(line + "\r")

    def resize(self, rows: int, columns: int) -> None:
        """Pull at the window's corner."""
        self._child.setwinsize(rows, columns)

    def end(self) -> Ended:
        """Wait for the end. The terminal must be as it was, and no process be left on it."""
        status, settings = self.expect(r"after (\d+) (\S+)\r?\n").groups()
        rest = self.before
        self._child.expect(pexpect.EOF)
        self._child.wait()
        assert settings == self._settings
        assert session_members(int(self._child.pid or 0)) == set()
        return Ended(int(status), rest)

    def close(self) -> None:
        """Hang up, and end what is left there."""
        self._child.close(force=True)


@contextmanager
def on_terminal(
    *command: str | Path, env: Mapping[str, str], rows: int = 24, columns: int = 160
) -> Iterator[Terminal]:
    """Run a program on a terminal of that size."""
    child = pexpect.spawn(
        "/bin/sh",
        ["-c", _AROUND, "sh", *map(str, command)],
        env={"TERM": "xterm-256color", **env},
        encoding="utf-8",
        timeout=TIMEOUT,
        dimensions=(rows, columns),
    )
    try:
        yield Terminal(child)
    finally:
        child.close(force=True)
