#!/usr/bin/env python3
"""Print what CHANGELOG.md tells of a release, once its tag fits what would be published.

    python3 .ci/release_notes.py v0.1.0

Exit status 1, with the reason, unless the tag is ``v`` and the version of ssmnet/_version.py, and
the changelog has a section of that version with a date and something in it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(tag: str) -> str:
    """The text of the section. Raises SystemExit with what is wrong."""
    version = read_version()
    if tag != f"v{version}":
        sys.exit(f"the tag is {tag}, but the version in ssmnet/_version.py is {version}")
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    heading = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n", text, re.MULTILINE)
    if heading is None:
        sys.exit(f"CHANGELOG.md has no line like: ## [{version}] - 2026-01-31")
    # Up to the next section, or to the targets of links at the end.
    end = re.compile(r"^(?:## |\[[^\]]+\]: )", re.MULTILINE)
    notes = end.split(text[heading.end() :], maxsplit=1)[0]
    if not notes.strip():
        sys.exit(f"CHANGELOG.md tells nothing of {version}")
    return notes.strip()


def read_version() -> str:
    """The version, without an import of the package."""
    text = (ROOT / "ssmnet" / "_version.py").read_text("utf-8")
    found = re.fullmatch(r'__version__ = "([^"]+)"\n', text)
    if found is None:
        sys.exit("ssmnet/_version.py is not one line with the version")
    return found[1]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python3 .ci/release_notes.py TAG")
    print(main(sys.argv[1]))
