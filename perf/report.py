"""How a measurement is started and printed: a table for people, and JSON for programs.

Every file here is run alone as ``python -m perf.NAME``, with ``--quick`` for a short look and
``--json FILE`` for its rows. Times on one machine mean little on another: what counts is the ratio
to a calibrator of the same run.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

Row = Mapping[str, str | int | float | None]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all have; add the rest.

    Whoever is terminated from here on ends what it has started, as after Ctrl-C.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    made = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return made


def show(name: str, rows: Sequence[Row], file: Path | None = None) -> None:
    """Print ``rows`` as a table and, for programs, as one line of JSON; write that to ``file``."""
    columns = list(rows[0])
    texts = [columns, *([text(row.get(column)) for column in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for line in texts:
        cells = [line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]
        print("  ".join(cells).rstrip())
    result = json.dumps({"name": name, "machine": machine(), "rows": list(rows)})
    print(result, flush=True)
    if file is not None:
        file.write_text(result + "\n")


def machine() -> str:
    """Where a run took place."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.system()} {platform.machine()}, {cores} cores, {python}"


def median(values: Sequence[float], digits: int = 3) -> float:
    """The median, with as many significant digits as a measurement has."""
    return float(f"{statistics.median(values):.{digits}g}")


def text(value: object) -> str:
    """As it is printed."""
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
