"""The programs that measurements run beside themselves: far end, forward, destination.

Each is a process of its own, and ends with its ``with`` block.
"""

import json
import os
import subprocess
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

TARGET = "i-0123456789abcdef0"
TIMEOUT = 60.0
_LAST = "AWS_EC2_METADATA_DISABLED"


class Running(NamedTuple):
    """Where a program listens, and its process."""

    port: int
    pid: int


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run ``python -m ...``, and end it."""
    command = (sys.executable, "-m", *arguments)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


@contextmanager
def far_end(*options: str) -> Iterator[int]:
    """Run ``ssmnet loopback`` and lead this process's AWS calls to it. Yields its pid."""
    before = dict(os.environ)
    with program("ssmnet", "loopback", *options) as process:
        line = ""
        while _LAST not in line:
            line = output(process).readline()
            assert line, "ssmnet loopback has ended"
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                os.environ[name] = value
        yield process.pid
    os.environ.clear()
    os.environ.update(before)


def impair(delay: float = 0.0, loss: float = 0.0) -> None:
    """Have messages come ``delay`` seconds late each way, and the share ``loss`` of them never."""
    url = f"{os.environ['AWS_ENDPOINT_URL_SSM']}/faults/impair"
    pair = f"{os.environ['AWS_ACCESS_KEY_ID']}:{os.environ['AWS_SECRET_ACCESS_KEY']}"
    headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    body = json.dumps({"delay": delay, "loss": loss}).encode()
    request = urllib.request.Request(url, body, headers)
    urllib.request.urlopen(request, timeout=TIMEOUT).close()


@contextmanager
def forward(remote: int, *options: str) -> Iterator[Running]:
    """Run ``ssmnet forward`` to a port of the far end's machine, which is this one."""
    arguments = ("-t", TARGET, "--remote", str(remote), "--output", "json", *options)
    with program("ssmnet", "forward", *arguments) as process:
        yield Running(json.loads(output(process).readline())["port"], process.pid)


@contextmanager
def destination() -> Iterator[Running]:
    """Run ``perf.destination``."""
    with program("perf.destination") as process:
        yield Running(int(output(process).readline()), process.pid)


@contextmanager
def relays(remote: int) -> Iterator[int]:
    """Two TCP relays in a row, in the places of ``ssmnet forward`` and ``ssmnet loopback``."""
    with program("perf.relay", str(remote)) as second:
        with program("perf.relay", output(second).readline().strip()) as first:
            yield int(output(first).readline())


def output(process: subprocess.Popen[str]) -> IO[str]:
    """What a program prints."""
    assert process.stdout is not None
    return process.stdout


def cpu_time(pid: int) -> float:
    """The seconds that all threads of a process have run."""
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def raise_file_limit() -> None:
    """Each connection takes a descriptor, here and in the programs that are started later."""
    if sys.platform != "win32":
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
