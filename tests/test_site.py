"""The site of documents: built strictly, whole, alone in the world, and the same as on GitHub.

It needs the group ``docs``: python3 run.py --group docs pytest tests/test_site.py
"""

import inspect
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from aiohttp import web
from markdown_it import MarkdownIt
from typer.testing import CliRunner

import ssmnet
from ssmnet import blocking, testing
from ssmnet.cli import app

from .e2e.browser import browser_running

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REPOSITORY = "https://github.com/ssmnet/ssmnet/"
PAGES = sorted(path for path in DOCS.rglob("*.md"))

pytestmark = pytest.mark.long

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}
# Where a document names what is loaded with it.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
LINKED = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect", "manifest"}
# What both ways of reading a page must make of it.
BLOCKS = ("h1", "h2", "h3", "h4", "ul", "ol", "li", "pre", "table", "tr", "blockquote", "img")


class Document(HTMLParser):
    """What matters of a built page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.blocks: Counter[str] = Counter()
        self.text: list[str] = []
        self._depth = 0  # within the article, which is all that an author wrote
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED:
            self.loaded.append(values.get(LOADED[tag], ""))
        if tag == "link" and LINKED & set(values["rel"].split()):
            self.loaded.append(values["href"])
        if (self._depth or tag == "article") and tag not in VOID:
            self._depth += 1
        if self._depth and tag in BLOCKS:
            self.blocks[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        if self._depth and tag not in VOID:
            self._depth -= 1

    def handle_data(self, data: str) -> None:
        if self._depth:
            self.text.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as CI does."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("NO MKDOCS: python3 run.py --group docs pytest tests/test_site.py")
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def build(project: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def built(site: Path, page: Path) -> Path:
    """The file that a page became."""
    within = page.relative_to(DOCS).with_suffix("")
    return site / (within.parent if within.name == "index" else within) / "index.html"


def documents(site: Path) -> dict[Path, Document]:
    return {path: read(path) for path in site.rglob("*.html")}


@cache
def read(path: Path) -> Document:
    return Document(path.read_text("utf-8"))


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    named = re.findall(r"^ +- (?:.+: )?(\S+\.md)$", settings.partition("\nnav:\n")[2], re.MULTILINE)
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)
    for page in PAGES:
        assert built(site, page).is_file()
    # And nothing else.
    assert len(list(site.rglob("*.html"))) == len(PAGES) + len(["404.html"])
    assert not list(site.rglob("*.py"))
    assert not list(site.rglob("*.md"))


BROKEN = {
    "no-page.md": "contains a link 'no-page.md'",
    "proxy.md#no-heading": "does not contain an anchor '#no-heading'",
    "../../no-file.md": "has a link to ../../no-file.md",
    "../../README.md#no-heading": "has a link to ../../README.md",
}


@pytest.mark.usefixtures("site")
def test_what_does_not_fit_together_is_not_built(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for path in ROOT.iterdir():
        if path != DOCS and not path.name.startswith("."):
            (project / path.name).symlink_to(path)
    shutil.copytree(DOCS, project / "docs")
    with (project / "docs/howto/ssh.md").open("a") as page:
        page.writelines(f"\n[broken]({link})\n" for link in BROKEN)
    (project / "docs/howto/nobody-knows.md").write_text("# A page in no menu\n")
    done = build(project, tmp_path / "site")
    assert done.returncode != 0
    for told in (*BROKEN.values(), "howto/nobody-knows.md"):
        assert told in done.stderr


# What it says of the code.


def test_every_command_and_option_is_there(site: Path) -> None:
    page = read(built(site, DOCS / "reference/cli.md"))
    wanted = set(anchors_of(()))
    assert {"ssmnet-forward", "ssmnet-config-check", "ssmnet-forward--sessions"} <= wanted
    assert wanted - page.ids == set()


def anchors_of(command: Sequence[str]) -> Iterator[str]:
    """Headings and options as --help tells them, of a command and those below it."""
    told = CliRunner().invoke(app, [*command, "--help"], prog_name="ssmnet").output
    path = "-".join(("ssmnet", *command))
    yield path
    for option in re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", told, re.MULTILINE):
        yield path + option
    _, _, commands = told.partition("\nCommands:\n")
    for name in re.findall(r"^  ([a-z][a-z-]*)", commands, re.MULTILINE):
        yield from anchors_of((*command, name))


def test_every_public_name_is_there(site: Path) -> None:
    ids = set().union(*(read(path).ids for path in (site / "reference/api").rglob("*.html")))
    errors = {name for name in ssmnet.__all__ if is_error(getattr(ssmnet, name))}
    assert len(errors) > 10
    wanted = {f"ssmnet.{name}" for name in ssmnet.__all__ if name not in (*errors, "__version__")}
    wanted |= {f"ssmnet.errors.{name}" for name in errors}
    wanted |= {f"ssmnet.testing.{name}" for name in testing.__all__}
    assert wanted - ids == set()
    overview = "".join(read(built(site, DOCS / "reference/api.md")).text)
    assert [name for name in ssmnet.__all__ if name not in errors and name not in overview] == []


def is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, ssmnet.Error)


# Only ssmnet calls these, when it makes such an object.
NOT_FOR_USERS = {
    *("TunnelListener.start", "RemoteShell.open", "RemoteShell.begin", "AttachedSession.open"),
    *("EventStream.add", "EventStream.close", "testing.TcpLink.forget", "testing.TcpLink.arm"),
}


def test_every_method_is_there_with_its_docstring(site: Path) -> None:
    ids = set().union(*(read(path).ids for path in (site / "reference/api").rglob("*.html")))
    methods = {f"ssmnet.{name}" for name in methods_of(ssmnet)}
    methods |= {f"ssmnet.blocking.{name}" for name in methods_of(blocking, "Target")}
    methods |= {f"ssmnet.testing.{name}" for name in methods_of(testing)}
    assert len(methods) > 40
    hidden = {f"ssmnet.{name}" for name in NOT_FOR_USERS}
    assert methods - ids <= hidden


def methods_of(module: ModuleType, *names: str) -> Iterator[str]:
    for name in names or module.__all__:
        kind: Any = getattr(module, name)
        if not inspect.isclass(kind) or is_error(kind):
            continue
        for member, value in vars(kind).items():
            is_ours = inspect.isfunction(value) or isinstance(value, property)
            if is_ours and not member.startswith("_"):
                assert value.__doc__, f"{name}.{member} has no docstring"
                yield f"{name}.{member}"


def test_nothing_private_is_there(site: Path) -> None:
    for path in (site / "reference/api").rglob("*.html"):
        assert [one for one in read(path).ids if re.search(r"^ssmnet\..*\._[a-z]", one)] == []


# Alone in the world.


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for path, document in documents(site).items():
        assert document.loaded, "a page has at least its style"
        for url in document.loaded:
            parts = urlsplit(url)
            assert parts.scheme in ("", "data"), f"{path} loads {url}"
            assert parts.netloc == "", f"{path} loads {url}"
        # Where this is, the theme's script asks GitHub for stars.
        assert 'data-md-component="source"' not in path.read_text("utf-8")
    for style in site.rglob("*.css"):
        for url in re.findall(r"url\(\s*[\"']?([^)\"']+)", style.read_text("utf-8")):
            assert not re.match(r"(https?:)?//", url), f"{style} loads {url}"


FOUND = """new Promise(resolve => {
    const look = () => {
        const found = [...document.querySelectorAll(".md-search-result__item a")];
        if (found.length) resolve(found.map(one => one.href));
    };
    new MutationObserver(look).observe(document.body, {childList: true, subtree: true});
    look();
})"""


async def test_a_browser_asks_nobody_else(site: Path, tmp_path: Path) -> None:
    """The theme's scripts would. The search works, and no page is wider than a narrow window."""

    async def serve(request: web.Request) -> web.StreamResponse:
        path = site / request.match_info["path"]
        if path.is_dir():
            path /= "index.html"
        return web.FileResponse(path) if path.is_file() else web.Response(status=404)

    served = web.Application()
    served.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(served)
    await runner.setup()
    try:
        here = web.TCPSite(runner, "127.0.0.1", 0)
        await here.start()
        port = runner.addresses[0][1]
        base = f"http://127.0.0.1:{port}/"
        async with browser_running(tmp_path, {}, "--window-size=500,800") as browser:
            assert await browser.load(base + "?q=resume-timeout") == ""
            found = await browser.evaluate(FOUND)
            assert any(url.startswith(base + "reference/cli/") for url in found)
            for page in ("reference/cli/", "reference/api/target/", "howto/ssh/", ""):
                assert await browser.load(base + page) == ""
                asked = await browser.evaluate(
                    "performance.getEntriesByType('resource').map(entry => entry.name)"
                )
                assert len(asked) >= 3
                assert [url for url in asked if not url.startswith(base)] == []
                wide = "document.documentElement.scrollWidth - innerWidth"
                assert await browser.evaluate(wide) <= 0
    finally:
        await runner.cleanup()


# Links.


def test_every_link_leads_somewhere(site: Path) -> None:
    assert [
        f"{path.relative_to(site)}: {link}"
        for path, document in documents(site).items()
        for link in document.links
        if not leads_somewhere(site, path, link)
    ] == []


def leads_somewhere(site: Path, page: Path, link: str) -> bool:
    """Whether there is such a page and such a place in it; of other sites' only ours are known."""
    if link.startswith((REPOSITORY + "blob/main/", REPOSITORY + "tree/main/")):
        return (ROOT / unquote(urlsplit(link).path).split("/main/", 1)[1]).exists()
    parts = urlsplit(link)
    if parts.scheme in ("https", "http", "mailto"):
        return True
    path = unquote(parts.path)
    if path.startswith("/"):  # of 404.html, which is shown in any folder
        file = site / path.removeprefix("/ssmnet").lstrip("/")
    else:
        file = page.parent / path if path else page
    if file.is_dir():
        file /= "index.html"
    if not file.is_file():
        return False
    return not parts.fragment or parts.fragment in read(file).ids


def test_a_broken_link_is_found(site: Path) -> None:
    home = site / "index.html"
    assert leads_somewhere(site, home, "reference/cli/#ssmnet-forward")
    assert leads_somewhere(site, home, REPOSITORY + "blob/main/README.md")
    for link in ("no-such-page/", "#no-such-place", REPOSITORY + "blob/main/no-such-file"):
        assert not leads_somewhere(site, home, link)


def test_the_pages_can_be_edited(site: Path) -> None:
    for page in PAGES:
        edit = f"{REPOSITORY}edit/main/docs/{page.relative_to(DOCS).as_posix()}"
        assert edit in read(built(site, page)).links


# The same on GitHub, whose Markdown is another.


def test_a_page_is_built_as_it_is_read_on_github(site: Path) -> None:
    differ = {}
    for page in PAGES:
        text = page.read_text("utf-8")
        if "\n::: " in text or "<!-- all commands -->" in text:
            continue  # more is made of it
        on_github = Document(f"<article>{MarkdownIt().enable('table').render(text)}</article>")
        here = read(built(site, page)).blocks
        if here != on_github.blocks:
            differ[page.relative_to(DOCS).as_posix()] = (
                here - on_github.blocks,
                on_github.blocks - here,
            )
    assert differ == {}


def test_a_list_that_only_github_knows_is_found() -> None:
    """The site needs four spaces and an empty line."""
    markdown = pytest.importorskip("markdown", reason="NO MKDOCS: see above")
    text = "Of\n- this\n  - and that\n"
    here, on_github = markdown.markdown(text), MarkdownIt().render(text)
    counts = [Document(f"<article>{html}</article>").blocks["li"] for html in (here, on_github)]
    assert counts == [0, 2]
