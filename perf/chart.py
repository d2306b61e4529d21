"""Draws charts from the rows that measurements have written, and prints these rows as Markdown.

::

    python3 run.py python -m perf.all --results RESULTS
    python3 run.py --group perf python -m perf.chart RESULTS

makes ``perf/charts/NAME.png`` of each ``RESULTS/NAME.json`` that has a chart, and puts the table of
each into perf/README.md, where that has a place for it: between the lines ``<!-- NAME -->`` and
``<!-- /NAME -->``. Other tables are printed. ``--tables`` needs no matplotlib, which only the group
``perf`` brings, and draws nothing.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from perf.report import Row, text

CHARTS = Path(__file__).parent / "charts"
README = Path(__file__).parent / "README.md"


class Panel(NamedTuple):
    """One diagram of a chart: what is drawn over its ``x``, and whether logarithmic."""

    label: str
    columns: tuple[str, ...]
    log: bool = True


class Chart(NamedTuple):
    """What is drawn over column ``x``, which is logarithmic if ``log``."""

    title: str
    x: str
    panels: tuple[Panel, ...]
    log: bool = True


THROUGHPUT = Panel("MB/s", ("up MB/s", "down MB/s"))
CPU = Panel("CPU µs per KiB", ("up us/KiB", "down us/KiB"))
KNOWN = {
    "connections": Chart(
        "Connections of one session",
        "connections",
        (
            Panel("MB/s", ("up all MB/s", "down all MB/s", "up one MB/s", "down one MB/s")),
            Panel(
                "CPU µs per KiB",
                ("up all us/KiB", "down all us/KiB", "up one us/KiB", "down one us/KiB"),
            ),
        ),
    ),
    "payload_sizes": Chart("Bytes moved at a time", "bytes", (THROUGHPUT, CPU)),
    "sessions": Chart(
        "Sessions in one process, at the agent's pace",
        "sessions",
        (
            Panel("MB/s", ("down MB/s",)),
            Panel("CPU µs per KiB", ("down us/KiB", "far end us/KiB")),
            Panel("private MiB", ("private MiB",), log=False),
        ),
    ),
    "round_trip_times": Chart("Round trip", "round trip ms", (THROUGHPUT, CPU)),
    "losses": Chart("Lost messages", "loss %", (THROUGHPUT, CPU), log=False),
    "memory": Chart(
        "Idle connections",
        "connections",
        (
            Panel("private MiB", ("private_dirty_mib",), log=False),
            Panel(
                "KiB per connection", ("kib_per_connection", "bare_kib_per_connection"), log=False
            ),
        ),
        log=False,
    ),
    "stalled_reader": Chart(
        "Readers that read nothing",
        "stalled readers",
        (Panel("private MiB", ("private dirty MiB", "later", "when gone"), log=False),),
        log=False,
    ),
}


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    columns = list(rows[0])
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1)]
    lines += [[text(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def place(readme: str, name: str, lines: str) -> tuple[str, bool]:
    """Replace what ``readme`` has between a measurement's two marks, if it has them."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = readme.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        return readme, False
    return f"{before}{begin}\n{lines}\n\n{end}{after}", True


def draw(name: str, rows: list[Row], machine: str) -> Path:
    """Write the chart ``name``."""
    from matplotlib.figure import Figure

    chart = KNOWN[name]
    figure = Figure(figsize=(5 * len(chart.panels), 3.6), layout="constrained")
    for number, panel in enumerate(chart.panels, 1):
        axes = figure.add_subplot(1, len(chart.panels), number)
        draw_panel(axes, chart, panel, rows)
    figure.suptitle(f"{chart.title} ({machine})", fontsize=9)
    file = CHARTS / f"{name}.png"
    CHARTS.mkdir(exist_ok=True)
    figure.savefig(file, dpi=110, metadata={"Software": None})
    return file


def draw_panel(axes: Any, chart: Chart, panel: Panel, rows: list[Row]) -> None:
    for column in panel.columns:
        points = [(row[chart.x], row[column]) for row in rows if row.get(column) is not None]
        # What is known of few rows are points.
        line = "o-" if len(points) > len(rows) / 2 else "o"
        axes.plot(*zip(*points, strict=True), line, markersize=3, label=column)
    if chart.log:
        # Linear up to the smallest above zero, so that zero has its place on it, too.
        smallest = min(float(row[chart.x] or "inf") for row in rows)
        axes.set_xscale("symlog", linthresh=smallest)
    axes.set_yscale("log" if panel.log else "linear")
    low, high = axes.get_ylim()
    # At least a decade: a chart of little but noise should look like one.
    axes.set_ylim(bottom=min(low, high / 12) if panel.log else 0)
    axes.set_xlabel(chart.x)
    axes.set_ylabel(panel.label)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="the folder with the JSON files")
    parser.add_argument("--tables", action="store_true", help="tables only")
    arguments = parser.parse_args()
    readme = README.read_text()
    for file in sorted(arguments.results.glob("*.json")):
        result = json.loads(file.read_text())
        name, rows = result["name"], result["rows"]
        readme, placed = place(readme, name, table(rows))
        print(f"{name}: in {README.name}" if placed else f"\n{name}:\n\n{table(rows)}\n")
        if name in KNOWN and not arguments.tables:
            print(draw(name, rows, result["machine"]))
    README.write_text(readme)


if __name__ == "__main__":
    main()
