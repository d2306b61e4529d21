"""What ssmnet asks of people at a terminal."""

import signal
import sys
from collections.abc import Iterator

import pytest

from .processes import SSMNET, TIMEOUT, FarEnd, run

if sys.platform == "win32":
    pytest.skip("pexpect needs a Unix terminal", allow_module_level=True)

import pexpect

PICK_LIST = rf"   1  {FarEnd.target}  Loopback    loopback\r\n"

# Forking a terminal's process is what pexpect does; this process has no other thread of note.
pytestmark = pytest.mark.filterwarnings("ignore:.*forkpty:DeprecationWarning")


@pytest.fixture
def terminal(far_env: dict[str, str]) -> Iterator["pexpect.spawn[str]"]:
    """``ssmnet forward`` on a terminal, without a target."""
    command = ["forward", "--remote", "80"]
    child = pexpect.spawn(
        str(SSMNET), command, env=far_env, encoding="utf-8", timeout=TIMEOUT, dimensions=(24, 160)
    )
    yield child
    child.close(force=True)


async def test_it_lists_the_targets_and_takes_the_number(terminal: "pexpect.spawn[str]") -> None:
    terminal.expect(PICK_LIST)
    terminal.expect("Target: ")
    terminal.sendline("2")
    terminal.expect("2 is not in the list")
    terminal.expect("Target: ")
    terminal.sendline("1")
    terminal.expect(r"Listening on 127.0.0.1:\d+, forwarding to i-0123456789abcdef0:80 ")
    terminal.sendintr()
    terminal.expect(": stopped")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert (terminal.exitstatus, terminal.signalstatus) == (0, None)


@pytest.mark.parametrize("key", ["sendintr", "sendeof"])
async def test_ctrl_c_or_d_at_the_question_ends_it(
    terminal: "pexpect.spawn[str]", key: str
) -> None:
    terminal.expect("Target: ")
    getattr(terminal, key)()
    terminal.expect(pexpect.EOF)
    assert "Traceback" not in str(terminal.before)
    terminal.wait()
    assert terminal.exitstatus == 128 + signal.SIGINT


async def test_without_a_terminal_it_says_how_to_name_one(far_env: dict[str, str]) -> None:
    done = await run(SSMNET, "forward", "--remote", "80", env=far_env)
    assert (done.status, done.out) == (2, "")
    assert done.err == (
        "error: no target: pass -t i-..., set SSMNET_TARGET,"
        " or use -t loopback to try without AWS\n"
    )


async def test_on_a_terminal_without_aws_it_says_why(
    far_env: dict[str, str],
) -> None:
    del far_env["AWS_ACCESS_KEY_ID"]
    child = pexpect.spawn(
        str(SSMNET), ["forward", "--remote", "80"], env=far_env, encoding="utf-8", timeout=TIMEOUT
    )
    child.expect(pexpect.EOF)
    assert "error: no target: " in str(child.before)
    assert "(AWS lists none: " in str(child.before)
    child.wait()
    assert child.exitstatus == 2
