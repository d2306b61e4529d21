"""Draws pictures as SVG, for pages in light and in dark: they stand on a card of their own.

No script, no font and nothing else is loaded. Colours are classes: ``ink``, ``muted`` and the names
of ``HUES``, as in ``fill-blue``, ``line-blue`` and ``tint-blue``, a pale one for large areas.
"""

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

FOLDER = Path(__file__).parent
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

# light, dark, pale in light, pale in dark
HUES = {
    "blue": ("#0969da", "#4493f8", "#eaf3fe", "#10233f"),
    "green": ("#1a7f37", "#3fb950", "#e9f7ed", "#0f2a19"),
    "orange": ("#bc4c00", "#e0823d", "#fff2e8", "#33200f"),
    "purple": ("#8250df", "#ab7df8", "#f5effe", "#251a3d"),
    "grey": ("#6e7781", "#8b949e", "#f3f5f7", "#1a2028"),
}
PLAIN = {
    "card": "fill: {}; stroke: {}",
    "box": "fill: {}",
    "ink": "fill: {}",
    "muted": "fill: {}",
    "grid": "stroke: {}; fill: none",
}
LIGHT = {
    "card": ("#ffffff", "#d5dbe1"),
    "box": ("#ffffff",),
    "ink": ("#1f2328",),
    "muted": ("#59636e",),
    "grid": ("#dfe3e8",),
}
DARK = {
    "card": ("#0d1117", "#30363d"),
    "box": ("#0d1117",),
    "ink": ("#e6edf3",),
    "muted": ("#9aa4af",),
    "grid": ("#2b323a",),
}


def style(size: float) -> str:
    """The colours of both themes, and letters of ``size`` pixels."""
    rules = []
    for dark, plain in enumerate((LIGHT, DARK)):
        lines = [f".{name} {{ {PLAIN[name].format(*values)} }}" for name, values in plain.items()]
        for name, hues in HUES.items():
            strong, pale = hues[dark], hues[2 + dark]
            lines += [
                f".fill-{name} {{ fill: {strong} }}",
                f".line-{name} {{ stroke: {strong} }}",
                f".tint-{name} {{ fill: {pale}; stroke: {strong} }}",
            ]
        rules.append("\n".join(lines))
    return (
        f"text {{ font-family: {SANS}; font-size: {size:g}px }}\n.mono {{ font-family: {MONO} }}\n"
        f".strong {{ font-weight: 600 }}\n.small {{ font-size: {size - 1:g}px }}\n{rules[0]}\n"
        f"@media (prefers-color-scheme: dark) {{\n{rules[1]}\n}}"
    )


class Picture:
    """A picture of ``width`` by ``height``. Its title is what a screen reader says."""

    def __init__(
        self, width: int, height: int, title: str, description: str, *, size: float = 13
    ) -> None:
        self._size = width, height
        self._title = title
        self._description = description
        self._style = style(size)
        self._parts: list[str] = []
        self.rect(0.5, 0.5, width - 1, height - 1, "card", radius=10)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        style: str,
        *,
        radius: float = 6,
        dashed: bool = False,
    ) -> None:
        """A rectangle with round corners."""
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self._parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}"'
            f' class="{style}"{dashes}/>'
        )

    def text(
        self,
        x: float,
        y: float,
        words: str,
        style: str = "ink",
        *,
        anchor: str = "start",
        turned: bool = False,
    ) -> None:
        """One line of text; ``anchor`` is start, middle or end. ``turned`` reads upwards."""
        turn = f' transform="rotate(-90 {x:g} {y:g})"' if turned else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" class="{style}" text-anchor="{anchor}"{turn}>'
            f"{escape(words)}</text>"
        )

    def path(
        self,
        points: str,
        hue: str,
        *,
        width: float = 2,
        start: bool = False,
        end: bool = False,
        dashed: bool = False,
    ) -> None:
        """A line in SVG's own words, such as ``M 0 0 H 10``, with or without arrow heads."""
        marks = f' marker-start="url(#{hue})"' if start else ""
        marks += f' marker-end="url(#{hue})"' if end else ""
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        self._parts.append(
            f'<path d="{points}" class="line-{hue}" fill="none"'
            f' stroke-width="{width:g}"{dashes}{marks}/>'
        )

    def grid(self, points: str) -> None:
        """A thin line in the background."""
        self._parts.append(f'<path d="{points}" class="grid" stroke-width="1"/>')

    def circle(self, x: float, y: float, radius: float, style: str) -> None:
        """A dot."""
        self._parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" class="{style}"/>')

    def __str__(self) -> str:
        width, height = self._size
        heads = "".join(
            f'<marker id="{hue}" viewBox="0 0 10 10" refX="8.5" refY="5" markerWidth="8"'
            ' markerHeight="8" markerUnits="userSpaceOnUse" orient="auto-start-reverse">'
            f'<path d="M 0 0.8 L 9.5 5 L 0 9.2 z" class="fill-{hue}"/></marker>\n'
            for hue in HUES
        )
        parts = "\n".join(self._parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
            f' width="{width}" height="{height}" role="img" aria-label={quoteattr(self._title)}>\n'
            f"<title>{escape(self._title)}</title>\n<desc>{escape(self._description)}</desc>\n"
            f"<style>\n{self._style}\n</style>\n<defs>\n{heads}</defs>\n{parts}\n</svg>\n"
        )


def save(pictures: dict[str, str]) -> None:
    """Write each picture beside this module."""
    for name, text in pictures.items():
        (FOLDER / name).write_text(text, "utf-8")
