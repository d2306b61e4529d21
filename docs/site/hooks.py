"""What the site does with pages that are written to be read on GitHub as well."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

from commands import describe_commands  # type: ignore[import-not-found]
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify  # type: ignore[import-untyped]

_log = logging.getLogger("mkdocs.hooks.site")  # a warning ends a strict build

# A link to a file: [text](../file.md#heading) or [name]: ../file.md#heading
_LINK = re.compile(r"(\]\(|^\[[^\]]+\]: )(\.\./[^)\s#]+)(?:#([^)\s]+))?", re.MULTILINE)
# What a block is to the tests is nothing to readers.
_ABOVE_BLOCK = re.compile(r"(?:^ *<!--(?:(?!-->).)*-->\n)+(?= *```)", re.MULTILINE | re.DOTALL)

# A test, where it is no link yet.
_TEST = re.compile(r"<a [^>]*>.*?</a>|<code>(tests/[\w/]+\.py)(?:::\w+)?</code>", re.DOTALL)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Called for each page."""
    if page.is_homepage:
        page.meta["hide"] = ["navigation"]  # there is nothing beside it
    folder = Path(page.file.abs_src_path or "").parent
    root = Path(config.config_file_path).parent

    def absolute(found: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / found[2]))
        if path.is_relative_to(config.docs_dir):
            return found[0]
        heading = found[3]
        if not path.exists() or (heading and heading not in _anchors(path)):
            _log.warning(f"{page.file.src_uri} has a link to {found[2]}, which is not there")
        kind = "tree" if path.is_dir() else "blob"
        url = f"{config.repo_url}/{kind}/main/{path.relative_to(root).as_posix()}"
        return found[1] + url + (f"#{heading}" if heading else "")

    markdown = _LINK.sub(absolute, _ABOVE_BLOCK.sub("", markdown))
    return markdown.replace("<!-- all commands -->", describe_commands())


def on_page_content(html: str, config: MkDocsConfig, **_: Any) -> str:
    """Called with each page as HTML: tests are links, and no line ends within `--option`."""

    def link(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0]
        return f'<a href="{config.repo_url}/blob/main/{found[1]}">{found[0]}</a>'

    html = _TEST.sub(link, html)
    return re.sub(r"<code>(?=[^\s<]{1,45}</code>)", '<code class="word">', html)


def _anchors(path: Path) -> set[str]:
    """The headings of a file as GitHub names them."""
    slug = slugify(case="lower")
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {slug(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading), "-") for heading in headings}
