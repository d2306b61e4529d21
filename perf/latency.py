"""How long does a 1-byte exchange take beside a bulk transfer in the same session?

``python -m perf.latency`` sends a byte every few milliseconds through ``ssmnet forward`` to a
destination that echoes, alone and beside an upload and a download at full speed through the same
forward, which has one multiplexed session. Then the same with two plain TCP relays in the places of
``ssmnet forward`` and ``ssmnet loopback``: what the scheduler and the sockets cost anyway.

Five processes run: this one with the exchange, the bulk transfer, ``ssmnet forward``, ``ssmnet
loopback`` and the destination. All but the first and the last are busy all the time.
"""

import random
import socket
import statistics
import time
from contextlib import ExitStack

from perf import report, tunnel
from perf.destination import request

PAUSE = 0.004  # s between two exchanges, in the mean
TIMEOUT = 30.0
WAYS = {"ssmnet": "ssmnet forward", "TCP": "two TCP relays"}
LOADS = ("nothing", "upload", "download")


def exchanges(port: int, seconds: float) -> list[float]:
    """How long each exchange took, in seconds. The first is left out."""
    found = []
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request("e") + b"!")
        assert connection.recv(1) == b"!"
        end = time.perf_counter() + seconds
        while (started := time.perf_counter()) < end:
            connection.sendall(b"!")
            assert connection.recv(1) == b"!"
            found.append(time.perf_counter() - started)
            time.sleep(random.uniform(0, 2 * PAUSE))
    return found


def beside(load: str, port: int, seconds: float) -> tuple[list[float], float | None]:
    """The exchanges beside a load, and its MB/s."""
    if load == "nothing":
        return exchanges(port, seconds), None
    arguments = (load, str(port), str(seconds + 1.5))
    with tunnel.program("perf.load", *arguments) as process:
        assert tunnel.output(process).readline(), "the transfer has not begun"
        time.sleep(0.5)
        found = exchanges(port, seconds)
        return found, float(tunnel.output(process).readline()) / 1e6


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def measure(rounds: int, seconds: float) -> list[report.Row]:
    """Rounds interleaved; the percentiles are those of all rounds together."""
    times: dict[tuple[str, str], list[float]] = {}
    rates: dict[tuple[str, str], list[float]] = {}
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination()).port
        stack.enter_context(tunnel.far_end())
        ports = {
            "ssmnet": stack.enter_context(tunnel.forward(remote)).port,
            "TCP": stack.enter_context(tunnel.relays(remote)),
        }
        for _ in range(rounds):
            for way, port in ports.items():
                for load in LOADS:
                    try:
                        found, rate = beside(load, port, seconds)
                    except OSError as error:
                        error.add_note(f"through {WAYS[way]}, beside {load}")
                        raise
                    times.setdefault((way, load), []).extend(found)
                    if rate is not None:
                        rates.setdefault((way, load), []).append(rate)
    return [row(way, load, times, rates.get((way, load))) for way in ports for load in LOADS]


def row(
    way: str, load: str, times: dict[tuple[str, str], list[float]], rates: list[float] | None
) -> report.Row:
    found, idle = times[way, load], times[way, "nothing"]
    p50, p99 = percentile(found, 50), percentile(found, 99)
    return {
        "through": WAYS[way],
        "beside": load,
        "p50_ms": float(f"{p50 * 1e3:.3g}"),
        "p99_ms": float(f"{p99 * 1e3:.3g}"),
        "p50_ratio": float(f"{p50 / percentile(idle, 50):.3g}"),
        "p99_ratio": float(f"{p99 / percentile(idle, 99):.3g}"),
        "exchanges": len(found),
        "bulk_mb_s": None if rates is None else report.median(rates),
    }


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    rows = measure(1, 2.0) if arguments.quick else measure(5, 6.0)
    report.show("latency", rows, arguments.json)


if __name__ == "__main__":
    main()
