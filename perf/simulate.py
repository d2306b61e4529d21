"""Plays whole sessions in virtual time, one for each seed, and tells of those that fail.

    python -m perf.simulate --seeds 1000
    python -m perf.simulate --seed 17       this one again, with its transcript

See ssmnet/testing/simulation.py for what must hold.
"""

import argparse
import logging
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from ssmnet.testing.scenario import draw
from ssmnet.testing.simulation import Failure, Result, simulate

# How many failures are told at length.
TOLD = 3


def play(seed: int) -> Result | str:
    """What became of a seed, or the text of its failure."""
    # AWS calls that fail are part of it.
    logging.getLogger("ssmnet").setLevel(logging.CRITICAL)
    try:
        return simulate(draw(seed), last_lines=0)
    except Failure:
        pass
    try:
        simulate(draw(seed))
    except Failure as failure:
        return str(failure)
    return f"seed {seed}: failed, and then it did not: something is not drawn from the seed"


def play_all(seeds: range, jobs: int) -> Iterator[tuple[int, Result | str]]:
    with ProcessPoolExecutor(jobs) as executor:
        yield from zip(seeds, executor.map(play, seeds, chunksize=8), strict=True)


def tell_one(seed: int) -> int:
    scenario = draw(seed)
    try:
        result = simulate(scenario, last_lines=None)
    except Failure as failure:
        print(failure)
        return 1
    print("\n".join((*scenario.lines(), *result.lines)))
    return 0


def tell_all(seeds: range, jobs: int) -> int:
    started = time.monotonic()
    failures: list[tuple[int, str]] = []
    results: list[tuple[int, Result]] = []
    for seed, outcome in play_all(seeds, jobs):
        if isinstance(outcome, Result):
            results.append((seed, outcome))
            continue
        failures.append((seed, outcome))
        if len(failures) <= TOLD:
            print(outcome)
        else:
            print(outcome.partition("\n")[0])
    elapsed = time.monotonic() - started
    print(
        f"{len(seeds)} seeds in {elapsed:.0f} s, {len(seeds) / elapsed:.1f} a second"
        f" in {jobs} processes"
    )
    if results:
        tell_figures(results)
    print(f"{len(failures)} failed{''.join(f' {seed}' for seed, _ in failures)}")
    return 1 if failures else 0


def tell_figures(results: list[tuple[int, Result]]) -> None:
    hours = sum(result.seconds for _, result in results) / 3600
    lines, sessions, websockets = (
        sum(getattr(result, name) for _, result in results)
        for name in ("messages", "sessions", "websockets")
    )
    seed, slowest = max(results, key=lambda one: one[1].seconds_after_faults / one[1].bound)
    print(
        f"{hours:.1f} hours, {sessions} sessions over {websockets} WebSockets, {lines} lines of"
        " transcripts"
    )
    print(
        f"closest to its bound: seed {seed}, done {slowest.seconds_after_faults:.0f} s after the"
        f" last fault, of {slowest.bound:.0f} s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m perf.simulate")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--seed", type=int, help="play this one, and print its transcript")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return tell_one(arguments.seed)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return tell_all(seeds, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
