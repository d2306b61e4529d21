"""SIGKILL in the middle of transfers: of the agent, and of the whole far end."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ssmnet.loopback import AgentOffer, Loopback

from .conftest import Start
from .processes import SSMNET, TIMEOUT, FarEnd, Program, started
from .test_cuts import KIB, count, listening
from .transfers import Transfer, echo, serving

pytestmark = pytest.mark.long

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

AGENT = Path(__file__).with_name("agent_process.py")


class Agents:
    """Starts a process for each session that is offered."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []
        self._starting: set[asyncio.Task[None]] = set()

    def offer(self, offer: AgentOffer) -> None:
        task = asyncio.get_running_loop().create_task(self._start(offer))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, offer: AgentOffer) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, AGENT, stdin=asyncio.subprocess.PIPE
        )
        self.processes.append(process)
        told = {
            "offer": {"session_id": offer.session_id, "url": offer.url, "token": offer.token},
            "properties": dict(offer.request.properties),
        }
        assert process.stdin is not None
        process.stdin.write(json.dumps(told).encode() + b"\n")

    async def end(self) -> None:
        for process in self.processes:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@asynccontextmanager
async def agents_apart() -> AsyncIterator[tuple[Loopback, Agents]]:
    """A gateway here, whose sessions have their agents in processes of their own."""
    agents = Agents()
    far = Loopback(allow_unsigned=True, offer=agents.offer, agent_away_limit=0.5)
    try:
        async with far:
            yield far, agents
    finally:
        await agents.end()


async def is_reset(transfer: Transfer, port: int) -> None:
    """Neither complete nor ended as if it were."""
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(TIMEOUT):
            await transfer.run(port)
    assert transfer.position <= transfer.received < len(transfer.data)


async def restarted(program: Program) -> None:
    await program.out_line('"event":"restarting".*"over":true')
    await program.out_line('"event":"restarted"')


@pytest.mark.parametrize("up", [False, True], ids=["download", "upload"])
async def test_a_killed_agent(aws_env: dict[str, str], up: bool) -> None:
    transfer = Transfer(1, up=up, size=1024 * KIB, position=100 * KIB)
    async with serving(transfer) as remote, agents_apart() as (far, agents):
        command = (SSMNET, "forward", "-t", far.target, "--remote", str(remote))
        env = aws_env | far.environment
        async with started(*command, "--output", "json", env=env) as program:
            port = await listening(program)
            going = asyncio.ensure_future(is_reset(transfer, port))
            await transfer.reached.wait()
            (agent,) = agents.processes
            agent.kill()
            transfer.may_end.set()
            await going
            assert await agent.wait() == -signal.SIGKILL
            # A connection that comes too early waits for the next session.
            async with echo(port) as probe:
                assert await probe.answers()
            await restarted(program)
            assert len(agents.processes) == 2
            done = await program.end()
        events = count(done.out)
        assert (done.status, events["restarting"], events["restarted"]) == (0, 1, 1)
        assert "resuming" not in events
        assert far.sessions == 0


@pytest.mark.parametrize("far_end", [("--pace", "--agent-away", "0.5")], indirect=True)
async def test_the_killed_agents_of_two_transfers(forward: Start, far_end: FarEnd) -> None:
    down = Transfer(1, up=False, size=1024 * KIB, position=100 * KIB)
    up = Transfer(2, up=True, size=1024 * KIB, position=100 * KIB)
    async with serving(down, up) as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        port = await listening(program)
        going = asyncio.gather(is_reset(down, port), is_reset(up, port))
        await asyncio.gather(down.reached.wait(), up.reached.wait())
        await far_end.fault("kill_agents")
        down.may_end.set()
        up.may_end.set()
        await going
        await restarted(program)
        async with echo(port) as probe:
            assert await probe.answers()


@pytest.mark.parametrize("far_end", [("--pace",)], indirect=True)
async def test_the_whole_far_end_is_killed(forward: Start, far_end: FarEnd) -> None:
    transfer = Transfer(1, up=False, size=1024 * KIB, position=100 * KIB)
    async with serving(transfer) as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        port = await listening(program)
        going = asyncio.ensure_future(is_reset(transfer, port))
        await transfer.reached.wait()
        await far_end.kill()
        # It tells what it does, and what is in the way, and goes on trying.
        await program.out_line('"event":"resuming"')
        told = await program.out_line('"event":"resuming","session_id":"[^"]*","cause":"([^"]*)"')
        assert "connect" in told[1]
        assert program.running
        assert not going.done(), "nobody knows that the session is over"
        done = await program.end()
        await going
    assert done.status == 0
    assert count(done.out)["closed"] == 1
    assert "restarting" not in count(done.out)
