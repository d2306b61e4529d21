"""The fenced blocks of a page, and what the comments above them say of how they are run.

Directives are HTML comments in the lines right above a block, which no reader sees:

``<!-- background -->``
    It runs on, as in another terminal, until the page ends or a block has ``<!-- stop -->`` above.
    What follows waits until the local ports listen that it names (``--local 5432``, ``--socks
    1080``, ``5432:db.internal:5432``...), or anything does if it names none; with ``ssmnet up``
    until all of it is up.
``<!-- background until TEXT -->``
    The same for what does not listen: it has printed TEXT then.
``<!-- stop -->``
    What runs in the background is ended by Ctrl-C before this block; or by ``<!-- stop latest -->``
    only what was started last.
``<!-- new terminal -->``
    From here on blocks are typed into another terminal, which knows nothing of the first.
``<!-- fails 2 -->``
    Its exit status is 2, and not 0; in the background that after Ctrl-C, and not 0 or 130.
``<!-- file NAME -->``
    It is not run but written to this file, below the working directory or as ``~/...``.
``<!-- prints -->``
    It is what the block before it has printed, ``...`` standing for anything.
``<!-- background prints -->``
    It is found in what those in the background print, now or soon.
``<!-- checked by tests/...::test_x: reason -->``
    It can't be run here. That test checks as much as can be, and exists.

Every block is accounted for: ``sh`` and ``python`` are run, all others need a directive.
"""

import ast
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent

_DIRECTIVES = {
    "background": r"(?:until (?P<until>.+))?",
    "stop": r"(?P<stop>latest)?",
    "new terminal": r"",
    "fails": r"(?P<fails>\d+)",
    "file": r"(?P<file>\S+)",
    "prints": r"",
    "background prints": r"",
    "checked by": r"(?P<checked>tests/[\w/]+\.py::\w+): .+",
}
_COMMENT = re.compile(r"^ *<!-- (.*?) -->$")
_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>`{3,}|~{3,}) *(?P<language>[\w+-]*)[^`]*$")
_PROGRAMS = ("sh", "python")


class PageError(Exception):
    """A page is not as it says. ``line`` is where, from 1."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Block(NamedTuple):
    """A fenced block: ``line`` is that of its fence, ``directives`` the names and arguments."""

    language: str
    text: str
    line: int
    directives: dict[str, str]

    def has(self, directive: str) -> bool:
        return directive in self.directives


def read_blocks(text: str) -> list[Block]:
    """The blocks of a page. Raises PageError where one is not accounted for."""
    blocks = list(_blocks(text))
    for block in blocks:
        _check(block)
    return blocks


def _blocks(text: str) -> Iterator[Block]:
    lines = list(enumerate(text.splitlines(), 1))
    comments: list[tuple[int, str]] = []
    rest = iter(lines)
    for number, line in rest:
        if comment := _COMMENT.match(line):
            comments.append((number, comment[1].strip()))
            continue
        if fence := _FENCE.match(line):
            inside = _inside(rest, fence["fence"], number)
            directives = dict(_directive(*comment) for comment in comments)
            yield Block(fence["language"], inside, number, directives)
        else:
            _check_stray(comments)
        comments = []
    _check_stray(comments)


def _inside(rest: Iterator[tuple[int, str]], fence: str, number: int) -> str:
    inside: list[str] = []
    for _, line in rest:
        if line.strip() == fence:
            return textwrap.dedent("".join(f"{line}\n" for line in inside))
        inside.append(line)
    raise PageError(number, "this block has no end")


def _directive(line: int, comment: str) -> tuple[str, str]:
    """The name and argument of a directive."""
    for name in sorted(_DIRECTIVES, key=len, reverse=True):
        argument = comment.removeprefix(name)
        if comment == name or argument.startswith(" "):
            found = re.fullmatch(_DIRECTIVES[name], argument.strip())
            if not found:
                raise PageError(line, f"<!-- {comment} --> is no `{name}` as it is written")
            return name, next((value for value in found.groupdict().values() if value), "")
    raise PageError(line, f"<!-- {comment} --> is no directive")


def _check_stray(comments: list[tuple[int, str]]) -> None:
    for line, comment in comments:
        if any(comment == name or comment.startswith(f"{name} ") for name in _DIRECTIVES):
            raise PageError(line, f"<!-- {comment} --> stands right above no block")


def _check(block: Block) -> None:
    told = block.directives.keys() - {"stop", "new terminal"}
    if block.has("checked by"):
        path, _, name = block.directives["checked by"].partition("::")
        if name not in _functions(path):
            raise PageError(block.line, f"there is no test {path}::{name}")
        _check_alone(block, told)
    elif told & {"file", "prints", "background prints"}:
        _check_alone(block, told)
    elif block.language not in _PROGRAMS:
        text = f"nothing says what becomes of this block of `{block.language or 'nothing'}`"
        raise PageError(block.line, text)


def _check_alone(block: Block, told: set[str]) -> None:
    if len(told) > 1:
        raise PageError(block.line, f"these do not go together: {', '.join(sorted(told))}")


@cache
def _functions(path: str) -> frozenset[str]:
    """The tests in a file, by name."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    found = ast.walk(ast.parse(file.read_text("utf-8")))
    names = (n.name for n in found if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(name for name in names if name.startswith("test_"))


def matches(expected: str, printed: str, *, whole: bool = True) -> bool:
    """Tell whether that was printed. ``...`` is anything, a line of it any number of lines."""
    parts = re.split(r"(?:^|(?<=\n))\.\.\.(?:\n|$)|\.\.\.", _plain(expected))
    pattern = ".*?".join(map(re.escape, parts))
    search = re.fullmatch if whole else re.search
    return search(pattern, _plain(printed), re.DOTALL) is not None


def _plain(text: str) -> str:
    return "".join(f"{line.rstrip()}\n" for line in text.strip("\n").splitlines())
