"""Starting a process on a terminal or on pipes, watching it, and ending all that it has started.

By posix_spawn: it runs no Python between fork and exec, which is not safe in a process that has
threads, as a name look-up of asyncio has. The child becomes the leader of a session of its own, and
so the terminal that it opens first is its controlling one.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from .events import STDERR, STDOUT, Wiring

# What the agent sets: its own idea of a terminal, and UTF-8 if nobody said anything else.
_TERM = "xterm-256color"
_LANG = "C.UTF-8"


class Child(NamedTuple):
    """A process, and our ends of what it is connected to: they do not block."""

    pid: int
    descriptors: dict[int, int]


def start(arguments: tuple[str, ...], wiring: Wiring) -> Child:
    """Start a process in a session of its own. Raises OSError, with the agent's text for it.

    Its descriptors are for the caller to close, the process is for it to wait for.
    """
    if sys.platform == "win32":
        raise OSError("shells and commands need a POSIX system")
    try:
        if wiring is Wiring.TERMINAL:
            return _start_on_terminal(arguments)
        if wiring is Wiring.PIPES:
            return _start_on_pipes(arguments)
        return _start_with_file(arguments)
    except FileNotFoundError as error:
        raise OSError(_not_found(arguments[0])) from error
    except OSError as error:
        raise OSError(f"fork/exec {arguments[0]}: {error.strerror}".lower()) from error
    except ValueError as error:
        # A NUL, or what is no text.
        raise OSError(f"fork/exec {arguments[0]!r}: invalid argument") from error


def _not_found(name: str) -> str:
    if "/" in name:
        return f"fork/exec {name}: no such file or directory"
    return f'exec: "{name}": executable file not found in $PATH'


def _start_on_terminal(arguments: tuple[str, ...]) -> Child:
    if sys.platform == "win32":
        raise NotImplementedError
    ours, theirs = os.openpty()
    try:
        # By its name, not by duplication: opening it is what makes it the controlling terminal.
        opened = (os.POSIX_SPAWN_OPEN, 0, os.ttyname(theirs), os.O_RDWR, 0)
        actions = [opened, (os.POSIX_SPAWN_DUP2, 0, 1), (os.POSIX_SPAWN_DUP2, 0, 2)]
        os.set_blocking(ours, False)
        return Child(_spawn(arguments, actions), {STDOUT: ours})
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)


def _start_on_pipes(arguments: tuple[str, ...]) -> Child:
    if sys.platform == "win32":
        raise NotImplementedError
    out, write_out = os.pipe()
    err, write_err = os.pipe()
    try:
        return Child(
            _spawn_without_input(arguments, write_out, write_err), {STDOUT: out, STDERR: err}
        )
    except BaseException:
        os.close(out)
        os.close(err)
        raise
    finally:
        os.close(write_out)
        os.close(write_err)


def _start_with_file(arguments: tuple[str, ...]) -> Child:
    with tempfile.TemporaryFile() as file:
        pid = _spawn_without_input(arguments, file.fileno(), file.fileno())
        return Child(pid, {STDOUT: os.dup(file.fileno())})


def _spawn_without_input(arguments: tuple[str, ...], out: int, err: int) -> int:
    if sys.platform == "win32":
        raise NotImplementedError
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    actions = [nothing, (os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)]
    return _spawn(arguments, actions)


def _spawn(arguments: tuple[str, ...], file_actions: Sequence[tuple[int | str, ...]]) -> int:
    if sys.platform == "win32":
        raise NotImplementedError
    environment = {**os.environ, "TERM": _TERM}
    environment["LANG"] = environment.get("LANG") or _LANG
    return os.posix_spawnp(
        arguments[0],
        arguments,
        environment,
        file_actions=file_actions,
        setsid=True,
        # Nothing blocked or ignored that was here: a background job ignores ^C, Python SIGPIPE.
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )


def wait(pid: int) -> int:
    """Wait for a process; its exit code, -1 if a signal ended it or if it is not ours to know."""
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        return -1
    return max(os.waitstatus_to_exitcode(status), -1)


def set_size(terminal: int, columns: int, rows: int) -> None:
    """Give a terminal its size. Raises OSError."""
    if sys.platform != "win32":
        import fcntl
        import struct
        import termios

        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))


def read_at(file: int, size: int, position: int) -> bytes:
    """Read from a file whose own position is another's."""
    if sys.platform == "win32":
        raise NotImplementedError
    return os.pread(file, size, position)


def send_signal(target: int, number: int) -> bool:
    """Send a signal to a process, or to the process group ``-target``; whether it was there."""
    try:
        os.kill(target, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def hang_up(leader: int) -> None:
    """Tell the session that ``leader`` leads to end, its stopped members too.

    Where nobody says who they are, only the leader's process group is told.
    """
    if sys.platform != "win32":
        for target in list(_members(leader)):
            send_signal(target, signal.SIGHUP)
            send_signal(target, signal.SIGCONT)


def kill(leader: int) -> None:
    """Kill the session that ``leader`` leads."""
    if sys.platform == "win32":
        return
    killed: set[int] = set()
    # Who is not killed yet may have started another since we looked; who is starts nobody.
    while new := set(_members(leader)) - killed:
        for target in new:
            send_signal(target, signal.SIGKILL)
        killed |= new


def has_members(leader: int) -> bool:
    """Whether the session that ``leader`` leads, or led, has any member."""
    return any(send_signal(target, 0) for target in list(_members(leader)))


def _members(leader: int) -> Iterator[int]:
    if sys.platform != "linux" or not os.path.isdir("/proc/self"):
        yield -leader
        return
    for name in os.listdir("/proc"):
        # It may have ended since.
        with suppress(ProcessLookupError, PermissionError):
            if name.isdigit() and os.getsid(int(name)) == leader:
                yield int(name)
