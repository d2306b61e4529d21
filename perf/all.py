"""Runs every measurement, each as a program of its own, and tells what became of it.

``python -m perf.all --quick`` takes less than five minutes. ``--results FOLDER`` keeps the rows as
``NAME.json``, for perf.chart; ``--only NAME`` runs some. The exit status is 1 if any has failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from perf import report

# Those that say most come first. All take --quick and --json.
NAMES = (
    "codec",
    "throughput",
    "upload",
    "round_trip",
    "latency",
    "startup",
    "memory",
    "idle",
    "policed",
    "pool",
    "sessions",
    "connections",
    "payload_sizes",
    "round_trip_times",
    "losses",
    "stalled_reader",
)
# No measurement is to take longer, in seconds.
TIMEOUT = 3600.0
QUICK_TIMEOUT = 120.0
# For one that is terminated to end its own programs.
GRACE_TIME = 30.0


def run(name: str, *, quick: bool, file: Path) -> report.Row:
    """Run one measurement, which prints its table."""
    print(f"\n== {name}", flush=True)
    command = [sys.executable, "-m", f"perf.{name}", "--json", str(file)]
    began = time.perf_counter()
    process = subprocess.Popen([*command, "--quick"] if quick else command)
    try:
        status: int | None = process.wait(QUICK_TIMEOUT if quick else TIMEOUT)
    except subprocess.TimeoutExpired:
        status = None
        end(process)
    seconds = round(time.perf_counter() - began, 1)
    rows = len(json.loads(file.read_text())["rows"]) if file.exists() else 0
    outcome = "took too long" if status is None else f"failed, {status}" if status else "done"
    if outcome == "done" and not rows:
        outcome = "failed, no rows"
    return {"measurement": name, "outcome": outcome, "rows": rows, "seconds": seconds}


def end(process: subprocess.Popen[bytes]) -> None:
    """So that it ends what it has started."""
    process.terminate()
    try:
        process.wait(GRACE_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="keep the rows there")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the summary there, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = arguments.results or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[report.Row] = []
        for name in arguments.only or NAMES:
            file = folder / f"{name}.json"
            file.unlink(missing_ok=True)
            rows.append(run(name, quick=arguments.quick, file=file))
    print("\n== all")
    report.show("all", rows, arguments.json)
    if any(row["outcome"] != "done" for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
