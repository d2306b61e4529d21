"""What do sessions cost, from one to 200 in one process?

``python -m perf.sessions`` runs ``ssmnet forward --sessions N`` with one connection in each
session: first idle, when it counts wake-ups (voluntary context switches of all threads), CPU time
and private memory; then each downloads as fast as ``ssmnet loopback --pace`` sends, which is at the
real agent's pace. All of its agents are in one process, and all programs share the machine: the
last columns say how many cores the two of ours had, and how many were busy in all. Where that is
all there are, and ours had less, it is other work that bounds the rate.
"""

import re
import time
from pathlib import Path

from perf import report, tunnel, wide
from perf.idle import SETTLING_TIME, wake_ups

STEPS = (1, 2, 4, 8, 16, 32, 64, 100, 150, 200)
QUICK_STEPS = (1, 8, 24)
WARM_UP = 3.0
# Of what /proc counts time in, on every Linux.
USER_HZ = 100


def private_mib(pid: int) -> float:
    """Memory that is the process's alone."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"^Private_\w+:\s+(\d+) kB", text, re.MULTILINE))) / 1024


def measure(
    steps: tuple[int, ...], idle_seconds: float, seconds: float, rounds: int
) -> list[report.Row]:
    rows: list[report.Row] = []
    with tunnel.destination() as remote, tunnel.far_end("--pace") as far_pid:
        for number in steps:
            with wide.forward(remote.port, number) as forward:
                connections = forward.connect_many(number, "e")
                time.sleep(SETTLING_TIME)
                mib = private_mib(forward.pid)
                woken, cpu = wake_ups(forward.pid), tunnel.cpu_time(forward.pid)
                time.sleep(idle_seconds)
                woken = wake_ups(forward.pid) - woken
                idle_cpu = tunnel.cpu_time(forward.pid) - cpu
                for connection in connections:
                    connection.close()
                found = [download(forward, far_pid, number, seconds) for _ in range(rounds)]
            rates, ours, theirs, had, busy = zip(*found, strict=True)
            rows.append(
                {
                    "sessions": number,
                    "down MB/s": report.median(rates),
                    "down us/KiB": report.median(ours),
                    "far end us/KiB": report.median(theirs),
                    "private MiB": round(mib, 1),
                    "idle wake-ups/s": round(woken / idle_seconds, 2),
                    "idle CPU ms/s": round(idle_cpu / idle_seconds * 1e3, 2),
                    "cores had": report.median(had, 2),
                    "cores busy": report.median(busy, 2),
                }
            )
    return rows


def download(
    forward: wide.Forward, far_pid: int, number: int, seconds: float
) -> tuple[float, float, float, float, float]:
    """MB/s, microseconds of CPU time a KiB of the forward and of the far end, cores."""
    connections = forward.connect_many(number, "d")
    wide.receive(connections, WARM_UP)
    before = tunnel.cpu_time(forward.pid), tunnel.cpu_time(far_pid)
    began, machine = time.perf_counter(), busy_time()
    size = wide.receive(connections, seconds)
    elapsed = time.perf_counter() - began
    busy = (busy_time() - machine) / elapsed
    after = tunnel.cpu_time(forward.pid), tunnel.cpu_time(far_pid)
    for connection in connections:
        connection.close()
    ours, theirs = ((b - a) / size * 1024 * 1e6 for a, b in zip(before, after, strict=True))
    had = sum(after) - sum(before)
    return size / elapsed / 1e6, ours, theirs, had / elapsed, busy


def busy_time() -> float:
    """The seconds that all cores of the machine have run, for whatever program."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _, _, *interrupts = map(int, fields)
    return (user + nice + system + sum(interrupts)) / USER_HZ


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    tunnel.raise_file_limit()
    how = (QUICK_STEPS, 2.0, 1.0, 1) if arguments.quick else (STEPS, 10.0, 5.0, 3)
    report.show("sessions", measure(*how), arguments.json)


if __name__ == "__main__":
    main()
