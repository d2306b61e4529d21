"""The real AWS CLI opens shells with our session-manager-plugin, on a terminal."""

import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .aws_cli import AwsCli
from .processes import TIMEOUT, FarEnd
from .terminals import FORKS, Terminal, on_terminal

if sys.platform == "win32":
    pytest.skip("the far end has no shells there", allow_module_level=True)

pytestmark = [FORKS, pytest.mark.long]

PROMPT = "[#$] $"

# Which version it is makes no difference once a shell is there.
one_version = pytest.mark.parametrize("each_aws_cli", [2], ids=["v2"], indirect=True)


@contextmanager
def shell(aws_cli: AwsCli, env: dict[str, str], **size: int) -> Iterator[Terminal]:
    """A remote shell with its prompt on the screen; the test leaves it."""
    command = aws_cli.start_session(env)
    with on_terminal(*command, env=env, **size) as terminal:
        session_id = terminal.expect(r"^\r\nStarting session with SessionId: (\S+)\r\n")[1]
        terminal.expect(PROMPT)
        yield terminal
        status, rest = terminal.end()
        assert rest.endswith(f"\r\n\r\nExiting session with sessionId: {session_id}.\r\n\r\n")
        assert status == 0


@pytest.mark.parametrize("far_end", [(), ("--kms", "--require-challenge")], indirect=True)
async def test_a_line_is_run_there_and_exit_ends_it(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter("echo $((6 * 7)) is it; tty")
        terminal.expect(r"\r\n42 is it\r\n/dev/pts/\d+\r\n")
        terminal.expect(PROMPT)
        terminal.enter("exit 3")  # the session's end does not tell


async def test_ctrl_d_ends_it(each_aws_cli: AwsCli, far_env: dict[str, str]) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.send("\x04")


async def test_it_goes_on_after_a_cut(
    each_aws_cli: AwsCli, far_env: dict[str, str], far_end: FarEnd
) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter("mine=$((6 * 7))")
        terminal.expect(PROMPT)
        await far_end.fault("cut_clients")
        terminal.enter("echo $mine is it")
        terminal.expect("\r\n42 is it\r\n")
        terminal.enter("exit")


async def test_a_window_that_is_closed_takes_the_remote_shell_along(
    each_aws_cli: AwsCli, far_env: dict[str, str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    life = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with on_terminal(*each_aws_cli.start_session(far_env), env=far_env) as terminal:
            terminal.expect(PROMPT)
            terminal.enter(f"exec 9>{tmp_path}/fifo; echo op''en")
            terminal.expect("open\r\n")
            terminal.close()
            assert select.select([life], [], [], TIMEOUT)[0]
            assert os.read(life, 1) == b""
    finally:
        os.close(life)


@one_version
@pytest.mark.parametrize(
    ("key", "status"), [("\x03", 130), ("\x1c", 131), ("\x1a", 148)], ids=["^C", "^backslash", "^Z"]
)
async def test_a_control_key_is_for_what_runs_there(
    each_aws_cli: AwsCli, far_env: dict[str, str], key: str, status: int
) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter("sh -c 'echo beg''un; exec sleep 1000'")
        terminal.expect("begun\r\n")
        terminal.send(key)
        terminal.expect(PROMPT)
        terminal.enter("echo status $?")
        terminal.expect(rf"\r\nstatus {status}\r\n")
        if status == 148:
            terminal.enter("exit")
            terminal.expect("stopped jobs")
        terminal.enter("exit")


@one_version
async def test_flow_control_is_the_remote_s(each_aws_cli: AwsCli, far_env: dict[str, str]) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter("stty -ixon -echo; echo quie''t; cat -v")
        terminal.expect("quiet\r\n")
        terminal.send("\x13\x11\r\x04")
        terminal.expect(r"\^S\^Q\r\n")
        terminal.expect(PROMPT)
        terminal.enter("exit")


@one_version
async def test_the_remote_terminal_has_the_local_one_s_size(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    with shell(each_aws_cli, far_env, rows=31, columns=97) as terminal:
        # The size comes after the prompt, which tells us that this is a shell.
        terminal.enter("until [ \"$(stty size)\" = '31 97' ]; do :; done; stty size")
        terminal.expect(r"\r\n31 97\r\n")
        watch = 'trap "stty size; kill \\$!" WINCH; sleep 1000 & echo watchin""g; wait'
        terminal.enter(f"sh -c '{watch}'")
        terminal.expect("watching\r\n")
        terminal.resize(40, 120)
        terminal.expect("40 120\r\n")
        terminal.expect(PROMPT)
        terminal.enter("exit")


ON, OFF = (re.escape(f"\x1b[?1049{switch}") for switch in "hl")


@one_version
async def test_less_shows_a_file_on_the_alternate_screen(
    each_aws_cli: AwsCli, far_env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("".join(f"line {number}.\n" for number in range(2000)))
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter(f"LESS= less {file}")
        terminal.expect(ON)
        terminal.expect(r"line 22\.")
        terminal.send("G")
        terminal.expect(r"line 1999\.")
        terminal.send("q")
        terminal.expect(OFF)
        terminal.expect(PROMPT)
        terminal.enter("exit")


@one_version
async def test_top_runs_until_it_is_quit(each_aws_cli: AwsCli, far_env: dict[str, str]) -> None:
    with shell(each_aws_cli, far_env, columns=80) as terminal:
        terminal.enter("top -d 1000")
        terminal.expect("load average")
        terminal.expect("PID")
        terminal.send("q")
        terminal.expect(PROMPT)
        terminal.enter("exit")


@one_version
async def test_vim_writes_a_file(
    each_aws_cli: AwsCli, far_env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter(f"vim -u NONE -i NONE -n {file}")
        terminal.expect(ON)
        terminal.send("ihello, wörld\x1b:wq\r")
        terminal.expect(OFF)
        terminal.expect(PROMPT)
        terminal.enter("exit")
    assert file.read_text() == "hello, wörld\n"


@one_version
async def test_tmux_has_windows_of_its_own(
    each_aws_cli: AwsCli, far_env: dict[str, str], tmp_path: Path
) -> None:
    with shell(each_aws_cli, far_env) as terminal:
        terminal.enter(f"tmux -S {tmp_path}/tmux -f /dev/null new 'echo in''side; read -r answer'")
        terminal.expect(ON)
        terminal.expect("inside")
        terminal.send("\r")
        terminal.expect(OFF)
        terminal.expect(r"\[exited\]")
        terminal.expect(PROMPT)
        terminal.enter("exit")
