"""The built-in agent's shells and commands: real terminals, pipes and processes."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("shells and commands need a POSIX system", allow_module_level=True)

from ssmnet.loopback.descriptor import Descriptor
from tests import wire
from tests.io.near_client import DEADLINE, NearClient, command, interactive, shell

pytestmark = pytest.mark.usefixtures("clean", "nothing_left")
EXIT_CODE = 12
TRUE = "True"


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """No descriptor stays open. (The loop's own are there before: it runs already.)"""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


class Lifeline:
    """A FIFO: whoever has it open for writing is alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    async def read(self) -> bytes:
        """Something, or nothing when the last writer is gone. Someone must have written before."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._descriptor, ready.set)
        try:
            async with asyncio.timeout(DEADLINE):
                await ready.wait()
        finally:
            loop.remove_reader(self._descriptor)
        return os.read(self._descriptor, 1000)

    def close(self) -> None:
        os.close(self._descriptor)


@pytest.fixture
async def lifeline(tmp_path: Path) -> AsyncIterator[Lifeline]:
    one = Lifeline(tmp_path / "lifeline")
    yield one
    one.close()


def is_a_child(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


# Shells.


async def test_a_shell_has_a_terminal_of_its_size() -> None:
    async with NearClient(shell()) as client:
        await client.until_ready()
        client.set_size(132, 40)
        client.type(b"echo hi-$((6*7)); stty size; tty; echo $TERM $LANG; exit\n")
        assert await client.until_ended() == ""
    assert b"hi-42\r\n40 132\r\n/dev/" in client.output
    lang = os.environ.get("LANG") or "C.UTF-8"
    assert f"\r\nxterm-256color {lang}\r\n".encode() in client.output
    assert client.states == ["Connected", "Terminating"]
    assert {message.payload_type for message in client.messages} == {wire.OUTPUT}


async def test_control_characters_are_the_terminals() -> None:
    prompt = b"<42>"
    async with NearClient(shell()) as client:
        await client.until_ready()
        client.type(b"PS1='<'$((6*7))'>'\n")
        await client.until_shown(prompt)
        # It says so itself, and then it is the job that the terminal signals.
        client.type(b"sh -c 'echo 1-$((6*7)); read x'\n")
        await client.until_shown(b"1-42")
        client.type(b"\x03")
        await client.until(lambda: client.output.count(prompt) == 2)
        client.type(b"sh -c 'echo 2-$((6*7)); read x'\n")
        await client.until_shown(b"2-42")
        client.type(b"\x1a")
        await client.until(lambda: client.output.count(prompt) == 3)
        client.type(b"kill -KILL %1; wait; sh -c 'echo 3-$((6*7)); cat'\n")
        await client.until_shown(b"3-42")
        client.type(b"\x04")
        await client.until(lambda: client.output.count(prompt) == 4)
        client.type(b"exit\n")
        assert await client.until_ended() == ""


async def test_end_of_input_ends_a_shell() -> None:
    async with NearClient(shell()) as client:
        await client.until_ready()
        client.type(b"\x04")
        assert await client.until_ended() == ""


async def test_control_c_works_where_it_is_ignored_here() -> None:
    """As in whatever a script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        async with NearClient(interactive("echo up; exec sleep 1000")) as client:
            await client.until_shown(b"up")
            client.type(b"\x03")
            assert await client.until_ended() == ""
    finally:
        signal.signal(signal.SIGINT, before)


async def test_a_megabyte_of_lines_is_typed_whole(tmp_path: Path) -> None:
    lines = b"".join(b"%07d " % number + b"x" * 1000 + b"\n" for number in range(1040))
    file = tmp_path / "pasted"
    async with NearClient(interactive(f"stty -echo; echo up; cat > {file}")) as client:
        await client.until_shown(b"up")
        for start in range(0, len(lines), 1024):
            client.type(lines[start : start + 1024])
        client.type(b"\x04")
        assert await client.until_ended() == ""
    assert file.read_bytes() == lines
    assert client.output == b"up\r\n"


async def test_what_is_not_read_is_not_acknowledged(lifeline: Lifeline) -> None:
    script = f"stty raw -echo; exec 3>{lifeline.path}; echo up; sleep 1000"
    async with NearClient(interactive(script)) as client:
        await client.until_shown(b"up")
        for _ in range(100):
            for _ in range(64):
                client.type(b"x" * 1024)
            await asyncio.sleep(0)
        assert client.agent.agent.blocked
        assert len(client.acknowledged) < 300, "some 20 KiB fit into the terminal's buffers"
        assert client.agent.agent.inbox_size > 6_000_000
    assert await lifeline.read() == b""


async def test_output_waits_for_a_client_that_takes_nothing() -> None:
    size = 3_000_000
    script = f"stty -onlcr; echo up; head -c {size} /dev/zero"
    async with NearClient(interactive(script)) as client:
        await client.until_shown(b"up")
        for _ in range(20):
            client.agent.block(True)
            await asyncio.sleep(0)
            before = len(client.output)
            await asyncio.sleep(0.005)
            assert len(client.output) <= before + 2 * 1024, "nothing is sent meanwhile"
            client.agent.block(False)
            await client.until(lambda: len(client.output) > before or client.ended_with == "")
        assert await client.until_ended() == ""
    assert client.output == b"up\n" + bytes(size)


async def test_a_short_commands_output_comes_whole() -> None:
    """What it wrote last is still in its terminal when it is gone."""
    for _ in range(20):
        async with NearClient(interactive("seq 1 2000")) as client:
            assert await client.until_ended() == ""
        assert client.output == b"".join(b"%d\r\n" % number for number in range(1, 2001))


# What is left of them.


async def test_a_session_that_ends_takes_everything_with_it(lifeline: Lifeline) -> None:
    async with NearClient(shell()) as client:
        await client.until_ready()
        client.type(f"exec 3>{lifeline.path}; sleep 1000 & sleep 1001 &\n".encode())
        client.type(b"echo pid-$$-; cat\n")
        await client.until(lambda: client.output.count(b"pid-") == 2)
        pid = int(client.output.rpartition(b"pid-")[2].split(b"-")[0])
        assert is_a_child(pid)
        client.agent.close()
        assert client.agent.connections == 1
        async with asyncio.timeout(DEADLINE):
            await client.agent.wait_closed()
        assert client.agent.connections == 0
        assert not is_a_child(pid), "it was waited for"
        if sys.platform == "linux":
            assert await lifeline.read() == b""


async def test_a_shell_that_exits_takes_its_jobs_with_it(lifeline: Lifeline) -> None:
    async with NearClient(shell()) as client:
        await client.until_ready()
        client.type(f"exec 3>{lifeline.path}; nohup sleep 1000 >/dev/null 2>&1 & exit\n".encode())
        assert await client.until_ended() == ""
        async with asyncio.timeout(DEADLINE):
            await client.agent.wait_closed()
        if sys.platform == "linux":
            assert await lifeline.read() == b""


@pytest.mark.parametrize("at_once", [False, True])
async def test_whoever_ignores_the_hangup_is_killed(lifeline: Lifeline, at_once: bool) -> None:
    script = f"exec 3>{lifeline.path}; trap '' HUP INT TERM; echo up; while :; do sleep 1000; done"
    async with NearClient(interactive(script)) as client:
        await client.until_shown(b"up")
        if at_once:
            client.agent.abort()
        else:
            client.agent.close()
        async with asyncio.timeout(DEADLINE):
            await client.agent.wait_closed()
        assert await lifeline.read() == b""


async def test_whoever_starts_others_on_and_on_is_killed_with_them(lifeline: Lifeline) -> None:
    script = f"exec 3>{lifeline.path}; trap '' HUP; echo up; while :; do sleep 1000 & done"
    async with NearClient(interactive(script)) as client:
        await client.until_shown(b"up")
    assert await lifeline.read() == b""


async def test_a_process_that_leaves_its_terminal_ends_the_session(lifeline: Lifeline) -> None:
    script = f"exec 3>{lifeline.path} <&- >&- 2>&-; exec sleep 1000"
    async with NearClient(interactive(script)) as client:
        assert await client.until_ended() == ""
    assert await lifeline.read() == b""


# Commands.


async def test_separated_output() -> None:
    script = "sh -c 'echo out; echo err >&2; exit 7'"
    async with NearClient(command(script, separateOutputStream=TRUE)) as client:
        assert await client.until_ended() == ""
    assert client.output == b"out\n"
    assert client.payload(wire.STDERR) == b"err\n"
    assert client.messages[-1].payload_type == EXIT_CODE
    assert client.payload(EXIT_CODE) == b"EXIT_CODE: 7"
    assert client.states == ["Connected", "Terminating"]


async def test_joined_output_comes_at_the_end_only(lifeline: Lifeline, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    script = f"echo out; echo err >&2; echo here > {lifeline.path}; read x < {go_on}; echo late"
    async with NearClient(command(f"sh -c '{script}; exit 7'")) as client:
        assert await lifeline.read() == b"here\n"
        assert client.output == b""
        go_on.write_text("\n")
        assert await client.until_ended() == ""
    assert client.output == b"out\nerr\nlate\n"
    assert client.payload(EXIT_CODE) == b""
    assert client.states == ["Connected", "Terminating"]


async def test_joined_output_of_any_size() -> None:
    async with NearClient(command("seq 1 300000")) as client:
        assert await client.until_ended() == ""
    assert client.output == b"".join(b"%d\n" % number for number in range(1, 300_001))


@pytest.mark.parametrize("separate", ["True", "False"])
async def test_there_is_nothing_to_read(separate: str) -> None:
    async with NearClient(command("cat", separateOutputStream=separate)) as client:
        assert await client.until_ended() == ""
    assert client.output == b""


async def test_bytes_are_not_safe_but_with_an_ideal_agent(tmp_path: Path) -> None:
    data = b"\x00\xff\xfe" * 1000 + b"a\xef\xbf\xbdb" + b"\xff\xff"
    file = tmp_path / "data"
    file.write_bytes(data)
    async with NearClient(command(f"cat {file}", separateOutputStream=TRUE)) as client:
        await client.until_ended()
    assert client.output == data.replace(b"\xef\xbf\xbd", b"\xef")[:-2]
    async with NearClient(command(f"cat {file}", separateOutputStream=TRUE), ideal=True) as client:
        await client.until_ended()
    assert client.output == data


async def test_separated_output_goes_on_while_anyone_can_write_it(tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    os.mkfifo(go_on)
    script = f"(read x < {go_on}; echo late) & echo early; exit 3"
    async with NearClient(command(f"sh -c '{script}'", separateOutputStream=TRUE)) as client:
        await client.until_shown(b"early\n")
        go_on.write_text("\n")
        assert await client.until_ended() == ""
    assert client.output == b"early\nlate\n"
    assert client.payload(EXIT_CODE) == b"EXIT_CODE: 3"


async def test_control_c_kills_a_command() -> None:
    script = "sh -c 'echo up; exec sleep 1000'"
    async with NearClient(command(script, separateOutputStream=TRUE)) as client:
        await client.until_shown(b"up")
        number = client.type(b"\x03")
        assert await client.until_ended() == ""
        assert number in client.acknowledged
    assert client.payload(EXIT_CODE) == b"EXIT_CODE: 1"


async def test_a_command_may_catch_the_signal() -> None:
    script = "sh -c 'trap \"echo caught; exit 9\" QUIT; echo up; while :; do sleep 0.01; done'"
    async with NearClient(command(script, separateOutputStream=TRUE)) as client:
        await client.until_shown(b"up")
        client.type(b"\x1c")
        assert await client.until_ended() == ""
    assert client.output == b"up\ncaught\n"
    assert client.payload(EXIT_CODE) == b"EXIT_CODE: 9"


async def test_an_ideal_agent_signals_all_that_the_command_started(lifeline: Lifeline) -> None:
    script = f"sh -c 'exec 3>{lifeline.path}; echo up; sleep 1000 | sleep 1001; echo no'"
    async with NearClient(command(script, separateOutputStream=TRUE), ideal=True) as client:
        await client.until_shown(b"up")
        client.type(b"\x03")
        assert await client.until_ended() == ""
    assert client.output == b"up\n"
    assert await lifeline.read() == b""


async def test_a_command_that_goes_on_is_ended_with_the_session(lifeline: Lifeline) -> None:
    script = f"sh -c 'exec 3>{lifeline.path}; echo up; sleep 1000 & sleep 1001'"
    async with NearClient(command(script, separateOutputStream=TRUE)) as client:
        await client.until_shown(b"up")
    assert await lifeline.read() == b""


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-such-program", 'exec: "no-such-program": executable file not found in $PATH'),
        ("/no/such", "fork/exec /no/such: no such file or directory"),
        ("/dev/null", "fork/exec /dev/null: permission denied"),
        ("a\0b", r"fork/exec 'a\x00b': invalid argument"),
    ],
)
async def test_a_command_that_cannot_be(name: str, reason: str) -> None:
    async with NearClient(command(name, separateOutputStream=TRUE)) as client:
        assert await client.until_ended() == ""
    types = [message.payload_type for message in client.messages[2:]]
    assert types == [EXIT_CODE, wire.STDERR]
    assert client.payload(EXIT_CODE) == b"EXIT_CODE: 1"
    assert client.payload(wire.STDERR) == reason.encode()


# Descriptors.


class Notes:
    """An owner that notes what it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = asyncio.Event()
        self.writable: list[bool] = []

    def received(self, connection: int, data: bytes) -> None:
        self.data += data

    def connection_ended(self, connection: int) -> None:
        raise AssertionError("a descriptor has no half")

    def connection_lost(self, connection: int, destination: object) -> None:
        self.lost.set()

    def set_writable(self, connection: int, writable: bool) -> None:
        self.writable.append(writable)


async def test_a_paused_descriptor_is_not_read() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(ours, False)
    notes = Notes()
    descriptor = Descriptor(1, ours, notes)
    os.write(theirs, b"one")
    await asyncio.sleep(0.01)
    assert notes.data == b""
    descriptor.resume_reading()
    while not notes.data:
        await asyncio.sleep(0)
    descriptor.pause_reading()
    os.write(theirs, b"two")
    os.close(theirs)
    await asyncio.sleep(0.01)
    assert notes.data == b"one"
    descriptor.resume_reading()
    async with asyncio.timeout(DEADLINE):
        await notes.lost.wait()
    assert notes.data == b"onetwo"
    descriptor.close(0.0)


async def test_a_full_descriptor_says_so_and_when_it_has_room() -> None:
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    os.set_blocking(theirs, False)
    notes = Notes()
    descriptor = Descriptor(1, ours, notes)
    descriptor.write(b"x" * 1_000_000)
    descriptor.write(b"y")
    assert notes.writable == [False]
    got = b""
    while len(got) < 1_000_001:
        with suppress(BlockingIOError):
            got += os.read(theirs, 65536)
        await asyncio.sleep(0)
    assert got == b"x" * 1_000_000 + b"y"
    assert notes.writable == [False, True]
    descriptor.close(0.0)
    descriptor.write(b"z")
    assert os.read(theirs, 1) == b""
    os.close(theirs)
