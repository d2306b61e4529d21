"""SessionPool with more than one session for the load."""

import asyncio
import socket
from collections import Counter
from functools import partial

import pytest

from ssmnet.events import Disconnected, Event, Narrowed, Restarted, Restarting, Widened
from ssmnet.loopback import Loopback
from ssmnet.pool import STARTS_AT_ONCE
from ssmnet.session import Session
from ssmnet.transport import StreamTransport
from tests.io.sessions import eventually, reset, serving
from tests.io.tunnels import DEADLINE, Tunnel, fill, pour, tunnel

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def no_life_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmnet.protocol.reconnect.SHORT_LIFE", 0.0)


def is_wide(it: Tunnel, sessions: int) -> bool:
    return it.pool.sessions == sessions


def kinds(it: Tunnel) -> Counter[type[Event]]:
    return Counter(type(event) for event in it.events.seen)


async def connect(it: Tunnel) -> asyncio.StreamWriter:
    """With a stream that works."""
    reader, writer = await it.connect()
    writer.write(b"hello")
    async with asyncio.timeout(DEADLINE):
        assert await reader.readexactly(5) == b"hello"
    return writer


def streams(it: Tunnel) -> list[int]:
    return [session.streams for session in it.pool._sessions]


async def test_sessions_are_started_one_ahead_of_the_connections(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, width=3) as it:
        first = it.pool.session_id
        for sessions in (2, 3):
            assert ssm_loopback.sessions_started == sessions - 1
            await connect(it)
            await eventually(partial(is_wide, it, sessions))
        for _ in range(4):
            await connect(it)
        assert streams(it) == [2, 2, 2]
        assert ssm_loopback.sessions_started == 3
        assert [e.sessions for e in it.events.seen if isinstance(e, Widened)] == [2, 3]
        assert it.pool.session_id != first


async def test_one_session_stays_one(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        for _ in range(5):
            await connect(it)
        assert it.pool._load._timer is None, "nothing is looked at"
        assert ssm_loopback.sessions_started == 1


async def test_a_new_connection_gets_the_session_with_the_least_traffic(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = source.sockets[0].getsockname()[1]
    async with tunnel(ssm_loopback, monkeypatch, port=port, width=2) as it:
        reader, _ = await it.connect()
        await eventually(lambda: it.pool.sessions == 2)
        busy, quiet = it.pool._sessions
        async with asyncio.timeout(DEADLINE):
            await reader.readexactly(2_000_000)
        # One that is not read at all: as many streams, but less traffic, after a while.
        stuck = socket.create_connection(("127.0.0.1", it.listener.port or 0))
        await eventually(lambda: quiet.streams == 1)
        assert busy.streams == 1
        stuck.close()
    source.close()


async def test_a_session_that_one_reader_holds_up_gets_no_connection(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in the two seconds either after which it counts as stalled."""
    monkeypatch.setattr("ssmnet.protocol.reconnect.STALL_TIME", 3600.0)
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port, width=2) as it:
            reader, writer = await it.connect()
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            destination = await server.accept()
            await eventually(lambda: it.pool.sessions == 2)
            held, free = it.pool._sessions
            sending = asyncio.create_task(destination.send(bytes(40_000_000)))
            await eventually(lambda: not held.has_room)
            for number in range(1, 6):
                _, other = await it.connect()
                await server.accept()
                assert free.streams == number
            sending.cancel()
            reset(writer)


@pytest.mark.parametrize("width", [4, 8])
async def test_connections_that_come_at_once_get_sessions_of_their_own(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr("ssmnet.pool.OWN_SESSION_TIME", DEADLINE)
    async with tunnel(ssm_loopback, monkeypatch, width=width) as it:
        await asyncio.gather(*(connect(it) for _ in range(width)))
        assert streams(it) == [1] * width
        # There may be no more sessions: who comes now shares one, at once.
        await asyncio.gather(*(connect(it) for _ in range(width)))
        assert sum(streams(it)) == 2 * width
        assert ssm_loopback.sessions_started == width


async def test_so_many_sessions_are_started_at_once_and_no_more(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.pool.OWN_SESSION_TIME", DEADLINE)
    async with tunnel(ssm_loopback, monkeypatch, width=20) as it:
        starting, most = 0, 0
        start = it.pool._start

        async def counted() -> Session:
            nonlocal starting, most
            starting += 1
            most = max(most, starting)
            try:
                return await start()
            finally:
                starting -= 1

        monkeypatch.setattr(it.pool, "_start", counted)
        await asyncio.gather(*(connect(it) for _ in range(12)))
        assert most == STARTS_AT_ONCE
        assert max(streams(it)) == 1


async def test_a_connection_does_not_wait_for_long_for_a_session_to_start(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.pool.OWN_SESSION_TIME", 0.2)
    monkeypatch.setattr("ssmnet.pool.LOOK_AGAIN_TIME", 0.05)
    async with tunnel(ssm_loopback, monkeypatch, width=2) as it:
        release = asyncio.Event()
        start = it.pool._start

        async def start_late() -> Session:
            await release.wait()
            return await start()

        monkeypatch.setattr(it.pool, "_start", start_late)
        for _ in range(3):
            await connect(it)
        assert streams(it) == [3]
        # The start takes too long by now for anybody to wait for it.
        stream = it.pool.dial(asyncio.Protocol())
        assert isinstance(stream, StreamTransport)
        stream.abort()
        release.set()
        await eventually(lambda: it.pool.sessions == 2)
        await connect(it)
        assert streams(it) == [3, 1]


async def test_what_is_not_used_for_a_while_is_closed(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.protocol.load.IDLE_TIME", 0.3)
    async with tunnel(ssm_loopback, monkeypatch, width=4) as it:
        for sessions in (2, 3, 4):
            await connect(it)
            await eventually(partial(is_wide, it, sessions))
        it.drop()
        await eventually(lambda: ssm_loopback.sessions == 1)
        await it.seen(lambda event: isinstance(event, Narrowed) and event.sessions == 1)
        assert ssm_loopback.session_ids == [it.pool.session_id]
        await eventually(lambda: it.pool._load._timer is None)
        await connect(it)
        await eventually(lambda: it.pool.sessions == 2)
        assert kinds(it)[Restarting] == kinds(it)[Restarted] == 0


async def test_a_start_that_fails_is_tried_again_later_and_disturbs_nobody(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ssmnet.protocol.load.FIRST_START_DELAY", 0.2)
    async with tunnel(ssm_loopback, monkeypatch, width=2) as it:
        ssm_loopback.fail_next("TargetNotConnected", times=2, action="StartSession")
        await connect(it)
        await eventually(lambda: "no further session" in caplog.text)
        await connect(it)
        assert streams(it) == [2]
        await it.seen(lambda event: isinstance(event, Widened))
        assert kinds(it)[Restarting] == 0


async def test_the_last_session_ends_while_another_is_being_started(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, width=2) as it:
        release = asyncio.Event()
        start = it.pool._start

        async def start_late() -> Session:
            await release.wait()
            return await start()

        monkeypatch.setattr(it.pool, "_start", start_late)
        await connect(it)
        await eventually(lambda: it.pool._widening)
        ssm_loopback.end_sessions("maximum duration")
        await it.seen(lambda event: isinstance(event, Restarting) and event.over)
        release.set()
        await it.seen(lambda event: isinstance(event, Restarted))
        await connect(it)


async def test_without_restarts_it_ends_with_the_last_session(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, width=2, max_restarts=0) as it:
        await connect(it)
        await eventually(lambda: it.pool.sessions == 2)
        release = asyncio.Event()

        async def start_never() -> Session:
            await release.wait()
            raise AssertionError

        monkeypatch.setattr(it.pool, "_start", start_never)
        await it.pool._sessions[0].close()
        await connect(it)
        assert it.pool.sessions == 1
        ssm_loopback.end_sessions("enough")
        async with asyncio.timeout(DEADLINE):
            assert "closed" in str(await it.pool.wait_ended())
        lost = await it.seen(lambda event: isinstance(event, Disconnected) and bool(event.error))
        assert lost


async def test_one_of_several_sessions_ends(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections are reset, those of the others go on, and its place is taken."""
    async with tunnel(ssm_loopback, monkeypatch, width=2) as it:
        first, second = await it.connect(), None
        await eventually(lambda: it.pool.sessions == 2)
        second = await it.connect()
        await eventually(lambda: streams(it) == [1, 1])
        await it.pool._sessions[0].close()
        with pytest.raises(ConnectionResetError):
            await first[0].read()
        second[1].write(b"on")
        assert await second[0].readexactly(2) == b"on"


async def test_a_destination_that_does_not_read_leaves_the_others_their_sessions(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port, width=2) as it:
            _, stuck = await it.connect()
            await server.accept()
            await fill(stuck)
            for _ in range(4):
                reader, writer = await it.connect()
                await (await server.accept()).send(b"answer")
                assert await reader.readexactly(6) == b"answer"
            assert kinds(it)[Restarting] == 0, "another was there already"


async def test_without_multiplexing_a_connection_gets_the_session_that_is_free_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ssmnet.pool.OWN_SESSION_TIME", 0.1)
    async with Loopback(agent_version="3.0.100.0") as loopback:
        async with tunnel(loopback, monkeypatch, width=2) as it:
            _first, second = await connect(it), await connect(it)
            assert streams(it) == [1, 1]
            third = asyncio.create_task(connect(it))
            await eventually(lambda: len(it.pool._waiting) == 1)
            await asyncio.sleep(0.3)
            assert streams(it) == [1, 1]
            reset(second)
            await third
            assert streams(it) == [1, 1]
