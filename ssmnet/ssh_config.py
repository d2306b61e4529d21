"""The Host block of ``~/.ssh/config`` that has ssh go through a session, and its place in the file.

The block stands between two comments, at the top: of several values for an option, ssh takes the
first. It ends with ``Host *``, so that what comes after it counts for all hosts, as it did before.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .errors import UsageError

BEGIN = "# >>> ssmnet ssh-config >>>"
END = "# <<< ssmnet ssh-config <<<"
HOSTS = ("i-*", "mi-*")

# What would end the pattern, or begin a comment.
_PATTERN = re.compile(r"""[^\s"'#,\\]+""")
_USER = re.compile(r"""[^\s"'#\\-][^\s"'#\\]*""")


def own_command() -> list[str]:
    """How to start this ssmnet from anywhere: cron and editors have a PATH of their own.

    A link is not followed: it may outlive what it leads to, as those of pipx and uv do.
    """
    program = Path(os.path.abspath(sys.argv[0]))
    if program.stem == "ssmnet" and program.is_file() and os.access(program, os.X_OK):
        return [str(program)]
    return [sys.executable, "-m", "ssmnet"]


def host_block(
    command: Sequence[str],
    *,
    hosts: Sequence[str] = HOSTS,
    user: str | None = None,
    windows: bool = sys.platform == "win32",
) -> str:
    """The lines for ``hosts``, reached through ``command`` and the name and port that ssh adds.

    Raises UsageError for what can't stand in the file.
    """
    for pattern in hosts:
        if not _PATTERN.fullmatch(pattern):
            raise UsageError(
                f"{pattern!r} is no pattern for a host: it has a space, quote or comma"
            )
    if user is not None and not _USER.fullmatch(user):
        raise UsageError(f"{user!r} is no name of a user")
    lines = [
        BEGIN,
        "# Kept by `ssmnet ssh-config --install`, which replaces it; --remove takes it out.",
        f"Host {' '.join(hosts)}",
        f"    ProxyCommand {_quote(command, windows)} %h %p",
    ]
    if user is not None:
        lines.append(f"    User {user}")
    lines += ["# What follows is for all hosts again.", "Host *", END]
    return "\n".join(lines) + "\n"


def with_block(text: str, block: str) -> str:
    """``text`` with ``block`` in the place of the older one, or else at the top.

    Raises UsageError where an older one has no end.
    """
    before, after, found = _split(text)
    newline = "\r\n" if "\r\n" in text else "\n"
    block = block.replace("\n", newline)
    return before + block + after if found else block + text


def without_block(text: str) -> str:
    """``text`` without the block, to the byte what it was before. Raises UsageError."""
    before, after, _ = _split(text)
    return before + after


def edit_file(path: Path, block: str | None) -> bool:
    """Put ``block`` into the file, or take it out (None); whether that changed anything.

    What else is in the file stays as it is, and so do the file's mode (0600 for a new one), owner
    and the links that lead there. Nobody sees half of it. Raises UsageError.
    """
    path = Path(os.path.realpath(path))
    try:
        old = _read(path)
        text = old.decode("utf-8", "surrogateescape")
        text = without_block(text) if block is None else with_block(text, block)
        new = text.encode("utf-8", "surrogateescape")
        if new == old:
            return False
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, new)
    except OSError as error:
        raise UsageError(f"cannot change {path}: {error.strerror or error}") from error
    except UsageError as error:
        raise UsageError(f"cannot change {path}: {error}") from None
    return True


def _quote(command: Sequence[str], windows: bool) -> str:
    """One line for the shell that ssh starts, with no % that ssh would take for a word of its."""
    if any(re.search(r"[\x00-\x1f\x7f]", word) for word in command):
        raise UsageError("a control character can't stand in a file of ssh")
    line = subprocess.list2cmdline(command) if windows else shlex.join(command)
    return line.replace("%", "%%")


def _split(text: str) -> tuple[str, str, bool]:
    """What is before the first block and after it, without any others; whether there is one."""
    before: list[str] = []
    after: list[str] = []
    inside = found = False
    for line in text.splitlines(keepends=True):
        mark = line.strip()
        if mark == BEGIN and not inside:
            inside = found = True
        elif mark == END and inside:
            inside = False
        elif mark == BEGIN:
            break
        elif not inside:
            (after if found else before).append(line)
    if inside:
        raise UsageError(f"a line {BEGIN!r} has no {END!r} after it; take it out by hand")
    return "".join(before), "".join(after), found


def _read(path: Path) -> bytes:
    """What is in the file; nothing where there is none. Raises OSError, UsageError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError("it is no file")
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _replace(path: Path, data: bytes) -> None:
    """Write ``data`` to a file beside ``path``, which then takes its place."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # its mode: 0600
    try:
        with open(descriptor, "wb") as file:
            if path.exists():
                _keep_attributes(path.stat(), descriptor)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _keep_attributes(status: os.stat_result, descriptor: int) -> None:
    """As before, but that none but the owner may write it: ssh reads no other."""
    if sys.platform != "win32":
        with contextlib.suppress(PermissionError):  # of another user's: ours from now on
            os.fchown(descriptor, status.st_uid, status.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & ~0o022)
