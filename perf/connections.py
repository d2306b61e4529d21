"""What becomes of throughput and CPU with many connections in one session?

``python -m perf.connections`` opens 1 to 10,000 connections through one multiplexed session and
moves the same amount over all of them at a time, in equal parts, and over one of them alone while
the others are idle. Client, far end and application are processes of their own; CPU is the
client's. ``opening`` is what one more connection takes until its first byte has come back, 100 of
them at a time. ``idle`` is the client's CPU time in a second in which nothing is moved.
"""

import asyncio
from collections import defaultdict

import uvloop

from perf import near_end, report
from perf.near_end import Application, Spent

CONNECTIONS = (1, 10, 100, 300, 1000, 3000, 10_000)
QUICK_CONNECTIONS = (1, 100, 1000, 10_000)
MIB = 1024 * 1024


class Found:
    """What was seen with one number of connections."""

    def __init__(self) -> None:
        self.opening = 0.0
        self.idle = 0.0
        self.spent: dict[tuple[str, bool], list[Spent]] = defaultdict(list)


async def measure(connections: int, size: int, rounds: int) -> Found:
    found = Found()
    async with near_end.far_end() as far_end, far_end.session("wss", "mux") as session:
        async with near_end.application(session, connections) as application:
            found.opening = application.opening / connections
            found.idle = (await near_end.spent(asyncio.sleep(1))).cpu
            for number in range(rounds + 1):
                for letter in ("U", "D"):
                    for together in (True, False):
                        work = move(application, letter, size, connections if together else 1)
                        one = await near_end.spent(work)
                        if number:  # the first opens windows and warms caches
                            found.spent[letter, together].append(one)
    return found


async def move(application: Application, letter: str, size: int, connections: int) -> None:
    await application.order(letter, size // connections, connections=connections)


def row(connections: int, size: int, found: Found) -> report.Row:
    made: dict[str, int | float] = {"connections": connections}
    for letter, name in (("U", "up"), ("D", "down")):
        for together, which in ((True, "all"), (False, "one")):
            spent = found.spent[letter, together]
            made[f"{name} {which} MB/s"] = report.median([size / s.wall / 1e6 for s in spent])
            made[f"{name} {which} us/KiB"] = report.median([s.cpu / size * 1024e6 for s in spent])
    made["opening us"] = report.median([found.opening * 1e6])
    made["idle ms/s"] = report.median([found.idle * 1e3])
    return made


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    size, rounds = (8 * MIB, 1) if arguments.quick else (32 * MIB, 3)
    near_end.raise_file_limit()
    rows = []
    for connections in QUICK_CONNECTIONS if arguments.quick else CONNECTIONS:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(connections, size, rounds))
        rows.append(row(connections, size, found))
    report.show("connections", rows, arguments.json)


if __name__ == "__main__":
    main()
