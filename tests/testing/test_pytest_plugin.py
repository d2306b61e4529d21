"""Real suites of users, each in a pytest of its own: what is in suites/ stands for theirs."""

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

SUITES = Path(__file__).parent / "suites"
TIMEOUT = 100.0  # s for what takes a few; the machine may be busy

# What a developer's shell may have, all of it in the way.
SETTINGS = {
    "AWS_PROFILE": "production",
    "AWS_SESSION_TOKEN": "of another account",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_CA_BUNDLE": "/nonexistent",
    "AWS_REGION": "eu-central-1",
    "AWS_ENDPOINT_URL_SQS": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
}


def python(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("AWS_", "PYTEST_", "COV_", "NO_PROXY"))
    }
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env=inherited | SETTINGS,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT,
        check=False,
    )


def run_suite(folder: Path, *names: str, options: tuple[str, ...] = ()) -> str:
    """What pytest says of suites that stand in a project of their own."""
    (folder / "pytest.ini").write_text("[pytest]\n")
    for name in names:
        shutil.copy(SUITES / f"{name}.py", folder / f"test_{name}.py")
    strict = ("--strict-markers", "-W", "error", "--tb=short", "-p", "no:cacheprovider")
    return python("-m", "pytest", *strict, *options, cwd=folder).stdout


def outcome(said: str) -> str:
    """As in ``=== 3 passed, 2 errors in 0.42s ===``."""
    found = re.search(r"^=+ (.+) in [\d.]+s.* =+$", said, re.MULTILINE)
    return found[1] if found else said


def test_sync_tests_of_an_application(tmp_path: Path) -> None:
    said = run_suite(tmp_path, "sync", options=("-p", "no:asyncio", "-p", "no:anyio"))
    assert outcome(said) == "16 passed", said


def test_async_tests_and_unittest(tmp_path: Path) -> None:
    options = ("-o", "asyncio_default_fixture_loop_scope=function")
    said = run_suite(tmp_path, "strict", "django_like", options=options)
    assert outcome(said) == "6 passed", said


def test_auto_mode(tmp_path: Path) -> None:
    options = ("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    said = run_suite(tmp_path, "auto", options=options)
    assert outcome(said) == "1 passed", said


@pytest.mark.long
def test_beside_moto(tmp_path: Path) -> None:
    options = ("--asyncio-mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    said = run_suite(tmp_path, "moto_beside", options=options)
    assert outcome(said) == "5 passed", said


def test_sessions_that_are_left_open_are_reported(tmp_path: Path) -> None:
    said = run_suite(tmp_path, "leaks", options=("-p", "no:asyncio", "-p", "no:anyio"))
    assert outcome(said) == "3 passed, 2 errors", said
    assert "takes arguments by name only" in said
    _, _, leaks = said.partition("ERROR at teardown of test_leaks _")
    assert "2 sessions were left open:\n" in leaks
    assert "-StartPortForwardingSessionToRemoteHost to db.internal:5432, connecting\n" in leaks
    assert "AWS-StartPortForwardingSession to localhost:22, connected\n" in leaks
    assert "check_sessions=False" in leaks


def test_the_plugin_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(ssm_loopback): pass\n")
    said = python("-m", "pytest", "-p", "no:ssmnet", "-p", "no:cacheprovider", cwd=tmp_path).stdout
    assert "fixture 'ssm_loopback' not found" in said


def test_it_can_be_named_where_nothing_loads_by_itself(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\naddopts = --disable-plugin-autoload -p ssmnet\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_it(ssm_loopback): assert not ssm_loopback.sessions\n"
    )
    said = python("-m", "pytest", "-p", "no:cacheprovider", cwd=tmp_path).stdout
    assert outcome(said) == "1 passed", said


def test_a_run_without_the_fixture_imports_nothing_of_it(tmp_path: Path) -> None:
    """Whoever has ssmnet installed loads the plugin with each pytest."""
    (tmp_path / "test_it.py").write_text(
        "import sys\n\n"
        "def test_it():\n"
        "    ours = {name for name in sys.modules if name.partition('.')[0] == 'ssmnet'}\n"
        "    assert ours == {'ssmnet', 'ssmnet._version', 'ssmnet.testing',"
        " 'ssmnet.testing.pytest_plugin'}\n"
        "    assert not {'aiohttp', 'aiobotocore', 'msgspec', 'cryptography'} & set(sys.modules)\n"
    )
    options = ("-p", "no:asyncio", "-p", "no:anyio", "-p", "no:cacheprovider")
    said = python("-m", "pytest", *options, cwd=tmp_path).stdout
    assert outcome(said) == "1 passed", said


def test_the_package_needs_no_pytest() -> None:
    script = (
        "import sys, ssmnet.testing as testing\n"
        "assert not {'asyncio', 'ssmnet.errors'} & set(sys.modules)\n"
        "sys.modules['pytest'] = None\n"
        "assert [getattr(testing, name) for name in testing.__all__]\n"
        "assert set(testing.__all__) <= set(dir(testing))\n"
        "with testing.SsmLoopback() as far_end, far_end.in_environment(): pass\n"
    )
    done = python("-W", "error", "-c", script, cwd=SUITES)
    assert done.returncode == 0, done.stdout


def test_the_plugin_is_declared_once() -> None:
    (plugin,) = (point for point in entry_points(group="pytest11") if point.name == "ssmnet")
    assert plugin.value == "ssmnet.testing.pytest_plugin"
