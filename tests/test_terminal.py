"""Raw mode and size on real pseudo-terminals, in programs that are run there."""

import contextlib
import errno
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ssmnet import terminal

if sys.platform == "win32":
    pytest.skip("terminals of POSIX", allow_module_level=True)

import fcntl
import termios

TIMEOUT = 20.0

# The terminal becomes the program's own, as a login's is.
PRELUDE = """
import asyncio, fcntl, os, signal, sys, termios
import uvloop
from ssmnet import terminal
from ssmnet.stdio import open_stdio
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
def tell(*words):
    os.write(2, " ".join(map(str, words)).encode() + b"\\n")
def hear():
    return os.read(0, 100)
def run(main):
    with asyncio.Runner(loop_factory=getattr({loop}, "new_event_loop")) as runner:
        runner.run(main())
"""


class Program:
    """A Python program on a pseudo-terminal. What it tells comes through a pipe."""

    def __init__(self, source: str, loop: str = "asyncio") -> None:
        self.master, slave = os.openpty()
        self.before = attributes(self.master)
        self._heard = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE.replace("{loop}", loop) + source],
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(slave)

    def told(self) -> str:
        """Return the next line that it tells."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        while b"\n" not in self._heard:
            assert select.select([descriptor], [], [], TIMEOUT)[0], "it tells nothing"
            piece = os.read(descriptor, 1000)
            assert piece, f"it has ended: {self._heard!r}"
            self._heard += piece
        line, _, self._heard = self._heard.partition(b"\n")
        return line.decode()

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        return self.process.wait(TIMEOUT)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.master >= 0:
            os.close(self.master)


@contextlib.contextmanager
def program(source: str, loop: str = "asyncio") -> Iterator[Program]:
    running = Program(source, loop)
    try:
        yield running
    finally:
        running.close()


def attributes(descriptor: int) -> list[Any]:
    return list(termios.tcgetattr(descriptor))


def is_raw(found: Sequence[Any]) -> bool:
    iflag, oflag, _, lflag = found[:4]
    keys = termios.ISIG | termios.ICANON | termios.ECHO | termios.IEXTEN
    return not (iflag & (termios.IXON | termios.ICRNL) or oflag & termios.OPOST or lflag & keys)


RAW = "with terminal.raw_mode():\n    tell('raw')\n    hear()\n"


@pytest.mark.parametrize(
    ("after", "status"),
    [
        ("", 0),
        ("    sys.exit(3)", 3),
        ("    os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT),
        ("    terminal.restore(); terminal.restore(); os._exit(4)", 4),
    ],
)
def test_raw_mode_is_undone_at_every_end(after: str, status: int) -> None:
    with program(RAW + after) as shell:
        assert shell.told() == "raw"
        assert is_raw(attributes(shell.master))
        shell.type(b"x")
        assert shell.end() == status
        assert attributes(shell.master) == shell.before
        assert not is_raw(shell.before)


def test_raw_mode_that_is_never_left_is_undone_at_the_exit() -> None:
    source = """
import threading
def stay():
    with terminal.raw_mode():
        tell('raw')
        threading.Event().wait()
threading.Thread(target=stay, daemon=True).start()
hear()
"""
    with program(source) as shell:
        assert shell.told() == "raw"
        shell.type(b"x")
        assert shell.end() == 0
        assert attributes(shell.master) == shell.before


def test_every_key_is_given_to_the_program() -> None:
    keys = b"\x03\x1a\x1c\x13\x11\x04\x16\x0f\x15\r\n\x7f\xff"
    source = (
        "with terminal.raw_mode():\n    tell('raw')\n    while True:\n        tell(hear().hex())"
    )
    with program(source) as shell:
        assert shell.told() == "raw"
        shell.type(keys)
        told = ""
        while len(told) < 2 * len(keys):
            told += shell.told()
        assert told == keys.hex()


def test_what_was_typed_ahead_is_kept() -> None:
    with program("tell('here')\nhear()\n" + RAW.replace("hear()", "tell(hear())")) as shell:
        assert shell.told() == "here"
        shell.type(b"\nahead")
        assert shell.told() == "raw"
        assert shell.told() == "b'ahead'"


def test_a_terminal_that_vanishes_is_no_error() -> None:
    hear = "try: hear()\n    except OSError as error: tell(error.errno)\n"
    ignore = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    with program(ignore + RAW.replace("hear()", hear) + "tell('left')") as shell:
        assert shell.told() == "raw"
        os.close(shell.master)
        shell.master = -1
        told = shell.told()  # an error or the end of the input: systems differ
        assert told == "left" or (told == str(errno.EIO) and shell.told() == "left")
        assert shell.end() == 0


def test_a_program_in_the_background_leaves_the_terminal_alone() -> None:
    source = """
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    with terminal.raw_mode():
        os._exit(5 if terminal._saved is None else 6)
tell(os.waitstatus_to_exitcode(os.waitpid(pid, os.WUNTRACED)[1]))
"""
    with program(source) as shell:
        assert shell.told() == "5"
        assert attributes(shell.master) == shell.before


def test_a_program_that_has_lost_the_foreground_leaves_the_terminal_to_its_shell() -> None:
    source = """
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
(entered, tell_entered), (leave, tell_leave) = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    with terminal.raw_mode():
        os.write(tell_entered, b'.')
        os.read(leave, 1)
    os._exit(0)
os.read(entered, 1)
os.tcsetpgrp(0, os.getpid())
os.write(tell_leave, b'.')
tell(os.waitstatus_to_exitcode(os.waitpid(pid, os.WUNTRACED)[1]))
hear()
"""
    with program(source) as shell:
        assert shell.told() == "0"
        assert is_raw(attributes(shell.master))


CHANGES = """
async def main():
    with terminal.raw_mode(), terminal.size_changes(lambda *size: tell("size", *size)):
        tell("now", *terminal.size())
        await asyncio.sleep(60)
run(main)
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_new_size_is_told_once(loop: str) -> None:
    with program(CHANGES, loop) as shell:
        assert shell.told() == "now 300 100"  # nobody has said a size yet
        shell.resize(80, 24)
        assert shell.told() == "size 80 24"
        os.kill(shell.process.pid, signal.SIGWINCH)
        shell.resize(81, 25)
        assert shell.told() == "size 81 25"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_raw_mode_is_taken_up_again_after_a_stop(loop: str) -> None:
    with program(CHANGES, loop) as shell:
        shell.told()
        os.kill(shell.process.pid, signal.SIGSTOP)
        os.waitpid(shell.process.pid, os.WUNTRACED)
        # As the shell does that has the terminal meanwhile.
        termios.tcsetattr(shell.master, termios.TCSANOW, shell.before)
        shell.resize(90, 30)
        os.kill(shell.process.pid, signal.SIGCONT)
        assert shell.told() == "size 90 30"
        eventually_raw(shell.master)


def eventually_raw(descriptor: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_raw(attributes(descriptor)):
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_keys_come_through_the_transport_as_they_are_typed(loop: str) -> None:
    source = """
class Keys(asyncio.Protocol):
    def data_received(self, data):
        tell(data)
        self.transport.write(b"\\n" + data)
    def connection_made(self, transport):
        self.transport = transport
async def main():
    with terminal.raw_mode():
        transport = open_stdio(Keys())
        tell("raw", os.get_blocking(0), os.get_blocking(1))
        await asyncio.sleep(60)
run(main)
"""
    with program(source, loop) as shell:
        assert shell.told() == "raw True True"
        for key in (b"a", b"\x03", b"\x1b[A"):
            shell.type(key)
            assert shell.told() == str(key)
            assert os.read(shell.master, 100) == b"\n" + key


def test_without_a_terminal_nothing_happens() -> None:
    source = """
from ssmnet import terminal
with terminal.raw_mode():
    print(terminal.is_terminal(), *terminal.size())
terminal.restore()
"""
    ran = subprocess.run(
        [sys.executable, "-c", source],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert ran.stdout.split() == [b"False", b"300", b"100"]
    assert not ran.stderr
    assert terminal.DEFAULT_SIZE == (300, 100)


def test_the_size_is_that_of_the_terminal_that_is_there() -> None:
    master, slave = os.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    source = "from ssmnet import terminal; print(*terminal.size())"
    for place in ("stdin", "stderr"):
        places: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        places[place] = slave
        ran = subprocess.run(
            [sys.executable, "-c", source],
            stdout=subprocess.PIPE,
            timeout=TIMEOUT,
            check=True,
            **places,
        )
        assert ran.stdout.split() == [b"111", b"33"]
    os.close(slave)
    os.close(master)
