"""Cancelled at any of its awaits, or its tasks' awaits, a call of the API leaves nothing behind."""

import asyncio
import contextlib
import os
import ssl
import sys
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any

import pytest

import ssmnet
from ssmnet.loopback import Loopback
from tests.io.sessions import eventually

from .targets import DEADLINE, Authority, echo, echoed, hang_up, reach, serving

pytestmark = [pytest.mark.usefixtures("clean"), pytest.mark.long]

OURS = os.path.dirname(ssmnet.__file__) + os.sep
FAR_END = os.path.join(OURS, "loopback") + os.sep
HERE = __file__
# More than any of the calls below has.
MOST = 2000


@pytest.fixture
async def far(ssm_loopback: Loopback) -> AsyncIterator[Loopback]:
    yield ssm_loopback
    assert ssm_loopback.sessions == 0
    assert ssm_loopback.connections == 0


class Steps:
    """Counts the awaits of a task and of all ssmnet's tasks, and cancels it at one of them."""

    def __init__(self, at: int) -> None:
        self._left = at
        self._task: asyncio.Task[Any] | None = None
        self.reached = False

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Carry ``work`` to its end, if it is not cancelled before."""
        loop = asyncio.get_running_loop()
        loop.set_task_factory(self._make)
        try:
            self._task = loop.create_task(work)
            async with asyncio.timeout(DEADLINE):
                await asyncio.wait((self._task,))
        finally:
            loop.set_task_factory(None)
        if not self._task.cancelled():
            self._task.result()

    def _make(
        self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any
    ) -> asyncio.Task[Any]:
        file = getattr(getattr(work, "cr_code", None), "co_filename", "")
        ours = file == HERE or (file.startswith(OURS) and not file.startswith(FAR_END))
        return asyncio.Task(self._counted(work) if ours else work, loop=loop, **options)

    async def _counted(self, work: Coroutine[Any, Any, Any]) -> Any:
        return await self._steps(work)

    @types.coroutine
    def _steps(self, work: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        error: BaseException | None = None
        while True:
            try:
                waits_for = work.send(None) if error is None else work.throw(error)
            except StopIteration as stop:
                return stop.value
            error = None
            self._step()
            try:
                yield waits_for
            except BaseException as raised:
                error = raised

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0 and self._task is not None and not self._task.done():
            self.reached = True
            asyncio.get_running_loop().call_soon(self._task.cancel)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0


Work = Callable[[ssmnet.Target, int], Coroutine[Any, Any, None]]


async def cancel_everywhere(far: Loopback, port: int, work: Work) -> int:
    """How many places there were."""
    async with reach(far, idle_time=0.0) as target:
        await work(target, port)  # what is imported or kept by now is no leak
        await eventually(lambda: far.sessions == 0)
        before = open_files()
        for at in range(1, MOST):
            steps = Steps(at)
            await steps.run(work(target, port))
            await eventually(lambda: far.sessions == 0 and far.connections == 0)
            assert not target.is_closing()
            assert target.statistics().listeners == ()
            await eventually(lambda: target.statistics().connections == 0)
            if not steps.reached:
                await eventually(lambda: open_files() <= before)
                return at
    raise AssertionError("it never ends")


async def test_open_connection(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        reader, writer = await target.open_connection("127.0.0.1", port)
        try:
            await echoed(reader, writer)
        finally:
            await hang_up(writer)

    async with serving() as port:
        assert await cancel_everywhere(far, port, work) > 5


async def test_tls(far: Loopback) -> None:
    authority = Authority()
    client = authority.client()

    async def work(target: ssmnet.Target, port: int) -> None:
        reader, writer = await target.open_connection(
            "127.0.0.1", port, ssl=client, server_hostname="db.internal"
        )
        try:
            await echoed(reader, writer)
        finally:
            with contextlib.suppress(ssl.SSLError):  # of bytes that come after the end
                await hang_up(writer)

    async with serving(echo, authority.server("db.internal")) as port:
        assert await cancel_everywhere(far, port, work) > 5


async def test_forward(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        async with target.forward(port, check=True):
            pass

    async with serving() as port:
        assert await cancel_everywhere(far, port, work) > 5


async def test_proxy(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        async with target.proxy():
            pass

    async with serving() as port:
        assert await cancel_everywhere(far, port, work) > 5


@pytest.mark.skipif(sys.platform == "win32", reason="the far end has no commands there")
async def test_run(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        await target.run("true")

    assert await cancel_everywhere(far, 1, work) > 5


@pytest.mark.skipif(sys.platform == "win32", reason="the far end has no shells there")
async def test_shell(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        async with target.shell("true") as shell:
            await shell.stdout.read()

    assert await cancel_everywhere(far, 1, work) > 5


async def test_connect(far: Loopback) -> None:
    async def work(target: ssmnet.Target, port: int) -> None:
        async with ssmnet.connect("loopback"), reach(far) as another:
            async with another.proxy():
                pass

    assert await cancel_everywhere(far, 1, work) > 5
