"""``aws ecs execute-command`` with our session-manager-plugin, on a terminal."""

import sys

import pytest

from .aws_cli import AwsCli, Command
from .processes import FarEnd
from .terminals import FORKS, Terminal, on_terminal

if sys.platform == "win32":
    pytest.skip("the far end has no shells there", allow_module_level=True)

pytestmark = [FORKS, pytest.mark.long]

# The AWS CLI looks for the plugin by running it, before it asks ECS for a session.
INSTALLED = (
    r"^\r\nThe Session Manager plugin was installed successfully\. "
    r"Use the AWS CLI to start a session\.\r\n\r\n"
)
STARTING = r"^\r\nStarting session with SessionId: (\S+)\r\n"
EXITING = "\r\n\r\nExiting session with sessionId: {}.\r\n\r\n"


def execute_command(aws_cli: AwsCli, env: dict[str, str], command: str) -> Command:
    arguments = [
        *("--cluster", "loopback", "--task", "0123456789abcdef0123456789abcdef"),
        *("--container", "app", "--interactive", "--command", command),
    ]
    return aws_cli.command(env, "ecs", "execute-command", *arguments)


def begin(terminal: Terminal) -> str:
    """Wait until the session has started, and return its id."""
    terminal.expect(INSTALLED)
    return terminal.expect(STARTING)[1]


@pytest.mark.parametrize("far_end", [(), ("--kms", "--require-challenge")], indirect=True)
async def test_a_shell_runs_in_the_container(each_aws_cli: AwsCli, far_env: dict[str, str]) -> None:
    """With KMS the container's own target is a part of what the key is for."""
    with on_terminal(*execute_command(each_aws_cli, far_env, "/bin/sh"), env=far_env) as terminal:
        session_id = begin(terminal)
        terminal.expect("[#$] $")
        terminal.enter("echo $((6 * 7)) is it")
        terminal.expect("\r\n42 is it\r\n")
        terminal.send("\x04")
        status, rest = terminal.end()
    assert rest.endswith(EXITING.format(session_id))
    assert status == 0


async def test_a_command_that_fails_there_is_no_failure_of_the_session(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    command = execute_command(each_aws_cli, far_env, "sh -c 'echo out; exit 7'")
    with on_terminal(*command, env=far_env) as terminal:
        session_id = begin(terminal)
        assert terminal.end() == (0, "out\r\n" + EXITING.format(session_id))


async def test_the_session_is_the_same_one_after_a_cut(
    each_aws_cli: AwsCli, far_env: dict[str, str], far_end: FarEnd
) -> None:
    """ResumeSession is SSM's call, and the session's id is all that it needs to know."""
    with on_terminal(*execute_command(each_aws_cli, far_env, "/bin/sh"), env=far_env) as terminal:
        begin(terminal)
        terminal.expect("[#$] $")
        terminal.enter("mine=$((6 * 7))")
        terminal.expect("[#$] $")
        await far_end.fault("cut_clients")
        terminal.enter("echo $mine is it")
        terminal.expect("\r\n42 is it\r\n")
        terminal.enter("exit")
        assert terminal.end().status == 0
