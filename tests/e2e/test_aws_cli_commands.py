"""The real AWS CLI runs commands with our session-manager-plugin, on a terminal."""

import re
import sys

import pytest

from .aws_cli import AwsCli
from .processes import run
from .terminals import FORKS, on_terminal

if sys.platform == "win32":
    pytest.skip("the far end has no shells there", allow_module_level=True)

pytestmark = [FORKS, pytest.mark.long]

INTERACTIVE = "AWS-StartInteractiveCommand"
NON_INTERACTIVE = "AWS-StartNonInteractiveCommand"
STARTING = r"^\r\nStarting session with SessionId: (\S+)\r\n"
ENCRYPTED = "This session is encrypted using AWS KMS.\r\n"
EXITING = "\r\n\r\nExiting session with sessionId: {}.\r\n\r\n"


async def test_an_interactive_command_asks_and_is_answered(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    parameters = {"command": ['sh -c \'printf "Name? "; read -r name; echo "Hello, $name."\'']}
    command = each_aws_cli.start_session(far_env, INTERACTIVE, parameters)
    with on_terminal(*command, env=far_env) as terminal:
        session_id = terminal.expect(STARTING)[1]
        terminal.expect(r"^Name\? $")
        terminal.enter("World")
        terminal.expect("\r\n")
        assert terminal.end() == (0, "Hello, World.\r\n" + EXITING.format(session_id))


async def test_a_silent_command_takes_what_is_typed(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    """Nothing comes from it at first, by which it could be told what the session is."""
    parameters = {"command": ["sed -u s/^/heard:/"]}
    command = each_aws_cli.start_session(far_env, INTERACTIVE, parameters)
    with on_terminal(*command, env=far_env) as terminal:
        session_id = terminal.expect(STARTING)[1]
        terminal.enter("nothing")
        terminal.expect("heard:nothing\r\n")
        terminal.send("\x04")
        assert terminal.end() == (0, EXITING.format(session_id))


KMS = ("--kms", "--require-challenge")


@pytest.mark.parametrize(
    ("far_end", "line", "separate", "said"),
    [
        ((), "sh -c 'echo out; echo err >&2; exit 7'", "False", "out\r\nerr\r\n"),
        # The reference client prints the exit code like anything else, and has none of its own.
        ((), "sh -c 'echo out; exit 7'", "True", "out\r\nEXIT_CODE: 7"),
        ((), "sh -c 'echo err >&2; exit 7'", "True", "err\r\nEXIT_CODE: 7"),
        (KMS, "sh -c 'echo out; exit 7'", "True", f"{ENCRYPTED}out\r\nEXIT_CODE: 7"),
    ],
    indirect=["far_end"],
    ids=["all in one", "output", "errors", "encrypted"],
)
async def test_a_non_interactive_command_says_what_it_has_to_say(
    each_aws_cli: AwsCli, far_env: dict[str, str], line: str, separate: str, said: str
) -> None:
    parameters = {"command": [line], "separateOutputStream": [separate]}
    command = each_aws_cli.start_session(far_env, NON_INTERACTIVE, parameters)
    with on_terminal(*command, env=far_env) as terminal:
        session_id = terminal.expect(STARTING)[1]
        status, rest = terminal.end()
    assert rest == said + EXITING.format(session_id)
    assert status == 0


async def test_ctrl_c_is_for_the_remote_command(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    parameters = {"command": ["sh -c 'echo begun; exec sleep 1000'"]}
    parameters["separateOutputStream"] = ["True"]
    command = each_aws_cli.start_session(far_env, NON_INTERACTIVE, parameters)
    with on_terminal(*command, env=far_env) as terminal:
        session_id = terminal.expect(STARTING)[1]
        terminal.expect("begun\r\n")
        terminal.send("\x03")
        status, rest = terminal.end()
    assert rest.endswith("EXIT_CODE: 1" + EXITING.format(session_id))
    assert status == 0


async def test_a_command_needs_neither_a_terminal_nor_input(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    command = each_aws_cli.start_session(far_env, NON_INTERACTIVE, {"command": ["echo out"]})
    done = await run(*command, env=far_env)
    started, _, rest = done.out.removeprefix("\n").partition("\n")
    session_id = started.removeprefix("Starting session with SessionId: ")
    assert rest == f"out\n\n\nExiting session with sessionId: {session_id}.\n\n"
    assert (done.err, done.status) == ("", 0)


async def test_a_shell_takes_its_lines_from_a_pipe(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    script = 'echo "echo \\$((6 * 7)) is it" | "$@"'
    done = await run("sh", "-c", script, "sh", *each_aws_cli.start_session(far_env), env=far_env)
    assert "\r\n42 is it\r\n" in done.out
    assert re.search(r"\n\nExiting session with sessionId: \S+\.\n\n$", done.out)
    assert (done.err, done.status) == ("", 0)
