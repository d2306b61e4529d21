"""The loopback's faults on demand, seen from outside: real sockets, nothing of ssmnet's client."""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from ssmnet.loopback import AgentOffer, Loopback
from tests import wire
from tests.io.far_client import TIMEOUT, FarClient, opening, sign
from tests.io.test_gateway import (
    FORWARD,
    destination,
    echo,
    far,
    receive_until_silence,
    until,
)

# s, for what must not happen: it would take a few milliseconds.
QUIET = 0.3


@pytest.fixture
async def port() -> AsyncIterator[str]:
    async with destination(echo) as port:
        yield port


@pytest.fixture
async def client(ssm_loopback: Loopback, port: str) -> AsyncIterator[FarClient]:
    """A session with one open stream to an echo."""
    async with FarClient(ssm_loopback) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"<")
        await client.until(lambda: client.frames.data(3) == b"<")
        yield client


async def is_answered(client: FarClient, within: float = TIMEOUT) -> bool:
    """Whether a further byte comes back."""
    came = len(client.frames.data(3))
    client.number += 1
    await client.ws.send_bytes(wire.input_data(client.number, wire.frame(wire.PSH, 3, b"x")))
    try:
        async with asyncio.timeout(within):
            await client.until(lambda: len(client.frames.data(3)) > came)
    except TimeoutError:
        return False
    return True


# The API.


async def test_one_action_is_refused_so_many_times(client: FarClient) -> None:
    client.loopback.fail_next("ThrottlingException", "Rate exceeded", 2, "ResumeSession")
    client.loopback.fail_next("InternalServerError", action="TerminateSession")
    for _ in range(2):
        status, answer = await client.call("ResumeSession", SessionId=client.session_id)
        assert (status, answer["__type"]) == (400, "ThrottlingException")
        assert (await client.call("DescribeInstanceInformation"))[0] == 200
    assert await client.resume()
    assert (await client.call("TerminateSession", SessionId=client.session_id))[0] == 500
    assert (await client.call("TerminateSession", SessionId=client.session_id))[0] == 200


async def test_expired_tokens(client: FarClient) -> None:
    assert await client.resume()
    client.loopback.expire_tokens(also_next=1)
    assert await is_answered(client), "an open WebSocket stays"
    for _ in range(2):
        await client.open()
        assert await client.until_closed() is None
        assert client.ws.close_code == 1008
        assert await client.resume()
    await client.open()
    assert await is_answered(client)


# WebSockets.


async def test_a_close_code_and_its_reason(client: FarClient) -> None:
    client.loopback.close_clients(1011, "server error")
    message = await client.ws.receive(TIMEOUT)
    assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1011)
    assert message.extra == "server error"
    await back(client)
    client.loopback.close_clients(1006)
    while await client.next() is not None:
        pass
    assert client.ws.close_code == 1006
    assert client.loopback.sessions == 1


async def back(client: FarClient) -> None:
    """Resume once the gateway has seen the end of the last WebSocket, until it has seen a new."""
    await until(lambda: client.loopback.clients == 0)
    assert await client.resume()
    await client.open()
    await until(lambda: client.loopback.clients == 1)


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1015, 2999, 5000])
async def test_codes_that_close_nothing(client: FarClient, code: int) -> None:
    with pytest.raises(ValueError, match=str(code)):
        client.loopback.close_clients(code)
    with pytest.raises(ValueError, match="longer than 123 bytes"):
        client.loopback.close_clients(1000, "x" * 124)
    assert await is_answered(client)


async def test_nothing_passes_a_black_hole_and_then_everything(client: FarClient) -> None:
    client.loopback.blackhole_clients(60)
    client.loopback.blackhole_clients(2 * QUIET)  # the last call counts
    assert not await is_answered(client, within=QUIET)
    assert await is_answered(client)
    assert client.frames.data(3) == b"<xx"
    assert client.loopback.clients == 1


async def test_no_pong_and_no_close_comes_out_of_a_black_hole(client: FarClient) -> None:
    async with by_hand(client) as ws:
        await ws.ping()
        while (await ws.receive(TIMEOUT)).type is not aiohttp.WSMsgType.PONG:
            pass
        client.loopback.blackhole_clients(60)
        client.loopback.end_sessions()
        await ws.ping()
        with pytest.raises(TimeoutError):
            await ws.receive(QUIET)
        await ws.close()  # which waits for an answer
        assert ws.close_code == 1006


@asynccontextmanager
async def by_hand(client: FarClient) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A new WebSocket of the session, of which every frame is seen."""
    assert await client.resume()
    headers = sign(client.loopback, "GET", client.url)
    patience = aiohttp.ClientWSTimeout(ws_close=QUIET)
    connecting = client._http.ws_connect(
        client.url, headers=headers, autoping=False, timeout=patience
    )
    async with connecting as ws:
        await ws.send_str(opening(client.token))
        yield ws


async def test_a_new_websocket_is_not_in_the_black_hole(client: FarClient) -> None:
    client.loopback.blackhole_clients(2 * QUIET)
    old = client.ws
    await client.open()
    assert await is_answered(client)
    # The old one was replaced, and hears of it when its link is whole again.
    while (message := await old.receive(TIMEOUT)).type is aiohttp.WSMsgType.BINARY:
        assert wire.decode(message.data).payload_type != wire.OUTPUT, "the new one got that"
    assert (message.type, message.extra) == (aiohttp.WSMsgType.CLOSE, "replaced")
    assert await is_answered(client)


async def test_a_new_websocket_may_wait_for_the_end_of_the_black_hole(client: FarClient) -> None:
    client.loopback.blackhole_clients(2 * QUIET, new=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET):
            await client.open()
    assert await client.resume(), "the API answers"
    await client.open()
    assert await is_answered(client)


# The network between client and agent.


@pytest.mark.parametrize(("direction", "least"), [("both", 0.4), ("to_agent", 0.2)])
async def test_delay(client: FarClient, direction: Any, least: float) -> None:
    client.loopback.impair(delay=0.2, direction=direction)
    started = time.monotonic()
    assert await is_answered(client)
    assert time.monotonic() - started >= least
    client.loopback.impair()
    started = time.monotonic()
    assert await is_answered(client)
    assert time.monotonic() - started < least, "healed"


async def test_loss_for_a_while(client: FarClient) -> None:
    client.loopback.impair(loss=1.0, direction="to_client", seconds=2 * QUIET)
    assert not await is_answered(client, within=QUIET)
    assert client.loopback.agent(client.session_id).unacknowledged
    assert await is_answered(client)


async def test_duplicates(client: FarClient) -> None:
    client.loopback.impair(duplicate=1.0, direction="to_client")
    assert await is_answered(client)
    echoed = client.received[-1]
    await client.until(lambda: client.received.count(echoed) == 2)
    assert client.acknowledged.count(client.number) == 2


@pytest.mark.parametrize("reorder", [False, True])
async def test_jitter_reorders_only_if_it_should(client: FarClient, reorder: bool) -> None:
    client.loopback.impair(delay=0.01, jitter=0.1, reorder=reorder, direction="to_agent")
    first = client.number + 1
    await send_some(client, 40)
    await client.until(lambda: {*range(first, client.number + 1)} <= {*client.acknowledged})
    order = [number for number in client.acknowledged if number >= first]
    assert (order != sorted(order)) is reorder


async def test_a_seed_draws_the_same_again(port: str) -> None:
    twice = []
    for seed in (7, 7, 8):
        async with far(ideal=True) as client:
            client.loopback.impair(duplicate=0.5, direction="to_agent", seed=seed)
            await client.ready(FORWARD, portNumber=port)
            client.acknowledging = False
            await send_some(client, 40)
            with pytest.raises(TimeoutError):
                await receive_until_silence(client)
            assert {*client.acknowledged} == {*range(41)}
            twice.append([n for n in range(41) if client.acknowledged.count(n) == 2])
    assert twice[0] == twice[1] != twice[2], "also in sessions that began later"


async def send_some(client: FarClient, messages: int) -> None:
    for _ in range(messages):
        client.number += 1
        data = wire.input_data(client.number, wire.frame(wire.PSH, 3, b"x"))
        await client.ws.send_bytes(data)


async def test_what_is_on_its_way_is_lost_with_the_websocket(client: FarClient) -> None:
    client.loopback.impair(delay=QUIET, direction="to_agent")
    await send_some(client, 1)
    # In order behind it on the API, though not on the wire.
    await client.call("DescribeInstanceInformation")
    client.loopback.cut_clients()
    assert await client.resume()
    await client.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(2 * QUIET):
            await client.until(lambda: client.number in client.acknowledged)


async def test_what_is_on_its_way_comes_before_the_end(client: FarClient) -> None:
    client.loopback.impair(delay=60, direction="to_client")
    await send_some(client, 1)
    agent = client.loopback.agent(client.session_id)
    await until(lambda: agent.unacknowledged > 0)
    client.loopback.end_sessions("over")
    assert await client.until_closed() == "over"
    assert client.frames.data(3) == b"<x"


async def test_the_memory_of_a_long_delay_is_bounded() -> None:
    sent = [0]

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        while sent[0] < 64 * 1024 * 1024:
            writer.write(bytes(65536))
            await writer.drain()
            sent[0] += 65536

    async with destination(source) as port, far() as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        client.loopback.impair(delay=60, direction="to_client")
        await send_some(client, 1)
        await until(lambda: sent[0] > 0)
        seen = -1
        while seen != sent[0]:
            seen = sent[0]
            await asyncio.sleep(0.5)
        assert 1024 * 1024 < seen < 40 * 1024 * 1024
        client.loopback.impair()
        while sent[0] == seen:
            await client.ws.receive(TIMEOUT)


# The agent.


async def test_killed_agents() -> None:
    ended = asyncio.Event()

    async def wait_for_the_end(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            ended.set()

    async with destination(wait_for_the_end) as port, far(agent_away_limit=QUIET) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        await until(lambda: client.loopback.connections == 1)
        client.loopback.kill_agents()
        await asyncio.wait_for(ended.wait(), TIMEOUT)
        assert client.loopback.sessions == 1
        assert await client.until_closed() == ""
        kinds = [message.type for message in client.received[-2:]]
        assert kinds == [wire.PAUSE, wire.CHANNEL_CLOSED]
        assert not client.frames.ended(3), "the agent said nothing more"
        assert (client.loopback.sessions, client.loopback.connections) == (0, 0)
        assert not await client.resume()


async def test_an_agent_of_ones_own_may_come_back_in_time(port: str) -> None:
    offers: list[AgentOffer] = []
    async with far(offer=offers.append, allow_unsigned=True, agent_away_limit=QUIET) as client:
        await client.start(FORWARD, portNumber=port)
        await client.open()
        await asyncio.sleep(2 * QUIET)  # one that has not come yet is not away
        for _ in range(2):
            async with client._http.ws_connect(offers[0].url) as agent:
                await agent.send_str(opening(offers[0].token, ClientId="agent"))
                await agent.send_bytes(wire.encode("agent_session_state", b"{}", flags=3))
                await asyncio.sleep(2 * QUIET)
                assert client.loopback.sessions == 1
                client.loopback.kill_agents()
                while (await agent.receive(TIMEOUT)).type is aiohttp.WSMsgType.BINARY:
                    pass
        assert await client.until_closed() == ""
        assert [m.type for m in client.received].count(wire.PAUSE) == 2


# Limits.


@pytest.mark.parametrize("talker", ["client", "destination"])
async def test_a_session_without_data_ends(talker: str) -> None:
    async def tick(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        for _ in range(4 if talker == "destination" else 0):
            await asyncio.sleep(QUIET)
            writer.write(b"x")
        await asyncio.Event().wait()

    async with destination(tick) as port, far(idle_timeout=2 * QUIET) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"?")
        for _ in range(4 if talker == "client" else 0):
            await asyncio.sleep(QUIET)
            await client.send(wire.frame(wire.PSH, 3, b"x"))
        if talker == "destination":
            await client.until(lambda: client.frames.data(3) == b"xxxx")
        started = time.monotonic()
        last = client.received[-1]
        while client.loopback.sessions:
            # Neither of these counts.
            await client.ws.ping()
            await client.ws.send_bytes(wire.acknowledge(last))
            await asyncio.sleep(QUIET / 3)
            assert time.monotonic() - started < TIMEOUT
        assert time.monotonic() - started >= 2 * QUIET - 0.05
        assert await client.until_closed() == "The session timed out due to inactivity."


async def test_a_session_has_a_maximum_duration(port: str) -> None:
    async with far(max_duration=2 * QUIET) as client:
        started = time.monotonic()
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        with pytest.raises(AssertionError, match="has ended"):
            while time.monotonic() - started < TIMEOUT:
                await is_answered(client)
        assert time.monotonic() - started >= 2 * QUIET - 0.05
        assert (
            client.received[-1].json()["Output"] == "The session has reached its maximum duration."
        )


@pytest.mark.parametrize("limit", ["away_limit", "agent_away_limit", "idle_timeout"])
def test_limits_that_are_none(limit: str) -> None:
    with pytest.raises(ValueError, match="limit of 0 s"):
        Loopback(**{limit: 0})  # type: ignore[arg-type]


async def test_pings_are_answered_while_a_destination_reads_nothing() -> None:
    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with destination(never_read) as port, far() as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        push = wire.frame(wire.PSH, 3, bytes(32000))
        # As much as a client may have in flight: its window, headers, and some resent.
        with pytest.raises(TimeoutError):
            while True:
                while (client.number - client.acknowledged[-1]) * 32000 < 6 * 1024 * 1024:
                    client.number += 1
                    await client.ws.send_bytes(wire.input_data(client.number, push))
                await asyncio.wait_for(client.next(), 1.0)
        waiting = client.loopback.agent(client.session_id).inbox_size
        assert waiting > 5 * 1024 * 1024
        async with by_hand(client) as ws:
            await ws.ping()
            while (await ws.receive(TIMEOUT)).type is not aiohttp.WSMsgType.PONG:
                pass


# The end.


async def test_leaving_waits_for_no_fault(port: str, clean: None) -> None:
    loop = asyncio.get_running_loop()
    before = set(timers(loop))
    async with far(idle_timeout=60, max_duration=60, agent_away_limit=60) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"x")
        client.loopback.impair(delay=60, seconds=60)
        await send_some(client, 1)
        await client.call("DescribeInstanceInformation")
        client.loopback.kill_agents()
        client.loopback.blackhole_clients(60, new=True)
        opening = asyncio.ensure_future(client.connect())
        await asyncio.sleep(QUIET)
        started = time.monotonic()
        await client.loopback.__aexit__()
        assert time.monotonic() - started < 1.0
        await asyncio.wait((opening,))
        assert opening.exception() is not None
    left = [timer for timer in timers(loop) if timer not in before and not timer.cancelled()]
    assert not left


def timers(loop: asyncio.AbstractEventLoop) -> list[asyncio.TimerHandle]:
    return list(getattr(loop, "_scheduled", []))  # uvloop does not show its own


# By HTTP.


async def post(
    loopback: Loopback, name: str, body: str = "", *, secret: str = "", key_id: str = ""
) -> tuple[int, str]:
    url = f"{loopback.endpoint_url}/faults/{name}"
    pair = f"{key_id or loopback.access_key_id}:{secret or loopback.secret_access_key}"
    headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
    async with aiohttp.ClientSession() as http:
        async with http.post(url, data=body, headers=headers) as response:
            return response.status, await response.text()


async def test_cut_close_and_end_by_http(client: FarClient) -> None:
    assert await post(client.loopback, "cut_clients") == (204, "")
    while await client.next() is not None:
        pass
    assert client.ws.close_code == 1006
    await back(client)
    assert await post(client.loopback, "close_clients", "{}") == (204, "")
    while await client.next() is not None:
        pass
    assert client.ws.close_code == 1000
    await back(client)
    assert await post(client.loopback, "end_sessions", '{"output": "enough"}') == (204, "")
    assert await client.until_closed() == "enough"


async def test_the_api_fails_by_http(client: FarClient) -> None:
    body = '{"code": "ThrottlingException", "message": "m", "times": 1, "action": "ResumeSession"}'
    assert await post(client.loopback, "fail_next", body) == (204, "")
    assert (await client.call("DescribeInstanceInformation"))[0] == 200
    _, answer = await client.call("ResumeSession", SessionId=client.session_id)
    assert answer == {"__type": "ThrottlingException", "message": "m"}
    assert await post(client.loopback, "expire_tokens", '{"also_next": 0}') == (204, "")
    await client.open()
    assert await client.until_closed() is None
    assert client.ws.close_code == 1008


async def test_a_bad_network_by_http(client: FarClient) -> None:
    body = '{"loss": 1, "direction": "to_client", "seconds": %s}' % (2 * QUIET)
    assert await post(client.loopback, "impair", body) == (204, "")
    assert not await is_answered(client, within=QUIET)
    assert await is_answered(client)
    body = '{"seconds": %s, "new": true}' % (2 * QUIET)
    assert await post(client.loopback, "blackhole_clients", body) == (204, "")
    assert not await is_answered(client, within=QUIET)
    assert await is_answered(client)
    assert await post(client.loopback, "kill_agents") == (204, "")
    await client.until(lambda: client.received[-1].type == wire.PAUSE)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("cut_clients", "[]"),
        ("cut_clients", '{"seconds": 1}'),
        ("cut_clients", "{"),
        ("cut_clients", "\xff"),
        ("close_clients", '{"code": "1000"}'),
        ("close_clients", '{"code": 1005}'),
        ("blackhole_clients", "{}"),
        ("blackhole_clients", '{"seconds": -1}'),
        ("blackhole_clients", '{"seconds": 1e300}'),
        ("fail_next", "{}"),
        ("fail_next", '{"code": "X", "action": "EatSession"}'),
        ("fail_next", '{"code": "X", "times": 10001}'),
        ("impair", '{"loss": 1.5}'),
        ("impair", '{"delay": -1}'),
        ("impair", '{"jitter": "1"}'),
        ("impair", '{"seconds": -1}'),
        ("impair", '{"direction": "up"}'),
        ("impair", '{"loss": 1, "color": 1}'),
        ("expire_tokens", '{"also_next": -1}'),
        ("end_sessions", '{"output": null}'),
    ],
)
async def test_bad_arguments_by_http_do_nothing(client: FarClient, name: str, body: str) -> None:
    status, why = await post(client.loopback, name, body)
    assert status == 400
    assert why.count("\n") == 1
    assert why.strip()
    assert await is_answered(client)
    assert (await client.call("DescribeInstanceInformation"))[0] == 200


async def test_who_may_not_and_what_there_is_not(client: FarClient) -> None:
    loopback = client.loopback
    for wrong in ({"secret": "wrong"}, {"key_id": "wrong"}):
        assert (await post(loopback, "cut_clients", **wrong))[0] == 401
    async with aiohttp.ClientSession() as http:
        url = f"{loopback.endpoint_url}/faults/cut_clients"
        async with http.post(url) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"].startswith("Basic ")
        secret = f"{loopback.access_key_id}:{loopback.secret_access_key}".encode()
        headers = {"Authorization": f"Bearer {b64encode(secret).decode()}"}
        async with http.post(url, headers=headers) as response:
            assert response.status == 401
        async with http.get(url) as response:
            assert response.status == 405
    status, why = await post(loopback, "eat_clients")
    assert status == 404
    assert "cut_clients" in why
    assert await is_answered(client)
