"""What the documents tell people to run is what CI runs, and their links lead somewhere."""

import re
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "perf/*.md", "tests/**/*.md")
    for path in ROOT.glob(pattern)
)


def commands(document: Path) -> list[str]:
    """Return the shell commands of a Markdown document, a block an item."""
    return re.findall(r"^```sh\n(.*?)\n```$", document.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def test_the_readme_opens_with_the_demo_and_the_tests_each_one_command() -> None:
    assert commands(ROOT / "README.md")[:2] == [
        "python3 run.py ssmnet demo",
        "python3 run.py pytest",
    ]


def test_ci_runs_the_readme_s_test_command_to_the_letter() -> None:
    steps = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert f'step "tests" {commands(ROOT / "README.md")[1]}' in steps


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_what_the_readme_compares_is_what_was_measured() -> None:
    """Its rows are those of the page that says how, with the columns of AWS's plugin and ours."""
    page = (ROOT / "docs" / "explanation" / "comparison.md").read_text("utf-8")
    lines = map(cells, page.splitlines())
    told = {(row[0], row[1], row[-1]) for row in lines if len(row) > 3}
    _, _, after = (ROOT / "README.md").read_text("utf-8").partition("| AWS's plugin | ssmnet |\n")
    rows = list(takewhile(lambda row: len(row) == 3, map(cells, after.splitlines()[1:])))
    assert len(rows) > 4
    assert [row for row in rows if tuple(row) not in told] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", document.read_text("utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []
