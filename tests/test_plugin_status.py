"""Which session-manager-plugin is found, whose it is, and what is told of it; by real programs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ssmnet import plugin_status
from ssmnet.plugin_status import NAME, Plugin, as_text, is_chosen
from ssmnet.protocol.version import CLIENT_VERSION

if sys.platform == "win32":
    pytest.skip("the other plugins here are shell scripts", allow_module_level=True)

OURS = Path(sys.executable).with_name(NAME)
ANSWERS = "echo 1.2.650.0"


def install(folder: Path, script: str, *, mode: int = 0o700) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    program = folder / NAME
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(mode)
    return program


def ask(*path: Path | str, output: str = "json") -> "subprocess.CompletedProcess[str]":
    """Run the command with such a PATH."""
    return subprocess.run(
        [sys.executable, "-m", "ssmnet", "plugin", "status", "--output", output],
        # /bin/sh and its programs are found at the end.
        env=os.environ | {"PATH": os.pathsep.join([*map(str, path), "/bin"])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def found(*path: Path | str) -> list[dict[str, object]]:
    plugins: list[dict[str, object]] = json.loads(ask(*path).stdout)["plugins"]
    return [plugin for plugin in plugins if plugin["on_path"]]


def test_ours_is_known_and_chosen_where_it_is_first(tmp_path: Path) -> None:
    other = install(tmp_path, ANSWERS)
    done = ask(OURS.parent, tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["chosen"], done.stderr) == (0, True, "")
    assert told["plugins"][0] == {
        "path": str(OURS),
        "resolved": str(OURS.resolve()),
        "on_path": True,
        "ssmnet": True,
        "version": CLIENT_VERSION,
        "error": "",
        "token_in_environment": True,
        "outdated": False,
    }
    assert told["plugins"][1]["path"] == str(other)
    assert told["plugins"][1]["ssmnet"] is False


def test_another_that_is_first_is_the_one_that_runs(tmp_path: Path) -> None:
    install(tmp_path, ANSWERS)
    done = ask(tmp_path, OURS.parent)
    told = json.loads(done.stdout)
    assert (done.returncode, told["chosen"]) == (1, False)
    assert [plugin["ssmnet"] for plugin in told["plugins"][:2]] == [False, True]


def test_ours_is_found_where_path_does_not_lead_to_it() -> None:
    done = ask("/nowhere")
    told = json.loads(done.stdout)
    ours = next(plugin for plugin in told["plugins"] if plugin["ssmnet"])
    assert (done.returncode, told["chosen"]) == (1, False)
    assert (ours["path"], ours["on_path"]) == (str(OURS), False)


def test_a_launcher_of_ours_is_ours(tmp_path: Path) -> None:
    """As pyenv and others have them: nothing in the file tells, what runs does."""
    install(tmp_path, f'here={OURS.parent}; exec $here/{NAME} "$@"')
    assert found(tmp_path)[0]["ssmnet"] is True


def test_a_link_to_ours_is_ours_and_told_as_a_link(tmp_path: Path) -> None:
    link = tmp_path / NAME
    link.symlink_to(OURS)
    plugin = found(tmp_path)[0]
    assert (plugin["path"], plugin["resolved"]) == (str(link), str(OURS.resolve()))
    assert plugin["ssmnet"] is True
    assert f"    leads to {OURS.resolve()}\n" in ask(tmp_path, output="text").stdout


def test_one_that_only_lies_in_a_folder_of_our_name_is_not_ours(tmp_path: Path) -> None:
    install(tmp_path / "ssmnet" / "entry", ANSWERS)
    assert found(tmp_path / "ssmnet" / "entry")[0]["ssmnet"] is False


def test_ours_without_its_interpreter_is_still_known(tmp_path: Path) -> None:
    script = OURS.read_text().partition("\n")[2]
    program = install(tmp_path, "")
    program.write_text(f"#!/nowhere/python\n{script}")
    plugin = found(tmp_path)[0]
    assert plugin["ssmnet"] is True
    assert plugin["error"] == "can't be run: No such file or directory"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 3", "exit status 3 for --version"),
        ("echo 1.2.3.4; exit 3", "exit status 3 for --version"),
        ("echo 1.2.3.4.5", "no version for an answer to --version"),
        ("echo hello", "no version for an answer to --version"),
        ("", "no version for an answer to --version"),
        ("printf '\\377'", "no version for an answer to --version"),
        ("kill -9 $$", "exit status -9 for --version"),
    ],
)
def test_one_that_is_broken_is_told_as_such(tmp_path: Path, script: str, error: str) -> None:
    install(tmp_path, script)
    plugin = found(tmp_path)[0]
    assert (plugin["version"], plugin["error"]) == ("", error)
    told = ask(tmp_path, output="text").stdout
    assert error in told
    assert "The AWS CLI can't start a session with it." in told


@pytest.mark.parametrize(
    "script", ["exec sleep 1000", "sleep 1000 & wait", "exec yes", "exec yes >&2"]
)
async def test_one_that_does_not_end_is_given_up_with_all_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    install(tmp_path, f"exec 9>'{fifo}'; echo begun >&9\n{script}")
    monkeypatch.setattr(plugin_status, "VERSION_TIMEOUT", 1.0)
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), "/bin", "/usr/bin"]))
    plugin = (await plugin_status.find_plugins())[0]
    assert plugin.path == str(tmp_path / NAME)
    assert plugin.error == "no answer to --version within 1 s"
    # Ends when nobody has it open any more.
    os.set_blocking(reader, True)
    assert os.read(reader, 100) == b"begun\n"
    assert os.read(reader, 100) == b""
    os.close(reader)


def test_what_can_not_be_run_is_passed_by(tmp_path: Path) -> None:
    install(tmp_path / "first", ANSWERS, mode=0o600)
    (tmp_path / "second" / NAME).mkdir(parents=True)
    third = install(tmp_path / "third", ANSWERS)
    paths = [
        plugin["path"] for plugin in found(*(tmp_path / n for n in ("first", "second", "third")))
    ]
    assert paths == [str(third)]
    # The shell's own rule is the same.
    path = os.pathsep.join(str(tmp_path / name) for name in ("first", "second", "third"))
    assert shutil.which(NAME, path=path) == str(third)


def test_the_same_folder_twice_on_path_is_told_once(tmp_path: Path) -> None:
    install(tmp_path, ANSWERS)
    assert len(found(tmp_path, tmp_path, f"{tmp_path}/.")) == 1


# What the AWS CLI makes of a version: the last by argument, and the first without a warning.


@pytest.mark.parametrize(
    ("version", "token_in_environment", "outdated"),
    [
        ("1.2.497.0", False, True),
        ("1.2.497", False, True),
        ("1.2.497.1", True, True),
        ("1.2.763.9", True, True),
        ("1.2.764.0", True, False),
        ("1.2.764", True, False),
        ("2", True, False),
        ("1.10", True, False),
        ("", False, False),
    ],
)
def test_what_the_aws_cli_makes_of_a_version(
    version: str, token_in_environment: bool, outdated: bool
) -> None:
    plugin = Plugin("p", "p", on_path=True, ssmnet=False, version=version)
    assert plugin.token_in_environment is token_in_environment
    assert plugin.outdated is outdated
    if version:
        told = as_text([plugin])
        assert ("as an argument" in told) is not token_in_environment
        assert ("outdated" in told) is outdated


# What people are told.

HERE = Plugin("/a b/p", "/a b/p", on_path=True, ssmnet=True, version="1.2.900.0")
THERE = Plugin("/usr/local/bin/p", "/opt/p", on_path=True, ssmnet=False, version="1.2.764.0")


def test_it_tells_how_to_undo_it() -> None:
    assert as_text([HERE, THERE]).splitlines() == [
        "/a b/p is the one that runs: ssmnet's, version 1.2.900.0",
        "/usr/local/bin/p comes later on PATH: not ssmnet's, version 1.2.764.0",
        "    leads to /opt/p",
        "",
        "The AWS CLI passes it the session's token in the environment.",
        "To have the other, uninstall ssmnet, or in your shell: export PATH=/usr/local/bin:$PATH",
    ]
    assert as_text([HERE]).splitlines()[-1] == "To undo it, uninstall ssmnet."


def test_it_tells_how_to_choose_ours() -> None:
    assert as_text([THERE, HERE]).splitlines()[-1] == (
        "To have ssmnet's, in your shell: export PATH='/a b':$PATH"
    )
    assert (
        as_text([THERE]).splitlines()[-1] == f"There is none of ssmnet's beside {sys.executable}."
    )


def test_it_tells_that_there_is_none() -> None:
    assert "No session-manager-plugin is on PATH" in as_text([])
    assert not is_chosen([])
