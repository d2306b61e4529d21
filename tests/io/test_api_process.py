"""Commands and shells that an application runs on a target."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import ssmnet
from ssmnet.events import Resumed
from ssmnet.loopback import Loopback
from tests.io.sessions import eventually

from .targets import DEADLINE, reach

if sys.platform == "win32":
    pytest.skip("the far end has no commands there", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
async def far() -> AsyncIterator[Loopback]:
    async with Loopback(first_output_delay=0.0, setup_time=0.0) as loopback:
        yield loopback
        assert loopback.sessions == 0


async def test_a_command_s_status_and_outputs(far: Loopback) -> None:
    async with reach(far) as target:
        done = await target.run("sh", "-c", "echo out; echo err >&2; exit 7", timeout=DEADLINE)
        assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
        assert done.args == ("sh", "-c", "echo out; echo err >&2; exit 7")
        assert far.sessions == 0


async def test_arguments_come_as_they_are(far: Loopback) -> None:
    args = ("a  b", "$HOME", "'", "", "*", "; exit 3", "漢字")
    async with reach(far) as target:
        done = await target.run("printf", "%s|", *args, timeout=DEADLINE)
        assert done.stdout.decode() == "".join(f"{arg}|" for arg in args)
        done.check_returncode()


async def test_a_command_that_a_signal_ends(far: Loopback) -> None:
    async with reach(far) as target:
        done = await target.run("sh", "-c", "kill -9 $$", timeout=DEADLINE)
        assert done.returncode < 0


async def test_output_that_is_no_text(far: Loopback) -> None:
    script = r"printf '\000\377\376\r\n\200'; exit 3"
    async with reach(far) as target:
        done = await target.run("sh", "-c", script, base64=True, timeout=DEADLINE)
        assert (done.returncode, done.stdout) == (3, b"\0\xff\xfe\r\n\x80")


async def test_a_command_that_takes_too_long_is_ended(far: Loopback) -> None:
    async with reach(far) as target:
        await target.run("true")  # what is slow at first has been by now
        with pytest.raises(TimeoutError):
            await target.run("sleep", "1000", timeout=1.0)
        await eventually(lambda: far.sessions == 0)
        assert far.sessions_started == 2


async def test_a_command_that_says_too_much_is_ended(far: Loopback) -> None:
    async with reach(far) as target:
        with pytest.raises(ssmnet.Error, match="more than 10000 bytes"):
            await target.run("yes", limit=10_000, timeout=DEADLINE)


async def test_what_was_lost_is_not_taken_for_all(far: Loopback, tmp_path: Path) -> None:
    runs, go = tmp_path / "runs", tmp_path / "go"
    script = 'echo before; touch "$0"; until [ -e "$1" ]; do sleep 0.02; done; echo after'
    command = ("sh", "-c", script, str(runs), str(go))
    resumed = asyncio.Event()

    def notice(event: ssmnet.Event) -> None:
        if isinstance(event, Resumed):
            resumed.set()

    async with reach(far, on_event=notice) as target:
        running = asyncio.create_task(target.run(*command, timeout=DEADLINE))
        await eventually(runs.exists)
        far.cut_clients()
        async with asyncio.timeout(DEADLINE):
            await resumed.wait()
        go.touch()
        with pytest.raises(ssmnet.SessionClosed, match="lost meanwhile"):
            await running


async def test_a_command_ends_with_its_target(far: Loopback) -> None:
    async with reach(far) as target:
        running = asyncio.create_task(target.run("sleep", "1000"))
        await eventually(lambda: far.clients == 1)
    with pytest.raises(ssmnet.SessionClosed):
        await running


async def test_commands_side_by_side(far: Loopback) -> None:
    async with reach(far) as target:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            tasks = [group.create_task(target.run("echo", str(n))) for n in range(5)]
        assert [task.result().stdout for task in tasks] == [b"%d\n" % n for n in range(5)]
    with pytest.raises(ssmnet.SessionClosed):
        await target.run("true")


async def test_there_has_to_be_a_command(far: Loopback) -> None:
    async with reach(far) as target:
        with pytest.raises(ssmnet.UsageError):
            await target.run()
        with pytest.raises(ssmnet.UsageError):
            target.shell("top", document="mine")


@pytest.mark.parametrize("turns", [0, 2, 8, 30, 80])
async def test_cancelled_anywhere_it_leaves_nothing(far: Loopback, turns: int) -> None:
    async with reach(far) as target:
        for work in (target.run("sleep", "1000"), target.shell()._start()):
            task = asyncio.create_task(work)
            for _ in range(turns):
                await asyncio.sleep(0.001)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(result, ssmnet.RemoteShell):
                result.close()
                await result.wait_closed()
            else:
                assert isinstance(result, asyncio.CancelledError)
            await eventually(lambda: far.sessions == 0)


async def until(shell: ssmnet.RemoteShell, text: bytes) -> bytes:
    async with asyncio.timeout(DEADLINE):
        return await shell.stdout.readuntil(text)


async def test_a_shell_takes_and_gives_bytes(far: Loopback) -> None:
    async with reach(far) as target, target.shell(size=(97, 31)) as shell:
        shell.stdin.write(b"stty size; echo $((6 * 7))done\n")
        said = await until(shell, b"42done")
        assert b"31 97" in said
        shell.resize(120, 40)
        shell.stdin.write(b"stty size; echo $((6 * 8))done\n")
        assert b"40 120" in await until(shell, b"48done")
        shell.stdin.write(b"exit\n")
        async with asyncio.timeout(DEADLINE):
            await shell.stdout.read()
            await shell.wait()
        assert far.sessions == 0


async def test_leaving_a_shell_ends_it(far: Loopback) -> None:
    async with reach(far) as target:
        async with target.shell() as shell:
            shell.stdin.write(b"echo $((6 * 7))done\n")
            await until(shell, b"42done")
            assert far.session_ids == [shell.session_id]
        assert far.sessions == 0


async def test_a_command_on_a_terminal(far: Loopback) -> None:
    async with reach(far) as target, target.shell("sh", "-c", "test -t 0 && tty") as shell:
        async with asyncio.timeout(DEADLINE):
            said = await shell.stdout.read()
            await shell.wait()
        assert re.search(rb"/dev/\S+", said)


async def test_a_shell_that_somebody_else_ends(far: Loopback) -> None:
    async with reach(far) as target, target.shell() as shell:
        far.end_sessions("by an administrator")
        with pytest.raises(ssmnet.SessionClosed, match="administrator"):
            async with asyncio.timeout(DEADLINE):
                await shell.wait()


async def test_a_shell_survives_a_cut(far: Loopback) -> None:
    async with reach(far) as target, target.shell() as shell:
        shell.stdin.write(b"echo $((6 * 7))done\n")
        await until(shell, b"42done")
        far.cut_clients()
        shell.stdin.write(b"echo $((6 * 8))done\n")
        await until(shell, b"48done")


# Cancelled at the worst moment.


@pytest.mark.parametrize("kind", ["run", "shell"])
async def test_cancelled_as_its_session_is_there(far: Loopback, kind: str) -> None:
    """The session has an owner no more when its caller is cancelled in that very turn."""
    loop = asyncio.get_running_loop()
    callers: list[asyncio.Task[Any]] = []

    def make(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(work, loop=loop, **options)
        if getattr(work, "__name__", "") == "start_session" and callers:
            task.add_done_callback(lambda _: callers[0].cancel())
        return task

    async with reach(far) as target:
        work = target.run("true") if kind == "run" else target.shell().__aenter__()
        callers.append(asyncio.create_task(work))
        loop.set_task_factory(make)
        try:
            await asyncio.wait(callers)
        finally:
            loop.set_task_factory(None)
        assert callers[0].cancelled()
        assert far.sessions_started == 1
        await eventually(lambda: far.sessions == 0)


async def test_cancelled_while_aws_is_slow_to_start_it(
    far: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for the answer any more; the session is ended all the same."""
    monkeypatch.setattr("ssmnet.target.UNDO_TIMEOUT", 0.0)
    async with reach(far) as target:
        opening = asyncio.create_task(target.open_connection(None, 9))
        while not far.sessions_started:
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait((opening,))
        assert opening.cancelled()
        await eventually(lambda: far.sessions == 0)
