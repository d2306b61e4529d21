"""The built-in agent with real destinations."""

import asyncio

import pytest

from ssmnet.loopback import Loopback
from ssmnet.loopback.port import OUTPUT_LIMIT
from tests.io.tunnels import DEADLINE, pour, tunnel

pytestmark = pytest.mark.usefixtures("clean")
# What an event loop reads at once.
READ = 256 * 1024


async def test_no_more_is_read_from_a_destination_than_the_agent_keeps(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the loop reads in one turn, or new streams wait behind megabytes."""
    source = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = source.sockets[0].getsockname()[1]
    async with Loopback(pace=True) as far_end:
        async with tunnel(far_end, monkeypatch, port=port) as it:
            reader, writer = await it.connect()
            agent = far_end.agent(it.pool.session_id)
            async with asyncio.timeout(DEADLINE):
                for _ in range(10):
                    await reader.readexactly(100_000)
                    assert agent._kind is not None
                    waiting = len(agent._kind._smux.output)  # type: ignore[attr-defined]
                    assert waiting <= OUTPUT_LIMIT + 2 * READ
            writer.transport.abort()
    source.close()
