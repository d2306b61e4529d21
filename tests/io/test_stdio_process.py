"""Standard input and output of real processes, in pipelines and as others leave them behind."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("descriptors of POSIX", allow_module_level=True)

import pty
import tty

TIMEOUT = 60.0
MIB = 1024 * 1024
DATA = b"a line that goes through\n"
LOOPS = ["asyncio", "uvloop"]

# Copies standard input to standard output, and tells on standard error how that ended.
COPY = """
import asyncio, os, sys
import uvloop
from ssmnet.runner import _open_standard_files
from ssmnet.stdio import open_stdio
class Copy(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.ended = asyncio.get_running_loop().create_future()
    def data_received(self, data):
        self.transport.write(data)
    def pause_writing(self):
        self.transport.pause_reading()
    def resume_writing(self):
        self.transport.resume_reading()
    def eof_received(self):
        return STAY
    def connection_lost(self, error):
        self.ended.set_result(error)
async def main():
    copy = Copy()
    open_stdio(copy)
    print([os.get_blocking(n) for n in range(3)], file=sys.stderr, flush=True)
    error = await copy.ended
    print(type(error).__name__, file=sys.stderr, flush=True)
_open_standard_files()
with asyncio.Runner(loop_factory=LOOP.new_event_loop) as runner:
    runner.run(main())
"""
ALL_BLOCK = b"[True, True, True]\n"


def copy(loop: str, *, stay: bool = False) -> list[str]:
    """The command that copies on this loop, and stays after the end of its input if it is told."""
    return [sys.executable, "-c", COPY.replace("STAY", str(stay)).replace("LOOP", loop)]


def make(kind: str, folder: Path, *, reading: bool) -> tuple[int | None, int | None]:
    """What the process gets, and the other end."""
    path = str(folder / f"{kind} {reading}")
    ours: int | None
    theirs: int | None
    if kind == "pipe":
        ours, theirs = os.pipe() if reading else os.pipe()[::-1]
    elif kind == "fifo":
        os.mkfifo(path)
        first = os.open(path, os.O_RDWR)
        ours, theirs = os.open(path, os.O_RDONLY), os.open(path, os.O_WRONLY)
        os.close(first)
        if not reading:
            ours, theirs = theirs, ours
    elif kind == "socket":
        sockets = socket.socketpair()
        ours, theirs = (one.detach() for one in sockets)
    elif kind == "terminal":
        theirs, ours = os.openpty()
        if not reading:
            tty.setraw(ours)
    elif kind == "closed":
        ours = theirs = None
    elif kind in ("null", "full"):
        ours, theirs = os.open(f"/dev/{kind}", os.O_RDWR), None
    else:
        Path(path).write_bytes(DATA if reading else b"")
        append = os.O_APPEND if kind == "appended" else 0
        ours = os.open(path, append | (os.O_RDONLY if reading else os.O_WRONLY))
        theirs = os.open(path, os.O_RDONLY)
    return ours, theirs


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("stdin", "stdout"),
    [
        ("pipe", "terminal"),
        ("pipe", "closed"),
        ("fifo", "socket"),
        ("socket", "fifo"),
        ("terminal", "pipe"),
        ("file", "appended"),
        ("file", "full"),
        ("null", "file"),
        ("null", "pipe"),
        ("closed", "pipe"),
        ("closed", "closed"),
        ("terminal", "null"),
        ("socket", "null"),
    ],
)
def test_standard_input_and_output_of_a_process(
    stdin: str, stdout: str, loop: str, tmp_path: Path
) -> None:
    source, feeder = make(stdin, tmp_path, reading=True)
    sink, drainer = make(stdout, tmp_path, reading=False)
    closing = [n for n, given in enumerate((source, sink)) if given is None]
    command = copy(loop)
    if closing:
        redirections = " ".join(f"{n}{'>' if n else '<'}&-" for n in closing)
        command = ["sh", "-c", f'exec "$@" {redirections}', "sh", *command]
    process = subprocess.Popen(command, stdin=source, stdout=sink, stderr=subprocess.PIPE)
    if feeder is not None and stdin != "file":
        os.write(feeder, DATA + (b"\x04" if stdin == "terminal" else b""))
        if stdin != "terminal":
            os.close(feeder)
            feeder = None
    _, told = process.communicate(timeout=TIMEOUT)
    assert told == ALL_BLOCK + (b"OSError\n" if stdout == "full" else b"NoneType\n")
    assert process.returncode == 0
    for descriptor in (source, sink):
        if descriptor is not None:
            assert os.get_blocking(descriptor)
    if drainer is not None:
        os.set_blocking(drainer, False)
        expected = DATA if stdin not in ("null", "closed") else b""
        try:
            assert os.read(drainer, 100) == expected
        except BlockingIOError:
            assert not expected
    for descriptor in (source, sink, feeder, drainer):
        if descriptor is not None:
            os.close(descriptor)


@pytest.fixture(scope="module")
def large() -> Iterator[tuple[str, str]]:
    """A file of 64 MiB, and its hash."""
    with tempfile.NamedTemporaryFile() as file:
        data = os.urandom(64 * MIB)
        file.write(data)
        file.flush()
        yield file.name, hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "pipeline", ["cat FILE | COPY | cat", "COPY < FILE", "cat FILE | COPY | COPY"]
)
@pytest.mark.parametrize("loop", LOOPS)
def test_64_mib_arrive_whole(loop: str, pipeline: str, large: tuple[str, str]) -> None:
    path, digest = large
    script = pipeline.replace("FILE", '"$0"').replace("COPY", '"$@"')
    process = subprocess.Popen(
        ["sh", "-c", script, path, *copy(loop)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    hashed = hashlib.sha256()
    while data := process.stdout.read(MIB):
        hashed.update(data)
    assert hashed.hexdigest() == digest
    process.stdout.close()
    assert process.wait(TIMEOUT) == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_one_pipe_for_both_outputs_never_refuses_a_print(loop: str) -> None:
    source = copy(loop)[2].replace(
        "self.transport.write(data)",
        "self.transport.write(data); print('?' * 1000, file=sys.stderr, flush=True)",
    )
    process = subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out, _ = process.communicate(bytes(8 * MIB), timeout=TIMEOUT)
    assert process.returncode == 0
    assert out.count(0) == 8 * MIB
    assert out.count(b"?") >= 1000 * 8 * MIB // (64 * 1024)
    assert out.endswith(b"NoneType\n")


@pytest.mark.parametrize("loop", LOOPS)
def test_a_killed_process_leaves_the_terminal_as_it_was(loop: str) -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        copy(loop), stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == ALL_BLOCK
    assert os.get_blocking(slave)
    process.kill()
    assert process.wait(TIMEOUT) == -signal.SIGKILL
    assert os.get_blocking(slave)
    process.stderr.close()
    os.close(master)
    os.close(slave)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_end_of_a_reader_ends_a_process_that_has_nothing_to_write(loop: str) -> None:
    process = subprocess.Popen(
        copy(loop, stay=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stderr.readline() == ALL_BLOCK
    process.stdout.close()
    assert process.wait(TIMEOUT) == 0
    process.stdin.close()
    assert process.stderr.read() == b"BrokenPipeError\n"
    process.stderr.close()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_disk_that_fills_up_in_the_middle(loop: str, tmp_path: Path) -> None:
    """The system's limit for a file's size fails in the same way."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
    with open(tmp_path / "file", "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", limit + copy(loop)[2]],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.PIPE,
        )
        _, told = process.communicate(bytes(MIB), timeout=TIMEOUT)
    assert told == ALL_BLOCK + b"OSError\n"
    assert (tmp_path / "file").stat().st_size == 100_000
