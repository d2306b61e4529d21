"""What an interrupt does to a command that has hardly begun."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there")

NO_AWS = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}

# Sends this process a signal when it is about to import a module.
PROGRAM = """
import os, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Finder)
from ssmnet.entry import {entry}
{entry}()
"""


def interrupted(
    entry: str, module: str, number: int, *arguments: str, ignored: bool = False
) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(entry=entry, module=module, number=number)
    command = [sys.executable, "-c", program, *arguments]
    if ignored:
        command = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command]
    keys = {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"}
    return subprocess.run(
        command,
        env=NO_AWS | keys,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


@pytest.mark.parametrize("module", ["ssmnet.cli", "typer", "asyncio", "msgspec", "aiohttp"])
def test_an_interrupt_during_the_imports_is_quiet(module: str) -> None:
    done = interrupted("ssmnet", module, 2, "forward", "-t", "i-1", "--remote", "80")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_an_interrupt_that_is_ignored_stays_so() -> None:
    """As in the background of a script."""
    done = interrupted("ssmnet", "typer", 2, "forward", "--remote", "80", ignored=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no target" in done.stderr


@pytest.mark.parametrize("number", [1, 2, 15])
@pytest.mark.parametrize("module", ["ssmnet.plugin", "aiohttp"])
def test_a_signal_during_the_imports_ends_the_plugins_session(module: str, number: int) -> None:
    session = {"SessionId": "s-1", "TokenValue": "t", "StreamUrl": "ws://127.0.0.1:1/x"}
    rest = ("us-east-1", "StartSession", "", "{}", "http://127.0.0.1:1")
    done = interrupted("plugin", module, number, json.dumps(session), *rest)
    assert done.stdout == (
        "\nStarting session with SessionId: s-1\n"
        "Terminate signal received, exiting.\n\n\nExiting session with sessionId: s-1.\n\n"
    )
    assert "cannot terminate it" in done.stderr  # as far as that it came: nobody is there
    assert done.returncode == 0
