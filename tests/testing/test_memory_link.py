"""The line in memory: bytes, virtual times, and what a break looks like at both ends."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from ssmnet.testing import Deadlock, MemoryLink, VirtualLoop, run

KIB = 1024
DATA = bytes(range(256)) * 4 * KIB
MEGABYTE = len(DATA)


def now() -> float:
    return asyncio.get_running_loop().time()


class Recorder(asyncio.Protocol):
    def __init__(self) -> None:
        self.told: list[object] = []
        self.got = b""
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        self.got += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """In virtual time, and no timer may be left."""

    async def main() -> None:
        await test()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        await asyncio.sleep(0)
        assert loop.timers() == []

    def check() -> None:
        run(main())

    return check


@virtual
async def test_bytes_arrive_after_the_delay() -> None:
    client, server = MemoryLink(delay=0.25).connect(Recorder, Recorder)
    client.transport.write(b"ping")
    await asyncio.sleep(0.249)
    assert server.got == b""
    await asyncio.sleep(0.002)
    assert server.got == b"ping"
    server.transport.write(b"pong")
    await asyncio.sleep(0.26)
    assert client.got == b"pong"


@virtual
async def test_a_rate_is_kept_and_small_writes_do_not_wait_for_large_ones() -> None:
    (_, client), (server, writer) = MemoryLink(delay=1.0, rate=MEGABYTE / 100).open_streams()
    client.write(DATA)
    assert await server.readexactly(MEGABYTE) == DATA
    assert now() == pytest.approx(101.0)
    for one in (client, writer):
        one.close()
        await one.wait_closed()


@virtual
async def test_jitter_leaves_the_order() -> None:
    client, server = MemoryLink(delay=0.1, jitter=5.0, seed=3).connect(Recorder, Recorder)
    for n in range(100):
        client.transport.write(bytes([n]))
    await asyncio.sleep(2.0)
    assert 0 < len(server.got) < 100
    await asyncio.sleep(4.0)
    assert server.got == bytes(range(100))


@virtual
async def test_a_full_line_pauses_its_writer() -> None:
    link = MemoryLink(delay=0.5, rate=1000.0, capacity=10_000)
    client, server = link.connect(Recorder, Recorder)
    client.transport.write(bytes(10_000))
    assert client.told == ["made"]
    client.transport.write(bytes(10_000))
    assert client.told == ["made", "pause"]
    assert client.transport.get_write_buffer_size() == 20_000
    await asyncio.sleep(14.0)
    assert client.told == ["made", "pause"]
    await asyncio.sleep(5.0)
    assert client.told == ["made", "pause", "resume"]
    await asyncio.sleep(5.0)
    assert len(server.got) == 20_000


@virtual
async def test_who_does_not_read_stops_who_writes() -> None:
    (reader, writer), (far_reader, far_writer) = MemoryLink(capacity=64 * KIB).open_streams()
    writing = asyncio.create_task(write_all(writer))
    await asyncio.sleep(100.0)
    assert not writing.done()
    assert await far_reader.read() == DATA
    await writing
    far_writer.write(b"done")
    far_writer.close()
    assert await reader.read() == b"done"
    for one in (writer, far_writer):
        one.close()
        await one.wait_closed()


async def write_all(writer: asyncio.StreamWriter) -> None:
    for start in range(0, MEGABYTE, 16 * KIB):
        writer.write(DATA[start : start + 16 * KIB])
        await writer.drain()
    writer.write_eof()


@virtual
async def test_a_paused_end_gets_bytes_and_their_end_later() -> None:
    client, server = MemoryLink().connect(Recorder, Recorder)
    server.transport.pause_reading()
    client.transport.write(b"one")
    client.transport.write_eof()
    await asyncio.sleep(1.0)
    assert (server.got, server.told) == (b"", ["made"])
    server.transport.resume_reading()
    await asyncio.sleep(1.0)
    assert (server.got, server.told) == (b"one", ["made", "eof"])
    with pytest.raises(RuntimeError):
        client.transport.write(b"two")
    server.transport.write(b"the other direction is open")
    await asyncio.sleep(1.0)
    assert client.got == b"the other direction is open"


@virtual
async def test_an_end_that_arrives_while_the_bytes_pause_reading() -> None:
    class OneRead(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    client, server = MemoryLink().connect(Recorder, OneRead)
    client.transport.write(b"one")
    client.transport.write_eof()
    await asyncio.sleep(1.0)
    assert (server.got, server.told) == (b"one", ["made"])
    server.transport.resume_reading()
    await asyncio.sleep(1.0)
    assert server.told == ["made", "eof"]


@virtual
async def test_close_delivers_what_was_written() -> None:
    client, server = MemoryLink(delay=1.0, rate=MEGABYTE / 10).connect(Recorder, Recorder)
    client.transport.write(DATA)
    client.transport.close()
    assert client.transport.is_closing()
    assert await client.lost is None
    await asyncio.sleep(12.0)
    assert server.got == DATA
    assert server.told == ["made", "eof"]
    server.transport.close()
    assert await server.lost is None


@virtual
async def test_abort_resets_the_other_end() -> None:
    client, server = MemoryLink(delay=1.0).connect(Recorder, Recorder)
    client.transport.write(b"never arrives")
    client.transport.abort()
    assert await client.lost is None
    assert isinstance(await server.lost, ConnectionResetError)
    assert server.got == b""
    assert now() == pytest.approx(1.0)


@virtual
async def test_bytes_for_an_end_that_is_closed_reset_the_writer() -> None:
    client, server = MemoryLink(delay=1.0).connect(Recorder, Recorder)
    client.transport.close()
    server.transport.write(b"too late")
    assert isinstance(await server.lost, ConnectionResetError)


@virtual
async def test_a_cut_resets_both_ends() -> None:
    link = MemoryLink(delay=1.0)
    client, server = link.connect(Recorder, Recorder)
    client.transport.write(b"lost")
    link.cut()
    for end in (client, server):
        assert isinstance(await end.lost, ConnectionResetError)
    assert server.got == b""
    _, again = link.connect(Recorder, Recorder)
    assert again.told == ["made"]


@virtual
async def test_a_stall_holds_one_direction_and_closes_nothing() -> None:
    link = MemoryLink(delay=0.1)
    client, server = link.connect(Recorder, Recorder)
    link.stall(to_client=False)
    client.transport.write(b"held")
    server.transport.write(b"passes")
    _, later = pair = link.connect(Recorder, Recorder)
    pair[0].transport.write(b"held, too")
    await asyncio.sleep(3600.0)
    assert (client.got, server.got, later.got) == (b"passes", b"", b"")
    link.go_on()
    await asyncio.sleep(0.1)
    assert (server.got, later.got) == (b"held", b"held, too")


def test_whoever_waits_for_a_stalled_line_waits_for_ever() -> None:
    async def main() -> None:
        link = MemoryLink()
        link.stall()
        client, server = link.connect(Recorder, Recorder)
        client.transport.close()  # which the other end never hears of
        await server.lost

    with pytest.raises(Deadlock):
        run(main())


async def test_a_real_loop_does_as_well() -> None:
    (reader, writer), (far_reader, far_writer) = MemoryLink().open_streams()
    done: Awaitable[None] = asyncio.create_task(write_all(writer))
    assert await far_reader.read() == DATA
    await done
    for one in (writer, far_writer):
        one.close()
        await one.wait_closed()
    assert await reader.read() == b""
