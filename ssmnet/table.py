"""The table of what runs, for people: as wide as the terminal, and drawn anew where it stands.

What comes from the far end is in it, so nothing goes to the terminal that could control it.
"""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import terminal
from .output import is_waiting, write
from .snapshot import Snapshot, State

REFRESH_INTERVAL = 1.0  # s
# Rates over less than this jump about, in seconds.
SHORTEST = 0.5
MAX_LINES = 1000  # that wait to be written above the table
MAX_TEXT = 300  # characters of a cell
WIDEST = 1000  # columns, where there is no terminal

_STYLES = {
    State.STARTING: "yellow",
    State.UP: "green",
    State.RESUMING: "yellow",
    State.RESTARTING: "yellow",
    State.FAILED: "red",
    State.STOPPED: "dim",
}
_GAP = 2  # columns between cells
_ENOUGH = 24  # columns; an instance and its port take as many


class Rate(NamedTuple):
    """Bytes a second."""

    sent: float
    received: float


class Rates:
    """Tells from what was seen last how fast bytes move now."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self._seen: dict[str, Snapshot] = {}
        self._rates: dict[str, Rate] = {}

    def look(self, snapshots: Sequence[Snapshot], now: float) -> Mapping[str, Rate]:
        """The rates by name, of those that were seen before. ``now`` is in seconds."""
        passed = now - self._at
        if passed < SHORTEST:
            return self._rates
        self._rates = {
            one.name: _rate(self._seen[one.name], one, passed)
            for one in snapshots
            if one.name in self._seen
        }
        self._seen = {one.name: one for one in snapshots}
        self._at = now
        return self._rates


def _rate(before: Snapshot, now: Snapshot, passed: float) -> Rate:
    # One that was started anew begins at nothing.
    sent = max(0, now.sent - before.sent)
    received = max(0, now.received - before.received)
    return Rate(sent / passed, received / passed)


def size_text(size: float) -> str:
    """A number of bytes, in three digits or so."""
    units = iter(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))
    unit = next(units)
    while size >= 999.5 and (larger := next(units, "")):
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"


def time_text(seconds: float | None) -> str:
    """A time in ms; nothing where it is not known."""
    if seconds is None:
        return ""
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 9.95 else f"{milliseconds:.0f} ms"


def plain(text: str) -> str:
    """The text without what could control a terminal, and not endless."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_TEXT])


_ERROR = "last error"


class _Column(NamedTuple):
    """``least`` is how narrow it may be made; 0 for not at all. Low ``rank`` stays longest."""

    title: str
    rank: int
    least: int
    text: Callable[[Snapshot, Rate | None], str]


# In the order in which they stand.
_COLUMNS = (
    _Column("name", 0, 8, lambda one, _: one.name),
    _Column("local address", 2, 15, lambda one, _: _places(one)),
    _Column("destination", 3, 12, lambda one, _: one.destination),
    _Column("target", 10, 10, lambda one, _: one.target),
    _Column("state", 1, 0, lambda one, _: one.state),
    _Column("open", 5, 0, lambda one, _: str(one.connections)),
    _Column("in", 6, 0, lambda one, _: size_text(one.received)),
    _Column("out", 7, 0, lambda one, _: size_text(one.sent)),
    _Column("rate", 8, 0, lambda _, rate: "" if rate is None else f"{size_text(sum(rate))}/s"),
    _Column("round trip", 9, 0, lambda one, _: time_text(one.round_trip_time)),
    _Column(_ERROR, 4, 16, lambda one, _: one.last_error),
)
_NUMBERS = frozenset({"open", "in", "out", "rate", "round trip"})


def _places(one: Snapshot) -> str:
    """Where it listens; of a proxy's second port the number is enough."""
    first, *others = one.addresses or ("",)
    ports = dict.fromkeys(other.rpartition(":")[2] for other in others)
    ports.pop(first.rpartition(":")[2], None)
    return ",".join([first, *ports])


def render(snapshots: Sequence[Snapshot], rates: Mapping[str, Rate], width: int = WIDEST) -> Table:
    """A table that is no wider than ``width``: what matters least has no place in a narrow one."""
    cells = {
        column: [plain(column.text(one, rates.get(one.name))) for one in snapshots]
        for column in _COLUMNS
    }
    cells = {column: texts for column, texts in cells.items() if column.rank < 2 or any(texts)}
    widths = fit(cells, width)
    # Older versions of rich make a table with padding narrower than it need be.
    table = Table(box=None, padding=0, header_style="bold")
    for column, columns in widths.items():
        if table.columns:
            table.add_column(width=_GAP)
        table.add_column(
            column.title,
            width=columns,
            no_wrap=True,
            overflow="ellipsis",
            justify="right" if column.title in _NUMBERS else "left",
        )
    for row, one in enumerate(snapshots):
        texts = [_cell(column, cells[column][row], one, widths[column]) for column in widths]
        table.add_row(*[part for text in texts for part in ("", text)][1:])
    return table


def fit(cells: Mapping[_Column, Sequence[str]], width: int) -> dict[_Column, int]:
    """How wide each column is that has a place; those that may be are made narrow for others."""
    natural = {
        column: max(map(cell_len, (column.title, *texts))) for column, texts in cells.items()
    }
    ranked = sorted(cells, key=lambda column: column.rank)
    first = [column for column in ranked if column.title not in _NUMBERS and column.rank < 10]
    chosen: dict[_Column, int] = {}
    left = width + _GAP  # none after the last
    for column, wanted in (
        *((column, column.least or natural[column]) for column in first),
        # What tells one from the other is to be read before there are numbers.
        *((column, _ENOUGH) for column in first if column.title != _ERROR),
        *((column, column.least or natural[column]) for column in ranked),
        *((column, natural[column]) for column in ranked if column.title != _ERROR),
        *((column, natural[column]) for column in ranked if column.title == _ERROR),
    ):
        columns = min(wanted, natural[column])
        if column in chosen:
            more = max(0, min(columns - chosen[column], left))
            chosen[column] += more
            left -= more
        elif not chosen or columns + _GAP <= left:
            chosen[column] = columns
            left -= columns + _GAP
    return {column: chosen[column] for column in cells if column in chosen}


def _cell(column: _Column, text: str, one: Snapshot, columns: int) -> Text:
    if column.title == "state":
        return Text(text, style=_STYLES[one.state])
    if column.title == "destination":
        text = _with_port(text, columns)
    return Text(text, style="red" if column.title == _ERROR else "")


def _with_port(text: str, columns: int) -> str:
    """The text with the host cut, where it is too wide: forwards may differ in the port alone."""
    host, _, port = text.rpartition(":")
    end = f"\u2026:{port}"
    if not port.isdecimal() or cell_len(text) <= columns or len(end) >= columns:
        return text
    return set_cell_size(host, columns - len(end)) + end


def as_text(snapshots: Sequence[Snapshot], width: int = WIDEST, *, colours: bool = False) -> str:
    """The table as lines, for whoever reads no rates."""
    return "".join(f"{line}\n" for line in _lines(render(snapshots, {}, width), width, colours))


def _lines(table: Table, width: int, colours: bool) -> list[str]:
    """Heeds NO_COLOR and TERM."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=colours,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def can_draw(stream: TextIO | None) -> bool:
    """Whether a table can be drawn anew there: on a terminal that knows how to go up a line."""
    if stream is None or sys.platform == "win32" or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:
        return False  # it is closed


class LiveTable:
    """Draws the table every second on a terminal (see ``can_draw``), below lines that stay.

    rich's own Live would wait for a terminal that is held by ^S, and all connections with it. The
    cursor is not hidden, so that nothing has to be restored however the process ends.
    """

    def __init__(self, snapshots: Callable[[], Sequence[Snapshot]], stream: TextIO) -> None:
        self._snapshots = snapshots
        self._stream = stream
        self._rates = Rates()
        self._loop = asyncio.get_running_loop()
        self._handled: list[signal.Signals] = []
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._stopped = False
        self._waiting: deque[str] = deque(maxlen=MAX_LINES)
        # The lines of the table as it was last.
        self._lines: list[str] = []
        # How wide each line is that stands there.
        self._drawn: list[int] = []

    def __enter__(self) -> LiveTable:
        if sys.platform != "win32":
            self._handle(signal.SIGWINCH, self._draw)
            self._handle(signal.SIGCONT, self._draw_below)
            self._handle(signal.SIGTSTP, self._stop)
        self._tick()
        return self

    def __exit__(self, *_: object) -> None:
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()
        for number in self._handled:
            self._loop.remove_signal_handler(number)
        self._draw()

    def _handle(self, number: signal.Signals, callback: Callable[[], None]) -> None:
        # A shell without job control has us ignore ^Z.
        if signal.getsignal(number) is not signal.SIG_IGN:
            self._loop.add_signal_handler(number, callback)
            self._handled.append(number)

    def log(self, text: str) -> None:
        """Have a line stand above the table. Of many, while nothing can be written, the last."""
        self._waiting.append(plain(text))
        if self._soon is None:
            self._soon = self._loop.call_soon(self._draw)

    def _tick(self) -> None:
        self._stopped = False
        self._timer = self._loop.call_later(REFRESH_INTERVAL, self._tick)
        self._draw()

    if sys.platform != "win32":

        def _stop(self) -> None:
            """Give the terminal to the shell without a table, which is drawn again below."""
            if _is_ours(self._stream) and not is_waiting(self._stream):
                write(self._stream, self._go_up(), end="")
            self._drawn.clear()
            self._loop.remove_signal_handler(signal.SIGTSTP)
            # What is due by then comes before the signal that we go on, which begins below. Without
            # a shell nothing stops, and the next tick goes on.
            self._stopped = True
            os.kill(os.getpid(), signal.SIGTSTP)
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_later(REFRESH_INTERVAL, self._tick)
            self._loop.add_signal_handler(signal.SIGTSTP, self._stop)

    def _draw_below(self) -> None:
        # A shell has used the terminal since, while we were stopped.
        self._stopped = False
        self._drawn.clear()
        self._draw()

    def _draw(self) -> None:
        self._soon = None
        if not _is_ours(self._stream):
            self._drawn.clear()
            return
        if self._stopped or is_waiting(self._stream):
            return
        columns, rows = _size(self._stream)
        if snapshots := self._snapshots():
            self._lines = self._frame(snapshots, columns, rows)
        # At the end nothing runs any more: how it was last says more than an empty table.
        above = [f"{line}\n" for line in self._waiting]
        self._waiting.clear()
        text = "".join([self._go_up(), *above, *(f"{line}\n" for line in self._lines)])
        self._drawn = [cell_len(Text.from_ansi(line).plain) for line in self._lines]
        write(self._stream, text, end="")

    def _frame(self, snapshots: Sequence[Snapshot], columns: int, rows: int) -> list[str]:
        rates = self._rates.look(snapshots, time.monotonic())
        # In the last column some terminals go on to the next line, and some do not.
        lines = _lines(render(snapshots, rates, columns - 1), columns - 1, colours=True)
        if len(lines) >= rows:
            # What has gone out of sight can't be drawn anew.
            lines[rows - 2 :] = [f"and {len(lines) - rows + 2} more"[: columns - 1]]
        return lines

    def _go_up(self) -> str:
        """What leads to where the table begins, and erases it."""
        columns, _ = _size(self._stream)
        # Where the window is narrower now, a line takes several.
        up = sum(max(1, -(-width // columns)) for width in self._drawn)
        return f"\r\x1b[{up}A\x1b[J" if up else "\r\x1b[J"


def _size(stream: TextIO) -> tuple[int, int]:
    """Columns and rows, both at least 2."""
    try:
        columns, rows = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        columns, rows = 0, 0
    if not columns or not rows:
        columns, rows = terminal.size()
    return max(columns, 2), max(rows, 2)


def _is_ours(stream: TextIO) -> bool:
    """Whether we are in the foreground: in the background, a shell uses the terminal."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return True  # not the terminal that controls us: nobody else's either, or it is gone
