"""ssmnet.connect, and connections without a local port."""

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

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


async def test_a_far_end_in_this_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    before = dict(os.environ)
    async with serving() as port:
        async with ssmnet.connect("loopback") as target:
            reader, writer = await target.open_connection("127.0.0.1", port)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
            async with target.forward(port) as listener:
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                assert await echoed(reader, writer) == b"hello"
                await hang_up(writer)
            if sys.platform != "win32":
                assert (await target.run("echo", "hello")).stdout == b"hello\n"
    assert dict(os.environ) == before
    assert (await asyncio.gather(*(_used_and_left() for _ in range(3)))) == ["i"] * 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_PROFILE", "nothere"),
        ("AWS_CONFIG_FILE", __file__),
        ("AWS_CA_BUNDLE", "/nonexistent"),
        ("AWS_ENDPOINT_URL_SSM", "http://127.0.0.1:9"),
        ("AWS_ENDPOINT_URL_SSMMESSAGES", "http://127.0.0.1:9"),
        ("AWS_REGION", "no such region"),
        ("AWS_ACCESS_KEY_ID", "AKIAWRONG"),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "true"),
    ],
)
async def test_a_far_end_in_this_loop_whatever_the_settings(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    async with serving() as port, ssmnet.connect("loopback") as target:
        reader, writer = await target.open_connection("127.0.0.1", port)
        assert await echoed(reader, writer) == b"hello"
        await hang_up(writer)


async def _used_and_left() -> str:
    async with ssmnet.connect("loopback", region="eu-west-1") as target:
        return target.target[0]


async def test_misuse_is_told_in_a_line(far: Loopback) -> None:
    async with reach(far) as target:
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: target.open_connection("127.0.0.1", "5432"),  # type: ignore[arg-type]
            lambda: target.open_connection(5432, "127.0.0.1"),  # type: ignore[arg-type]
            lambda: target.open_connection("a host", 5432),
            lambda: target.forward(5432, local_port="5432"),  # type: ignore[arg-type]
            lambda: target.forward("5432"),  # type: ignore[arg-type]
            lambda: target.forward(70000),
            lambda: target.proxy("1080"),  # type: ignore[arg-type]
            lambda: target.proxy(kind="https"),
            lambda: target.proxy(max_sessions=0),
            lambda: target.forward(5432, sessions=0),
            lambda: target.forward(5432, parameters={"host": ["a"]}),
            lambda: target.shell(document="Mine", parameters={"command": "ls"}),
            lambda: target.proxy(allow=["10.0.0.0/99"]),
            lambda: target.run(),
            lambda: target.run("sleep", 5),  # type: ignore[arg-type]
            lambda: target.shell(size=(0, 24)),
            lambda: target.shell(size=(80,)),  # type: ignore[arg-type]
            lambda: target.proxy(allow="*.internal"),
            lambda: target.shell("sh", document="Mine"),
            lambda: ssmnet.connect(5),  # type: ignore[arg-type]
            lambda: ssmnet.connect("i-1", sessions=0),
            lambda: ssmnet.connect("i-1", keep_alive=-1),
            lambda: ssmnet.connect("i-1", max_session_age=0),
            lambda: ssmnet.connect("i-1", idle_time="60"),  # type: ignore[arg-type]
        )
        for call in calls:
            with pytest.raises(ssmnet.UsageError) as raised:
                await call()
            assert "\n" not in str(raised.value)
            assert len(str(raised.value)) < 100
    assert far.sessions_started == 0


async def test_another_event_loop_is_told_so(far: Loopback) -> None:
    async def stray(target: ssmnet.Target) -> list[str]:
        said = []
        for call in (
            lambda: target.open_connection("127.0.0.1", 1),
            lambda: target.forward(1),
            lambda: target.run("true"),
            lambda: target.shell(),
        ):
            with pytest.raises(ssmnet.UsageError) as raised:
                await call()
            said.append(str(raised.value))
        with pytest.raises(ssmnet.UsageError):
            target.close()
        return said

    async with reach(far) as target:
        said = await asyncio.to_thread(lambda: asyncio.run(stray(target)))
        assert set(said) == {"the target belongs to another event loop"}
        assert not target.is_closing()
    assert far.sessions_started == 0


async def test_closing_waits_for_what_is_starting(far: Loopback) -> None:
    far.impair(delay=0.05)
    for begin in (
        lambda target: target.run("true"),
        lambda target: target.shell(),
        lambda target: target.forward(1),
        lambda target: target.proxy(),
        lambda target: target.open_connection("127.0.0.1", 1),
    ):
        for turns in (1, 5, 40):
            target = await reach(far)

            async def start(begin: Any = begin, target: ssmnet.Target = target) -> None:
                await begin(target)

            starting = asyncio.create_task(start())
            for _ in range(turns):
                await asyncio.sleep(0.001)
            target.close()
            await target.wait_closed()
            assert far.sessions == 0
            async with asyncio.timeout(DEADLINE):
                (ended,) = await asyncio.gather(starting, return_exceptions=True)
            assert ended is None or isinstance(ended, ssmnet.Error)


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
