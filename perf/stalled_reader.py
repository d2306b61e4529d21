"""How much memory do readers take that do not read?

``python -m perf.stalled_reader`` begins endless downloads through one ``ssmnet forward``, one after
the other, and reads nothing of them. A session that somebody does not read keeps up to 4 MiB and
then reads nothing more; the next connection gets another session, up to a limit of sessions. The
forward's private dirty memory must be the same a while later: ``later`` is five times as long.
The last row has all readers gone. Four processes: this one, forward, far end and destination.
"""

import socket
import time
from contextlib import ExitStack

from perf import report, tunnel
from perf.destination import request
from perf.memory import private_dirty

READERS = (0, 1, 2, 3, 4, 6, 8, 12, 16)
QUICK_READERS = (0, 1, 4)
# Until what can be kept is kept, in seconds.
FILLING_TIME = 1.5
QUICK_FILLING_TIME = 0.7


def measure(steps: tuple[int, ...], filling_time: float) -> list[report.Row]:
    rows: list[report.Row] = []
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination())
        stack.enter_context(tunnel.far_end())
        forward = stack.enter_context(tunnel.forward(remote.port))
        readers: list[socket.socket] = []
        for number in steps:
            while len(readers) < number:
                readers.append(stalled(forward.port))
                time.sleep(filling_time)
            used = private_dirty(forward.pid)
            if number == steps[-1] or number == 1:
                time.sleep(4 * filling_time)
                rows.append(row(number, used, private_dirty(forward.pid)))
            else:
                rows.append(row(number, used, None))
        for reader in readers:
            reader.close()
        time.sleep(filling_time)
        rows.append({"stalled readers": 0, "when gone": mib(private_dirty(forward.pid))})
    return rows


def stalled(port: int) -> socket.socket:
    """A connection with a download that nobody reads."""
    reader = socket.socket()
    # What the kernel keeps is not the forward's: the least there is.
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", port))
    reader.sendall(request("d"))
    return reader


def row(readers: int, used: int, later: int | None) -> report.Row:
    return {
        "stalled readers": readers,
        "private dirty MiB": mib(used),
        "later": None if later is None else mib(later),
        "when gone": None,
    }


def mib(kib: int) -> float:
    return round(kib / 1024, 1)


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    if arguments.quick:
        rows = measure(QUICK_READERS, QUICK_FILLING_TIME)
    else:
        rows = measure(READERS, FILLING_TIME)
    report.show("stalled_reader", rows, arguments.json)


if __name__ == "__main__":
    main()
