"""Every block of the tutorial, the how-tos and README is run, and does what the page says."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from ssmnet.service_files import systemd_unit

from .page_blocks import ROOT, PageError, matches, read_blocks

if sys.platform != "linux":
    pytest.skip("namespaces are Linux's", allow_module_level=True)

from .pages import SKIPPED
from .processes import SSMNET

PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs" / "tutorial").glob("*.md")),
    *sorted((ROOT / "docs" / "howto").glob("*.md")),
]
PAGE_TIMEOUT = 280  # s for what takes some ten; the machine may be busy


def run(page: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        (sys.executable, "-m", "tests.e2e.pages", page),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PAGE_TIMEOUT,
        check=False,
    )
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    return done


@pytest.mark.long
@pytest.mark.timeout(PAGE_TIMEOUT + 20)
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_a_page(page: Path) -> None:
    done = run(page)
    assert done.returncode == 0, done.stdout


def test_every_block_is_accounted_for() -> None:
    """Also where pages can't be run."""
    for page in PAGES:
        try:
            read_blocks(page.read_text("utf-8"))
        except PageError as error:
            pytest.fail(f"{page.relative_to(ROOT)}:{error.line}: {error}")


# What pages have for other programs, which are not here.


def test_prometheus_asks_where_it_is_answered() -> None:
    page = ROOT / "docs" / "howto" / "monitoring.md"
    blocks = read_blocks(page.read_text("utf-8"))
    (scrape,) = [block.text for block in blocks if block.language == "yaml"]
    (job,) = yaml.safe_load(scrape)["scrape_configs"]
    ((asked,),) = [each["targets"] for each in job["static_configs"]]
    (served,) = [
        re.findall(r"--metrics 127.0.0.1:(\d+)", b.text) for b in blocks if "--metrics" in b.text
    ]
    assert asked == f"localhost:{served[0]}"


def test_the_service_of_the_page(tmp_path: Path) -> None:
    """The user's unit is what is printed, its command is in the help, and systemd takes both."""
    blocks = read_blocks((ROOT / "docs" / "howto" / "service.md").read_text("utf-8"))
    user, system = [block.text for block in blocks if block.language == "ini"]
    command = re.findall(r"^ExecStart=(.+)$", user, re.MULTILINE)[0].split()
    assert user == systemd_unit(command)
    (said,) = [block.text for block in blocks if "enable --now" in block.text]
    assert said.splitlines()[-1] in help_of("service", "print")
    unit = tmp_path / "ssmnet.service"
    for text in (user, system):
        program = re.findall(r"^ExecStart=(\S+)", text, re.MULTILINE)[0]
        unit.write_text(text.replace(program, str(SSMNET)))
        verify_unit(unit)
    unit.write_text(system.replace("DynamicUser=yes", "DynamicUser=perhaps"))
    with pytest.raises(AssertionError):
        verify_unit(unit)


def help_of(*command: str) -> str:
    done = subprocess.run((SSMNET, *command, "--help"), capture_output=True, text=True, check=True)
    return done.stdout


def verify_unit(unit: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NO SYSTEMD-ANALYZE: it comes with systemd")
    done = subprocess.run(
        (program, "verify", "--man=no", unit),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if "ssmnet" in line] == []


# The runner can fail.


def block(text: str, *above: str, language: str = "sh") -> str:
    comments = "".join(f"<!-- {comment} -->\n" for comment in above)
    return f"{comments}```{language}\n{text}\n```\n\n"


GOOD = "".join(
    (
        block("echo kept >file; export KEPT=1; f() { echo f; }; mkdir -p a; cd a"),
        block("cat ../file; f; echo $KEPT; basename $PWD"),
        block("kept\nf\n...\na", "prints", language="text"),
        block("exit 3", "fails 3"),
        block("import os\nprint(os.environ['KEPT'])", language="python"),
        block("1", "prints", language="text"),
        block("name = 1", "file conf/x.toml", language="toml"),
        block("grep -q name conf/x.toml"),
        block("python -u -m http.server --bind 127.0.0.1 8000", "background"),
        block("curl -fsS http://127.0.0.1:8000/conf/x.toml"),
        block('"GET /conf/x.toml ...', "background prints", language="text"),
        block("! curl -s http://127.0.0.1:8000/", "stop"),
        block("ssmnet exec i-0123456789abcdef0 -- sh -c 'echo from $PWD'"),
        block("from .../instance", "prints", language="text"),
        block("echo ready; exec sleep 1000", "background until ready"),
        block(
            "anything", "checked by tests/e2e/test_pages.py::test_a_page: a reason", language="yaml"
        ),
    )
)
FAILING = {
    "a wrong exit status": (block("true\nfalse"), r"its exit status is 1, not 0\ntrue\nfalse"),
    "success where a failure is due": (block("true", "fails 1"), "its exit status is 0, not 1"),
    "another output": (
        block("echo one") + block("two", "prints", language="text"),
        r":6: the block before it does not print\ntwo\nbut\none",
    ),
    "a program that fails": (block("raise ValueError(7)", language="python"), "ValueError: 7"),
    "one in the background that ends": (
        block("echo this is why", "background"),
        r":2: it has ended, and is to run in the background\n(.*\n)*this is why",
    ),
    "one in the background that ends badly": (
        block("trap 'exit 9' INT; echo up; while :; do sleep 0.1; done", "background until up"),
        "in the background, it ended with exit status 9",
    ),
    "a process that is left": (
        block("setsid sleep 1000 >/dev/null 2>&1 </dev/null &"),
        r"these processes are left:\nsleep 1000",
    ),
    "a session that is left": (
        block(
            "import botocore.session\n"
            "ssm = botocore.session.get_session().create_client('ssm')\n"
            "ssm.start_session(Target='i-0123456789abcdef0')",
            language="python",
        ),
        "1 sessions are left open",
    ),
}
UNACCOUNTED = {
    "no directive": block("x", "backgroundd"),
    "half of one": block("x", "prints twice", language="text"),
    "a status that is none": block("x", "fails badly"),
    "a kind that says nothing": block("x = 1", language="toml"),
    "no kind": block("x", language=""),
    "what to stop only": block("x = 1", "stop", language="toml"),
    "two that don't go together": block("x", "prints", "file x", language="text"),
    "a directive above nothing": "<!-- background -->\n\n" + block("true"),
    "no end": "```sh\ntrue\n",
    "a test that there is not": block(
        "x", "checked by tests/e2e/test_pages.py::test_nothing: no screen"
    ),
    "a file that there is not": block("x", "checked by tests/test_no.py::test_x: no screen"),
    "no reason": block("x", "checked by tests/e2e/test_pages.py::test_a_page"),
}


@pytest.mark.long
def test_a_page_that_is_as_it_says(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(GOOD)
    done = run(page)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
@pytest.mark.parametrize("what", FAILING)
def test_what_is_wrong_in_a_page_is_told(what: str, tmp_path: Path) -> None:
    text, told = FAILING[what]
    page = tmp_path / "page.md"
    page.write_text(text)
    done = run(page)
    assert done.returncode == 1, done.stdout
    assert re.search(told, done.stdout), done.stdout


@pytest.mark.parametrize("what", UNACCOUNTED)
def test_a_block_that_is_not_accounted_for_is_found(what: str) -> None:
    with pytest.raises(PageError):
        read_blocks(UNACCOUNTED[what])


def test_a_block_is_taken_as_it_stands() -> None:
    (found,) = read_blocks(
        "- one\n\n  <!-- fails 1 -->\n  ```sh\n  a\n\n    b\n  ```\n<!-- x -->\n"
    )
    assert (found.text, found.line, found.directives) == ("a\n\n  b\n", 4, {"fails": "1"})


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb\n", "a  \nb", True),
        ("a ... z", "a b c z", True),
        ("a\n...\nz", "a\nb\nc\nz\n", True),
        ("a\n...\nz", "a\nz\n", True),
        ("...\nz", "z", True),
        ("a", "a\nb", False),
        ("a ...", "b a c", False),
        ("", "a", False),
        ("a.c", "abc", False),
    ],
)
def test_what_is_printed(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
