"""A real terminal, which is tmux's, and what stands on it as SVG.

A recording has several screens, each for some seconds. Where nothing moves, such as on paper or for
readers who want no motion, one of them stands still.
"""

# ruff: noqa: S603 - what is run is tmux

import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from rich.style import Style
from rich.text import Text

from docs.pictures.svg import MONO, SANS

CELL, LINE, MARGIN, BAR = 7.8, 18, 14, 30  # pixels; 13 px fonts have such cells
PATIENCE = 30.0  # seconds for something to stand there
LOOK = 0.1  # seconds between looks
COLOURS = {
    "red": "#ff7b72",
    "green": "#56d364",
    "yellow": "#e3b341",
    "blue": "#79c0ff",
    "magenta": "#d2a8ff",
    "cyan": "#76e3ea",
}
COLOUR_NUMBERS = dict(enumerate(COLOURS, 1))  # as terminals count them
INK, BACKGROUND, FRAME = "#e6edf3", "#0d1117", "#30363d"


class Terminal:
    """A shell in tmux: what is typed there runs, and ``screen`` is what it shows."""

    def __init__(self, folder: Path, name: str, columns: int, rows: int, prepare: str) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._name = name
        size = ["-x", str(columns), "-y", str(rows)]
        self._run("new-session", "-d", "-s", name, *size, "bash --norc --noprofile")
        self._run("set", "-g", "status", "off")
        self.type(f"{prepare}; PS1='$ '; clear")
        self.wait_for(r"\A\$\s*\Z")

    def type(self, text: str) -> None:
        """Type a line, and Enter."""
        self._run("send-keys", "-t", self._name, "-l", text)
        self._run("send-keys", "-t", self._name, "Enter")

    def key(self, name: str) -> None:
        """Press a key, such as ``C-c``."""
        self._run("send-keys", "-t", self._name, name)

    def screen(self) -> list[Text]:
        """The lines that are on it, with their colours."""
        shown = self._run("capture-pane", "-e", "-p", "-t", self._name).rstrip().split("\n")
        return [Text.from_ansi(line) for line in shown]

    def wait_for(self, pattern: str) -> list[Text]:
        """The screen as soon as it holds ``pattern``."""
        until = time.monotonic() + PATIENCE
        while True:
            screen = self.screen()
            if re.search(pattern, "\n".join(line.plain for line in screen), re.MULTILINE):
                return screen
            if time.monotonic() > until:
                raise TimeoutError(f"no {pattern!r}: {[line.plain for line in screen]}")
            time.sleep(LOOK)

    def close(self) -> None:
        """End it, and all that runs in it."""
        self._run("kill-session", "-t", self._name)

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [*self._tmux, *words], capture_output=True, text=True, check=True, timeout=PATIENCE
        )
        return done.stdout


class Shown(NamedTuple):
    """One screen of a recording, and for how many seconds it stands."""

    screen: list[Text]
    seconds: float = 1.0


class Window(NamedTuple):
    """A window of a picture, with one screen or a recording."""

    title: str
    shown: Sequence[Shown]


def picture(windows: Sequence[Window], columns: int, title: str, still: int = 0) -> str:
    """The windows one below the other; ``still`` is which screen stands where nothing moves."""
    width = columns * CELL + 2 * MARGIN
    parts, top = [], 0.0
    for window in windows:
        rows = max(len(shown.screen) for shown in window.shown)
        height = BAR + rows * LINE + MARGIN
        parts.append(f'<g transform="translate(0 {top:g})">{_frame(window.title, width, height)}')
        screens = [_screen(shown.screen) for shown in window.shown]
        if len(screens) == 1:
            parts += screens
        else:
            parts += [
                f'<g class="s{number}" visibility="{"visible" if number == still else "hidden"}">'
                f"{screen}</g>"
                for number, screen in enumerate(screens)
            ]
        parts.append("</g>")
        top += height + 12
    motion = "".join(_motion(window.shown) for window in windows if len(window.shown) > 1)
    size = f'viewBox="0 0 {width:g} {top - 12:g}" width="{width:g}" height="{top - 12:g}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img"'
        f" aria-label={quoteattr(title)}>\n<title>{escape(title)}</title>\n<style>\n"
        f"text {{ font-family: {MONO}; font-size: 13px; fill: {INK}; white-space: pre }}\n"
        f".bar {{ font-family: {SANS}; font-size: 12px; fill: #9aa4af }}\n"
        ".b { font-weight: 700 }\n"
        f"{''.join(f'.{name} {{ fill: {value} }}{chr(10)}' for name, value in COLOURS.items())}"
        f".dim {{ fill: #8b949e }}\n{motion}</style>\n{body}\n</svg>\n"
    )


def _motion(shown: Sequence[Shown]) -> str:
    """One screen after the other, over and over."""
    whole = sum(one.seconds for one in shown)
    rules, begin = [], 0.0
    for number, one in enumerate(shown):
        first, last = 100 * begin / whole, 100 * (begin + one.seconds) / whole
        steps = "0% { visibility: hidden } " if number else ""
        steps += f"{first:.2f}% {{ visibility: visible }} {last:.2f}% {{ visibility: hidden }}"
        rules.append(
            f"@keyframes k{number} {{ {steps} }}\n"
            f".s{number} {{ animation: k{number} {whole:g}s step-end infinite }}\n"
        )
        begin += one.seconds
    return f"@media (prefers-reduced-motion: no-preference) {{\n{''.join(rules)}}}\n"


def _frame(title: str, width: float, height: float) -> str:
    dots = "".join(
        f'<circle cx="{16 + 16 * n}" cy="15" r="5" fill="{colour}"/>'
        for n, colour in enumerate(("#ff5f57", "#febc2e", "#28c840"))
    )
    return (
        f'<rect x="0.5" y="0.5" width="{width - 1:g}" height="{height - 1:g}" rx="8"'
        f' fill="{BACKGROUND}" stroke="{FRAME}"/>{dots}'
        f'<text x="{width / 2:g}" y="19" class="bar" text-anchor="middle">{escape(title)}</text>'
    )


def _screen(lines: list[Text]) -> str:
    return "\n".join(
        part for row, line in enumerate(lines) for part in _line(line, BAR + row * LINE + LINE - 4)
    )


def _line(line: Text, y: float) -> list[str]:
    """A line as words of one style each, every one in its own columns whatever the font is."""
    parts = []
    for begin, end, style in _runs(line):
        for word in re.finditer(r"\S+(?: \S+)*", line.plain[begin:end]):
            x = MARGIN + (begin + word.start()) * CELL
            classes = f' class="{style}"' if style else ""
            parts.append(
                f'<text x="{x:g}" y="{y:g}" textLength="{len(word[0]) * CELL:g}"{classes}>'
                f"{escape(word[0])}</text>"
            )
    return parts


def _runs(line: Text) -> list[tuple[int, int, str]]:
    """Where each style begins and ends."""
    styles = [""] * len(line.plain)
    for span in line.spans:
        style = span.style if isinstance(span.style, Style) else Style.parse(span.style)
        for column in range(span.start, min(span.end, len(styles))):
            styles[column] = f"{styles[column]} {_classes(style)}".strip()
    runs: list[tuple[int, int, str]] = []
    for column, name in enumerate(styles):
        if runs and runs[-1][2] == name:
            runs[-1] = (runs[-1][0], column + 1, name)
        else:
            runs.append((column, column + 1, name))
    return runs


def _classes(style: Style) -> str:
    number = style.color.number if style.color else None
    names = [COLOUR_NUMBERS.get(-1 if number is None else number % 8, "")]
    names += ["b" if style.bold else "", "dim" if style.dim else ""]
    return " ".join(filter(None, names))
