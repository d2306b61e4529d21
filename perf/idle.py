"""What does ``ssmnet forward`` do while nothing moves?

``python -m perf.idle`` counts how often it wakes up (voluntary context switches of all its threads)
and what CPU time it takes in a while without any traffic, with 0 to 1,000 connections open. What is
due now and then wakes it all the same: a ping each way to tell whether the WebSocket is alive.
"""

import re
import socket
import time
from contextlib import ExitStack
from pathlib import Path

from perf import report, tunnel
from perf.memory import open_connections

CONNECTIONS = (0, 1, 1000)
SECONDS = 60.0
QUICK_SECONDS = 4.0
# Until the last acknowledgements are in and every timer is set anew.
SETTLING_TIME = 2.0


def wake_ups(pid: int) -> int:
    """How often the process's threads have waited for something."""
    statuses = (task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status"))
    pattern = re.compile(r"^voluntary_ctxt_switches:\s*(\d+)", re.MULTILINE)
    return sum(int(found[1]) for status in statuses if (found := pattern.search(status)))


def measure(seconds: float) -> list[report.Row]:
    rows: list[report.Row] = []
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination())
        stack.enter_context(tunnel.far_end())
        forward = stack.enter_context(tunnel.forward(remote.port))
        opened: list[socket.socket] = []
        for number in CONNECTIONS:
            opened += open_connections(forward.port, number - len(opened))
            time.sleep(SETTLING_TIME)
            before = wake_ups(forward.pid), tunnel.cpu_time(forward.pid)
            time.sleep(seconds)
            woken = wake_ups(forward.pid) - before[0]
            cpu = tunnel.cpu_time(forward.pid) - before[1]
            rows.append(
                {
                    "connections": number,
                    "seconds": seconds,
                    "wake_ups": woken,
                    "wake_ups_per_s": round(woken / seconds, 2),
                    "cpu_ms_per_s": round(cpu / seconds * 1e3, 3),
                }
            )
        for connection in opened:
            connection.close()
    return rows


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    tunnel.raise_file_limit()
    report.show("idle", measure(QUICK_SECONDS if arguments.quick else SECONDS), arguments.json)


if __name__ == "__main__":
    main()
