"""What has systemd and launchd run ``ssmnet up``: as their own readers take it."""

import plistlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import UsageError
from ssmnet.service_files import launchd_plist, systemd_unit

PROGRAM = "/opt/ssmnet/bin/ssmnet"
LOG = Path("/Users/me/Library/Logs/ssmnet.log")
WORDS = st.text(
    st.sampled_from("ab/.-_ %$\"'\\;{}~#=é")
    | st.characters(codec="utf-8", categories=["L", "P", "S"])
)
COMMANDS = st.lists(WORDS, max_size=4).map(lambda words: [PROGRAM, *words])


def read_by_systemd(unit: str) -> list[str]:
    """The words of ExecStart, as systemd.service(5) and systemd.syntax(7) say they are read."""
    [line] = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    words = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    plain = [bare or re.sub(r"\\(.)", r"\1", quoted) for quoted, bare in words]
    plain = [word.replace("%%", "%") for word in plain]
    return [plain[0], *(word.replace("$$", "$") for word in plain[1:])]


@given(COMMANDS)
def test_every_word_reaches_the_program_as_it_is(command: list[str]) -> None:
    unit = systemd_unit(command)
    assert read_by_systemd(unit) == command
    assert plistlib.loads(launchd_plist(command, LOG).encode())["ProgramArguments"] == command


def test_the_unit_is_the_same_for_the_real_systemd(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NO SYSTEMD-ANALYZE: it comes with systemd")
    folder = tmp_path / "a %h $c ${d} {é};"
    folder.mkdir()
    executable = folder / "ssmnet"
    for exists in (True, False):
        if exists:
            executable.write_text("#!/bin/sh\n")
            executable.chmod(0o755)
        else:
            executable.unlink()
        unit = tmp_path / "ssmnet.service"
        config = f"{folder}/'b\" \\"
        unit.write_text(systemd_unit([str(executable), "up", "--config", config, "db"]))
        done = subprocess.run(
            [program, "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
        )
        # It looks for the program: what it finds is the path that was meant.
        told = [line for line in done.stderr.splitlines() if "ssmnet" in line]
        if exists:
            assert told == []
        else:
            assert f"Command {executable} is not executable" in "\n".join(told)


def test_the_unit_starts_again_after_a_failure_and_not_after_a_usage_error() -> None:
    settings = dict(re.findall(r"^(\w+)=(.*)$", systemd_unit([PROGRAM, "up"]), re.MULTILINE))
    assert settings["ExecStart"] == f"{PROGRAM} up"
    assert settings["Restart"] == "on-failure"
    assert settings["RestartPreventExitStatus"] == "2"
    assert settings["KillSignal"] == "SIGTERM"
    assert settings["WantedBy"] == "default.target"


def test_the_agent_of_launchd() -> None:
    assert plistlib.loads(launchd_plist([PROGRAM, "up", "a&<b>"], LOG).encode()) == {
        "Label": "ssmnet",
        "ProgramArguments": [PROGRAM, "up", "a&<b>"],
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": 20,
        "StandardErrorPath": str(LOG),
    }


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b"])
def test_a_program_that_systemd_would_not_start(name: str) -> None:
    with pytest.raises(UsageError, match="quote or backslash"):
        systemd_unit([f"/opt/{name}", "up"])


@pytest.mark.parametrize("word", ["a\nb", "a\x00", "\x7f", "\udcff"])
def test_what_no_service_file_can_hold(word: str) -> None:
    with pytest.raises(UsageError):
        systemd_unit([PROGRAM, word])
    with pytest.raises(UsageError):
        launchd_plist([PROGRAM, word], LOG)
