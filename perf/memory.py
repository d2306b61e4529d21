"""How much memory does an idle forwarded connection take?

``python -m perf.memory`` opens connections through one ``ssmnet forward``, exchanges a byte over
each, and reads the forward's private dirty memory (``Private_Dirty`` of smaps_rollup) when they are
idle. Connections, forward, far end and destination are processes of their own. The destination is
the calibrator: what it has for each is one bare uvloop connection with a protocol of five slots.
"""

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from perf import report, tunnel
from perf.destination import request

CONNECTIONS = (0, 1, 10, 100, 300, 1000, 3000, 10_000)
QUICK_CONNECTIONS = (0, 1000, 10_000)
# So many wait for their first answer at a time.
BATCH = 100
TIMEOUT = 60.0
# For what is due when nothing moves any more: the last acknowledgements.
SETTLING_TIME = 1.0


def private_dirty(pid: int) -> int:
    """KiB that are this process's alone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Private_Dirty":
            return int(value.split()[0])
    raise ValueError("smaps_rollup has no Private_Dirty")


def open_connections(port: int, number: int) -> list[socket.socket]:
    """Connections that have exchanged a byte."""
    opened: list[socket.socket] = []
    while len(opened) < number:
        batch = [
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
            for _ in range(min(BATCH, number - len(opened)))
        ]
        for connection in batch:
            connection.sendall(request("e") + b"!")
        for connection in batch:
            assert connection.recv(1) == b"!"
        opened += batch
    return opened


def measure(steps: tuple[int, ...]) -> list[report.Row]:
    rows: list[report.Row] = []
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination())
        stack.enter_context(tunnel.far_end())
        forward = stack.enter_context(tunnel.forward(remote.port))
        # The first connections bring memory that comes once: code, buffers, the allocator's pools.
        for connection in open_connections(forward.port, BATCH):
            connection.close()
        time.sleep(SETTLING_TIME)
        opened: list[socket.socket] = []
        empty = empty_bare = 0
        for number in steps:
            opened += open_connections(forward.port, number - len(opened))
            time.sleep(SETTLING_TIME)
            used, bare = private_dirty(forward.pid), private_dirty(remote.pid)
            if not number:
                empty, empty_bare = used, bare
            rows.append(row(number, used, used - empty, bare - empty_bare))
        for connection in opened:
            connection.close()
    return rows


def row(connections: int, used: int, more: int, more_bare: int) -> report.Row:
    return {
        "connections": connections,
        "private_dirty_mib": round(used / 1024, 1),
        "kib_per_connection": round(more / connections, 2) if connections else None,
        "bare_kib_per_connection": round(more_bare / connections, 2) if connections else None,
    }


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    tunnel.raise_file_limit()
    rows = measure(QUICK_CONNECTIONS if arguments.quick else CONNECTIONS)
    report.show("memory", rows, arguments.json)


if __name__ == "__main__":
    main()
