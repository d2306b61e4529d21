"""Draws the charts of the page on performance from the tables of perf/README.md::

    python3 run.py python -m docs.pictures.charts

makes ``docs/pictures/chart-*.svg``. ``python -m perf.chart`` puts measured rows into these tables;
no figure stands here.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from docs.pictures.svg import Picture, save

README = Path(__file__).parents[2] / "perf/README.md"
Row = dict[str, str]


def rows(name: str) -> list[Row]:
    """The rows of the table between ``<!-- name -->`` and ``<!-- /name -->``."""
    _, _, rest = README.read_text("utf-8").partition(f"<!-- {name} -->\n")
    table = rest.partition(f"<!-- /{name} -->")[0]
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().split("\n")
    ]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[2:]]


class Bar(NamedTuple):
    """One bar; a label begins a group of them."""

    group: str
    name: str
    value: float
    hue: str


class Line(NamedTuple):
    """Points of a line."""

    name: str
    points: list[tuple[float, float]]
    hue: str


class Axis(NamedTuple):
    """From where to where, in which steps, and whether logarithmic."""

    label: str
    ticks: tuple[float, ...]
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        scale: Callable[[float], float] = math.log if self.log else float
        low, high = scale(self.ticks[0]), scale(self.ticks[-1])
        return min(1.0, max(0.0, (scale(value) - low) / (high - low)))


def bars(title: str, description: str, axis: Axis, shown: Sequence[Bar], unit: str) -> str:
    """Bars to the right, from ``axis``'s first tick on, each with its figure."""
    begin, width, step = 250, 420, 24
    groups = len({bar.group for bar in shown})
    height = 92 + step * len(shown) + 14 * groups
    picture = Picture(760, height, title, description)
    picture.text(20, 30, title, "ink strong")
    bottom = height - 40
    for tick in axis.ticks:
        x = begin + width * axis.place(tick)
        picture.grid(f"M {x:g} 44 V {bottom}")
        picture.text(x, bottom + 16, f"{tick:,g}", "muted small", anchor="middle")
    picture.text(begin + width / 2, height - 10, axis.label, "muted small", anchor="middle")
    y, last = 40.0, ""
    for bar in shown:
        if bar.group != last:
            y += 14
            picture.text(20, y + 13, bar.group, "ink")
        last = bar.group
        picture.text(begin - 8, y + 13, bar.name, "muted small", anchor="end")
        length = max(2.0, width * axis.place(bar.value))
        picture.rect(begin, y + 2, length, 15, f"fill-{bar.hue}", radius=2)
        picture.text(begin + length + 6, y + 14, f"{bar.value:,g} {unit}", "ink small")
        y += step
    return str(picture)


def lines(picture: Picture, left: float, x_axis: Axis, y_axis: Axis, shown: Sequence[Line]) -> None:
    """A diagram of 290 by 200, ``left`` from the picture's side, with a legend above it."""
    top, width, height = 72, 290, 200

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * x_axis.place(x), top + height * (1 - y_axis.place(y))

    for tick in y_axis.ticks:
        _, y = at(x_axis.ticks[0], tick)
        picture.grid(f"M {left:g} {y:g} h {width}")
        picture.text(left - 8, y + 4, f"{tick:,g}", "muted small", anchor="end")
    for tick in x_axis.ticks:
        x, _ = at(tick, y_axis.ticks[0])
        picture.grid(f"M {x:g} {top} v {height}")
        picture.text(x, top + height + 18, f"{tick:,g}", "muted small", anchor="middle")
    picture.text(left + width / 2, top + height + 38, x_axis.label, "muted small", anchor="middle")
    middle = top + height / 2
    picture.text(left - 48, middle, y_axis.label, "muted small", anchor="middle", turned=True)
    along = left
    for line in shown:
        places = [at(*point) for point in line.points]
        picture.path("M " + " L ".join(f"{x:.1f} {y:.1f}" for x, y in places), line.hue)
        for x, y in places:
            picture.circle(x, y, 3, f"fill-{line.hue}")
        picture.rect(along, 49, 12, 4, f"fill-{line.hue}", radius=2)
        picture.text(along + 17, 56, line.name, "muted small")
        along += 34 + 6.6 * len(line.name)


def column(table: list[Row], axis: Axis, x: str, y: str) -> list[tuple[float, float]]:
    """The points of a line, where both are known and have a place."""
    points = [(float(row[x]), float(row[y])) for row in table if row[x] and row[y]]
    return [point for point in points if point[0] >= axis.ticks[0]]


def throughput() -> str:
    """What a second of CPU moves."""
    hues = {"bare": "grey", "raw": "purple", "mux": "blue"}
    names = {"bare": "aiohttp alone", "raw": "ssmnet, one stream", "mux": "ssmnet, multiplexed"}
    shown = [
        Bar(
            f"{row['direction']}, {row['over']}",
            names[row["what"]],
            float(row["MB/CPU-s"]),
            hues[row["what"]],
        )
        for row in rows("throughput")
    ]
    return bars(
        "What one second of CPU moves",
        "Megabytes a second of CPU for aiohttp alone and for ssmnet, each way, plain and by TLS.",
        Axis("MB in a second of the client's CPU", (0, 50, 100, 150, 200)),
        shown,
        "MB",
    )


def latency() -> str:
    """What a byte waits for beside transfers."""
    groups = {
        "ssmnet forward": "forward, fast far end",
        "up to 1": "agent's pace, 1 session",
        "up to 8": "agent's pace, 8 sessions",
    }
    table = [(row["through"], row) for row in rows("latency")]
    table += [(row["sessions"], row) for row in rows("pool_latency")]
    shown = [
        Bar(
            groups.get(through, through),
            row["beside"].replace(" connected", ""),
            float(row["p50_ms"]),
            "blue" if through in groups else "grey",
        )
        for through, row in table
    ]
    return bars(
        "One byte there and back, beside transfers (median)",
        "Milliseconds for a byte there and back beside nothing, uploads and downloads.",
        Axis("ms, logarithmic", (0.1, 1, 10, 100, 1000, 10000), log=True),
        shown,
        "ms",
    )


def sessions() -> str:
    """What more sessions bring and take."""
    title = "More sessions, each at the agent's pace"
    picture = Picture(760, 332, title, "Downloads and memory against the number of sessions.")
    picture.text(20, 30, title, "ink strong")
    table = rows("sessions")
    axis = Axis("sessions in one process", (1, 2, 4, 8, 16, 32, 64, 128, 256), log=True)
    down = Line("download", column(table, axis, "sessions", "down MB/s"), "blue")
    lines(picture, 70, axis, Axis("MB/s", (0, 10, 20, 30)), [down])
    memory = Line("private memory", column(table, axis, "sessions", "private MiB"), "green")
    lines(picture, 444, axis, Axis("MiB", (0, 20, 40, 60, 80)), [memory])
    return str(picture)


def paths() -> str:
    """What long paths and losses do."""
    title = "Throughput on long paths, and where messages are lost"
    picture = Picture(760, 332, title, "Upload and download against round trip and loss.")
    picture.text(20, 30, title, "ink strong")
    far, lossy = rows("round_trip_times"), rows("losses")
    for left, table, x_axis, x, y_axis in (
        (
            70,
            far,
            Axis("round trip, ms (logarithmic)", (1, 3, 10, 30, 100, 300), log=True),
            "round trip ms",
            Axis("MB/s", (0, 10, 20, 30, 40)),
        ),
        (
            444,
            lossy,
            Axis("lost messages each way, %", (0, 1, 2, 3, 4, 5)),
            "loss %",
            Axis("MB/s", (0, 2, 4, 6, 8)),
        ),
    ):
        up = Line("upload", column(table, x_axis, x, "up MB/s"), "blue")
        down = Line("download", column(table, x_axis, x, "down MB/s"), "orange")
        lines(picture, left, x_axis, y_axis, [up, down])
    return str(picture)


def memory() -> str:
    """What connections take."""
    title = "Memory of one forward"
    picture = Picture(760, 332, title, "Private memory against idle connections and readers.")
    picture.text(20, 30, title, "ink strong")
    axis = Axis("connections", (0, 2500, 5000, 7500, 10000))
    points = column(rows("memory"), axis, "connections", "private_dirty_mib")
    idle = Line("idle connections", points, "blue")
    lines(picture, 70, axis, Axis("MiB", (0, 25, 50, 75, 100)), [idle])
    table = rows("stalled_reader")
    axis = Axis("connections", (0, 4, 8, 12, 16))
    points = column(table, axis, "stalled readers", "private dirty MiB")
    stalled = Line("downloads that nobody reads", points, "orange")
    lines(picture, 444, axis, Axis("MiB", (0, 25, 50, 75, 100)), [stalled])
    return str(picture)


def draw() -> dict[str, str]:
    """The pictures, by their names."""
    charts = (throughput, latency, sessions, paths, memory)
    return {f"chart-{chart.__name__}.svg": chart() for chart in charts}


if __name__ == "__main__":
    save(draw())
