"""The pictures of docs/ stand by themselves, a page shows each, and they are current."""

import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parent.parent / "docs"
FOLDER = DOCS / "pictures"
PICTURES = sorted(FOLDER.glob("*.svg"))
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))
# Those that are drawn from nothing but what is in the repository; the others are recordings.
DRAWN = ("architecture", "flow_control", "charts")
MAX_SIZE = 200_000  # bytes
SVG = "{http://www.w3.org/2000/svg}"
# ![what it shows](../pictures/name.svg)
SHOWN = re.compile(r"!\[([^\]]*)\]\((\S*?)pictures/([\w.-]+)\)")
each_picture = pytest.mark.parametrize("picture", PICTURES, ids=lambda path: str(path.name))


def loads(text: str) -> list[str]:
    """What a picture would have its reader fetch, or run."""
    return re.findall(
        r"(?:https?:|//|data:|javascript:)\S*|@import|@font-face"
        r"|<(?:script|image|foreignObject|iframe|use)\b|\bon\w+=|url\((?!#)",
        text.replace('xmlns="http://www.w3.org/2000/svg"', ""),
    )


def shown() -> dict[str, list[str]]:
    """The words beside each picture that a page shows."""
    words: dict[str, list[str]] = {}
    for page in DOCS.rglob("*.md"):
        for alt, path, name in SHOWN.findall(page.read_text("utf-8")):
            assert (page.parent / f"{path}pictures" / name).is_file(), f"{page.name}: {name}"
            words.setdefault(name, []).append(" ".join(alt.split()))
    return words


@each_picture
def test_it_can_be_read_and_has_a_title(picture: Path) -> None:
    root = ElementTree.parse(picture).getroot()
    assert root.tag == f"{SVG}svg"
    assert root.get("role") == "img"
    title = root.findtext(f"{SVG}title")
    assert title
    assert root.get("aria-label") == title
    assert root.get("viewBox")


@each_picture
def test_it_loads_nothing_and_is_small(picture: Path) -> None:
    assert loads(picture.read_text("utf-8")) == []
    assert picture.stat().st_size < MAX_SIZE


@each_picture
def test_a_page_shows_it_and_says_what_it_shows(picture: Path) -> None:
    words = shown().get(picture.name, [])
    assert words, "no page shows it"
    assert all(len(text) > 20 for text in words), words


@each_picture
def test_it_tells_nothing_of_the_machine_that_it_was_made_on(picture: Path) -> None:
    text = picture.read_text("utf-8")
    assert re.findall(r"/(?:home|root|tmp|work|usr|var)/|AKIA|\.venv", text) == []


def test_no_page_shows_a_picture_that_is_not_there() -> None:
    assert set(shown()) == {path.name for path in PICTURES}


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_script_can_be_imported_and_says_how_to_run_it(script: str) -> None:
    module = importlib.import_module(f"docs.pictures.{script}")
    if hasattr(module, "main") or hasattr(module, "draw"):
        assert f"python -m docs.pictures.{script}\n" in (module.__doc__ or "")


@pytest.mark.parametrize("script", DRAWN)
def test_what_is_drawn_is_current(script: str) -> None:
    """Otherwise run ``python3 run.py python -m docs.pictures.SCRIPT``."""
    for name, text in importlib.import_module(f"docs.pictures.{script}").draw().items():
        assert (FOLDER / name).read_text("utf-8") == text, name


def test_every_picture_has_a_script() -> None:
    drawn = {name for s in DRAWN for name in importlib.import_module(f"docs.pictures.{s}").draw()}
    recorded = importlib.import_module("docs.pictures.recordings").__doc__ or ""
    for picture in PICTURES:
        assert picture.name in drawn or f"docs/pictures/{picture.name}" in recorded


def test_the_charts_draw_the_figures_of_the_tables() -> None:
    charts = importlib.import_module("docs.pictures.charts")
    drawn = charts.draw()
    for row in charts.rows("throughput"):
        assert f">{float(row['MB/CPU-s']):,g} MB<" in drawn["chart-throughput.svg"]
    for name in ("latency", "pool_latency"):
        for row in charts.rows(name):
            assert f">{float(row['p50_ms']):,g} ms<" in drawn["chart-latency.svg"]


@pytest.mark.parametrize(
    "text",
    [
        '<image href="x.png"/>',
        '<a href="https://example.com/">',
        "@import url('x.css');",
        "@font-face { src: url(x.woff) }",
        "<script>alert(1)</script>",
        '<g onload="x()"/>',
        "<style>path { fill: url(//example.com/x) }</style>",
        '<path href="data:image/png;base64,AAAA"/>',
    ],
)
def test_what_loads_something_is_found(text: str) -> None:
    assert loads(text)
    assert loads('<svg xmlns="http://www.w3.org/2000/svg"><path marker-end="url(#blue)"/>') == []
