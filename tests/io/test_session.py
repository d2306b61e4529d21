"""A session with a real far end: what it carries, what slows it, what it survives, its end."""

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import trustme

import ssmnet.driver
import ssmnet.session
import ssmnet.upgrade
from ssmnet.aws import Client, StartedSession
from ssmnet.driver import READ_LIMIT
from ssmnet.errors import (
    ConnectError,
    DestinationRefused,
    Error,
    LocalProtocolError,
    RemoteProtocolError,
    SessionClosed,
)
from ssmnet.loopback import AgentOffer, Loopback
from ssmnet.protocol.reconnect import Liveness
from ssmnet.session import INCOMPLETE, Session
from ssmnet.transport import StreamTransport
from tests import wire
from tests.io.raw_agent import by_hand
from tests.io.raw_gateway import TEXT, close_frame, frame, raw_gateway
from tests.io.sessions import (
    FORWARD,
    NO_MULTIPLEXING,
    NO_TERMINATE_FLAG,
    RAW,
    Collector,
    FarEnd,
    Server,
    closed_port,
    echoing,
    eventually,
    far_end,
    open_stream,
    serving,
    websocket_of,
)

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1024 * 1024


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with far_end() as far:
        yield far


@pytest.fixture(params=[False, True], ids=["real", "ideal"])
async def either(
    request: pytest.FixtureRequest,
) -> AsyncIterator[FarEnd]:
    """A far end with the real agent's habits, and an ideal one."""
    async with far_end(ideal=request.param) as far:
        yield far


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    async with echoing() as port:
        yield port


async def write_all(transport: StreamTransport, collector: Collector, data: bytes) -> None:
    """Write and heed pauses."""
    for start in range(0, len(data), 30_000):
        if collector.log[-1] == "pause":
            await collector.until(lambda: collector.log[-1] != "pause")
        transport.write(data[start : start + 30_000])
        await asyncio.sleep(0)


async def echoed(session: Session, size: int) -> None:
    """Send random data through an echo and compare."""
    data = random.randbytes(size)
    transport, collector = open_stream(session)
    await write_all(transport, collector, data)
    await collector.until(lambda: len(collector.data) >= size)
    assert collector.data == data
    transport.close()
    await collector.until_lost()


# Opening.


async def test_open_tells_of_the_session(far: FarEnd, echo: int) -> None:
    session = await far.session(echo)
    assert session.session_id in far.loopback.session_ids
    assert session.ended is None
    assert session.idle
    ready = await session.open()
    assert ready.session_type == "Port"
    assert ready.properties["portNumber"] == str(echo)
    assert ready.agent_version == "3.3.0.0"
    assert session.multiplexed
    assert session.ended is None
    await session.close()
    assert isinstance(session.ended, SessionClosed)


async def test_with_the_real_calls_and_tls(
    monkeypatch: pytest.MonkeyPatch, echo: int, tmp_path: Path
) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    ca_file = str(tmp_path / "ca.pem")
    authority.cert_pem.write_to_path(ca_file)
    async with Loopback(tls=context, ca_file=ca_file) as loopback:
        for name, value in loopback.environment.items():
            monkeypatch.setenv(name, value)
        client = Client()
        parameters = {"portNumber": [str(echo)]}
        grant = await client.start_session(loopback.target, FORWARD, parameters)
        session = Session(client, grant)
        await session.open()
        await asyncio.gather(*(echoed(session, 500_000) for _ in range(3)))
        loopback.cut_clients()
        await echoed(session, 100_000)
        await session.close()
        assert loopback.sessions == 0


async def test_streams_need_an_open_session(far: FarEnd, echo: int) -> None:
    session = await far.session(echo)
    with pytest.raises(LocalProtocolError):
        session.create_stream(Collector())
    with pytest.raises(LocalProtocolError):
        await session.probe()
    await session.open()
    await session.close()
    with pytest.raises(SessionClosed):
        session.create_stream(Collector())
    with pytest.raises(SessionClosed):
        await session.probe()


async def test_a_gateway_that_is_not_there(far: FarEnd, echo: int) -> None:
    grant = await far.grant(echo)
    moved = StartedSession(grant.session_id, grant.token_value, f"ws://127.0.0.1:{closed_port()}/")
    session = Session(far.access, moved)
    with pytest.raises(ConnectError, match="cannot reach the gateway"):
        await session.open()
    assert far.loopback.sessions == 0, "it was terminated"
    assert far.access.terminated == 1


async def test_an_agent_that_does_not_begin(echo: int) -> None:
    """The gateway is there and takes the token, but nobody answers behind it."""
    offers: list[AgentOffer] = []
    async with far_end(offer=offers.append) as far:
        session = await far.session(echo)
        session._driver.channel._opening._timeout = 0.2
        with pytest.raises(Error, match="did not begin"):
            await session.open()
        assert offers
        assert far.loopback.sessions == 0


@pytest.mark.parametrize("moment", ["connecting", "shaking hands"])
async def test_a_cancelled_open_leaves_nothing(echo: int, moment: str) -> None:
    async with far_end(offer=lambda _: None) as far:
        session = await far.session(echo)
        before = asyncio.all_tasks()
        opening = asyncio.ensure_future(session.open())
        if moment == "shaking hands":
            await eventually(lambda: far.loopback.clients)
        else:
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert far.loopback.sessions == 0
        await eventually(lambda: far.loopback.clients == 0)
        ours = {task for task in asyncio.all_tasks() - before if not serves(task)}
        assert not ours
        assert all(websocket._closed.done() for websocket in far.access.websockets)


def serves(task: asyncio.Task[object]) -> bool:
    """Whether it is the loopback's own, of this process, too."""
    return "RequestHandler" in repr(task.get_coro()) or "WebSocketSide" in repr(task.get_coro())


async def test_an_open_whose_websockets_are_closed_at_once_has_an_end(
    far: FarEnd, echo: int
) -> None:
    """As a gateway does that accepts no token: AWS goes on giving new ones."""
    grant = await far.grant(echo)
    async with raw_gateway() as gateway:

        class Elsewhere:
            resumed = 0

            async def connect(self, stream_url: str, handler: object) -> object:
                opening = ssmnet.upgrade.connect(gateway.url, handler)  # type: ignore[arg-type]
                websocket, peer = await asyncio.gather(opening, gateway.accept())
                peer.send(close_frame(1008))
                return websocket

            async def resume_session(self, session_id: str) -> object:
                self.resumed += 1
                return grant

            async def generate_data_key(self, key_id: str, context: object) -> NoReturn:
                raise ConnectError(f"there is no key {key_id}")

            async def terminate_session(self, session_id: str) -> None:
                await far.access.terminate_session(session_id)

        session = Session(Elsewhere(), grant)  # type: ignore[arg-type]
        session._driver.channel._opening._timeout = 0.5
        async with asyncio.timeout(5):
            with pytest.raises(Error):
                await session.open()


# Probing.


async def test_a_probe_of_a_destination_that_accepts(far: FarEnd, server: Server) -> None:
    async with far.opened(server.port) as session:
        assert await session.probe() is True
        assert await (await server.accept()).rest() == b""
        assert await session.probe() is True
        async with asyncio.TaskGroup() as group:
            probes = [group.create_task(session.probe()) for _ in range(20)]
        assert all(probe.result() for probe in probes)
    await eventually(lambda: far.loopback.connections == 0)


async def test_a_probe_of_a_destination_that_refuses(either: FarEnd) -> None:
    async with either.opened(closed_port()) as session:
        for _ in range(3):
            with pytest.raises(DestinationRefused):
                await session.probe()
        assert session.ended is None


async def test_a_probe_during_a_resume(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        with pytest.raises(ConnectError, match=r"within 0\.1 s"):
            await session.probe(timeout=0.1)
        probing = asyncio.ensure_future(session.probe())
        await asyncio.sleep(0.02)
        assert not probing.done()
        far.access.may_resume.set()
        assert await probing is True


async def test_a_cancelled_probe(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        probing = asyncio.ensure_future(session.probe())
        await asyncio.sleep(0)
        probing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probing
        await echoed(session, 1000)
        assert await session.probe() is True


async def test_a_probe_when_the_session_ends(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        probing = asyncio.ensure_future(session.probe())
        await asyncio.sleep(0)
        far.loopback.end_sessions()
        far.access.may_resume.set()
        with pytest.raises(SessionClosed):
            await probing


@pytest.mark.parametrize("document", [FORWARD, RAW])
async def test_a_probe_costs_a_plain_session_nothing(echo: int, document: str) -> None:
    """It can't tell there, and must not use up the one connection that there is."""
    async with far_end(agent_version=NO_MULTIPLEXING) as far:
        async with far.opened(echo, document) as session:
            assert not session.multiplexed
            assert await session.probe() is False
            transport, collector = open_stream(session)
            assert collector.log == ["made"]
            transport.write(b"x")
            await collector.until(lambda: collector.data == b"x")


# Bytes.


async def test_several_streams_at_once(either: FarEnd, echo: int) -> None:
    async with either.opened(echo) as session:
        sizes = [0, 1, 1015, 1016, 1017, 65_536, 300_000, 1_000_000, 2_000_000]
        async with asyncio.timeout(60):
            await asyncio.gather(*(echoed(session, size) for size in sizes))
    await eventually(lambda: either.loopback.connections == 0)


async def test_big_transfers_each_way(either: FarEnd, server: Server) -> None:
    async with either.opened(server.port) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        up, down = random.randbytes(8 * MIB), random.randbytes(8 * MIB)
        async with asyncio.timeout(60):
            _, got = await asyncio.gather(
                write_all(transport, collector, up), connection.reader.readexactly(len(up))
            )
            assert got == up
            await asyncio.gather(connection.send(down), collector.until_size(len(down)))
        assert collector.data == down
        assert session.round_trip_time is not None
        assert session.round_trip_time < 1
        await eventually(lambda: session.idle)


@pytest.mark.parametrize("document", [FORWARD, RAW])
async def test_without_multiplexing(echo: int, document: str) -> None:
    async with far_end(agent_version=NO_MULTIPLEXING) as far:
        async with far.opened(echo, document) as session:
            transport, collector = open_stream(session)
            data = random.randbytes(1_000_000)
            await write_all(transport, collector, data)
            await collector.until_size(len(data))
            assert collector.data == data


async def test_basic_mode_takes_one_connection_after_the_other(server: Server) -> None:
    async with far_end(agent_version=NO_MULTIPLEXING) as far:
        async with far.opened(server.port) as session:
            streams = [open_stream(session) for _ in range(3)]
            for number, (transport, collector) in enumerate(streams):
                await collector.until(lambda: streams[number][1].log == ["made"])
                transport.write(b"%d" % number)
                connection = await server.accept()
                assert await connection.read(1) == b"%d" % number
                await connection.send(b"answer %d" % number)
                await collector.until(lambda: len(streams[number][1].data) == 8)
                assert collector.data == b"answer %d" % number
                later = [told.log for _, told in streams[number + 1 :]]
                assert later == [[]] * len(later)
                transport.close()
                assert await connection.rest() == b""


async def test_a_raw_session_hands_over_what_came_before_its_end(server: Server) -> None:
    """The destination closes while the local reader is slow: every byte before that counts."""
    async with far_end() as far, far.opened(server.port, RAW) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        transport.pause_reading()
        # Enough to stop the session's reading, so that the end comes in one read with the rest.
        data = random.randbytes(READ_LIMIT + 60_000)
        await connection.send(data)
        await eventually(lambda: websocket_of(session).reading_paused)
        connection.writer.close()
        # The agent waits 2 s for its last acknowledgements, and then ends the session.
        await eventually(lambda: far.loopback.sessions == 0)
        transport.resume_reading()
        await collector.until_lost()
        assert len(collector.data) == len(data)
        assert collector.data == data


async def test_a_raw_session_that_ends_at_once_hands_over_all(server: Server) -> None:
    async with far_end() as far:
        for _ in range(5):
            async with far.opened(server.port, RAW) as session:
                _, collector = open_stream(session)
                connection = await server.accept()
                data = random.randbytes(100_000)
                await connection.send(data)
                connection.writer.close()
                await collector.until_lost()
                assert collector.data == data


async def test_what_a_destination_says_before_there_is_a_reader(server: Server) -> None:
    async with far_end() as far, far.opened(server.port, RAW) as session:
        connection = await server.accept()
        await connection.send(b"SSH-2.0-Early\r\n")
        await asyncio.sleep(0.05)
        _, collector = open_stream(session)
        await collector.until(lambda: collector.data == b"SSH-2.0-Early\r\n")


# Backpressure.


async def test_a_slow_reader_stops_its_session_and_no_other(far: FarEnd, server: Server) -> None:
    async with far.opened(server.port) as session, far.opened(server.port) as other:
        transport, collector = open_stream(session)
        connection = await server.accept()
        transport.pause_reading()
        data = random.randbytes(64 * MIB)
        sending = asyncio.ensure_future(connection.send(data))
        await eventually(lambda: websocket_of(session).reading_paused)
        assert transport.unread_size < READ_LIMIT + 512 * 1024
        # The other session does not notice.
        told = open_stream(other)
        second = await server.accept()
        told[0].write(b"ping")
        await second.send(await second.read(4))
        await told[1].until(lambda: told[1].data == b"ping")
        assert not websocket_of(other).reading_paused
        # The source has to wait, since nothing in between takes it all.
        assert not sending.done()
        # Retransmission timers stand still meanwhile.
        await asyncio.sleep(0.5)
        assert websocket_of(session).reading_paused
        before = session.retransmissions
        assert before == 0
        transport.resume_reading()
        async with asyncio.timeout(60):
            await sending
            await collector.until_size(len(data))
        assert collector.data == data
        assert not websocket_of(session).reading_paused
        assert far.access.resumed == 0


async def test_two_slow_readers_both_have_to_go_on(far: FarEnd, server: Server) -> None:
    async with far.opened(server.port) as session:
        streams, sending = [], []
        data = random.randbytes(READ_LIMIT)
        for _ in range(2):
            streams.append(open_stream(session))
            connection = await server.accept()
            streams[-1][0].pause_reading()
            sending.append(asyncio.ensure_future(connection.send(data)))
        await eventually(lambda: not session._driver._reading.is_open)
        for transport, _ in streams:
            transport.resume_reading()
        for _, collector in streams:
            await collector.until_size(len(data))
            assert collector.data == data
        await asyncio.gather(*sending)


async def test_a_destination_that_does_not_read(far: FarEnd, server: Server) -> None:
    """Its writer waits, within bounds; other streams are still taken on."""
    async with far.opened(server.port) as session:
        transport, collector = open_stream(session)
        data = random.randbytes(40 * MIB)
        writing = asyncio.ensure_future(write_all(transport, collector, data))
        connection = await server.accept()
        paused_for = 0
        async with asyncio.timeout(60):
            while paused_for < 20:  # a pause that lasts
                await asyncio.sleep(0.02)
                paused_for = paused_for + 1 if collector.log[-1] == "pause" else 0
        assert transport.get_write_buffer_size() <= 64 * 1024 + 30_000
        assert not writing.done()
        others = [open_stream(session) for _ in range(10)]
        assert all(told.log == ["made"] for _, told in others)
        assert session.ended is None
        async with asyncio.timeout(60):
            got = await connection.reader.readexactly(len(data))
        assert got == data
        await writing
        # Those that waited behind it get their turn now.
        for _ in others:
            await server.accept()


# Protocols that fail.


class Failing(Collector):
    """Raises in one of its methods, from the second call of it on if ``calls`` says so."""

    def __init__(self, method: str, calls: int = 1) -> None:
        super().__init__()
        wrapped: Callable[..., object] = getattr(self, method)

        def fail(*args: object) -> None:
            nonlocal calls
            wrapped(*args)
            calls -= 1
            if calls <= 0:
                raise RuntimeError("a protocol's own mistake")

        setattr(self, method, fail)


def expect_reports() -> list[BaseException]:
    """What the loop's exception handler gets from now on, for tests that want it to be told."""
    told: list[BaseException] = []

    def note(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        exception = context.get("exception")
        assert isinstance(exception, BaseException), context
        told.append(exception)

    asyncio.get_running_loop().set_exception_handler(note)
    return told


async def check_alive(far: FarEnd, session: Session) -> None:
    """The session goes on, on the WebSocket that it had."""
    assert session.ended is None
    await echoed(session, 10_000)
    assert far.access.resumed == 0
    assert len(far.access.websockets) == 1


@pytest.mark.parametrize("method", ["data_received", "connection_lost"])
async def test_a_protocol_that_fails_ends_its_own_stream_only(
    far: FarEnd, echo: int, method: str
) -> None:
    reports = expect_reports()
    async with far.opened(echo) as session:
        good, told = open_stream(session)
        bad = Failing(method)
        transport = session.create_stream(bad)
        transport.write(b"x")
        await bad.until(lambda: bad.data)
        if method == "connection_lost":
            transport.close()
        await bad.until_lost()
        await eventually(lambda: reports)
        assert [str(report) for report in reports] == ["a protocol's own mistake"]
        good.write(b"y")
        await told.until(lambda: told.data == b"y")
        await check_alive(far, session)


async def test_a_protocol_that_fails_after_a_pause(far: FarEnd, echo: int) -> None:
    """What it did not take is gone, so its stream must not go on as if nothing were."""
    reports = expect_reports()
    async with far.opened(echo) as session:
        bad = Failing("data_received")
        transport = session.create_stream(bad)
        transport.pause_reading()
        transport.write(b"x")
        await eventually(lambda: transport.unread_size)
        transport.resume_reading()
        await bad.until_lost()
        assert [str(report) for report in reports] == ["a protocol's own mistake"]
        assert transport.is_closing()
        await check_alive(far, session)


async def test_a_failing_connection_made_of_a_stream_that_had_to_wait(
    far: FarEnd, echo: int
) -> None:
    """It is called when the session has resumed, in nobody's call."""
    reports = expect_reports()
    async with far.opened(echo) as session:
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        bad = Failing("connection_made")
        session.create_stream(bad)
        good, told = open_stream(session)
        far.access.may_resume.set()
        await told.until(lambda: told.log == ["made"])
        good.write(b"y")
        await told.until(lambda: told.data == b"y")
        await bad.until_lost()
        assert [str(report) for report in reports] == ["a protocol's own mistake"]
        assert far.access.resumed == 1


async def test_a_failing_resume_writing(far: FarEnd, echo: int) -> None:
    reports = expect_reports()
    async with far.opened(echo) as session:
        bad = Failing("resume_writing")
        transport = session.create_stream(bad)
        while "pause" not in bad.log:
            transport.write(bytes(60_000))
        await bad.until(lambda: "resume" in bad.log)
        await eventually(lambda: reports)
        assert [str(report) for report in reports] == ["a protocol's own mistake"]
        await check_alive(far, session)


async def test_all_protocols_hear_of_the_end_though_one_fails(far: FarEnd, echo: int) -> None:
    reports = expect_reports()
    async with far.opened(echo) as session:
        first, (_, second) = Failing("connection_lost"), open_stream(session)
        session.create_stream(first)
        _, third = open_stream(session)
        far.loopback.end_sessions()
        for collector in (first, second, third):
            assert isinstance(await collector.until_lost(), SessionClosed)
        assert [str(report) for report in reports] == ["a protocol's own mistake"]
        assert isinstance(session.ended, SessionClosed)


async def test_a_stream_may_be_made_within_a_callback(far: FarEnd, server: Server) -> None:
    """One learns there that it is needed, and nothing else may happen on the session later."""

    class Dialling(Collector):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            session.create_stream(second)

    second = Collector()
    async with far.opened(server.port) as session:
        session.create_stream(Dialling())
        connection = await server.accept()
        await eventually(lambda: session.idle and session._driver.channel.get_timer() is None)
        await connection.send(b"go")
        async with asyncio.timeout(2):
            await second.until(lambda: second.log == ["made"])
            await server.accept()


async def test_a_protocol_may_close_another_stream_when_the_session_ends(
    far: FarEnd, echo: int
) -> None:
    async with far.opened(echo) as session:
        others = [open_stream(session) for _ in range(3)]

        class Closing(Collector):
            def connection_lost(self, exc: Exception | None) -> None:
                super().connection_lost(exc)
                for transport, _ in others:
                    transport.close()

        closing = Closing()
        session.create_stream(closing)
        others += [open_stream(session) for _ in range(3)]
        far.loopback.end_sessions()
        for collector in (closing, *(told for _, told in others)):
            await collector.until_lost()


async def test_streams_that_wait_may_be_closed_when_the_session_ends(
    far: FarEnd, echo: int
) -> None:
    session = await far.session(echo)
    await session.open()
    far.access.may_resume.clear()
    far.loopback.cut_clients()
    await eventually(lambda: far.access.resumed)
    waiting = [open_stream(session) for _ in range(3)]

    class Closing(Collector):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for transport, _ in waiting:
                transport.close()

    first = Closing()
    session.create_stream(first)
    waiting += [open_stream(session) for _ in range(3)]
    await session.close()
    for collector in (first, *(told for _, told in waiting)):
        await collector.until_lost()
        assert collector.log == ["lost"]


# Resuming.


def reached(progress: Callable[[], int], mark: int) -> bool:
    return progress() >= mark


async def cut_while(
    far: FarEnd, moving: Awaitable[object], progress: Callable[[], int], at: list[int]
) -> None:
    """Cut the WebSocket whenever ``progress`` has come so far."""
    task = asyncio.ensure_future(moving)
    for mark in at:
        await eventually(partial(reached, progress, mark))
        await eventually(lambda: far.loopback.clients)
        cuts = far.access.resumed
        far.loopback.cut_clients()
        await eventually(partial(reached, lambda: far.access.resumed, cuts + 1))
    async with asyncio.timeout(60):
        await task


async def test_an_upload_survives_cuts(either: FarEnd, server: Server) -> None:
    async with either.opened(server.port) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        data, got = random.randbytes(6 * MIB), bytearray()

        async def read() -> None:
            while len(got) < len(data):
                got.extend(await connection.reader.read(65536))

        writing = asyncio.ensure_future(write_all(transport, collector, data))
        await cut_while(either, read(), lambda: len(got), [1 * MIB, 2 * MIB, 4 * MIB])
        assert got == data
        await writing
        assert either.access.resumed == 3
        assert len(either.access.websockets) == 4
        assert collector.log[0] == "made"
        assert "lost" not in collector.log


async def test_a_download_survives_cuts(server: Server) -> None:
    """With the ideal agent: the real one repairs ten messages a second."""
    async with far_end(ideal=True) as far, far.opened(server.port) as session:
        _, collector = open_stream(session)
        connection = await server.accept()
        data = random.randbytes(6 * MIB)
        sending = asyncio.ensure_future(connection.send(data))
        whole = collector.until_size(len(data))
        await cut_while(far, whole, lambda: len(collector.data), [1 * MIB, 2 * MIB, 4 * MIB])
        assert collector.data == data
        await sending
        assert far.access.resumed == 3


async def test_a_small_download_survives_a_cut(far: FarEnd, server: Server) -> None:
    """With the real agent's habits."""
    async with far.opened(server.port) as session:
        _, collector = open_stream(session)
        connection = await server.accept()
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        data = random.randbytes(5_000)
        await connection.send(data)
        far.access.may_resume.set()
        await collector.until_size(len(data))
        assert collector.data == data


async def test_what_is_written_while_the_websocket_is_away(far: FarEnd, server: Server) -> None:
    async with far.opened(server.port) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        data = random.randbytes(200_000)
        transport.write(data)
        assert collector.log == ["made", "pause"]
        assert not session.idle
        far.access.may_resume.set()
        assert await connection.read(len(data)) == data
        await collector.until(lambda: collector.log[-1] == "resume")


async def test_an_orderly_close_of_the_websocket_is_resumed(far: FarEnd, echo: int) -> None:
    """As the service does once an hour."""
    async with far.opened(echo) as session:
        transport, collector = open_stream(session)
        for number in range(1, 4):
            far.loopback.close_clients(1000, "Bye")
            await eventually(partial(reached, lambda: far.access.resumed, number))
            transport.write(b"x")
            await collector.until_size(number)
        assert session.ended is None
        assert far.access.resumed == 3


async def test_a_reader_that_is_slow_throughout_a_resume(
    monkeypatch: pytest.MonkeyPatch, far: FarEnd, server: Server
) -> None:
    """The new WebSocket is not read either, until the reader goes on."""
    monkeypatch.setattr(ssmnet.session, "TERMINATE_TIMEOUT", 0.3)
    async with far.opened(server.port) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        transport.pause_reading()
        sending = asyncio.ensure_future(connection.send(random.randbytes(READ_LIMIT + 2 * MIB)))
        await eventually(lambda: websocket_of(session).reading_paused)
        # A paused WebSocket does not hear of its end: this one is lost on our side.
        websocket_of(session)._fail("lost by the test")
        await eventually(lambda: session._driver.websocket is not None)
        assert websocket_of(session).reading_paused
        transport.abort()
        assert not websocket_of(session).reading_paused
        await collector.until_lost()
        sending.cancel()
        await asyncio.wait((sending,))


async def test_a_session_that_is_over_is_not_resumed(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        _, collector = open_stream(session)
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        far.loopback.end_sessions()
        far.access.may_resume.set()
        error = await session.wait_ended()
        assert isinstance(error, SessionClosed)
        assert "does not resume" in str(error)
        assert await collector.until_lost() is error
    assert far.access.terminated == 0


async def test_resuming_is_tried_until_it_works(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        far.loopback.fail_next("InternalServerError", times=2)
        far.loopback.cut_clients()
        await echoed(session, 1000)


async def test_resuming_has_a_deadline_where_one_is_set(far: FarEnd, echo: int) -> None:
    session = await far.session(echo, resume_timeout=0.2)
    await session.open()
    _, collector = open_stream(session)
    far.loopback.fail_next("AccessDeniedException", times=100)
    far.loopback.cut_clients()
    error = await session.wait_ended()
    assert isinstance(error, SessionClosed)
    assert error.resumable
    assert await collector.until_lost() is error
    far.loopback._gateway.api._failures.clear()
    await session.close()
    assert far.loopback.sessions == 0


# Ends.


async def test_the_far_end_terminates_the_session(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        _, collector = open_stream(session)
        await far.terminate(session)
        error = await session.wait_ended()
        assert isinstance(error, SessionClosed)
        assert await collector.until_lost() is error
        assert session.ended is error
    assert far.access.terminated == 0, "it was over already"


async def test_close_asks_the_agent_and_no_one_else(far: FarEnd, echo: int) -> None:
    session = await far.session(echo)
    await session.open()
    _, collector = open_stream(session)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await session.close()
    assert loop.time() - started < 1
    assert far.access.terminated == 0
    assert far.loopback.sessions == 0
    assert far.loopback.sessions_terminated == 1
    assert isinstance(await collector.until_lost(), SessionClosed)
    await session.close()
    assert far.access.terminated == 0


async def test_close_of_an_agent_too_old_for_the_flag(echo: int) -> None:
    async with far_end(agent_version=NO_TERMINATE_FLAG) as far:
        session = await far.session(echo)
        await session.open()
        await session.close()
        assert far.access.terminated == 1
        assert far.loopback.sessions == 0


async def test_close_sends_first_what_was_written(far: FarEnd, server: Server) -> None:
    session = await far.session(server.port)
    await session.open()
    transport, _ = open_stream(session)
    data = random.randbytes(1_000_000)
    transport.write(data)
    closing = asyncio.ensure_future(session.close())
    connection = await server.accept()
    assert await connection.read(len(data)) == data
    await closing


async def test_close_leaves_nothing(far: FarEnd, echo: int) -> None:
    before = asyncio.all_tasks()
    session = await far.session(echo)
    await session.open()
    await echoed(session, 100_000)
    await session.close()
    assert not {task for task in asyncio.all_tasks() - before if not serves(task)}
    assert all(websocket._closed.done() for websocket in far.access.websockets)
    await eventually(lambda: far.loopback.clients == far.loopback.connections == 0)


async def test_close_leaves_nothing_of_a_session_that_ended_before(far: FarEnd, echo: int) -> None:
    before = asyncio.all_tasks()
    session = await far.session(echo)
    await session.open()
    far.loopback.cut_clients()
    await echoed(session, 1000)
    far.loopback.end_sessions()
    await session.wait_ended()
    await session.close()
    assert not {task for task in asyncio.all_tasks() - before if not serves(task)}
    assert all(websocket._closed.done() for websocket in far.access.websockets)


async def test_close_during_a_resume(far: FarEnd, echo: int) -> None:
    session = await far.session(echo)
    await session.open()
    before = asyncio.all_tasks()
    far.access.may_resume.clear()
    far.loopback.cut_clients()
    await eventually(lambda: far.access.resumed)
    await session.close()
    assert far.access.terminated == 1
    assert far.loopback.sessions == 0
    await asyncio.sleep(0)
    assert not {task for task in asyncio.all_tasks() - before if not serves(task)}


async def test_close_of_a_session_whose_agent_is_stuck(
    monkeypatch: pytest.MonkeyPatch, far: FarEnd, server: Server
) -> None:
    """Its input is blocked by a destination that does not read, the flag with it."""
    monkeypatch.setattr(ssmnet.session, "TERMINATE_TIMEOUT", 0.3)
    session = await far.session(server.port)
    await session.open()
    transport, collector = open_stream(session)
    writing = asyncio.ensure_future(write_all(transport, collector, bytes(40 * MIB)))
    await asyncio.sleep(0.5)
    loop = asyncio.get_running_loop()
    started = loop.time()
    await session.close(drain=0.3)
    assert loop.time() - started < 5
    assert far.access.terminated == 1
    assert far.loopback.sessions == 0
    writing.cancel()
    await asyncio.wait((writing,))


async def test_close_with_an_unreachable_gateway(
    monkeypatch: pytest.MonkeyPatch, echo: int
) -> None:
    """Both the WebSocket and the API have gone: close still ends, in bounded time."""
    monkeypatch.setattr(ssmnet.session, "TERMINATE_CALL_TIMEOUT", 1.0)
    async with far_end() as far:
        session = await far.session(echo)
        await session.open()
        await far.loopback._gateway.close()
        # Ended by that, in good order. Another one has no such luck:
        other = Session(far.access, session._grant)
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(ConnectError):
            await other.open()
        await other.close()
        await session.close()
        assert loop.time() - started < 5


@pytest.mark.parametrize("moment", [0, 1, 3, 6, 10])
async def test_close_while_it_opens(far: FarEnd, echo: int, moment: int) -> None:
    session = await far.session(echo)
    opening = asyncio.ensure_future(session.open())
    for _ in range(moment):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await session.close()
        await asyncio.wait((opening,))
    # Whichever was first, nothing is left.
    assert opening.exception() is None or isinstance(opening.exception(), Error)
    assert all(websocket._closed.done() for websocket in far.access.websockets)
    assert far.loopback.sessions == 0


async def test_a_session_of_a_presigned_url_is_not_resumed(echo: int) -> None:
    """Whoever signed it keeps the credentials."""
    async with far_end(allow_unsigned=True) as far:
        grant = await far.grant(echo)
        url = f"{grant.stream_url}&X-Amz-Date=0"
        session = Session(far.access, StartedSession(grant.session_id, grant.token_value, url))
        await session.open()
        far.loopback.cut_clients()
        async with asyncio.timeout(5):
            error = await session.wait_ended()
        assert "presigned" in str(error)
        await session.close()


async def test_a_websocket_that_comes_after_close(far: FarEnd, echo: int) -> None:
    """It was being opened, by a gateway that knows nothing of the end."""
    async with raw_gateway() as gateway:
        grant = await far.grant(echo)
        moved = StartedSession(grant.session_id, grant.token_value, gateway.url)
        session = Session(far.access, moved)
        opening = asyncio.ensure_future(session.open())
        await eventually(lambda: gateway.connections.qsize())
        await session.close()
        peer = await gateway.accept()
        async with asyncio.timeout(5):
            await asyncio.wait((opening,))
            assert isinstance(opening.exception(), Error)
            await peer.rest()  # nothing but its end


async def test_two_closes_at_once(far: FarEnd, echo: int) -> None:
    session = await far.session(echo)
    await session.open()
    async with asyncio.timeout(5):
        await asyncio.gather(session.close(), session.close())
    assert far.loopback.sessions == 0


async def test_wait_ended_can_be_cancelled(far: FarEnd, echo: int) -> None:
    async with far.opened(echo) as session:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await session.wait_ended()
        assert session.ended is None
        await echoed(session, 1000)


# A far end by hand, for what a kind one does not do.


async def test_the_words_of_a_resume() -> None:
    """The same client, a new request and token; what was not acknowledged comes again."""
    async with by_hand() as (session, agent):
        transport, _ = open_stream(session)
        transport.write(b"question")
        while agent.frames.data(3) != b"question":
            await agent.next(acknowledge=False)
        unacknowledged = [message for message in agent.received if message.number > 0]
        agent.access.resumable = True
        agent.peer.reset()
        await agent.take()
        first, second = agent.first
        assert first["TokenValue"] == "token 0"
        assert second["TokenValue"] == "token 1"
        assert first["ClientId"] == second["ClientId"]
        assert first["RequestId"] != second["RequestId"]
        assert first["MessageSchemaVersion"] == second["MessageSchemaVersion"] == "1.0"
        for message in unacknowledged:
            again = await agent.next()
            assert again is not None
            assert (again.number, again.payload) == (message.number, message.payload)
            assert again.id == message.id
        agent.peer.send(agent.push(b"answer"))
        await open_streams_of(session)[0].until_size(6)


def open_streams_of(session: Session) -> list[Collector]:
    found = [transport.get_protocol() for transport in session._driver._transports.values()]
    return [protocol for protocol in found if isinstance(protocol, Collector)]


async def test_a_gateway_that_falls_silent_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A WebSocket may stall without an end: only a deadline notices."""
    async with by_hand() as (session, agent):
        monkeypatch.setattr("ssmnet.driver.Liveness", partial(Liveness, interval=0.05))
        agent.access.resumable = True
        agent.peer.reset()
        await agent.take()  # from here on with the short interval
        silent = agent.peer
        transport, collector = open_stream(session)
        transport.write(b"question")
        await agent.take()  # because nothing more came
        assert agent.peer is not silent
        while agent.frames.data(3) != b"question":
            await agent.next()
        agent.peer.send(agent.push(b"answer"))
        await collector.until_size(6)
        assert agent.access.resumed == 2


async def test_a_gateway_that_reads_nothing_is_left_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our acknowledgements pile up, so we do not read either: nothing more would ever happen."""
    async with by_hand() as (session, agent):
        monkeypatch.setattr("ssmnet.driver.Liveness", partial(Liveness, interval=0.1))
        monkeypatch.setattr("ssmnet.driver.WRITE_LIMIT", 100_000)
        agent.access.resumable = True
        agent.peer.reset()
        await agent.take()  # from here on with the short interval
        deaf = agent.peer
        for _ in range(100):
            deaf.send(*(agent.push(b"x") for _ in range(200)))
            await asyncio.sleep(0)
        await eventually(lambda: not session._driver._reading.is_open)
        await agent.take()
        assert agent.peer is not deaf
        assert agent.access.resumed == 2


async def test_a_session_is_not_closed_before_its_last_bytes_have_arrived(far: FarEnd) -> None:
    """The agent has acknowledged them long before: it holds megabytes for a slow destination."""
    data = random.randbytes(5 * MIB)
    async with serving() as server:
        session = await far.session(server.port)
        await session.open()
        transport, collector = open_stream(session)
        connection = await server.accept()
        transport.write(data)
        await eventually(lambda: session.idle)
        transport.close()
        assert await collector.until_lost() is None
        closing = asyncio.ensure_future(session.close())
        await asyncio.sleep(0.3)
        assert await connection.rest() == data
        await closing
        assert far.loopback.sessions == 0


async def test_what_was_written_in_an_outage_arrives_before_the_session_is_closed(
    far: FarEnd, server: Server
) -> None:
    session = await far.session(server.port)
    await session.open()
    transport, _ = open_stream(session)
    connection = await server.accept()
    far.access.may_resume.clear()
    far.loopback.cut_clients()
    await eventually(lambda: far.access.resumed)
    transport.write(b"the last words")
    transport.close()
    closing = asyncio.ensure_future(session.close())
    await asyncio.sleep(0.1)
    far.access.may_resume.set()
    assert await connection.rest() == b"the last words"
    await closing
    assert far.loopback.sessions == 0


async def test_data_and_the_end_of_the_session_in_one_read() -> None:
    async with by_hand() as (session, agent):
        _, collector = open_stream(session)
        _, refused = open_stream(session)
        while (wire.SYN, 5, b"") not in agent.frames.frames:
            await agent.next()
        fin = agent.output(wire.frame(wire.FIN, 5))
        agent.peer.send(agent.push(b"last "), agent.push(b"words"), fin, agent.channel_closed("x"))
        error = await collector.until_lost()
        assert collector.data == b"last words"
        assert str(error) == "the session was closed: x"
        # Its own end came before the session's.
        assert await refused.until_lost() is None
        await session.close()
        assert agent.access.terminated == 0


async def test_the_end_of_the_session_before_all_has_come() -> None:
    async with by_hand() as (session, agent):
        _, collector = open_stream(session)
        while (wire.SYN, 3, b"") not in agent.frames.frames:
            await agent.next()
        first, _, last = (agent.push(data) for data in (b"first", b"lost", b"last"))
        agent.peer.send(first, last, agent.channel_closed())
        error = await collector.until_lost()
        assert collector.data == b"first"
        assert str(error) == INCOMPLETE


async def test_a_paused_reader_gets_what_came_before_the_end() -> None:
    """There is no later: the session is gone, and with it whom to ask for more."""
    async with by_hand() as (session, agent):
        transport, collector = open_stream(session)
        while (wire.SYN, 3, b"") not in agent.frames.frames:
            await agent.next()
        transport.pause_reading()
        agent.peer.send(agent.push(b"last words"))
        await eventually(lambda: transport.unread_size == 10)
        agent.peer.send(agent.channel_closed())
        assert isinstance(await collector.until_lost(), SessionClosed)
        assert collector.data == b"last words"


async def test_what_is_no_smux_ends_the_session() -> None:
    async with by_hand() as (session, agent):
        _, collector = open_stream(session)
        while (wire.SYN, 3, b"") not in agent.frames.frames:
            await agent.next()
        agent.peer.send(agent.output(b"\x02" * 8))
        error = await collector.until_lost()
        assert isinstance(error, RemoteProtocolError)
        assert session.ended is error
        await session.close()
        assert agent.access.terminated == 1, "AWS does not know that it is over"


async def test_messages_that_make_no_sense_are_survived() -> None:
    async with by_hand() as (session, agent):
        transport, collector = open_stream(session)
        agent.peer.send(
            frame(b""),
            frame(b"short"),
            frame(bytes(120)),
            frame(wire.encode("no_such_type", b"")),
            frame(b"a text", TEXT),
            frame(wire.encode(wire.ACKNOWLEDGE, b"no json", flags=3)),
        )
        transport.write(b"question")
        while agent.frames.data(3) != b"question":
            await agent.next()
        agent.peer.send(agent.push(b"answer"))
        await collector.until_size(6)
        assert session.ended is None


async def test_acknowledgements_that_are_not_read_stop_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What we have to say piles up: take in no more that has to be acknowledged."""
    monkeypatch.setattr(ssmnet.driver, "WRITE_LIMIT", 200_000)
    async with by_hand(receive_buffer=4096) as (session, agent):
        _, collector = open_stream(session)
        while (wire.SYN, 3, b"") not in agent.frames.frames:
            await agent.next()
        websocket, sent = websocket_of(session), 0
        while not websocket.reading_paused:
            agent.peer.send(*(agent.push(b"%1000d" % (sent + index)) for index in range(50)))
            sent += 50
            await asyncio.sleep(0)
        assert 200_000 < websocket.write_buffer_size < 200_000 + 64 * 1024 * 2
        read = len(collector.data)
        agent.peer.send(agent.push(b"%1000d" % sent))
        await asyncio.sleep(0.05)
        assert len(collector.data) == read < (sent + 1) * 1000
        while len(agent.acknowledged) < agent.number:
            await agent.next()
        assert agent.acknowledged == list(range(agent.number))
        assert not websocket.reading_paused
        await collector.until_size((sent + 1) * 1000)
        assert collector.data == b"".join(b"%1000d" % index for index in range(sent + 1))


async def test_a_gateway_that_does_not_read_gets_no_more_than_it_takes() -> None:
    """The window says how much may be unacknowledged, and the socket how much may be unsent."""
    async with by_hand(receive_buffer=4096) as (session, agent):
        transport, collector = open_stream(session)
        data = random.randbytes(8 * MIB)
        writing = asyncio.ensure_future(write_all(transport, collector, data))
        websocket = websocket_of(session)
        known, largest, unchanged = agent.expected, 0, 0
        while unchanged < 50:
            # Acknowledge what has not been read: the window stays open.
            sent = session._driver.channel.sent
            unchanged = 0 if sent > known else unchanged + 1
            agent.peer.send(*map(agent.acknowledge, range(known, sent)))
            known = sent
            await asyncio.sleep(0.002)
            largest = max(largest, websocket.write_buffer_size)
        assert not writing.done()
        # The transport's mark, and what one burst may add.
        assert 64 * 1024 < largest < 64 * 1024 + 100_000
        writing.add_done_callback(lambda _: transport.close())
        while agent.frames.frames[-1:] != [(wire.FIN, 3, b"")]:
            await agent.next()
        await writing
        assert agent.frames.data(3) == data


# Counts.


async def test_no_task_is_made_for_a_message(far: FarEnd, server: Server) -> None:
    made = []

    def factory(loop: asyncio.AbstractEventLoop, coro: object, **more: object) -> object:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **more)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    async with far.opened(server.port) as session:
        transport, collector = open_stream(session)
        connection = await server.accept()
        await connection.send(b"x")
        await collector.until(lambda: collector.data)
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        data = random.randbytes(1_000_000)
        await write_all(transport, collector, data)
        assert await connection.reader.readexactly(len(data)) == data
        loop.set_task_factory(None)
        assert made == []
