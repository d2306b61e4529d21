"""ssmnet.connect, and connections without a local port."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

import ssmnet
from ssmnet.loopback import Loopback
from tests.io.sessions import Collector, closed_port, eventually

from .targets import DEADLINE, echoed, hang_up, keys, reach, serving

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
async def far(ssm_loopback: Loopback) -> AsyncIterator[Loopback]:
    """Fails a test that leaves a session or a connection behind."""
    yield ssm_loopback
    assert ssm_loopback.sessions == 0
    assert ssm_loopback.connections == 0


async def test_a_stream_without_a_local_port(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        reader, writer = await target.open_connection("127.0.0.1", port)
        assert await echoed(reader, writer) == b"hello"
        await hang_up(writer)
        assert await reader.read() == b""
    assert target.is_closing()


async def test_a_target_may_be_awaited_and_closed_by_hand(far: Loopback) -> None:
    async with serving() as port:
        target = await reach(far)
        reader, writer = await target.open_connection(None, port)
        assert await echoed(reader, writer) == b"hello"
        target.close()
        await target.wait_closed()
        with pytest.raises(ssmnet.SessionClosed):
            await reader.read()
        writer.close()


async def test_nothing_is_started_before_it_is_needed(far: Loopback) -> None:
    ssmnet.connect("i-0123456789abcdef0")
    async with reach(far) as target:
        assert target.target == far.target
    assert far.sessions_started == 0


async def test_a_name_is_looked_up_by_the_target() -> None:
    async with Loopback(names={"db.internal": "127.0.0.1"}) as far:
        async with serving() as port, reach(far) as target:
            reader, writer = await target.open_connection("db.internal", port)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
            with pytest.raises(ssmnet.DestinationNotFound):
                await target.open_connection("no-such-host.invalid", port)


async def test_megabytes_come_whole_both_ways(far: Loopback) -> None:
    data = random.Random(7).randbytes(3_000_000)
    async with serving() as port, reach(far) as target:
        reader, writer = await target.open_connection("127.0.0.1", port)
        writing = asyncio.ensure_future(_write(writer, data))
        async with asyncio.timeout(60):
            assert await reader.readexactly(len(data)) == data
        await writing
        await hang_up(writer)


async def _write(writer: asyncio.StreamWriter, data: bytes) -> None:
    for at in range(0, len(data), 50_000):
        writer.write(data[at : at + 50_000])
        await writer.drain()


async def test_what_was_written_before_the_end_arrives(far: Loopback) -> None:
    got = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read():  # or else it only was to show that it accepts
            got.set_result(data)
        writer.close()

    async with serving(take) as port:
        async with reach(far) as target:
            _, writer = await target.open_connection("127.0.0.1", port)
            writer.write(b"x" * 200_000)
            writer.close()
        async with asyncio.timeout(DEADLINE):
            assert await got == b"x" * 200_000


async def test_a_protocol_of_one_s_own(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        transport, protocol = await target.create_connection(Collector, "127.0.0.1", port)
        assert protocol.transport is transport
        transport.write(b"to myself")
        await protocol.until_size(9)
        transport.close()
        assert await protocol.until_lost() is None
        assert protocol.data == b"to myself"


async def test_a_protocol_must_be_a_streaming_one(far: Loopback) -> None:
    async with reach(far) as target:
        with pytest.raises(TypeError, match="asyncio.Protocol"):
            await target.create_connection(asyncio.BufferedProtocol, "127.0.0.1", 1)  # type: ignore[type-var]
    assert far.sessions_started == 0


async def test_errors_have_classes_of_their_own(far: Loopback) -> None:
    async with reach(far) as target:
        with pytest.raises(ssmnet.DestinationRefused):
            await target.open_connection("127.0.0.1", closed_port())
        far.fail_next("TargetNotConnected")
        with pytest.raises(ssmnet.TargetNotConnected):
            await target.open_connection("127.0.0.2", 1)
        for port in (0, 65536):
            with pytest.raises(ssmnet.UsageError):
                await target.open_connection("127.0.0.1", port)
        with pytest.raises(ValueError, match="only meaningful with ssl"):
            await target.open_connection("127.0.0.1", 1, server_hostname="x")
    with pytest.raises(ssmnet.SessionClosed):
        await target.open_connection("127.0.0.1", 1)
    with pytest.raises(ssmnet.UsageError):
        ssmnet.connect("")


@pytest.mark.parametrize("turns", [0, 1, 3, 8, 20, 50, 100])
async def test_cancelled_anywhere_it_leaves_nothing(far: Loopback, turns: int) -> None:
    """``clean`` and ``far`` look for tasks and sessions."""

    async def use(port: int) -> None:
        async with reach(far) as target:
            reader, writer = await target.open_connection("127.0.0.1", port)
            await echoed(reader, writer)
            await asyncio.Event().wait()

    async with serving() as port:
        task = asyncio.create_task(use(port))
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            async with asyncio.timeout(DEADLINE):
                await task
        # The agent hears of a start that was undone a moment later.
        await eventually(lambda: far.sessions == 0)


async def test_in_a_task_group_one_failure_ends_all(far: Loopback) -> None:
    async def use(port: int) -> None:
        async with reach(far) as target:
            reader, writer = await target.open_connection("127.0.0.1", port)
            await echoed(reader, writer)
            await asyncio.Event().wait()

    async def fail(port: int) -> None:
        async with reach(far) as target:
            reader, writer = await target.open_connection("127.0.0.1", port)
            await echoed(reader, writer)
            raise KeyError

    async with serving() as port:
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
                for use_or_fail in (use, use, fail):
                    group.create_task(use_or_fail(port))
        assert [type(error) for error in raised.value.exceptions] == [KeyError]
        await eventually(lambda: far.sessions == 0)


async def test_two_accounts_side_by_side(far: Loopback) -> None:
    async with Loopback() as other, serving() as port:
        async with reach(far) as one, reach(other) as two:
            for target in (one, two):
                reader, writer = await target.open_connection("127.0.0.1", port)
                assert await echoed(reader, writer) == b"hello"
                await hang_up(writer)
            assert (far.sessions_started, other.sessions_started) == (1, 1)
        async with reach(far, credentials=keys(other)) as stranger:
            with pytest.raises(ssmnet.ConnectError):
                await stranger.open_connection("127.0.0.1", port)


async def test_a_connection_survives_a_cut(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        reader, writer = await target.open_connection("127.0.0.1", port)
        assert await echoed(reader, writer) == b"hello"
        far.cut_clients()
        assert await echoed(reader, writer, b"still there") == b"still there"
        await hang_up(writer)
