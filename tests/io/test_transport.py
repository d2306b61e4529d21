"""StreamTransport keeps the contract of asyncio's transports, on a real session."""

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from ssmnet.driver import READ_LIMIT
from ssmnet.errors import DestinationRefused, LocalProtocolError, SessionClosed
from ssmnet.session import Session
from ssmnet.transport import HIGH_WATER, StreamTransport
from tests.io.sessions import (
    Collector,
    FarEnd,
    Server,
    closed_port,
    eventually,
    far_end,
    open_stream,
    serving,
    websocket_of,
)

pytestmark = pytest.mark.usefixtures("clean")

PIECE = 16_384


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with far_end() as far:
        yield far


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
async def session(far: FarEnd, server: Server) -> AsyncIterator[Session]:
    async with far.opened(server.port) as session:
        yield session


# Writing.


async def test_whatever_buffer_is_written(session: Session, server: Server) -> None:
    transport, _ = open_stream(session)
    changing = bytearray(b"bytearray ")
    transport.write(b"bytes ")
    transport.write(changing)
    changing[:] = b"overwritten"
    transport.write(memoryview(b"memoryview "))
    transport.write(memoryview(b"s-t-r-i-d-e-d-")[::2])
    transport.write(b"")
    transport.write(memoryview(b""))
    transport.writelines([b" of", bytearray(b" many"), memoryview(b" lines")])
    expected = b"bytes bytearray memoryview strided of many lines"
    assert await (await server.accept()).read(len(expected)) == expected


@pytest.mark.parametrize("data", ["text", 5, [1, 2]])
async def test_what_is_no_buffer_is_refused(session: Session, data: object) -> None:
    transport, _ = open_stream(session)
    with pytest.raises(TypeError):
        transport.write(data)  # type: ignore[arg-type]
    assert transport.get_write_buffer_size() == 0


async def test_random_writes_arrive_in_order(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    blob = random.randbytes(1_000_000)
    position = 0
    connection = await server.accept()
    reading = asyncio.ensure_future(connection.read(len(blob)))
    while position < len(blob):
        size = random.choice([1, 7, 1000, 1016, 1017, 30_000])
        transport.write(blob[position : position + size])
        position += size
        if collector.log[-1] == "pause":
            await collector.until(lambda: collector.log[-1] == "resume")
    assert await reading == blob


async def test_before_it_is_open(far: FarEnd, server: Server) -> None:
    """During a resume there is no connection; the stream waits for the next."""
    async with far.opened(server.port) as session:
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        transport, collector = open_stream(session)
        assert collector.log == []
        with pytest.raises(LocalProtocolError):
            transport.write(b"too early")
        assert transport.get_write_buffer_size() == 0
        assert not transport.is_closing()
        dropped, told = open_stream(session)
        dropped.close()
        assert dropped.is_closing()
        await told.until_lost()
        assert told.log == ["lost"]
        far.access.may_resume.set()
        await collector.until(lambda: collector.log == ["made"])
        transport.write(b"now")
        assert await (await server.accept()).read(3) == b"now"
        assert server.accepted == 1


# Write buffer limits.


async def test_write_buffer_limits(session: Session) -> None:
    transport, _ = open_stream(session)
    assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
    transport.set_write_buffer_limits(high=100)
    assert transport.get_write_buffer_limits() == (25, 100)
    transport.set_write_buffer_limits(low=100)
    assert transport.get_write_buffer_limits() == (100, 400)
    transport.set_write_buffer_limits(high=100, low=0)
    assert transport.get_write_buffer_limits() == (0, 100)
    transport.set_write_buffer_limits()
    assert transport.get_write_buffer_limits() == (HIGH_WATER // 4, HIGH_WATER)
    for high, low in ((10, 11), (10, -1)):
        with pytest.raises(ValueError, match="must be >="):
            transport.set_write_buffer_limits(high=high, low=low)


async def stalled(session: Session) -> tuple[StreamTransport, Collector, bytes]:
    """A stream whose destination reads nothing, written to until it is paused for good."""
    transport, collector = open_stream(session)
    written = bytearray()
    while True:
        written += (piece := random.randbytes(PIECE))
        transport.write(piece)
        await asyncio.sleep(0)
        if collector.log[-1] == "pause":
            try:
                async with asyncio.timeout(0.25):
                    await collector.until(lambda: collector.log[-1] == "resume")
            except TimeoutError:
                collector.log[:] = ["made", "pause"]
                return transport, collector, bytes(written)


async def test_a_destination_that_does_not_read_pauses_its_writer(
    session: Session, server: Server
) -> None:
    transport, collector, written = await stalled(session)
    # The window may have let some of it go since.
    assert HIGH_WATER // 4 < transport.get_write_buffer_size() <= HIGH_WATER + PIECE
    # Paused once: what is written all the same is kept.
    transport.write(b"more")
    assert collector.log.count("pause") == 1
    assert await (await server.accept()).read(len(written) + 4) == written + b"more"
    await collector.until(lambda: collector.log[-1] == "resume")
    assert transport.get_write_buffer_size() <= HIGH_WATER // 4


async def test_limits_of_zero(session: Session, server: Server) -> None:
    transport, collector, written = await stalled(session)
    other, told = open_stream(session)
    other.set_write_buffer_limits(high=0)
    other.write(b"x")
    assert told.log == ["made", "pause"]
    assert other.get_write_buffer_size() == 1
    connection = await server.accept()
    await connection.read(len(written))
    await told.until(lambda: told.log == ["made", "pause", "resume"])
    assert other.get_write_buffer_size() == 0


async def test_lower_limits_pause_at_once(session: Session, server: Server) -> None:
    """As with asyncio's own transports."""
    await stalled(session)
    transport, collector = open_stream(session)
    transport.write(b"x" * 1000)
    assert collector.log == ["made"]
    transport.set_write_buffer_limits(high=1000)
    assert collector.log == ["made"]
    transport.set_write_buffer_limits(high=999)
    assert collector.log == ["made", "pause"]
    server.abort()  # else close would wait for it


# Reading.


async def test_reading_can_be_paused(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    assert transport.is_reading()
    transport.pause_reading()
    transport.pause_reading()
    assert not transport.is_reading()
    await connection.send(b"kept")
    await eventually(lambda: transport.unread_size == 4)
    assert not collector.data
    transport.resume_reading()
    transport.resume_reading()
    assert transport.is_reading()
    # Never from within resume_reading: its caller is not prepared for data.
    assert not collector.data
    await collector.until(lambda: collector.data == b"kept")
    await connection.send(b" and more")
    await collector.until(lambda: collector.data == b"kept and more")


async def test_paused_again_before_the_kept_data_came(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    transport.pause_reading()
    await connection.send(b"kept")
    await eventually(lambda: transport.unread_size == 4)
    transport.resume_reading()
    transport.pause_reading()
    await asyncio.sleep(0.02)
    assert not collector.data
    transport.resume_reading()
    await collector.until(lambda: collector.data == b"kept")


async def test_what_a_paused_reader_has_waiting_is_bounded(
    session: Session, server: Server
) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    transport.pause_reading()
    blob = random.randbytes(6_000_000)
    sending = asyncio.ensure_future(connection.send(blob))
    await eventually(lambda: websocket_of(session).reading_paused)
    kept = transport.unread_size
    await asyncio.sleep(0.1)
    assert READ_LIMIT < transport.unread_size == kept < 2 * READ_LIMIT + 256 * 1024
    transport.resume_reading()
    await collector.until(lambda: len(collector.data) == len(blob))
    assert collector.data == blob
    await sending
    assert not websocket_of(session).reading_paused


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_an_end_lets_the_session_read_again(
    session: Session, server: Server, end: str
) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    transport.pause_reading()
    sending = asyncio.ensure_future(connection.send(random.randbytes(6_000_000)))
    await eventually(lambda: websocket_of(session).reading_paused)
    getattr(transport, end)()
    assert not websocket_of(session).reading_paused
    await collector.until_lost()
    assert not collector.data
    await asyncio.wait((sending,))
    sending.exception()
    # And the session goes on.
    other, told = open_stream(session)
    other.write(b"x")
    second = await server.accept()
    await second.send(await second.read(1))
    await told.until(lambda: told.data == b"x")


async def test_the_end_waits_for_a_paused_reader(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    transport.pause_reading()
    await connection.send(b"last words")
    connection.writer.close()
    await eventually(lambda: transport._stream is not None and transport._stream.closed_by_peer)
    await asyncio.sleep(0.02)
    assert collector.log == ["made"]
    transport.resume_reading()
    assert await collector.until_lost() is None
    assert collector.data == b"last words"


# Ends.


async def test_close_sends_what_was_written(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    blob = random.randbytes(300_000)
    transport.write(blob)
    assert not transport.is_closing()
    transport.close()
    assert transport.is_closing()
    assert not transport.is_reading()
    transport.close()
    assert "lost" not in collector.log, "connection_lost never comes from within close"
    assert await (await server.accept()).rest() == blob
    assert await collector.until_lost() is None


async def test_abort_drops_what_was_written(session: Session, server: Server) -> None:
    transport, collector, written = await stalled(session)
    transport.abort()
    assert transport.is_closing()
    assert transport.get_write_buffer_size() == 0
    transport.abort()
    assert await collector.until_lost() is None
    got = await (await server.accept()).rest()
    assert len(got) < len(written)
    assert written.startswith(got)


async def test_abort_after_close_drops_it_too(session: Session, server: Server) -> None:
    transport, collector, written = await stalled(session)
    transport.close()
    assert transport.get_write_buffer_size() > 0
    transport.abort()
    assert transport.get_write_buffer_size() == 0
    assert await collector.until_lost() is None
    assert len(await (await server.accept()).rest()) < len(written)


async def test_after_its_end_it_takes_nothing(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    transport.write(b"before")
    transport.close()
    transport.write(b"after")
    transport.writelines([b"after"])
    transport.pause_reading()
    transport.resume_reading()
    connection = await server.accept()
    assert await connection.rest() == b"before"
    await collector.until_lost()
    transport.write(b"after")
    transport.close()
    transport.abort()
    await asyncio.sleep(0.02)
    assert collector.log == ["made", "lost"]


async def test_the_destination_closes(session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    connection = await server.accept()
    await connection.send(b"bye")
    connection.writer.close()
    assert await collector.until_lost() is None
    assert collector.data == b"bye"
    assert transport.is_closing()
    transport.write(b"nobody reads that")
    assert transport.get_write_buffer_size() == 0


async def test_the_destination_resets(session: Session, server: Server) -> None:
    _, collector = open_stream(session)
    (await server.accept()).reset()
    await collector.until_lost()


async def test_the_destination_refuses(far: FarEnd) -> None:
    async with far.opened(closed_port()) as session:
        _, collector = open_stream(session)
        assert isinstance(await collector.until_lost(), DestinationRefused)
        assert collector.log == ["made", "lost"]


async def test_the_session_ends(far: FarEnd, session: Session, server: Server) -> None:
    transport, collector = open_stream(session)
    paused, told = open_stream(session)
    paused.pause_reading()
    far.loopback.end_sessions("the administrator says so")
    error = await collector.until_lost()
    assert isinstance(error, SessionClosed)
    assert error.output == "the administrator says so"
    assert await told.until_lost() is error
    for one in (transport, paused):
        assert one.is_closing()
        one.write(b"late")
        one.close()
        one.abort()
        one.pause_reading()
        one.resume_reading()
    await asyncio.sleep(0.02)
    assert collector.log == told.log == ["made", "lost"]


async def test_there_is_no_half_close(session: Session) -> None:
    transport, _ = open_stream(session)
    assert transport.can_write_eof() is False
    with pytest.raises(NotImplementedError):
        transport.write_eof()
    transport.write(b"still open")
    assert not transport.is_closing()


# What it tells of itself.


async def test_extra_info(session: Session, server: Server) -> None:
    transport, _ = open_stream(session)
    assert transport.get_extra_info("session_id") == session.session_id
    assert transport.get_extra_info("socket") is None
    assert transport.get_extra_info("peername", "nobody") == "nobody"
    transport.write(b"x")
    assert transport.get_extra_info("acknowledged") is False
    await (await server.accept()).read(1)
    await eventually(lambda: transport.get_extra_info("acknowledged"))


async def test_the_protocol_can_be_changed(session: Session, server: Server) -> None:
    transport, first = open_stream(session)
    connection = await server.accept()
    assert transport.get_protocol() is first
    await connection.send(b"one")
    await first.until(lambda: first.data == b"one")
    second = Collector()
    transport.set_protocol(second)
    assert transport.get_protocol() is second
    await connection.send(b"two")
    await second.until(lambda: second.data == b"two")
    with pytest.raises(TypeError):
        transport.set_protocol(asyncio.BaseProtocol())
    transport.close()
    await second.until_lost()
    assert first.log == ["made"]


async def test_streams_work_on_a_transport(session: Session, server: Server) -> None:
    """asyncio's own StreamReader and StreamWriter, which know nothing of ssmnet."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1000)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport = session.create_stream(protocol)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    connection = await server.accept()
    blob = random.randbytes(500_000)

    async def write() -> None:
        for start in range(0, len(blob), 10_000):
            writer.write(blob[start : start + 10_000])
            await writer.drain()

    _, got = await asyncio.gather(write(), connection.read(len(blob)))
    assert got == blob
    _, got = await asyncio.gather(connection.send(blob), reader.readexactly(len(blob)))
    assert got == blob
    writer.close()
    await writer.wait_closed()
    assert await connection.rest() == b""
