"""TLS inside a tunnel, without a local port: certificates are checked against the real name."""

import asyncio
import contextlib
import random
import ssl
from collections.abc import AsyncIterator
from typing import cast

import pytest

import ssmnet
from ssmnet.loopback import Loopback
from tests.io.sessions import eventually

from .targets import DEADLINE, Authority, echo, echoed, hang_up, reach, serving

pytestmark = pytest.mark.usefixtures("clean")
NAME = "db.internal"


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
async def far() -> AsyncIterator[Loopback]:
    async with Loopback(names={NAME: "127.0.0.1", "other.internal": "127.0.0.1"}) as loopback:
        yield loopback
        assert loopback.sessions == 0
        assert loopback.connections == 0


async def test_tls_to_the_remote_s_own_name(far: Loopback, authority: Authority) -> None:
    async with serving(echo, authority.server(NAME)) as port, reach(far) as target:
        reader, writer = await target.open_connection(NAME, port, ssl=authority.client())
        assert await echoed(reader, writer) == b"hello"
        assert writer.get_extra_info("ssl_object").server_hostname == NAME
        assert dict(writer.get_extra_info("peercert"))["subjectAltName"] == (("DNS", NAME),)
        await hang_up(writer)
        await eventually(lambda: not far.connections)


async def test_another_name_is_refused(far: Loopback, authority: Authority) -> None:
    async with serving(echo, authority.server(NAME)) as port, reach(far) as target:
        client = authority.client()
        with pytest.raises(ssl.SSLCertVerificationError, match="other.internal"):
            await target.open_connection("other.internal", port, ssl=client)
        reader, writer = await target.open_connection(
            "other.internal", port, ssl=client, server_hostname=NAME
        )
        assert await echoed(reader, writer) == b"hello"
        await hang_up(writer)
        with pytest.raises(ssl.SSLCertVerificationError):
            await target.open_connection(NAME, port, ssl=True)
        await eventually(lambda: not far.connections)


async def test_megabytes_come_whole_both_ways(far: Loopback, authority: Authority) -> None:
    data = random.Random(8).randbytes(3_000_000)
    async with serving(echo, authority.server(NAME)) as port, reach(far) as target:
        reader, writer = await target.open_connection(NAME, port, ssl=authority.client())
        writer.write(data)
        async with asyncio.timeout(60):
            assert await reader.readexactly(len(data)) == data
        await hang_up(writer)


async def test_what_was_written_before_the_end_arrives(far: Loopback, authority: Authority) -> None:
    got = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read():  # or else it only was to show that it accepts
            got.set_result(data)
        writer.close()

    async with serving(take, authority.server(NAME)) as port:
        async with reach(far) as target:
            _, writer = await target.open_connection(NAME, port, ssl=authority.client())
            writer.write(b"x" * 300_000)
            await hang_up(writer)
        async with asyncio.timeout(DEADLINE):
            assert await got == b"x" * 300_000


async def test_what_was_written_arrives_though_nobody_closed(
    far: Loopback, authority: Authority
) -> None:
    got = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if data := await reader.read():  # or else it only was to show that it accepts
            got.set_result(data)
        writer.close()

    async with serving(take, authority.server(NAME)) as port:
        async with reach(far) as target:
            _, writer = await target.open_connection(NAME, port, ssl=authority.client())
            writer.write(b"x" * 300_000)
            await writer.drain()
        async with asyncio.timeout(DEADLINE):
            assert await got == b"x" * 300_000


async def test_the_remote_s_orderly_end_is_one(far: Loopback, authority: Authority) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"all of it")
        writer.close()
        await writer.wait_closed()

    async with serving(say, authority.server(NAME)) as port, reach(far) as target:
        reader, writer = await target.open_connection(NAME, port, ssl=authority.client())
        async with asyncio.timeout(DEADLINE):
            assert await reader.read() == b"all of it"
        await hang_up(writer)


async def test_a_lost_tunnel_does_not_look_like_an_orderly_end(
    far: Loopback, authority: Authority
) -> None:
    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"some")
        await reader.read()
        writer.close()

    async with serving(say, authority.server(NAME)) as port, reach(far) as target:
        reader, writer = await target.open_connection(NAME, port, ssl=authority.client())
        assert await reader.readexactly(4) == b"some"
        far.end_sessions("administrator")
        with pytest.raises(ssmnet.SessionClosed, match="administrator"):
            async with asyncio.timeout(DEADLINE):
                await reader.read()
        writer.close()


async def test_a_protocol_of_one_s_own(far: Loopback, authority: Authority) -> None:
    class Told(asyncio.Protocol):
        def __init__(self) -> None:
            self.echoed = asyncio.get_running_loop().create_future()
            self.lost = asyncio.get_running_loop().create_future()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            cast(asyncio.Transport, transport).write(b"first")

        def data_received(self, data: bytes) -> None:
            self.echoed.set_result(data)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    async with serving(echo, authority.server(NAME)) as port, reach(far) as target:
        client = authority.client()
        transport, protocol = await target.create_connection(Told, NAME, port, ssl=client)
        assert isinstance(protocol, Told)
        async with asyncio.timeout(DEADLINE):
            assert await protocol.echoed == b"first"
            transport.close()
            assert await protocol.lost is None


async def test_a_destination_that_does_not_speak_tls(far: Loopback, authority: Authority) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"220 no TLS here\r\n" * 10)
        await reader.read()
        writer.close()

    async with serving(plain) as port, reach(far) as target:
        with pytest.raises(ssl.SSLError):
            await target.open_connection(NAME, port, ssl=authority.client())
        await eventually(lambda: not far.connections)


async def test_a_handshake_has_a_deadline(far: Loopback, authority: Authority) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(silent) as port, reach(far) as target:
        with pytest.raises(ConnectionAbortedError, match="more than 0.2 s"):
            await target.open_connection(
                NAME, port, ssl=authority.client(), ssl_handshake_timeout=0.2
            )
        await eventually(lambda: not far.connections)


async def test_a_handshake_may_take_longer_than_the_loop_would_wait(
    far: Loopback, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncio.constants.SSL_HANDSHAKE_TIMEOUT", 0.1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(silent) as port, reach(far) as target:
        with pytest.raises(ConnectionAbortedError, match="more than 0.5 s"):
            await target.open_connection(
                NAME, port, ssl=authority.client(), ssl_handshake_timeout=0.5
            )
        await eventually(lambda: not far.connections)


@pytest.mark.parametrize("seconds", [0, -1])
async def test_a_deadline_is_positive(far: Loopback, seconds: float) -> None:
    async with reach(far) as target:
        with pytest.raises(ValueError, match="ssl_handshake_timeout should be a positive number"):
            await target.open_connection(NAME, 1, ssl=True, ssl_handshake_timeout=seconds)
        with pytest.raises(ValueError, match="ssl_shutdown_timeout should be a positive number"):
            await target.open_connection(NAME, 1, ssl=True, ssl_shutdown_timeout=seconds)


async def test_the_end_of_the_session_in_the_handshake(far: Loopback, authority: Authority) -> None:
    hello = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):  # or else it only was to show that it accepts
            hello.set()
        await reader.read()
        writer.close()

    async with serving(silent) as port, reach(far) as target:
        opening = asyncio.create_task(target.open_connection(NAME, port, ssl=authority.client()))
        async with asyncio.timeout(DEADLINE):
            await hello.wait()
            far.end_sessions("administrator")
            with pytest.raises(ssmnet.SessionClosed, match="administrator"):
                await opening


async def test_a_refusal_is_told_as_without_tls(far: Loopback, authority: Authority) -> None:
    async with reach(far) as target:
        with pytest.raises(ssmnet.DestinationRefused):
            await target.open_connection(NAME, 1, ssl=authority.client())


@pytest.mark.parametrize("turns", [0, 1, 2, 5, 10, 20, 40])
async def test_cancelled_anywhere_it_leaves_nothing(
    far: Loopback, authority: Authority, turns: int
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with serving(silent) as port, reach(far) as target:
        # One that is known to answer needs no session to start.
        _, writer = await target.open_connection(NAME, port)
        opening = asyncio.create_task(target.open_connection(NAME, port, ssl=authority.client()))
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await eventually(lambda: far.connections == 1)
        assert not len(target._streams._bridges)
        writer.close()


@pytest.mark.parametrize("failed", [False, True])
async def test_closing_the_target_ends_what_is_open(
    far: Loopback, authority: Authority, failed: bool
) -> None:
    async with serving(echo, authority.server(NAME)) as port:
        with contextlib.suppress(ZeroDivisionError):
            async with reach(far) as target:
                client = authority.client()
                reader, writer = await target.open_connection(NAME, port, ssl=client)
                if failed:
                    raise ZeroDivisionError
        with pytest.raises(ssmnet.SessionClosed, match="the target is closed"):
            async with asyncio.timeout(DEADLINE):
                await reader.read()
        writer.close()


async def test_closing_the_target_ends_a_handshake(far: Loopback, authority: Authority) -> None:
    hello = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1):  # or else it only was to show that it accepts
            hello.set()
        await reader.read()
        writer.close()

    async with serving(silent) as port:
        async with reach(far) as target, asyncio.timeout(DEADLINE):
            client = authority.client()
            opening = asyncio.create_task(target.open_connection(NAME, port, ssl=client))
            await hello.wait()
        with pytest.raises(ssmnet.SessionClosed, match="the target is closed"):
            await opening


async def test_one_that_goes_on_sending_is_dropped(far: Loopback, authority: Authority) -> None:
    async def many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        writer.close()

    async with serving(many, authority.server(NAME)) as port:
        async with reach(far) as target:
            reader, writer = await target.open_connection(NAME, port, ssl=authority.client())
            await reader.readexactly(1)
        await eventually(lambda: not far.connections)
        assert not len(target._streams._bridges)
        writer.close()
