"""What becomes of throughput and CPU when little is moved at a time?

``python -m perf.payload_sizes`` moves the same amount in pieces of 1 byte to 16 MiB, on one
connection of a multiplexed session: each piece is sent, and the next one only when the far end has
it all (upload), or it has all come (download). Small pieces cost their round trip and wake-ups,
large ones their bytes: the curve bends between. Client, far end and application are processes of
their own; ``us/piece`` is the client's CPU time. Medians of interleaved rounds.
"""

import asyncio
from collections import defaultdict

import uvloop

from perf import near_end, report
from perf.near_end import Spent

SIZES = tuple(4**power for power in range(13))
# How much a round moves at most, in bytes and in pieces.
LIMITS = 32 * 1024 * 1024, 500
QUICK_LIMITS = 4 * 1024 * 1024, 100


async def measure(
    limits: tuple[int, int], rounds: int
) -> dict[tuple[str, int], list[tuple[int, Spent]]]:
    """How many pieces a round had and what it spent, for each direction and size."""
    most_bytes, most_pieces = limits
    found: dict[tuple[str, int], list[tuple[int, Spent]]] = defaultdict(list)
    async with (
        near_end.far_end() as far_end,
        far_end.session("wss", "mux") as session,
        near_end.application(session) as application,
    ):
        for number in range(rounds + 1):
            for size in SIZES:
                pieces = max(1, min(most_pieces, most_bytes // size))
                for letter in ("U", "D"):
                    one = await near_end.spent(application.order(letter, size, times=pieces))
                    if number:  # the first opens windows and warms caches
                        found[letter, size].append((pieces, one))
    return found


def row(size: int, found: dict[tuple[str, int], list[tuple[int, Spent]]]) -> report.Row:
    made: dict[str, int | float] = {"bytes": size}
    for letter, name in (("U", "up"), ("D", "down")):
        rounds = found[letter, size]
        made[f"{name} MB/s"] = report.median([n * size / s.wall / 1e6 for n, s in rounds])
        made[f"{name} wall us/piece"] = report.median([s.wall / n * 1e6 for n, s in rounds])
        made[f"{name} us/piece"] = report.median([s.cpu / n * 1e6 for n, s in rounds])
        made[f"{name} us/KiB"] = report.median([s.cpu / n / size * 1024e6 for n, s in rounds])
    return made


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    limits, rounds = (QUICK_LIMITS, 3) if arguments.quick else (LIMITS, 7)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure(limits, rounds))
    report.show("payload_sizes", [row(size, found) for size in SIZES], arguments.json)


if __name__ == "__main__":
    main()
