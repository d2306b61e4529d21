"""TAB, in bash, zsh and fish: commands, options, and the names in ssmnet.toml."""

import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import pytest

from ssmnet.completion import Shell

from .processes import SSMNET, TIMEOUT

if sys.platform == "win32":
    pytest.skip("pexpect needs a Unix terminal", allow_module_level=True)

import pexpect

from .terminals import FORKS

CONFIG = """
[defaults]
target = "i-0123456789abcdef0"
[forwards.database]
host = "db.internal"
remote = 5432
[forwards."cache.prod"]
target = "mi-0123456789abcdef0"
remote = 6379
[proxies.corp]
socks = 1080
"""
PROFILES = "[default]\n[profile dev]\n[profile 'two words']\n[sso-session corp]\n"

EACH_SHELL = pytest.mark.parametrize("shell", [one.value for one in Shell])

# What has been typed, and what it may become; None for a file of the folder, as the shell has it.
LINES = {
    "ssmnet fo": ["forward"],
    "ssmnet config ": ["check", "example", "path"],
    "ssmnet service print co": ["corp"],
    "ssmnet forward --re": ["--remote", "--region", "--reason", "--resume-timeout"],
    "ssmnet forward --check --che": None,
    "ssmnet forward -t mi": ["mi-0123456789abcdef0"],
    "ssmnet shell l": ["loopback"],
    "ssmnet shell i-0123456789abcdef0 --no-e": ["--no-escapes"],
    "ssmnet forward --output ": ["text", "json"],
    "ssmnet forward --profile ": ["default", "dev"],
    "ssmnet up ": ["database", "cache.prod", "corp"],
    "ssmnet up database c": ["cache.prod", "corp"],
    "ssmnet run ": ["database", "cache.prod"],
    "ssmnet run database -- d": None,
    "ssmnet status --watch da": ["database"],
    "ssmnet down --config other.toml ": ["other"],
    "ssmnet completion f": ["fish"],
}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Of a user who is in a folder with an ssmnet.toml."""
    home = tmp_path / "home"
    (home / ".aws").mkdir(parents=True)
    (home / ".aws/config").write_text(PROFILES)
    project = home / "project"
    project.mkdir()
    (project / "ssmnet.toml").write_text(CONFIG)
    (project / "other.toml").write_text("[forwards.other]\nremote = 80")
    (project / "dump.sql").touch()
    paths = (str(SSMNET.parent), os.environ["PATH"])
    return {"HOME": str(home), "PATH": os.pathsep.join(paths), "TERM": "dumb", "LC_ALL": "C.UTF-8"}


@EACH_SHELL
@FORKS
def test_tab_completes_a_command_and_the_word_after_it(shell: str, env: dict[str, str]) -> None:
    project = str(Path(env["HOME"]) / "project")
    options = {
        "bash": ("--norc", "--noprofile", "-i"),
        "zsh": ("-f", "-i"),
        "fish": ("--no-config", "--private", "-i"),
    }[shell]
    prepare = {
        "bash": 'PS1="ready> "; eval "$(ssmnet completion bash)"',
        "zsh": 'PROMPT="ready> "; autoload -Uz compinit; compinit -D -u; '
        'eval "$(ssmnet completion zsh)"',
        "fish": 'function fish_prompt; printf "ready> "; end; ssmnet completion fish | source',
    }[shell]
    if which(shell) is None:
        pytest.skip(f"{shell} is missing: tests/e2e/install.sh installs it")
    child = pexpect.spawn(
        shell,
        list(options),
        env=env,
        cwd=project,
        encoding="utf-8",
        timeout=TIMEOUT,
        dimensions=(24, 120),
    )
    try:
        child.sendline(f"{prepare}; printf '<%s>' begun")
        child.expect_exact("<begun>")
        child.expect("ready> ")
        child.send("ssmnet conf\tpat\t\r")
        child.expect_exact(f"{project}/ssmnet.toml")
        child.expect("ready> ")
        child.send("ssmnet down da\t")
        child.expect(
            "base"
        )  # the rest of the word, which nothing but a completion can have put there
    finally:
        child.close(force=True)


@EACH_SHELL
@pytest.mark.long
def test_every_word_is_completed_from_what_is_there(shell: str, env: dict[str, str]) -> None:
    if which(shell) is None:
        pytest.skip(f"{shell} is missing: tests/e2e/install.sh installs it")
    ask = {"bash": ask_bash, "zsh": ask_zsh, "fish": ask_fish}[shell]
    answers = ask(list(LINES), env)
    found = dict(zip(LINES, answers, strict=True))
    for line, expected in LINES.items():
        if expected is not None:
            assert found[line] == expected, line
        elif shell != "bash":  # which adds files after our function has said nothing
            assert found[line] == (["dump.sql"] if line.endswith("d") else []), line
        else:
            assert found[line] == [], line


def ask_bash(lines: list[str], env: dict[str, str]) -> list[list[str]]:
    script = """
        eval "$(ssmnet completion bash)"
        for COMP_LINE; do
            COMP_POINT=${#COMP_LINE}
            _ssmnet ssmnet
            echo "=${COMPREPLY[*]}"
        done
    """
    return answers(run("bash", "--norc", "-c", script, "bash", *lines, env=env))


def ask_fish(lines: list[str], env: dict[str, str]) -> list[list[str]]:
    script = r"""
        ssmnet completion fish | source
        for line in $argv
            echo = (complete -C$line | string replace -r '\t.*' '')
        end
    """
    return answers(run("fish", "--no-config", "-c", script, *lines, env=env))


def ask_zsh(lines: list[str], env: dict[str, str]) -> list[list[str]]:
    """With what it ends in, _describe and _files, told apart."""
    script = r"""
        compdef() { }
        _describe() { local -a list; list=("${(@P)argv[-1]}"); echo = ${list%%:*} }
        _files() { local -a found; found=($~PREFIX*(N)); echo "=$found" }
        eval "$(ssmnet completion zsh)"
        for line; do
            words=(${(z)line}); [[ $line == *' ' ]] && words+=('')
            CURRENT=$#words PREFIX=$words[-1]
            _ssmnet
        done
    """
    return answers(run("zsh", "-f", "-c", script, "zsh", *lines, env=env))


def answers(out: str) -> list[list[str]]:
    return [
        re.split(" +", line[1:].strip()) if line[1:].strip() else [] for line in out.splitlines()
    ]


def run(*command: str, env: dict[str, str]) -> str:
    project = Path(env["HOME"]) / "project"
    done = subprocess.run(
        command, env=env, cwd=project, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize(
    "broken", ["[forwards", "forwards = 3\nproxies = 'x'\ndefaults = []", "\0\xff"]
)
def test_a_broken_file_is_no_candidate_and_no_noise(broken: str, env: dict[str, str]) -> None:
    (Path(env["HOME"]) / "project/ssmnet.toml").write_text(broken, "latin-1")
    asked = {**env, "_SSMNET_COMPLETE": "1"}
    assert "--config" in run(str(SSMNET), "up", "", env=asked)
    assert run(str(SSMNET), "up", "d", env=asked) == ""


def test_what_a_shell_would_not_take_as_it_stands_is_not_offered(env: dict[str, str]) -> None:
    names = ("$(touch x)", "`id`", "a b", "a;b", "it's", "a\\tb")
    tables = "".join(f'[forwards."{name}"]\nremote = 80\n' for name in (*names, "plain"))
    (Path(env["HOME"]) / "project/ssmnet.toml").write_text(tables)
    asked = {**env, "_SSMNET_COMPLETE": "1"}
    assert run(str(SSMNET), "run", "", env=asked) == "plain\tthe target:80\n"


def test_nothing_of_a_command_line_is_run(env: dict[str, str]) -> None:
    asked = {**env, "_SSMNET_COMPLETE": "1"}
    assert run(str(SSMNET), "--version", env=asked) == "--version\tPrint the version and exit\n"
    assert run(str(SSMNET), "config", "example", "", env=asked).startswith("--debug\t")
    assert run(str(SSMNET), env=asked).startswith("forward\t")
