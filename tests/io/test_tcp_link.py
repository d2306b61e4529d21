"""The bad line for real programs: bytes, times, and what a break looks like at both ends."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from ssmnet.testing.tcp_link import TcpLink

TIMEOUT = 20.0
KIB = 1024
TICK = 0.002  # s: a loop's clock may be rounded to milliseconds


class Destination:
    """A server that keeps the connections it gets, and reads when it is told."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = (
            asyncio.Queue()
        )

    async def accept(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(TIMEOUT):
            return await self.connections.get()


@asynccontextmanager
async def destination() -> AsyncIterator[Destination]:
    it = Destination()
    writers = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        it.connections.put_nowait((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=4 * KIB)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def read(reader: asyncio.StreamReader, size: int = -1) -> bytes:
    async with asyncio.timeout(TIMEOUT):
        return await (reader.read() if size < 0 else reader.readexactly(size))


async def resets(reader: asyncio.StreamReader) -> bool:
    try:
        await read(reader)
    except ConnectionResetError:
        return True
    return False


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_bytes_pass_both_ways_and_each_way_ends_by_itself() -> None:
    there, back = random.Random(1).randbytes(3_000_000), random.Random(2).randbytes(2_000_000)
    async with destination() as far, TcpLink("127.0.0.1", far.port, delay=0.002) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, far_writer = await far.accept()
        writer.write(there)
        writer.write_eof()
        assert await read(far_reader) == there
        far_writer.write(back)
        far_writer.close()
        assert await read(reader) == back
        writer.close()
        await writer.wait_closed()
        assert link.connections == 0


async def test_nothing_is_faster_than_the_delay() -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port, delay=0.1) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, far_writer = await far.accept()
        started = now()
        writer.write(b"ping")
        await read(far_reader, 4)
        assert now() - started >= 0.1 - TICK
        far_writer.write(b"pong")
        await read(reader, 4)
        assert now() - started >= 0.2 - TICK
        # Many small writes are under way together.
        started = now()
        for _ in range(50):
            writer.write(b"x")
            await asyncio.sleep(0)
        await read(far_reader, 50)
        assert 0.1 - TICK <= now() - started < 1.0
        writer.close()


async def test_jitter_changes_the_times_and_not_the_order() -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port, jitter=0.02, seed=7) as link:
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, _ = await far.accept()
        for number in range(100):
            writer.write(number.to_bytes())
            await asyncio.sleep(0.001)
        assert await read(far_reader, 100) == bytes(range(100))
        writer.close()


async def test_the_rate_is_a_limit() -> None:
    size, rate = 300_000, 1_000_000
    async with destination() as far, TcpLink("127.0.0.1", far.port, rate=rate) as link:
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, _ = await far.accept()
        started = now()
        writer.write(bytes(size))
        await read(far_reader, size)
        assert size / rate - TICK <= now() - started < 10 * size / rate
        writer.close()


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_sender_of_more_than_it_holds_has_to_wait(stalled: bool) -> None:
    """Whether the line stands still, or a receiver reads nothing."""
    capacity = 64 * KIB
    async with (
        destination() as far,
        TcpLink("127.0.0.1", far.port, delay=0.001, capacity=capacity) as link,
    ):
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, _ = await far.accept()
        if stalled:
            link.stall()
        data = random.Random(3).randbytes(32_000_000)
        writer.write(data)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await writer.drain()
        # What one read from the socket brings may come on top.
        assert link.on_the_way <= capacity + 256 * KIB
        link.go_on()
        assert await read(far_reader, len(data)) == data
        writer.close()


@pytest.mark.parametrize("to_server", [True, False])
async def test_a_stall_holds_one_direction_and_closes_nothing(to_server: bool) -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port) as link:
        streams = await asyncio.open_connection("127.0.0.1", link.port)
        far_streams = await far.accept()
        link.stall(to_server=to_server, to_client=not to_server)
        held, passing = (streams, far_streams) if to_server else (far_streams, streams)
        held[1].write(b"held")
        passing[1].write(b"passing")
        assert await read(held[0], 7) == b"passing"
        waiting = asyncio.ensure_future(read(passing[0], 4))
        await asyncio.wait((waiting,), timeout=0.2)
        assert not waiting.done()
        link.go_on()
        assert await waiting == b"held"
        streams[1].close()


async def test_connections_of_a_stall_are_made_and_held() -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port) as link:
        link.stall()
        _, writer = await asyncio.open_connection("127.0.0.1", link.port)
        writer.write(b"held")
        far_reader, _ = await far.accept()
        waiting = asyncio.ensure_future(read(far_reader, 4))
        await asyncio.wait((waiting,), timeout=0.2)
        assert not waiting.done()
        link.go_on()
        assert await waiting == b"held"
        writer.close()


async def test_a_cut_resets_both_ends_and_new_connections_are_welcome() -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port, delay=0.01) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        far_reader, _ = await far.accept()
        writer.write(b"x")
        await read(far_reader, 1)
        link.cut()
        assert await resets(reader)
        assert await resets(far_reader)
        assert link.connections == 0
        writer.close()
        _, again = await asyncio.open_connection("127.0.0.1", link.port)
        again.write(b"y")
        far_reader, _ = await far.accept()
        assert await read(far_reader, 1) == b"y"
        again.close()


@pytest.mark.parametrize("by_client", [True, False])
async def test_a_reset_at_one_end_is_one_at_the_other(by_client: bool) -> None:
    async with destination() as far, TcpLink("127.0.0.1", far.port) as link:
        streams = await asyncio.open_connection("127.0.0.1", link.port)
        far_streams = await far.accept()
        first, second = (streams, far_streams) if by_client else (far_streams, streams)
        sock = first[1].get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first[1].transport.abort()
        assert await resets(second[0])
        streams[1].close()


async def test_a_connection_that_has_nobody_to_go_to_is_reset() -> None:
    async with destination() as far:
        port = far.port
    async with TcpLink("127.0.0.1", port) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        assert await resets(reader)
        assert link.connections == 0
        writer.close()


async def test_its_end_resets_what_is_open() -> None:
    async with destination() as far:
        async with TcpLink("127.0.0.1", far.port) as link:
            reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
            await far.accept()
        assert await resets(reader)
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", link.port)
