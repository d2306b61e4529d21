"""What the documents say of the code is so: the tests, figures, options and events they name."""

import ast
import inspect
import math
import re
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from ssmnet.events import Event
from ssmnet.loopback import Loopback
from ssmnet.pool import WAIT_TIMEOUT
from ssmnet.protocol.stream import MAX_REORDERED_MESSAGES

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs/reference"
RELIABILITY = ROOT / "docs/explanation/reliability.md"
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# The others name options of programs that are not ours.
FOR_USERS = [document for document in DOCUMENTS if document.name != "CONTRIBUTING.md"]
each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.name))

UNITS = {
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "KiB": 1024,
    "MiB": 1024**2,
}
# `ssmnet.pool.WAIT_TIMEOUT` = 30 s, or the default of an argument: `ssmnet.pool.Pool(width)` = 5
FIGURE = re.compile(
    r"`(ssmnet[\w.]*)(?:\((\w+)\))?`\s+=\s+(\d[\d.,]*(?<=\d))"
    rf"(?:\s+({'|'.join(UNITS)})\b)?"
)
# An option of ours stands by itself, or in a line that calls one of our commands.
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
COMMANDS = (
    *("forward", "proxy", "up", "status", "down", "reload", "run"),
    *("shell", "exec", "ssh-proxy", "ssh-config", "plugin status", "loopback"),
    *("config check", "config example", "config path", "service print"),
)
OURS = re.compile(rf"(?:^|\s)ssmnet ({'|'.join(COMMANDS)})\b")


def named_tests(text: str) -> list[tuple[str, str]]:
    """The files and names of the tests in a document."""
    return re.findall(r"(tests/[\w/]+\.py)::(\w+)", text)


@cache
def defined(path: str) -> frozenset[str]:
    """The names of the tests in a file; hypothesis' state machines are classes by assignment."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(name for name in names if name.startswith(("test", "Test")))


def missing_tests(text: str) -> list[str]:
    return [f"{path}::{name}" for path, name in named_tests(text) if name not in defined(path)]


def value_of(name: str, argument: str = "") -> Any:
    """What ``ssmnet.module.NAME`` is, or the default of its ``argument``."""
    module, _, attribute = name.rpartition(".")
    value = getattr(import_module(module), attribute)
    return inspect.signature(value).parameters[argument].default if argument else value


def wrong_figures(text: str) -> list[str]:
    """The figures that are not the code's."""
    wrong = []
    for name, argument, number, unit in FIGURE.findall(text):
        told = float(number.replace(",", "")) * UNITS.get(unit, 1)
        try:
            found = value_of(name, argument)
        except (ImportError, AttributeError, KeyError) as error:
            wrong.append(f"{name}: {error!r}")
        else:
            if not math.isclose(told, found):
                wrong.append(f"{name} is {found}, not {number} {unit}".rstrip())
    return wrong


def unknown_names(text: str) -> list[str]:
    """What stands in backticks as a name of ours and is none."""
    names = re.findall(r"`(ssmnet(?!\.toml`)(?:\.\w+)+)(?:\(\w*\))?`", text)
    return [name for name in names if not _exists(name)]


def _exists(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(import_module(module), attribute) or find_spec(name) is not None
    except ImportError:
        return False


@cache
def help_of(command: str) -> str:
    """What the help of one of our commands says."""
    done = subprocess.run(
        (sys.executable, "-m", "ssmnet", *command.split(), "--help"),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def options(command: str) -> frozenset[str]:
    """The options that the help of one of our commands shows."""
    return frozenset(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", help_of(command), re.MULTILINE))


def unknown_options(text: str) -> list[str]:
    """Options in the prose, or in a line that calls one of our commands, that there are not."""
    unknown = []
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for line in "".join(blocks).replace("\\\n", "").splitlines():
        if command := OURS.search(line):
            # What comes after is another program's.
            ours = re.split(r" \| | -- ", line[command.start() :])[0]
            unknown += [o for o in OPTION.findall(ours) if o not in options(command[1])]
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    every = frozenset({"--version"}).union(*map(options, COMMANDS))
    for code in re.findall(r"`([^`]+)`", prose):
        # Another program's own command line is its own affair.
        if code.startswith("--") or OURS.search(code):
            unknown += [option for option in OPTION.findall(code) if option not in every]
    return unknown


def table(text: str, *header: str) -> list[list[str]]:
    """The rows of the table that has this header."""
    found = re.search(
        r"^\| " + r" \| ".join(map(re.escape, header)) + r" \|\n\|[-|]+\|\n((?:\|.*\|\n)+)",
        text,
        re.MULTILINE,
    )
    assert found, f"no table with {header}"
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
        for row in found[1].splitlines()
    ]


@each_document
def test_every_test_that_is_named_exists(document: Path) -> None:
    assert missing_tests(document.read_text("utf-8")) == []


@each_document
def test_every_figure_with_a_name_is_the_code_s(document: Path) -> None:
    assert wrong_figures(document.read_text("utf-8")) == []


@each_document
def test_every_name_of_ours_exists(document: Path) -> None:
    assert unknown_names(document.read_text("utf-8")) == []


@pytest.mark.parametrize("document", FOR_USERS, ids=lambda path: str(path.name))
def test_every_option_exists(document: Path) -> None:
    assert unknown_options(document.read_text("utf-8")) == []


def test_every_promise_has_a_test() -> None:
    text = RELIABILITY.read_text("utf-8")
    promised, _, rest = text.partition("\n## What is not promised\n")
    assert rest
    sections = re.split(r"^##+ (.+)$", promised, flags=re.MULTILINE)[1:]
    told = dict(zip(sections[::2], sections[1::2], strict=True))
    # A heading right above another has its promises below that.
    without = [title for title, body in told.items() if body.strip() and not named_tests(body)]
    assert without == ["A session that is no good is passed by"], "it only says what follows"


def test_the_reliability_page_gives_figures_and_tests() -> None:
    """Were a pattern above too narrow, nothing would be checked at all."""
    text = RELIABILITY.read_text("utf-8")
    named = re.findall(r"`ssmnet\.[\w.]+\.[A-Z][A-Z_]+`", text)
    assert len(named) > 50
    # Each is given its figure, and none is told by its name alone.
    assert len(FIGURE.findall(text)) == len(re.findall(r"`ssmnet\.[^`]+`", text))
    assert len(set(named_tests(text))) > 100


def test_the_events_page_lists_every_event_with_its_fields() -> None:
    rows = table((REFERENCE / "events.md").read_text("utf-8"), "event", "fields", "when")
    told = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows}
    kinds = [msgspec.inspect.type_info(kind) for kind in get_args(Event)]
    assert told == {
        kind.tag: [field.encode_name for field in kind.fields]
        for kind in kinds
        if isinstance(kind, msgspec.inspect.StructType)
    }


def test_the_events_page_shows_real_events() -> None:
    text = (REFERENCE / "events.md").read_text("utf-8")
    (sample,) = re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for line in sample.splitlines():
        assert msgspec.json.encode(msgspec.json.decode(line, type=Event)).decode() == line


def test_every_command_has_its_exit_statuses() -> None:
    rows = table((REFERENCE / "exit-codes.md").read_text("utf-8"), "command", "0", "1", "others")
    told = [command for row in rows for command in re.findall(r"`ssmnet ([\w -]+)`", row[0])]
    assert sorted(told) == sorted([*COMMANDS, "demo"])
    # What the help says of them is in the table.
    for row in rows:
        for command in re.findall(r"`ssmnet ([\w -]+)`", row[0]):
            for status in statuses(command):
                assert status in ("0", "1") or re.search(rf"\b{status}\b", row[3]), (
                    command,
                    status,
                )


def statuses(command: str) -> list[str]:
    """The exit statuses that the help of one of our commands names."""
    _, _, told = help_of(command).partition("Exit status:")
    return re.findall(
        r"(?<![\w~])(\d{1,3})(?=\s+(?:after|when|for|and|and,)|,|;|\.)", told.split("\n\n")[0]
    )


def test_every_variable_that_is_read_is_told() -> None:
    text = (REFERENCE / "environment.md").read_text("utf-8")
    read = re.compile(r"(?:environ(?:\.get)?[\[(]|envvar=)\s*\"([A-Z_]+)\"")
    sources = (path.read_text("utf-8") for path in (ROOT / "ssmnet").glob("*.py"))
    names = {name for source in sources for name in read.findall(source)}
    assert len(names) > 8
    assert {name for name in names if f"`{name}`" not in text} == set()


@each_document
def test_every_fault_exists(document: Path) -> None:
    text = document.read_text("utf-8")
    faults = re.findall(r"(?:/faults/|^fault )([a-z_]+)", text, re.MULTILINE)
    assert [name for name in faults if not callable(getattr(Loopback, name, None))] == []


# The checks above can fail.


@pytest.mark.parametrize(
    "text",
    [
        "`tests/test_docs.py::test_that_nobody_has_written`",
        "`tests/test_no_such_file.py::test_anything`",
        "`tests/test_docs.py::options`",
    ],
)
def test_a_test_that_does_not_exist_is_found(text: str) -> None:
    assert len(missing_tests(text)) == 1
    assert missing_tests("`tests/test_docs.py::test_a_test_that_does_not_exist_is_found`") == []
    assert missing_tests("`tests/protocol/test_smux_stateful.py::TestMux`") == []


WAIT = "`ssmnet.pool.WAIT_TIMEOUT`"
LARGE = "`ssmnet.protocol.stream.MAX_REORDERED_MESSAGES`"
DEFAULT = "`ssmnet.aws.Client(request_timeout)`"


@pytest.mark.parametrize(
    "text",
    [
        f"{WAIT} = {WAIT_TIMEOUT + 1:g} s",
        f"{WAIT} = {WAIT_TIMEOUT:g} min",
        f"{WAIT}\n= {WAIT_TIMEOUT / 10:g} s",
        f"| {LARGE} = {MAX_REORDERED_MESSAGES // 10:,} |",
        f"{LARGE} = {MAX_REORDERED_MESSAGES} KiB",
        f"{DEFAULT} = 0 s",
        "`ssmnet.aws.Client(no_such_argument)` = 20 s",
        "`ssmnet.pool.NO_SUCH_LIMIT` = 1",
        "`ssmnet.no_such_module.LIMIT` = 1",
    ],
)
def test_a_wrong_figure_is_found(text: str) -> None:
    assert len(wrong_figures(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"{WAIT} = {WAIT_TIMEOUT:g} s",
        f"{WAIT}\n= {WAIT_TIMEOUT / 60:g} min, as",
        f"{WAIT} = {WAIT_TIMEOUT:g} such",
        f"| {LARGE} = {MAX_REORDERED_MESSAGES:,} |",
        f"{LARGE} = {MAX_REORDERED_MESSAGES / 1024} KiB.",
        f"{DEFAULT} = {value_of('ssmnet.aws.Client', 'request_timeout'):g} s",
    ],
)
def test_a_right_one_passes(text: str) -> None:
    assert FIGURE.search(text)
    assert wrong_figures(text) == []


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("`--no-such-option`", ["--no-such-option"]),
        ("`--max-session-age 8h` and `--idle-timeout`", []),
        ("`aws sso login --no-browser`", []),
        ("`ssmnet forward --no-such`", ["--no-such"]),
        ("```sh\nssmnet loopback --keep-alive 1 \\\n  --pace\n```\n", ["--keep-alive"]),
        ("```\npython3 run.py ssmnet forward --remote 1 --remot 1\n```\n", ["--remot"]),
        ("```\nssmnet run db -- psql --no | jq --not\nssmnet up --no | jq -c\n```\n", ["--no"]),
        ("```\naws ssm start-session --document-name x\n```\n", []),
    ],
)
def test_an_option_that_does_not_exist_is_found(text: str, unknown: list[str]) -> None:
    assert unknown_options(text) == unknown


@pytest.mark.parametrize("name", ["ssmnet.pool.Pool", "ssmnet.pools", "ssmnet.pools.SessionPool"])
def test_a_name_that_does_not_exist_is_found(name: str) -> None:
    assert unknown_names(f"`{name}`") == [name]
    assert unknown_names("`ssmnet.pool`, `ssmnet.testing.link`, `ssmnet.pool.SessionPool`") == []
