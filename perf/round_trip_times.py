"""What becomes of throughput and CPU as the round trip grows?

``python -m perf.round_trip_times`` moves bytes up and down through ``ssmnet forward`` while the far
end delays every message by half of 0 to 300 ms each way. At most 4 MiB are on their way, so no
upload is faster than ``most MB/s``. ``1 MiB up`` is a new connection's first MiB, for which the
window may have to grow. Four processes: this one, forward, far end and destination.
"""

from collections import defaultdict
from contextlib import ExitStack

from perf import report, tunnel
from perf.transfer import Moved, download, upload, upload_whole

ROUND_TRIPS = (0, 1, 3, 10, 30, 100, 200, 300)  # ms
QUICK_ROUND_TRIPS = (0, 30, 300)
MIB = 1024 * 1024
MAX_WINDOW = 4 * MIB


def measure(round_trips: tuple[int, ...], seconds: float, rounds: int) -> list[report.Row]:
    found: dict[tuple[int, str], list[Moved]] = defaultdict(list)
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination())
        stack.enter_context(tunnel.far_end())
        for _ in range(rounds):
            for round_trip in round_trips:
                tunnel.impair(delay=round_trip / 2000)
                # A session of its own: what it knows of the path is nothing of another's.
                with tunnel.forward(remote.port) as forward:
                    found[round_trip, "first"].append(upload_whole(forward, MIB))
                    found[round_trip, "up"].append(upload(forward, remote, seconds))
                    found[round_trip, "down"].append(download(forward, seconds))
        tunnel.impair()
    return [row(round_trip, found) for round_trip in round_trips]


def row(round_trip: int, found: dict[tuple[int, str], list[Moved]]) -> report.Row:
    made: dict[str, int | float | None] = {"round trip ms": round_trip}
    for way in ("up", "down"):
        moved = found[round_trip, way]
        made[f"{way} MB/s"] = report.median([one.rate / 1e6 for one in moved])
        made[f"{way} us/KiB"] = report.median([one.cpu_per_kib * 1e6 for one in moved])
    made["1 MiB up MB/s"] = report.median([one.rate / 1e6 for one in found[round_trip, "first"]])
    if round_trip >= 30:  # below, it is no limit
        made["most MB/s"] = float(f"{MAX_WINDOW / round_trip / 1e3:.3g}")
    else:
        made["most MB/s"] = None
    return made


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    rows = measure(QUICK_ROUND_TRIPS, 2.0, 1) if arguments.quick else measure(ROUND_TRIPS, 8.0, 3)
    report.show("round_trip_times", rows, arguments.json)


if __name__ == "__main__":
    main()
