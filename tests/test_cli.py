"""The command line, as far as it goes without a session: help, versions, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest

from ssmnet import cli
from ssmnet._version import __version__

ROOT = Path(__file__).parent.parent


def ssmnet(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process: its status, stdout and stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ssmnet", *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
    out, err = capfd.readouterr()
    status = exit_.value.code
    assert status is None or isinstance(status, int)
    return status or 0, out, err


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSMNET_TARGET", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")


@pytest.mark.parametrize(
    "command",
    [[Path(sys.executable).with_name("ssmnet")], [sys.executable, "-m", "ssmnet"]],
    ids=["ssmnet", "python -m ssmnet"],
)
def test_the_version(command: list[str | Path]) -> None:
    done = subprocess.run(
        [*command, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == (f"ssmnet {__version__}\n", "")


def test_the_help_loads_nothing_of_what_sessions_need() -> None:
    """It is asked for again and again; the event loop alone would take as long to import."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ssmnet", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {
        line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.split("\n")
    }
    assert "typer" in imported
    assert not imported & {"aiobotocore", "aiohttp", "asyncio", "botocore", "ssl", "uvloop"}


COMMANDS = [
    command.name or command.callback.__name__.replace("_", "-")
    for command in cli.app.registered_commands
    if command.callback
]


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_explains_itself(
    capfd: pytest.CaptureFixture[str], command: str, flag: str
) -> None:
    status, out, err = ssmnet(capfd, *filter(None, [command, flag]))
    assert (status, err) == (0, "")
    assert out.startswith(f"Usage: ssmnet {command}".strip())
    assert "--help" in out
    options = out.partition("Options:")[2]
    assert "<str>" not in options  # each value has a name that says what it is
    assert "\b" not in out


def test_the_list_of_commands_cuts_nothing_short(capfd: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ssmnet(capfd, "--help")
    assert "..." not in out.partition("Commands:")[2]
    for command in COMMANDS:
        assert f"\n  {command} " in out


def test_without_a_command_it_shows_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    status, out, err = ssmnet(capfd)
    assert (status, out) == (2, "")
    assert "Commands:" in err


ANYONE = ("forward", "-t", "i-0123456789abcdef0")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("forwrd",), "No such command 'forwrd'"),
        (("--nope",), "No such option: --nope"),
        ((*ANYONE, "--nope"), "No such option: --nope"),
        ((*ANYONE, "--remote"), "--remote"),
        ((*ANYONE, "--output", "xml", "--remote", "80"), "'--output'"),
        (ANYONE, "--remote is missing: the port to forward to"),
        ((*ANYONE, "--local", "80"), "--remote is missing: the port to forward to"),
        ((*ANYONE, "8080:80", "--local", "81"), "--remote is missing: the port to forward to"),
        ((*ANYONE, "--remote", "80", "--remote", "81"), "--remote is given twice"),
        ((*ANYONE, "--target", "i-1", "--remote", "80"), "--target is given twice"),
        ((*ANYONE, "--remote", "80", "--check", "--check"), "--check is given twice"),
        ((*ANYONE, "--remote", "0"), "'0' is not a port: a number from 1 to 65535"),
        ((*ANYONE, "--remote", "65536"), "'65536' is not a port: a number from 1 to 65535"),
        ((*ANYONE, "--remote", "-1"), "'-1' is not a port: a number from 1 to 65535"),
        ((*ANYONE, "--remote", "80", "--local", "x"), "'x' is not a port: a number from 0"),
        ((*ANYONE, "80"), "'80' is not a forward: write [bind:]port:host:hostport or"),
        ((*ANYONE, "1:b:c:d:5"), "'1:b:c:d:5' is not a forward"),
        ((*ANYONE, "1:2", "1:3"), "two forwards listen on 1"),
        ((*ANYONE, "::1:1:a:2", "--bind", "::1"), "is not a forward"),
        ((*ANYONE, "a:1:b:2", "--bind", "c"), "names an address to listen on, and so does --bind"),
        ((*ANYONE, "--local", "/a/b", "--bind", "::1", "--remote", "1"), "is a unix socket"),
        ((*ANYONE, "--host", "a b", "--remote", "1"), "'a b' is not a host"),
        ((*ANYONE, "--parameter", "a=b", "--remote", "80"), "--parameter goes with --document"),
        ((*ANYONE, "--document", "D", "--parameter", "ab"), "--parameter 'ab' is not KEY=VALUE"),
        ((*ANYONE, "--document", "D", "--parameter", "=b"), "--parameter '=b' is not KEY=VALUE"),
        (("forward", "--remote", "80"), "no target: pass -t i-..., set SSMNET_TARGET, or use"),
        (("loopback", "--port", "65536"), "'--port'"),
        (("loopback", "--agent-version", "new"), "'new' is not a version such as 3.3.0.0"),
        (("loopback", "--tls-cert", "a"), "--tls-cert and --tls-key go together"),
        (("loopback", "--tls-key", "a"), "--tls-cert and --tls-key go together"),
        (("loopback", "--tls-cert", "/a", "--tls-key", "/b"), "cannot use /a and /b: "),
        (("demo", "more"), "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_makes_no_sense_is_told_in_one_line(
    capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    status, out, err = ssmnet(capfd, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert told in err
    assert err.count("\n") == 1


def test_a_mistake_on_the_command_line_names_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert ssmnet(capfd, *ANYONE, "--nope")[2].endswith("(see ssmnet forward --help)\n")


def test_debug_shows_where_an_error_comes_from(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSMNET_DEBUG", "")  # the option sets it
    status, _, err = ssmnet(capfd, *ANYONE, "--debug", "--remote", "x")
    assert status == 2
    assert err.startswith("Traceback")
    assert err.endswith("error: 'x' is not a port: a number from 1 to 65535\n")


def test_help_into_a_pipe_that_closes_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ssmnet", "forward", "--help"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert err == b""
