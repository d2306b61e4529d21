"""``ssmnet exec`` as a person and as a script use it.

Every far end fails a test that leaves a session behind.
"""

import asyncio
import hashlib
import os
import random
import re
import select
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping
from pathlib import Path

import pytest

from .processes import SSMNET, TIMEOUT, FarEnd
from .shells import INTERACTIVE, Done, piped, pipes, stopped
from .terminals import FORKS, on_terminal

if sys.platform == "win32":
    pytest.skip("the far end has no commands there", allow_module_level=True)

EXEC = (SSMNET, "exec", FarEnd.target)
MIB = 1024 * 1024
ideal = pytest.mark.parametrize("far_end", [("--ideal",)], indirect=True)
LOST_MEANWHILE = (
    b"the connection was lost meanwhile: what the command says may not be whole,"
    b" and its exit status is not to be believed\n"
)


async def sh(script: str, *options: str, env: Mapping[str, str], data: bytes = b"") -> Done:
    """Run a script there."""
    return await piped(*EXEC, *options, "--", "sh", "-c", script, env=env, data=data)


async def read_until(process: Process, end: bytes) -> bytes:
    """Read its output until this comes."""
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        return await process.stdout.readuntil(end)


async def end_of(process: Process) -> Done:
    """How it ends, and what it still says."""
    async with asyncio.timeout(TIMEOUT):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out, err)


# What comes of a command.


@pytest.mark.parametrize("far_end", [(), ("--kms", "--require-challenge")], indirect=True)
async def test_output_complaints_and_status_come_apart(far_env: dict[str, str]) -> None:
    done = await sh("echo out; echo err >&2; printf tail; exit 7", env=far_env)
    assert (done.status, done.out) == (7, b"out\ntail")
    assert done.err.removeprefix(b"This session is encrypted using AWS KMS.\n") == b"err\n"


async def test_statuses(far_env: dict[str, str]) -> None:
    codes = (0, 1, 2, 126, 127, 128, 255)
    done = await asyncio.gather(*(sh(f"exit {code}", env=far_env) for code in codes))
    assert done == [(code, b"", b"") for code in codes]


async def test_a_command_that_a_signal_kills(far_env: dict[str, str]) -> None:
    done = await sh("echo last; kill -9 $$", env=far_env)
    assert done == (255, b"last\n", b"the command was ended by a signal\n")


@pytest.mark.parametrize("name", ["/no/such/thing", "no-such-thing"])
async def test_a_command_that_is_not_there(far_env: dict[str, str], name: str) -> None:
    """Its exit code comes a second before the reason."""
    done = await piped(*EXEC, "--", name, env=far_env)
    assert (done.status, done.out) == (1, b"")
    assert name.encode() in done.err


ODD = [
    "",
    " ",
    "a  b",
    "'",
    '"',
    "\\",
    "two\nlines",
    "$HOME",
    "`id`",
    "*",
    "#",
    "~",
    "!",
    "--",
    "-n",
]


async def test_arguments_come_as_they_are(far_env: dict[str, str]) -> None:
    arguments = [*ODD, "; exit 3", "ünï 漢字 🎈", "\x01\x1b\x7f", "{{ssm:x}}", "%s", "x" * 2000]
    program = "import sys; sys.stdout.write(ascii(sys.argv[1:]))"
    done = await piped(*EXEC, "--", sys.executable, "-c", program, *arguments, env=far_env)
    assert done == (0, ascii(arguments).encode(), b"")


async def test_output_comes_while_the_command_runs(far_env: dict[str, str], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    script = f"echo out; echo err >&2; read -r line <{tmp_path}/fifo; echo $line; exit 3"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        assert await read_until(process, b"\n") == b"out\n"
        assert process.stderr is not None
        assert await process.stderr.readline() == b"err\n"
        (tmp_path / "fifo").write_text("goes on\n")
        assert await end_of(process) == (3, b"goes on\n", b"")


@pytest.mark.long
async def test_much_of_both_comes_whole(far_env: dict[str, str], tmp_path: Path) -> None:
    """As text: the agent damages what is not."""
    for name in ("out", "err"):
        text = "".join(f"{name} {number:09d} äöü\n" for number in range(50 * MIB // 21))
        (tmp_path / name).write_text(text)
    done = await sh(f"cat {tmp_path}/err >&2 & cat {tmp_path}/out; wait; exit 5", env=far_env)
    assert done.status == 5
    for name, came in (("out", done.out), ("err", done.err)):
        assert digest(came) == digest((tmp_path / name).read_bytes())


def digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()}"


async def test_bytes_that_are_no_text_come_as_base64(
    far_env: dict[str, str], tmp_path: Path
) -> None:
    data = random.Random(1).randbytes(4 * MIB) + b"\xff\xfe"
    (tmp_path / "file").write_bytes(data)
    script = f"cat {tmp_path}/file; echo odd >&2; exit 9"
    plain, encoded = await asyncio.gather(
        sh(script, env=far_env), sh(script, "--base64", env=far_env)
    )
    assert digest(encoded.out) == digest(data)
    assert (encoded.status, encoded.err) == (9, b"odd\n")
    # Or else nobody would need it.
    assert plain.out != data


async def test_its_input_is_left_for_others(far_env: dict[str, str]) -> None:
    command = ("sh", "-c", '"$@"; exec cat', "sh", *EXEC, "--", "cat")
    assert await piped(*command, env=far_env, data=b"for others") == (0, b"for others", b"")


@FORKS
async def test_a_command_on_a_terminal(far_env: dict[str, str]) -> None:
    # The size comes after the first output, which tells us that there is a terminal.
    script = 'tty; until [ "$(stty size)" = "24 160" ]; do :; done; printf "Name? "; read -r name'
    script += '; echo "Hello, $name."; exit 3'
    with on_terminal(*EXEC, "--tty", "--", "sh", "-c", script, env=far_env) as terminal:
        terminal.expect(r"^/dev/pts/\d+\r\nName\? $")
        terminal.enter("World")
        assert terminal.end() == (0, "World\r\nHello, World.\r\n")


@FORKS
async def test_without_one_what_is_typed_is_for_the_next_program(
    far_env: dict[str, str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    command = (*EXEC, "--", "sh", "-c", f"echo begun; read -r line <{tmp_path}/fifo")
    around = ("sh", "-c", '"$@"; read -r line; echo "got $line"', "sh")
    with on_terminal(*around, *command, env=far_env) as terminal:
        terminal.expect("begun\r\n")
        terminal.enter("it")
        terminal.expect("it\r\n")
        (tmp_path / "fifo").write_text("\n")
        assert terminal.end() == (0, "got it\r\n")


async def test_a_document_of_one_s_own(far_env: dict[str, str]) -> None:
    command = (SSMNET, "exec", FarEnd.target, "--document", "AWS-StartNonInteractiveCommand")
    parameters = ("--parameter", "command=sh -c 'echo a=b; exit 4'")
    whole, separate, interactive = await asyncio.gather(
        piped(*command, *parameters, env=far_env),
        piped(*command, *parameters, "--parameter", "separateOutputStream=true", env=far_env),
        piped(*EXEC, *INTERACTIVE, "command=echo hello", env=far_env),
    )
    assert whole.out == separate.out == b"a=b\n"
    error = b"error: the session was closed without the command's exit status\n"
    assert (whole.status, whole.err) == (255, error)
    assert (separate.status, separate.err) == (4, b"")
    assert interactive == (0, b"hello\r\n", b"")


# Readers.


def read_all(descriptor: int) -> bytes:
    with open(descriptor, "rb") as file:
        return file.read()


async def test_complaints_come_while_nobody_reads_the_output(far_env: dict[str, str]) -> None:
    """More than a pipe holds."""
    script = "head -c 1000000 /dev/zero | tr '\\0' x; echo done >&2"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stderr.readline() == b"done\n"
        done = await end_of(process)
        assert (done.status, digest(done.out)) == (0, digest(b"x" * 1_000_000))


@pytest.mark.long
async def test_a_reader_that_comes_long_after_the_end(far_env: dict[str, str]) -> None:
    """It is no reason to give up the session, or what it has said."""
    source, sink = os.pipe()
    script = "head -c 9000000 /dev/zero | tr '\\0' x; exit 6"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env, stdout=sink) as process:
        os.close(sink)
        await asyncio.sleep(15)  # above what a command's last words may take
        whole = await asyncio.to_thread(read_all, source)
        assert digest(whole) == digest(b"x" * 9_000_000)
        assert (await end_of(process)).status == 6


@pytest.mark.parametrize("leaves", [False, True])
async def test_output_that_is_not_all_read_makes_no_success(
    far_env: dict[str, str], leaves: bool
) -> None:
    """Though the command has succeeded, and said all that it had to say."""
    source, sink = os.pipe()
    script = "head -c 1000000 /dev/zero | tr '\\0' x; echo done >&2"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env, stdout=sink) as process:
        os.close(sink)
        assert process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            assert await process.stderr.readline() == b"done\n"
        await asyncio.sleep(1)  # the session ends, too
        if leaves:
            os.close(source)
        else:
            process.send_signal(signal.SIGTERM)
        assert (await end_of(process)).status == (141 if leaves else 130)
        if not leaves:
            os.close(source)


@pytest.mark.parametrize("stream", ["", ">&2"])
async def test_a_reader_that_leaves_ends_it(far_env: dict[str, str], stream: str) -> None:
    script = f"while :; do echo x {stream}; done"
    outer = '"$@" | head -n 1' if not stream else '"$@" 2>&1 >/dev/null | head -n 1'
    command = ("bash", "-c", f'{outer}; exit "${{PIPESTATUS[0]}}"', "bash", *EXEC, "--")
    assert await piped(*command, "sh", "-c", script, env=far_env) == (141, b"x\n", b"")


async def test_closed_stdout_and_stderr_are_no_reason_to_end(far_env: dict[str, str]) -> None:
    for closed in (">&-", ">&- 2>&-", "2>/dev/null"):
        command = ("sh", "-c", f'"$@" {closed}; exit $?', "sh", *EXEC, "--")
        script = "echo out; echo err >&2; exit 3"
        assert (await piped(*command, "sh", "-c", script, env=far_env)).status == 3


async def test_a_full_disk(far_env: dict[str, str]) -> None:
    command = ("sh", "-c", '"$@" >/dev/full', "sh", *EXEC, "--", "sh", "-c", "echo x; sleep 1000")
    error = b"standard input or output failed: No space left on device\n"
    assert await piped(*command, env=far_env) == (1, b"", error)


# Its end.


@FORKS
@pytest.mark.parametrize("tty", [False, True])
async def test_a_time_limit(far_env: dict[str, str], tty: bool) -> None:
    options = ("--tty",) if tty else ()
    done = await sh("echo begun; sleep 1000", "--timeout", "2.5s", *options, env=far_env)
    assert done.out.split() == [b"begun"]
    assert (done.status, done.err) == (124, b"the command had not ended when its time was over\n")


@ideal
async def test_ctrl_c_is_for_the_command(far_env: dict[str, str]) -> None:
    """What the real agent makes of its exit code then is a matter of luck."""
    script = "trap 'echo tidying; exit 9' INT; echo begun; while :; do sleep 0.1; done"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        await read_until(process, b"begun\n")
        process.send_signal(signal.SIGINT)
        assert await end_of(process) == (9, b"tidying\n", b"")


@pytest.mark.parametrize("noise", ["sleep 0.1", "echo noise; sleep 0.1"], ids=["silent", "noisy"])
async def test_a_second_ctrl_c_ends_the_session(far_env: dict[str, str], noise: str) -> None:
    script = f"trap '' INT; echo begun; while :; do {noise}; done"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        await read_until(process, b"begun\n")
        process.send_signal(signal.SIGINT)
        await asyncio.sleep(1.2)  # it takes two at once for one wish
        process.send_signal(signal.SIGINT)
        done = await end_of(process)
        assert (done.status, done.err) == (130, b"interrupted\n")


async def test_sigterm_ends_the_session_and_the_command(
    far_env: dict[str, str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "fifo")
    life = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 9>{tmp_path}/fifo; echo begun; exec sleep 1000"
    try:
        async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
            await read_until(process, b"begun\n")
            process.send_signal(signal.SIGTERM)
            assert await end_of(process) == (130, b"", b"stopped\n")
            assert select.select([life], [], [], TIMEOUT)[0]
            assert os.read(life, 1) == b""
    finally:
        os.close(life)


@pytest.mark.parametrize("reason", ["", "An administrator\ndid it."])
async def test_a_session_that_is_ended_in_the_middle(
    far_env: dict[str, str], far_end: FarEnd, reason: str
) -> None:
    async with pipes(*EXEC, "--", "sh", "-c", "echo begun; sleep 1000", env=far_env) as process:
        await read_until(process, b"begun\n")
        await far_end.fault("end_sessions", output=reason)
        why = b": An administrator did it." if reason else b" without the command's exit status"
        assert await end_of(process) == (255, b"", b"error: the session was closed" + why + b"\n")


async def test_a_far_end_that_hangs_is_left(far_env: dict[str, str], far_end: FarEnd) -> None:
    async with pipes(*EXEC, "--", "sh", "-c", "echo begun; sleep 1000", env=far_env) as process:
        await read_until(process, b"begun\n")
        async with stopped(far_end):
            process.send_signal(signal.SIGTERM)
            done = await end_of(process)
            assert (done.status, done.err.count(b"\n")) == (130, 2)


# A network that does not hold.


@ideal
async def test_nothing_is_lost_or_comes_twice_in_cuts(
    far_env: dict[str, str], far_end: FarEnd, tmp_path: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    count = 'i=0; while read -r line && [ "$line" ]; do i=$((i + 1)); echo $i; done'
    script = f"{count} <{fifo}; exit 8"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        pipe = os.open(fifo, os.O_RDWR)
        came = b""
        for cut in range(1, 6):
            os.write(pipe, b"x\n" * 1000)
            came += await read_until(process, f"\n{1000 * cut - 500}\n".encode())
            await far_end.fault("cut_clients")
        os.write(pipe, b"\n")
        done = await end_of(process)
        os.close(pipe)
    assert came + done.out == b"".join(b"%d\n" % number for number in range(1, 5001))
    assert (done.status, done.err) == (255, LOST_MEANWHILE)


async def test_what_the_agent_loses_meanwhile_is_warned_of(
    far_env: dict[str, str], far_end: FarEnd
) -> None:
    """It gives up a stream of the command's when the gateway has it pause."""
    script = "for i in $(seq 300); do echo $i; sleep 0.01; done; exit 5"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        came = await read_until(process, b"\n50\n")
        await far_end.fault("cut_clients")
        done = await end_of(process)
    assert b"".join(b"%d\n" % number for number in range(1, 301)).startswith(came + done.out)
    assert (done.status, done.err) == (255, LOST_MEANWHILE)


async def test_a_command_that_ends_while_the_gateway_keeps_us_away(
    far_env: dict[str, str], far_end: FarEnd, tmp_path: Path
) -> None:
    """Nobody can say how, then."""
    os.mkfifo(tmp_path / "fifo")
    script = f"echo begun; read -r line <{tmp_path}/fifo; echo $line; exit 3"
    async with pipes(*EXEC, "--", "sh", "-c", script, env=far_env) as process:
        await read_until(process, b"begun\n")
        await far_end.fault("blackhole_clients", seconds=2, new=True)
        await far_end.fault("cut_clients")
        (tmp_path / "fifo").write_text("unheard\n")
        done = await end_of(process)
        assert done.status == 255
        # It may be back for a moment, and then its output is told to be incomplete.
        assert re.fullmatch(rb"error: the session [^\n]*\n", done.err.removeprefix(LOST_MEANWHILE))


# What makes no sense.


async def test_what_makes_no_sense(far_env: dict[str, str]) -> None:
    cases: list[tuple[tuple[str | bytes, ...], bytes]] = [
        ((), b"the command is missing"),
        (("--tty", "--base64", "--", "ls"), b"--base64 does not go with --tty"),
        (("--document", "D", "--", "ls"), b"--document says what to run"),
        (("--document", "D", "--tty"), b"--document says what to run"),
        (("--parameter", "a=b", "--", "ls"), b"--parameter goes with --document"),
        (("--timeout", "soon", "--", "ls"), b"'soon' is not a duration"),
        (("--", "echo", b"\xff"), b"not UTF-8 text"),
    ]

    async def try_it(arguments: tuple[str | bytes, ...], error: bytes) -> None:
        done = await piped(*EXEC, *map(os.fsdecode, arguments), env=far_env)
        assert (done.status, done.out, done.err.count(b"\n")) == (2, b"", 1), done
        assert error in done.err

    await asyncio.gather(*(try_it(*case) for case in cases))


async def test_the_status_is_the_same_with_a_traceback(far_env: dict[str, str]) -> None:
    done = await piped(SSMNET, "exec", "i-0000000000000000f", "--debug", "--", "ls", env=far_env)
    assert done.status == 255
    assert b"Traceback" in done.err


async def test_a_command_that_says_nothing_on_a_terminal(far_env: dict[str, str]) -> None:
    """It has ended before it could be found out that there is one."""
    async with pipes(*EXEC, "--tty", "--", "true", env=far_env) as process:
        assert await end_of(process) == (0, b"", b"")


async def test_a_time_limit_on_a_start_that_hangs(aws_env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        env = aws_env | {
            "AWS_ACCESS_KEY_ID": "AKIA",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        options = ("--endpoint-url", url, "--timeout", "1s")
        async with pipes(*EXEC, *options, "--", "true", env=env) as process:
            done = await end_of(process)
    assert (done.status, done.err) == (124, b"there was no session after 1 s\n")
