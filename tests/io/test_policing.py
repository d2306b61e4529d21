"""The gateway polices: seen from outside, and by real sessions, which it must not end."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random

import pytest

from ssmnet.loopback import Loopback
from tests import wire
from tests.io.far_client import FarClient
from tests.io.sessions import (
    Collector,
    Connection,
    FarEnd,
    Server,
    far_end,
    open_stream,
    serving,
)
from tests.io.test_faults import QUIET, is_answered, post
from tests.io.test_gateway import FORWARD, destination, echo

KIB = 1024
OVERFLOW = "The session has sent more than the gateway takes."
# On the wire a payload of 1,000 bytes takes this many: header, smux frame.
MESSAGE = 1128
# A limit for a transfer, in seconds; the slowest takes less than half.
PATIENCE = 30.0


@pytest.fixture
async def client(ssm_loopback: Loopback) -> AsyncIterator[FarClient]:
    """A session with one open stream to an echo."""
    async with destination(echo) as port, FarClient(ssm_loopback) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"<")
        await client.until(lambda: client.frames.data(3) == b"<")
        yield client


async def send(client: FarClient, messages: int) -> None:
    for _ in range(messages):
        client.number += 1
        push = wire.frame(wire.PSH, 3, bytes(1000))
        await client.ws.send_bytes(wire.input_data(client.number, push))


async def seen_by_gateway(client: FarClient) -> None:
    """What was sent before has been read: a pong comes behind it."""
    assert (await client.call("DescribeInstanceInformation"))[0] == 200


async def arrived(client: FarClient) -> None:
    await client.until(lambda: client.number in client.acknowledged)


# --- the gateway


async def test_messages_pass_at_the_rate(client: FarClient) -> None:
    client.loopback.police(10 * MESSAGE / QUIET)
    started = time.monotonic()
    await send(client, 20)
    await arrived(client)
    assert time.monotonic() - started >= 2 * QUIET * 0.99


async def test_a_queue_may_be_full_and_one_more_ends_the_session(client: FarClient) -> None:
    client.loopback.police(1.0, 20 * MESSAGE)
    await send(client, 20)
    await seen_by_gateway(client)
    assert client.loopback.sessions == 1
    await send(client, 1)
    assert await client.until_closed() == OVERFLOW
    assert client.loopback.sessions == 0
    assert not await client.resume()


async def test_the_other_direction_is_policed_if_asked_for(client: FarClient) -> None:
    body = '{"rate": 1, "queue": 2048, "direction": "to_client"}'
    assert await post(client.loopback, "police", body) == (204, "")
    await send(client, 4)  # which is echoed
    assert await client.until_closed() == OVERFLOW


async def test_both_directions_are_policed_if_asked_for(client: FarClient) -> None:
    client.loopback.police(10 * MESSAGE / QUIET, direction="both")
    started = time.monotonic()
    await send(client, 10)
    await client.until(lambda: len(client.frames.data(3)) > 10_000)
    # The echo of the first begins back while the others are still on their way.
    assert time.monotonic() - started >= QUIET * 1.09


async def test_the_cap_changes_for_what_waits_and_is_lifted(client: FarClient) -> None:
    client.loopback.police(1.0)
    await send(client, 20)
    await seen_by_gateway(client)
    client.loopback.police(20 * MESSAGE / QUIET)  # or the first message alone takes 20 minutes
    started = time.monotonic()
    await arrived(client)
    assert time.monotonic() - started >= QUIET * 0.8
    client.loopback.police(1.0)
    await send(client, 20)
    await seen_by_gateway(client)
    client.loopback.police()
    await arrived(client)
    client.loopback.police(1.0, direction="to_client")
    client.loopback.police(1.0)
    client.loopback.police(direction="to_client")
    assert await is_answered(client)


async def test_what_waits_is_lost_with_the_websocket_and_the_next_begins_anew(
    client: FarClient,
) -> None:
    client.loopback.police(1.0, 20 * MESSAGE)
    await send(client, 20)
    await seen_by_gateway(client)
    client.loopback.cut_clients()
    assert await client.resume()
    await client.open()
    await send(client, 20)
    await seen_by_gateway(client)
    assert client.loopback.sessions == 1
    client.loopback.police()
    first = client.number - 19
    await client.until(lambda: {*range(first, client.number + 1)} <= {*client.acknowledged})
    assert not {*range(first - 20, first)} & {*client.acknowledged}


async def test_a_policed_path_is_delayed_as_well(client: FarClient) -> None:
    client.loopback.police(20 * MESSAGE / QUIET)
    client.loopback.impair(delay=QUIET, direction="to_agent")
    started = time.monotonic()
    await send(client, 20)
    await arrived(client)
    assert time.monotonic() - started >= 2 * QUIET * 0.99


async def test_sessions_that_begin_later_are_policed_each_by_itself(
    ssm_loopback: Loopback,
) -> None:
    ssm_loopback.police(1e6, 30 * MESSAGE)
    async with destination(echo) as port, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(FarClient(ssm_loopback)) for _ in range(2)]
        for client in clients:
            await client.ready(FORWARD, portNumber=port)
            await client.open_stream(3)
        ssm_loopback.police(1.0, 30 * MESSAGE)
        for client in clients:
            await send(client, 20)
            await seen_by_gateway(client)
        assert ssm_loopback.sessions == 2
        await send(clients[0], 20)
        assert await clients[0].until_closed() == OVERFLOW
        assert ssm_loopback.sessions == 1


@pytest.mark.parametrize(
    "body",
    [
        '{"rate": 0}',
        '{"rate": 1e10}',
        '{"rate": "1"}',
        '{"queue": -1}',
        '{"queue": 1e9}',
        '{"direction": "up"}',
        '{"seconds": 1}',
    ],
)
async def test_bad_arguments_do_nothing(client: FarClient, body: str) -> None:
    status, why = await post(client.loopback, "police", body)
    assert status == 400
    assert why.strip()
    assert await is_answered(client)


async def test_a_direction_that_is_none() -> None:
    async with Loopback() as loopback:
        with pytest.raises(ValueError, match="direction is 'up'"):
            loopback.police(1.0, direction="up")  # type: ignore[arg-type]


async def test_what_waits_does_not_delay_the_end(client: FarClient) -> None:
    client.loopback.police(1.0)
    await send(client, 20)
    await seen_by_gateway(client)
    client.loopback.end_sessions("over")
    assert await client.until_closed() == "over"


# --- sessions that must live with it


@asynccontextmanager
async def policed(rate: float, queue: int, round_trip: float) -> AsyncIterator[FarEnd]:
    async with far_end() as far:
        far.loopback.impair(delay=round_trip / 2)
        far.loopback.police(rate, queue)
        yield far


async def upload(collector: Collector, data: bytes, served: Server) -> None:
    """Send ``data`` on an open stream, and see it arrive."""
    await collector.until(lambda: collector.transport)
    assert collector.transport is not None
    collector.transport.write(data[:1])
    there = await served.accept()
    collector.transport.write(data[1:])
    await check_arrival(there, data)
    collector.transport.close()


async def check_arrival(there: Connection, data: bytes) -> None:
    async with asyncio.timeout(PATIENCE):
        assert await there.reader.readexactly(len(data)) == data


@pytest.mark.parametrize("cuts", [0, 3])
async def test_an_upload_completes(cuts: int, clean: None) -> None:
    data = Random(1).randbytes(512 * KIB)
    async with policed(500e3, 64 * KIB, 0.04) as far, serving() as served:
        async with far.opened(served.port) as session:
            uploading = asyncio.ensure_future(upload(open_stream(session)[1], data, served))
            for _ in range(cuts):
                await asyncio.sleep(0.2)  # somewhere in the middle
                assert not uploading.done()
                far.loopback.cut_clients()
            await uploading
            assert far.access.resumed == cuts
        assert far.loopback.sessions_started == 1


async def test_eight_uploads_complete_in_one_session_and_over_eight(clean: None) -> None:
    data = Random(2).randbytes(64 * KIB)
    async with policed(500e3, 64 * KIB, 0.04) as far, serving() as served:
        for sessions in (1, 8):
            async with AsyncExitStack() as stack:
                opened = [
                    await stack.enter_async_context(far.opened(served.port))
                    for _ in range(sessions)
                ]
                await asyncio.gather(
                    *(
                        upload(open_stream(opened[number % sessions])[1], data, served)
                        for number in range(8)
                    )
                )
                assert far.loopback.sessions == sessions


async def test_a_rate_that_drops_to_a_tenth_and_comes_back_ends_nothing(clean: None) -> None:
    data = Random(3).randbytes(384 * KIB)
    async with policed(500e3, 64 * KIB, 0.04) as far, serving() as served:
        async with far.opened(served.port) as session:
            uploading = asyncio.ensure_future(upload(open_stream(session)[1], data, served))
            for rate in (50e3, 500e3):
                await asyncio.sleep(0.4)  # somewhere in the middle
                assert not uploading.done()
                far.loopback.police(rate, 64 * KIB)
            await uploading
        assert far.loopback.sessions_started == 1


async def test_who_ignores_the_window_is_ended(clean: None) -> None:
    """So that the tests above can fail."""
    async with policed(500e3, 64 * KIB, 0.04) as far, serving() as served:
        async with far.opened(served.port) as session:
            collector = open_stream(session)[1]
            await collector.until(lambda: collector.transport)
            assert collector.transport is not None
            far.loopback.police(500e3, 16 * KIB)
            collector.transport.write(bytes(512 * KIB))
            error = await collector.until_lost()
            assert error is not None
            assert OVERFLOW in str(error)
            assert far.loopback.sessions == 0
