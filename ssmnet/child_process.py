"""A command that runs in our place: on our terminal and files, with the signals that come to us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence

from .parent import open_process

# Those that a terminal sends to its whole foreground group, the command among them.
_TERMINAL = ("SIGINT", "SIGQUIT")
# Those that are for us alone, and are meant for what we run.
_PASSED_ON = ("SIGTERM", "SIGHUP")

# Soft and hard bound of the number of open files.
FileLimit = tuple[int, int]


def file_limit() -> FileLimit | None:
    """The bound of open files as it is now: ``runner.run`` raises it, and a command wants its own.

    None where there is none.
    """
    if sys.platform == "win32":
        return None
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)


async def run_child(
    command: Sequence[str], environment: Mapping[str, str], limit: FileLimit | None
) -> int:
    """Run ``command`` to its end; its exit status, or 128 and the number of the signal it died of.

    Its standard files are ours. Ctrl-C is left to it, and what asks us to end is passed on: we end
    when it does. Raises OSError when it can't be started.
    """
    # Elsewhere the PATH is searched for us; there, it would not be for anything but .exe.
    program = shutil.which(command[0]) if sys.platform == "win32" else None
    with _limited(limit):
        # Not the loop's way: libuv gives a program back the signals that nohup has it ignore.
        process = subprocess.Popen(  # noqa: S603, ASYNC220 - the user's own command
            command, executable=program, env=environment
        )
    # A signal that has come meanwhile is handled by the loop later on: by these handlers.
    _take_signals(process)
    status = await _ended(process)
    return 128 - status if status < 0 else status


@contextlib.contextmanager
def _limited(limit: FileLimit | None) -> Iterator[None]:
    """With the bound of open files as it was: programs that use select fail with a high one."""
    if sys.platform == "win32" or limit is None:
        yield
        return
    import resource

    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit[0], ours[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, ours)


def _take_signals(process: subprocess.Popen[bytes]) -> None:
    for name in (*_TERMINAL, *_PASSED_ON):
        number = getattr(signal, name, None)
        if number is None or signal.getsignal(number) is signal.SIG_IGN:
            continue
        if sys.platform == "win32":
            signal.signal(number, _ignore)
        elif name in _PASSED_ON:
            asyncio.get_running_loop().add_signal_handler(number, process.send_signal, number)
        else:
            asyncio.get_running_loop().add_signal_handler(number, _ignore)


def _ignore(*_: object) -> None:
    """Unlike SIG_IGN, this is not for the command as well."""


async def _ended(process: subprocess.Popen[bytes]) -> int:
    """The return code; neither a loop's child watcher nor libuv's handling of signals is needed."""
    try:
        descriptor, close = open_process(process.pid)
    except OSError:
        # Windows, old kernels, and macOS where it has ended already.
        return await asyncio.to_thread(process.wait)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        close()
    return process.wait()


def why_not(error: OSError, command: str) -> tuple[int, str]:
    """The exit status of shells for a command that can't be started, and a line that says why."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        missing = f"{command}: there is no such command"
        if os.path.exists(command):
            missing = f"{command}: what it is to be run by is not there"
        return 127, missing
    return 126, f"{command}: cannot be run: {error.strerror or error}"
