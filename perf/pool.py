"""What do several sessions bring, where the agent's pace bounds each?

``python -m perf.pool`` downloads through ``ssmnet forward --sessions 1`` and ``--sessions 8`` from
``ssmnet loopback --pace``, which sends at the real agent's pace. Then it exchanges a byte every few
milliseconds, alone and beside 4 downloads through the same listener: on a connection that was there
before them, and on one that comes after them.

Programs: this one, ``ssmnet loopback``, the destination, ``ssmnet forward`` (two for the downloads)
and one for each of the 4 downloads.
"""

import random
import socket
import time
from contextlib import ExitStack

from perf import report, tunnel, wide
from perf.latency import PAUSE, percentile

WIDTH = 8
BULK = 4
# What the last downloads have left in the agent's queue is sent first, at its pace.
WARM_UP = 3.0
# Downloads that are beside exchanges go on until they are ended, and no longer than this.
PATIENCE = 300.0


def speeds(remote: int, rounds: int, seconds: float) -> list[report.Row]:
    """Downloads, rounds interleaved."""
    cases = [(1, 1), (WIDTH, 1), (WIDTH, WIDTH)]  # connections and sessions
    found: dict[tuple[int, int], list[float]] = {case: [] for case in cases}
    with ExitStack() as stack:
        forwards = {n: stack.enter_context(wide.forward(remote, n)) for n in (1, WIDTH)}
        for _ in range(rounds):
            for connections, sessions in cases:
                opened = forwards[sessions].connect_many(connections, "d")
                wide.receive(opened, WARM_UP)
                began = time.perf_counter()
                size = wide.receive(opened, seconds)
                found[connections, sessions].append(size / (time.perf_counter() - began) / 1e6)
                for connection in opened:
                    connection.close()
    one = found[1, 1]
    return [
        {
            "connections": connections,
            "sessions": sessions,
            "MB/s": report.median(rates),
            "times one": report.median([a / b for a, b in zip(rates, one, strict=True)]),
        }
        for (connections, sessions), rates in found.items()
    ]


def exchange(connection: socket.socket, seconds: float) -> list[float]:
    """How long each exchange of a byte took, in seconds. The first is left out."""
    found = []
    connection.sendall(b"!")
    assert connection.recv(1) == b"!"
    end = time.perf_counter() + seconds
    while (started := time.perf_counter()) < end:
        connection.sendall(b"!")
        assert connection.recv(1) == b"!"
        found.append(time.perf_counter() - started)
        time.sleep(random.uniform(0, 2 * PAUSE))
    return found


def times(remote: int, width: int, seconds: float) -> dict[str, list[float]]:
    """Of exchanges, by what was beside them."""
    with ExitStack() as stack:
        forward = stack.enter_context(wide.forward(remote, width))
        before = stack.enter_context(forward.connect("e"))
        found = {"nothing": exchange(before, seconds)}
        loads = []
        for number in range(BULK):
            forward.wait_wide(number + 2)
            arguments = ("download", str(forward.port), str(PATIENCE))
            load = stack.enter_context(tunnel.program("perf.load", *arguments))
            assert tunnel.output(load).readline(), "the transfer has not begun"
            loads.append(load)
        forward.wait_wide(BULK + 2)
        after = stack.enter_context(forward.connect("e"))
        found["4 downloads, connected before"] = exchange(before, seconds)
        found["4 downloads, connected after"] = exchange(after, seconds)
        assert all(load.poll() is None for load in loads), "a download has ended too soon"
    return found


def latencies(
    remote: int, widths: tuple[int, ...], rounds: int, seconds: float
) -> list[report.Row]:
    found: dict[tuple[int, str], list[float]] = {}
    for _ in range(rounds):
        for width in widths:
            for beside, some in times(remote, width, seconds).items():
                found.setdefault((width, beside), []).extend(some)
    rows: list[report.Row] = []
    for (width, beside), some in found.items():
        idle = found[width, "nothing"]
        p50 = percentile(some, 50)
        # Of a few there is no such thing.
        p99 = percentile(some, 99) if len(some) >= 100 else None
        rows.append(
            {
                "sessions": f"up to {width}",
                "beside": beside,
                "p50_ms": float(f"{p50 * 1e3:.3g}"),
                "p99_ms": None if p99 is None else float(f"{p99 * 1e3:.3g}"),
                "p50_ratio": float(f"{p50 / percentile(idle, 50):.3g}"),
                "p99_ratio": None if p99 is None else float(f"{p99 / percentile(idle, 99):.3g}"),
                "exchanges": len(some),
            }
        )
    return rows


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    with tunnel.destination() as remote, tunnel.far_end("--pace"):
        if arguments.quick:
            fast, slow = speeds(remote.port, 1, 1.5), latencies(remote.port, (WIDTH,), 1, 1.5)
        else:
            fast, slow = speeds(remote.port, 5, 4.0), latencies(remote.port, (1, WIDTH), 3, 5.0)
    report.show("pool", fast, arguments.json)
    report.show("pool_latency", slow)


if __name__ == "__main__":
    main()
