"""``ssmnet shell`` as a person and as a script use it: on a terminal, and on all that is none.

Every far end fails a test that leaves a session behind, and every terminal one that leaves it in
another mode or with a process. What a shell can show is tested with the AWS CLI, whose plugin has
the same front: see test_aws_cli_shell.py.
"""

import asyncio
import hashlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from ssmnet.escapes import HELP
from ssmnet.loopback import Loopback

from .processes import SSMNET, TIMEOUT, FarEnd, far_end_running
from .shells import INTERACTIVE, QUICK, piped, pipes, stopped
from .terminals import FORKS, Terminal, on_terminal

if sys.platform == "win32":
    pytest.skip("terminals and descriptors as POSIX has them", allow_module_level=True)

import pty

pytestmark = FORKS

MIB = 1024 * 1024
PROMPT = "[#$] $"
SHELL = (SSMNET, "shell", FarEnd.target)
ON, OFF = (re.escape(f"\x1b[?1049{switch}") for switch in "hl")
HELP_SHOWN = re.escape("\r\n" + HELP.replace("\n", "\r\n"))


@pytest.fixture
async def far_end(aws_env: dict[str, str], request: pytest.FixtureRequest) -> AsyncIterator[FarEnd]:
    """Run one whose shells begin at once."""
    async with far_end_running(aws_env, *QUICK, *getattr(request, "param", ())) as running:
        yield running


@contextmanager
def shell(env: Mapping[str, str], *options: str) -> Iterator[Terminal]:
    """A remote shell with its prompt on the screen."""
    with on_terminal(*SHELL, *options, env=env) as terminal:
        terminal.expect(PROMPT)
        yield terminal


# On a terminal.


async def test_a_line_is_run_there_and_exit_ends_it(far_env: dict[str, str]) -> None:
    with shell(far_env) as terminal:
        terminal.enter("echo $((6 * 7)) is it; tty")
        terminal.expect(r"\r\n42 is it\r\n/dev/pts/\d+\r\n")
        terminal.expect(PROMPT)
        terminal.enter("exit 3")
        assert terminal.end() == (0, "exit 3\r\n")


async def test_every_key_arrives(far_env: dict[str, str]) -> None:
    # None of them is a ~ at the start of a line, which would be for us.
    keys = "".join(map(chr, range(128))) + "ü€"
    size = len(keys.encode())
    with shell(far_env) as terminal:
        terminal.enter(f"stty raw -echo; echo read''y; head -c {size} | od -An -v -tx1; stty sane")
        terminal.expect("ready\n")
        terminal.send(keys)
        terminal.expect("ac")  # the last byte
        assert bytes.fromhex(terminal.before + "ac") == keys.encode()
        terminal.expect(PROMPT)
        terminal.enter("exit")
        terminal.end()


@pytest.mark.parametrize("far_end", [("--kms",)], indirect=True)
async def test_the_session_s_message_is_shown(far_env: dict[str, str]) -> None:
    with on_terminal(*SHELL, env=far_env) as terminal:
        terminal.expect(r"^This session is encrypted using AWS KMS.\r\n")
        terminal.expect(PROMPT)
        terminal.enter("exit")
        terminal.end()


async def test_a_terminal_is_taken_again_after_a_stop(far_env: dict[str, str]) -> None:
    """A shell with job control has it meanwhile, in a mode of its own."""
    env = far_env | {"PS1": "$ "}
    with on_terminal("bash", "--norc", "-i", env=env) as local:
        local.expect(PROMPT)
        local.enter(f"PS1='# ' {SSMNET} shell {FarEnd.target}")
        local.expect("# $")
        program = local.find(SSMNET)
        for _ in range(2):
            os.kill(program, signal.SIGSTOP)
            local.expect(r"Stopped")
            local.expect(r"\$ $")
            local.enter("stty | grep -o -e -echo || echo co''oked; fg")
            local.expect("cooked\r\n")
            local.expect("shell.*\r\n")
            local.enter("echo sti''ll")
            local.expect(r"echo sti''ll\r\nstill\r\n# $")
        local.enter("exit")
        local.expect(r"exit\r\n.*\$ $")
        local.enter("echo status $?")
        local.expect(r"\rstatus 0\r\n")
        local.enter("exit")
        local.end()


ENDS = [signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
async def test_a_signal_ends_it(far_env: dict[str, str], number: signal.Signals) -> None:
    with shell(far_env) as terminal:
        os.kill(terminal.find(SSMNET), number)
        assert terminal.end() == (130, "stopped\r\n")


async def test_a_second_signal_ends_it_at_once(far_env: dict[str, str], far_end: FarEnd) -> None:
    """The far end does not answer, so that the first leads to some seconds of trying."""
    with shell(far_env) as terminal:
        program = terminal.find(SSMNET)
        async with stopped(far_end):
            for _ in range(2):
                os.kill(program, signal.SIGTERM)
                await asyncio.sleep(0.5)  # it takes two at once for one wish
            assert terminal.end() == (128 + signal.SIGTERM, "")


async def test_signals_from_outside_are_keys(far_env: dict[str, str]) -> None:
    with shell(far_env) as terminal:
        program = terminal.find(SSMNET)
        for number, status in (
            (signal.SIGINT, 130),
            (signal.SIGQUIT, 131),
            (signal.SIGTSTP, 148),
        ):
            terminal.enter("sh -c 'echo beg''un; exec sleep 1000'")
            terminal.expect("begun\r\n")
            os.kill(program, number)
            terminal.expect(PROMPT)
            terminal.enter("echo status $?")
            terminal.expect(rf"\r\nstatus {status}\r\n")
            terminal.expect(PROMPT)
        terminal.send("~.")
        terminal.end()


async def test_a_window_that_is_closed_ends_it(far_env: dict[str, str], tmp_path: Path) -> None:
    """Each end holds a FIFO open as long as it runs."""
    here, there = tmp_path / "here", tmp_path / "there"
    lives = []
    for fifo in (here, there):
        os.mkfifo(fifo)
        lives.append(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))
    try:
        holding = ("sh", "-c", f'exec 8>{here}; exec "$@"', "sh")
        with on_terminal(*holding, *SHELL, env=far_env) as terminal:
            terminal.expect(PROMPT)
            terminal.enter(f"exec 9>{there}; echo op''en")
            terminal.expect("open\r\n")
        for life in lives:
            assert select.select([life], [], [], TIMEOUT)[0]
            assert os.read(life, 1) == b""
    finally:
        for life in lives:
            os.close(life)


async def test_a_session_that_is_ended_says_why(far_env: dict[str, str], far_end: FarEnd) -> None:
    with shell(far_env) as terminal:
        await far_end.fault("end_sessions", output="Ended by\nan administrator.")
        assert terminal.end() == (1, "Ended by an administrator.\r\n")


async def test_an_agent_that_dies_ends_it(far_env: dict[str, str], far_end: FarEnd) -> None:
    with shell(far_env) as terminal:
        await far_end.fault("kill_agents")
        assert terminal.end() == (0, "")  # of which the gateway says nothing more


async def test_the_screen_of_a_program_that_is_cut_off_is_left(
    far_env: dict[str, str], far_end: FarEnd
) -> None:
    with shell(far_env) as terminal:
        terminal.enter("printf '\\033[?1049h\\033[?25lfu''ll'; sleep 1000")
        terminal.expect(ON)
        terminal.expect("full$")
        await far_end.fault("end_sessions", output="Over.")
        terminal.expect(re.escape("\x1b[?25h"))
        terminal.expect(OFF)
        assert terminal.end() == (1, "Over.\r\n")


async def test_a_fault_of_ours_gives_the_terminal_back(far_env: dict[str, str]) -> None:
    """A program that has the front show what comes, and fails at that."""
    script = """
import asyncio, sys
from ssmnet.aws import Client
from ssmnet.execute import shell_status
from ssmnet.runner import run
from ssmnet.shell import Shell
from ssmnet.target import start_session

def fail(data):
    print("failing", data, flush=True)
    raise ZeroDivisionError

async def main(stop):
    session = await start_session(Client(), sys.argv[1], shell=True)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    return shell_status(await Shell(session, stop, decode=fail).run())

sys.exit(run(main))
"""
    with on_terminal(sys.executable, "-c", script, FarEnd.target, env=far_env) as terminal:
        terminal.expect("failing b")
        status, rest = terminal.end()
        assert rest.endswith("cannot go on: ZeroDivisionError\r\n")
        assert status == 255


# Escapes.


async def test_escapes(far_env: dict[str, str]) -> None:
    with shell(far_env) as terminal:
        terminal.send("~?")
        terminal.expect(HELP_SHOWN)
        terminal.enter("cat")
        terminal.expect("cat\r\n")
        terminal.enter("~~ ~? a~.")
        terminal.expect("~ ~[?] a~[.]\r\n~ ~[?] a~[.]\r\n")
        terminal.enter("~-~.")
        terminal.expect("~[.]\r\n~[.]\r\n")
        terminal.enter("~?")
        terminal.expect("~[?]\r\n~[?]\r\n")
        terminal.send("\x04")
        terminal.expect(PROMPT)
        terminal.enter("exit")
        terminal.end()


async def test_without_escapes(far_env: dict[str, str]) -> None:
    with shell(far_env, "--no-escapes") as terminal:
        terminal.enter("cat")
        terminal.expect("cat\r\n")
        terminal.enter("~.")
        terminal.expect("~[.]\r\n~[.]\r\n")
        terminal.send("\x04")
        terminal.expect(PROMPT)
        terminal.enter("exit")
        terminal.end()


LEFT = (255, "\r\nended by ~.\r\n")


async def test_a_shell_that_hangs_is_left(far_env: dict[str, str]) -> None:
    with shell(far_env) as terminal:
        terminal.enter("stty -echo; echo qui''et; kill -STOP $$")
        terminal.expect("quiet\r\n")
        terminal.send("\r~.")
        assert terminal.end() == LEFT


async def test_a_shell_that_reads_nothing_is_left_after_a_paste(far_env: dict[str, str]) -> None:
    with shell(far_env) as terminal:
        terminal.enter("stty -echo; echo qui''et; kill -STOP $$")
        terminal.expect("quiet\r\n")
        terminal.send(("x" * 79 + "\r") * 10_000)
        terminal.send("~.")
        assert terminal.end() == LEFT


@pytest.mark.parametrize("away", [False, True], ids=["silent", "away"])
async def test_a_session_without_a_gateway_is_left(
    far_env: dict[str, str], far_end: FarEnd, away: bool
) -> None:
    with shell(far_env) as terminal:
        await far_end.fault("blackhole_clients", seconds=60, new=True)
        if away:
            await far_end.fault("cut_clients")
        terminal.send("\r~.")
        assert terminal.end() == LEFT


async def test_a_far_end_that_is_stopped_is_left(far_env: dict[str, str], far_end: FarEnd) -> None:
    with shell(far_env) as terminal:
        async with stopped(far_end):
            terminal.send("\r~.")
            status, rest = terminal.end()
            assert "cannot terminate it: AWS did not answer within 5 s\r\n" in rest
            assert (status, rest[-len(LEFT[1]) + 2 :]) == (255, LEFT[1].lstrip())


# Much of it.


PIECE = 4096  # no terminal gives more at a time
PS1 = b"<at your service> "


class Bulk:
    """``ssmnet shell`` on a terminal whose keys and screen are bytes, without a person's pace."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.terminal, theirs = pty.openpty()
        self._process = subprocess.Popen(
            SHELL, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self._read = bytearray()
        self.type(b"PS1='<at your ''service> '\r")
        self.read_until(PS1)

    def type(self, data: bytes) -> None:
        """Type it, however long it takes until somebody reads it."""
        while data:
            data = data[os.write(self.terminal, data) :]

    def read_until(self, end: bytes, delay: float = 0) -> bytes:
        """Read on until this comes, a little at a time; all that came before it."""
        read, self._read = self._read, bytearray()
        while (found := read.find(end, -len(end) - PIECE)) < 0:
            assert select.select([self.terminal], [], [], TIMEOUT)[0], read[-1000:]
            read += os.read(self.terminal, PIECE)
            if delay:
                time.sleep(delay)
        self._read = read[found + len(end) :]
        return bytes(read[:found])

    @property
    def peak(self) -> int:
        """The most memory that it has used, in bytes."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def end(self) -> None:
        """Leave the shell."""
        self.type(b"exit\r")
        with suppress(OSError):  # how the end of a terminal is told
            while os.read(self.terminal, 4096):
                pass
        assert self._process.wait(TIMEOUT) == 0
        os.close(self.terminal)

    def kill(self) -> None:
        """Whatever has happened."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def bulk(env: Mapping[str, str]) -> Iterator[Bulk]:
    one = Bulk(env)
    try:
        yield one
        one.end()
    finally:
        one.kill()


async def test_a_paste_arrives_whole(far_env: dict[str, str]) -> None:
    """As a terminal can: in lines, of which none has more than 4,095 bytes."""
    lines = [f"{number:07d} ".encode() * 500 for number in range(MIB // 4000 + 1)]
    with bulk(far_env) as terminal:
        terminal.type(b"stty -echo; echo read''y; sha256sum; stty echo\r")
        terminal.read_until(b"\r\nready\r\n")
        terminal.type(b"\r".join(lines) + b"\r\x04")
        digest = hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()
        assert digest.encode() in terminal.read_until(PS1)


@pytest.mark.parametrize("delay", [0, 0.001], ids=["quick", "slow"])
async def test_much_output_comes_whole(
    far_env: dict[str, str], tmp_path: Path, delay: float
) -> None:
    text = b"".join(b"%09d\r\n" % number for number in range(10 * MIB // 11))
    (tmp_path / "file").write_bytes(text.replace(b"\r", b""))
    with bulk(far_env) as terminal:
        before = terminal.peak
        terminal.type(f"echo beg''in; cat {tmp_path}/file; echo en''d\r".encode())
        terminal.read_until(b"\r\nbegin\r\n")
        assert terminal.read_until(b"end\r\n", delay) == text
        terminal.read_until(PS1)
        assert terminal.peak - before < 16 * MIB


# On what is no terminal.

SCRIPT = b"echo $((6 * 7)) is it; stty size\n"
DID_IT = re.compile(rb"\r\n42 is it\r\n100 300\r\n")


@pytest.mark.parametrize("script", [SCRIPT, SCRIPT[:-1]], ids=["line", "unfinished line"])
async def test_a_script_on_a_pipe(far_env: dict[str, str], script: bytes) -> None:
    done = await piped(*SHELL, env=far_env, data=script)
    assert DID_IT.search(done.out), done
    assert (done.status, done.err) == (0, b"")


@pytest.mark.parametrize("kind", ["file", "null", "closed", "socket", "unread file"])
async def test_other_inputs(far_env: dict[str, str], tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(SCRIPT)
    ours, theirs = socket.socketpair()
    ours.sendall(SCRIPT)
    ours.shutdown(socket.SHUT_WR)
    redirection = {
        "file": f"<{tmp_path}/file",
        "unread file": f"0>{tmp_path}/other",
        "null": "</dev/null",
        "closed": "<&-",
        "socket": "",
    }[kind]
    with ours, theirs:
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", f'exec "$@" {redirection}', "sh", *SHELL),
            env=far_env,
            stdin=theirs.fileno(),
            stdout=PIPE,
            stderr=PIPE,
        )
        async with asyncio.timeout(TIMEOUT):
            out, err = await process.communicate()
    assert bool(DID_IT.search(out)) == (kind in ("file", "socket")), out
    assert (process.returncode, err) == (0, b"")


async def test_a_program_takes_the_end_of_the_input_and_then_the_shell(
    far_env: dict[str, str],
) -> None:
    """Each wants one of its own."""
    done = await piped(*SHELL, env=far_env, data=b"sed s/^/heard:/\nnothing\n")
    assert b"heard:nothing\r\n" in done.out
    assert (done.status, done.err) == (0, b"")


async def test_a_program_that_is_silent_for_too_long_is_left(far_env: dict[str, str]) -> None:
    command = (*SHELL, "--quiet-timeout", "1.5s")
    done = await piped(*command, env=far_env, data=b"exec sleep 1000\n")
    assert done.status == 255
    assert done.err == b"it was silent for 1.5 s after the end of the input\n"


async def test_one_that_speaks_now_and_then_is_not(far_env: dict[str, str]) -> None:
    command = (*SHELL, "--quiet-timeout", "1.5s")
    loop = b"for i in 1 2 3 4; do sleep 0.7; echo $((i * i)).; done; exit\n"
    done = await piped(*command, env=far_env, data=loop)
    assert b"16.\r\n" in done.out
    assert (done.status, done.err) == (0, b"")


async def test_a_silent_command_starts(far_env: dict[str, str]) -> None:
    command = (*SHELL, *INTERACTIVE, "command=sed -u s/^/heard:/")
    done = await piped(*command, env=far_env, data=b"nothing\n")
    assert done == (0, b"nothing\r\nheard:nothing\r\n", b"")


async def test_closed_stdout_is_no_reason_to_end(far_env: dict[str, str], tmp_path: Path) -> None:
    done = await piped(
        *("sh", "-c", 'exec "$@" >&-', "sh", *SHELL),
        env=far_env,
        data=f"echo it >{tmp_path}/file\n".encode(),
    )
    assert done == (0, b"", b"")
    assert (tmp_path / "file").read_text() == "it\n"


async def test_a_reader_that_leaves_ends_it(far_env: dict[str, str]) -> None:
    source, sink = os.pipe()
    async with pipes(*SHELL, env=far_env, stdout=sink) as process, asyncio.timeout(TIMEOUT):
        os.close(sink)
        assert process.stdin is not None
        process.stdin.write(b"echo beg''un; exec sleep 1000\n")
        shown = b""
        while b"begun" not in shown:
            shown += await asyncio.to_thread(os.read, source, 4096)
        os.close(source)
        assert await process.wait() == 141
        assert process.stderr is not None
        assert await process.stderr.read() == b""


async def test_ctrl_c_ends_what_runs_and_a_second_one_a_session_that_hangs(
    far_env: dict[str, str],
) -> None:
    async with pipes(*SHELL, env=far_env) as process, asyncio.timeout(TIMEOUT):
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"sh -c 'echo beg''un; exec sleep 1000'\n")
        await process.stdout.readuntil(b"\r\nbegun\r\n")
        process.send_signal(signal.SIGINT)
        await process.stdout.readuntil(b"^C")
        process.stdin.write(b"\necho status $?\n")
        await process.stdout.readuntil(b"status 130\r\n")
        process.stdin.write(b"trap '' INT; echo de''af; kill -STOP $$\n")
        await process.stdout.readuntil(b"deaf\r\n")
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(1.2)  # it takes two at once for one wish
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, err) == (130, b"interrupted\n")


# What is no shell, or never begins.


async def test_a_document_that_leads_to_a_port(far_env: dict[str, str]) -> None:
    done = await piped(
        *(*SHELL, "--document", "AWS-StartPortForwardingSession", "--parameter", "portNumber=80"),
        env=far_env,
    )
    error = b"error: this session leads to a port, not to a shell or a command\n"
    assert done == (1, b"", error)


async def test_a_target_that_is_not_there(far_env: dict[str, str]) -> None:
    done = await piped(SSMNET, "shell", "i-0000000000000000f", env=far_env)
    assert (done.status, done.out, done.err.count(b"\n")) == (1, b"", 1)
    assert done.err.startswith(b"error: ")


@pytest.mark.long
async def test_an_agent_that_never_answers(aws_env: dict[str, str]) -> None:
    async with Loopback(offer=lambda _: None) as far_end:
        env = aws_env | far_end.environment
        shell, command = await asyncio.gather(
            piped(*SHELL, env=env), piped(SSMNET, "exec", FarEnd.target, "--", "true", env=env)
        )
    error = b"error: the agent did not begin the session within 20 s\n"
    assert (shell, command) == ((1, b"", error), (255, b"", error))
