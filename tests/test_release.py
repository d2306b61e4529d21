"""What publishes ssmnet: workflows, the check of a tag, and the image, as far as they run here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ssmnet import __version__

from .test_package import find_uv

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SCRIPT = Path(".ci/release_notes.py")
TIMEOUT = 100.0  # s

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-11-22

### Added

- Something ([#7]).

## [1.1.0] - 2026-10-01

- Something else.

[1.2.0]: https://example.com
"""


# --- workflows


def read(path: Path) -> dict[Any, Any]:
    loaded = import_module("yaml").safe_load(path.read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def workflow(name: str) -> dict[Any, Any]:
    return read(ROOT / ".github/workflows" / name)


def triggers(loaded: dict[Any, Any]) -> dict[str, Any]:
    found = loaded[True]  # to YAML 1.1, "on" is a truth value
    assert isinstance(found, dict)
    return found


def steps(job: dict[str, Any]) -> list[dict[str, Any]]:
    return list(job["steps"])


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in steps(job) if "run" in step]


each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: str(path.name))


@each_workflow
def test_actions_are_pinned_to_a_major_version(path: Path) -> None:
    used = [
        step["uses"] for job in read(path)["jobs"].values() for step in steps(job) if "uses" in step
    ]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", action), action


@each_workflow
def test_no_job_may_do_more_than_it_needs(path: Path) -> None:
    loaded = read(path)
    assert loaded["permissions"] in ({}, {"contents": "read"})
    writing = {}
    for name, job in loaded["jobs"].items():
        rights = job.get("permissions", {})
        writing[name] = {right for right, how in rights.items() if how != "read"}
        checkouts = [step for step in steps(job) if "actions/checkout" in step.get("uses", "")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)
        assert job["timeout-minutes"] <= 60
    expected: dict[str, set[str]] = {}
    if path.name == "release.yml":
        expected = {"publish": {"id-token", "attestations"}, "announce": {"contents"}}
    assert {name: rights for name, rights in writing.items() if rights} == expected


@each_workflow
def test_no_command_holds_what_others_can_write(path: Path) -> None:
    """A branch may be named $(...): such values come by the environment, which no shell runs."""
    for job in read(path)["jobs"].values():
        for command in commands(job):
            assert set(re.findall(r"\$\{\{ *(.*?) *\}\}", command)) <= {"matrix.file"}, command


@each_workflow
def test_the_files_and_tests_that_are_named_exist(path: Path) -> None:
    named = set()
    for job in read(path)["jobs"].values():
        for command in commands(job):
            named |= set(re.findall(r"(?:^|\s)(run\.py|\.ci/\S+|tests/\S+)", command))
    assert named
    for name in named:
        assert (ROOT / name).exists(), name


def test_every_change_goes_through_ci() -> None:
    ci = workflow("ci.yml")
    assert triggers(ci) == {"push": {"branches": ["main"]}, "pull_request": None}
    assert ".ci/run" in commands(ci["jobs"]["everything"])
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_a_release_tests_what_it_has_built_before_it_is_published() -> None:
    release = workflow("release.yml")
    assert triggers(release) == {"push": {"tags": ["v*"]}}
    jobs = release["jobs"]
    order = {name: job.get("needs") for name, job in jobs.items()}
    assert order == {"build": None, "test": "build", "publish": "test", "announce": "publish"}
    builds = [name for name, job in jobs.items() if any("build" in run for run in commands(job))]
    assert builds == ["build"]
    for name in ("test", "publish", "announce"):
        uses = [step.get("uses", "") for step in steps(jobs[name])]
        assert any("download-artifact" in action for action in uses), name
        assert not any("checkout" in action for action in uses), name
    assert jobs["publish"]["environment"]["name"] == "pypi"
    uses = [step.get("uses", "").partition("@")[0] for step in steps(jobs["publish"])]
    assert uses[1:] == ["actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]


def test_every_python_and_system_that_is_promised_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pythons = [
        line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r":: 3\.\d+$", line)
    ]
    assert pythons
    matrix = workflow("release.yml")["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == pythons
    assert matrix["os"] == ["ubuntu-latest", "macos-latest", "windows-latest"]
    assert workflow("ci.yml")["jobs"]["elsewhere"]["strategy"]["matrix"]["python"] == pythons


# --- the tag


def check(
    tag: str, tmp_path: Path, changelog: str, version: str
) -> subprocess.CompletedProcess[str]:
    (tmp_path / ".ci").mkdir()
    (tmp_path / "ssmnet").mkdir()
    shutil.copy(ROOT / SCRIPT, tmp_path / SCRIPT)
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    (tmp_path / "ssmnet/_version.py").write_text(f'__version__ = "{version}"\n')
    command = (sys.executable, tmp_path / SCRIPT, tag)
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)


def test_a_tag_that_fits_prints_the_notes(tmp_path: Path) -> None:
    done = check("v1.2.0", tmp_path, CHANGELOG, "1.2.0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "### Added\n\n- Something ([#7]).\n"


@pytest.mark.parametrize(
    ("tag", "version", "changelog", "said"),
    [
        ("v1.2.1", "1.2.0", CHANGELOG, "the tag is v1.2.1, but the version"),
        ("1.2.0", "1.2.0", CHANGELOG, "the tag is 1.2.0, but the version"),
        ("v1.2.0", "1.2.0.dev1", CHANGELOG, "the version in ssmnet/_version.py is 1.2.0.dev1"),
        ("v1.3.0", "1.3.0", CHANGELOG, "has no line like: ## [1.3.0]"),
        ("v1.2.0", "1.2.0", CHANGELOG.replace(" - 2026-11-22", ""), "has no line like: ## [1.2.0]"),
        ("v1.2.0", "1.2.0", CHANGELOG.replace("1.2.0", "1x2.0"), "has no line like: ## [1.2.0]"),
        ("v1.0.0", "1.0.0", "## [1.0.0] - 2026-01-01\n\n## [0.9.0]", "tells nothing of 1.0.0"),
    ],
)
def test_a_tag_that_does_not_fit_stops_the_release(
    tag: str, version: str, changelog: str, said: str, tmp_path: Path
) -> None:
    done = check(tag, tmp_path, changelog, version)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr


def test_the_check_reads_this_repository(tmp_path: Path) -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "\n## [Unreleased]\n" in text
    released = text.replace("\n## [Unreleased]\n", f"\n## [{__version__}] - 2026-11-22\n", 1)
    done = check(f"v{__version__}", tmp_path, released, __version__)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("###")
    version = (ROOT / "ssmnet/_version.py").read_text("utf-8")
    assert version == f'__version__ = "{__version__}"\n'


# --- the image


class Instruction(NamedTuple):
    name: str
    rest: str


def stages() -> list[list[Instruction]]:
    """The instructions of the Containerfile, from each FROM on."""
    text = (ROOT / "Containerfile").read_text("utf-8").replace("\\\n", "")
    found: list[list[Instruction]] = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            if name == "FROM":
                found.append([])
            found[-1].append(Instruction(name, rest))
    return found


def values(stage: list[Instruction], name: str) -> list[str]:
    return [one.rest for one in stage if one.name == name]


def test_the_image_has_no_tools_no_rights_and_a_locked_content() -> None:
    build, image = stages()
    assert [one.name for one in build] == (
        ["FROM", "ENV", "RUN", "WORKDIR", "COPY", "RUN", "COPY", "COPY", "RUN"]
    )
    # The environment's python is a link to that of the image: both have to be the same.
    assert values(build, "FROM")[0].removesuffix(" AS build") == values(image, "FROM")[0]
    assert all("--locked --no-dev" in run for run in values(build, "RUN") if "uv sync" in run)
    (copied,) = values(image, "COPY")
    place = dict(word.split("=") for word in values(build, "ENV")[0].split())[
        "UV_PROJECT_ENVIRONMENT"
    ]
    assert copied == f"--from=build {place} {place}"
    assert f"PATH={place}/bin:$PATH" in values(image, "ENV")[0]
    (user,) = values(image, "USER")
    assert int(user.partition(":")[0]) > 1000
    assert f"--uid {user.partition(':')[0]} " in values(image, "RUN")[0]
    assert json.loads(values(image, "ENTRYPOINT")[0]) == ["ssmnet"]
    assert not values(image, "HEALTHCHECK")  # what is healthy depends on the command


def test_what_is_copied_is_there_and_is_not_ignored() -> None:
    build, _ = stages()
    copied = {name for line in values(build, "COPY") for name in line.split()[:-1]}
    ignore = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    assert all((ROOT / name).exists() for name in copied)
    assert {line[1:] for line in ignore if line.startswith("!")} == copied
    assert "*" in ignore
    assert "**/__pycache__" in ignore


@pytest.mark.long
def test_the_image_would_hold_what_the_lock_says(tmp_path: Path) -> None:
    """Its commands, in a folder instead of an image."""
    build, image = stages()
    place = tmp_path / "opt"
    # The image has settings of its own; whom to trust is this machine's.
    own = {name for name in os.environ if name.startswith("UV_")} - {"UV_SYSTEM_CERTS"}
    env = {name: value for name, value in os.environ.items() if name not in own}
    env |= dict(word.split("=") for word in values(build, "ENV")[0].split())
    env |= {"UV_PROJECT_ENVIRONMENT": str(place), "UV_PYTHON": sys.executable}
    env.pop("VIRTUAL_ENV", None)
    source = tmp_path / "src"
    source.mkdir()
    ran = []
    for name, rest in build:
        if name == "COPY":
            *files, folder = rest.split()
            for file in files:
                copy(ROOT / file, source / folder)
        elif name == "RUN" and rest.startswith("uv "):
            ran.append(rest)
            command = (find_uv(), *shlex.split(rest)[1:])
            done = subprocess.run(
                command,
                cwd=source,
                env=env,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
            assert done.returncode == 0, f"{rest}\n{done.stderr}\nIt needs PyPI: is it reachable?"
    assert len(ran) == 2
    shutil.rmtree(source)
    (entry,) = json.loads(values(image, "ENTRYPOINT")[0])
    for arguments in (["--version"], json.loads(values(image, "CMD")[0]), ["demo"]):
        done = subprocess.run(
            (place / "bin" / entry, *arguments),
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    locked = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    versions = {one["name"]: one.get("version") for one in locked}
    there = [path.stem.partition("-") for path in place.rglob("*.dist-info")]
    assert len(there) > 10
    for name, _, version in there:
        assert versions[name.replace("_", "-").lower()] in (version, None), name
    assert "pytest" not in [name for name, _, _ in there]


def copy(source: Path, target: Path) -> None:
    """As COPY does: of a folder what is in it."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)
