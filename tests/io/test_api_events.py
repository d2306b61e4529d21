"""What an application is told of a target: events, statistics; and whose credentials it takes."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiobotocore.session import AioSession

import ssmnet
from ssmnet import events
from ssmnet.event_stream import MAX_KEPT, Announcer
from ssmnet.loopback import Loopback
from tests.io.sessions import closed_port, eventually

from .targets import DEADLINE, echoed, hang_up, keys, reach, serving

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
async def far(ssm_loopback: Loopback) -> AsyncIterator[Loopback]:
    yield ssm_loopback
    assert ssm_loopback.sessions == 0


async def use(target: ssmnet.Target, port: int) -> None:
    reader, writer = await target.open_connection("127.0.0.1", port)
    assert await echoed(reader, writer) == b"hello"
    await hang_up(writer)


async def test_a_callback_and_an_iterator_are_told_the_same(far: Loopback) -> None:
    called: list[ssmnet.Event] = []
    async with serving() as port:
        async with reach(far, on_event=called.append) as target:
            stream = target.events()
            async with target.forward(port) as listener:
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                await echoed(reader, writer)
                far.cut_clients()
                await eventually(lambda: any(isinstance(e, events.Resumed) for e in called))
                await hang_up(writer)
                await eventually(lambda: not listener.statistics().connections)
        async with asyncio.timeout(DEADLINE):
            seen = [event async for event in stream]
    assert seen == called
    assert [type(event).__name__ for event in called] == [
        *("Listening", "Connected", "Resuming", "Resumed", "Disconnected", "Closed")
    ]


async def test_a_session_that_is_over_is_followed_by_another(far: Loopback) -> None:
    async with serving() as port, reach(far) as target, target.forward(port):
        stream = target.events()
        far.end_sessions()
        async with asyncio.timeout(DEADLINE):
            while not isinstance(event := await anext(stream), events.Restarted):
                pass
        assert far.session_ids == [event.session_id]
        assert target.statistics().listeners[0].restarts == 1


async def test_a_callback_that_fails_harms_nobody(far: Loopback) -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail(event: ssmnet.Event) -> None:
        raise KeyError(event)

    async with serving() as port, reach(far, on_event=fail) as target:
        async with target.forward(port) as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
    assert {type(context["exception"]) for context in reported} == {KeyError}


async def test_a_reader_that_is_slow_is_told_what_it_missed() -> None:
    announcer = Announcer(None)
    stream = announcer.subscribe()
    for number in range(MAX_KEPT + 10):
        announcer.tell(events.Resumed("s", number))
    announcer.close()
    seen = [event async for event in stream]
    assert seen[0] == events.Dropped(10)
    assert seen[1:] == [events.Resumed("s", 10 + number) for number in range(MAX_KEPT)]
    assert [event async for event in announcer.subscribe()] == []


async def test_statistics(far: Loopback) -> None:
    async with serving() as port, reach(far) as target:
        assert target.statistics() == ssmnet.Statistics(target=far.target)
        reader, writer = await target.open_connection("127.0.0.1", port)
        await echoed(reader, writer)
        told = target.statistics()
        assert (told.sessions, told.connections, told.listeners) == (1, 1, ())
        assert told.round_trip_time is not None
        far.cut_clients()
        await eventually(lambda: target.statistics().resumes == 1)
        assert target.statistics().errors == {"WebSocketLost": 1}
        async with target.forward(port) as listener:
            assert target.statistics().listeners == (listener.statistics(),)
            assert listener.statistics().state is ssmnet.State.UP
        assert listener.statistics().state is ssmnet.State.STOPPED
        await hang_up(writer)
        await eventually(lambda: target.statistics().connections == 0)


async def test_connections_without_a_port_are_told_and_counted(far: Loopback) -> None:
    told: list[ssmnet.Event] = []
    async with serving() as port, reach(far, on_event=told.append) as target:
        where = f"127.0.0.1:{port}"
        async with target.forward(port, host="127.0.0.1") as listener:
            _, local = await asyncio.open_connection("127.0.0.1", listener.port)
            await eventually(lambda: events.Connected(1, _name(local), where) in told)
            reader, writer = await target.open_connection("127.0.0.1", port)
            assert told[-1] == events.Connected(2, "", where)
            await echoed(reader, writer, b"to and fro")
            now = target.statistics()
            assert (now.connections, now.sent, now.received) == (1, 10, 10)
            await hang_up(writer)
            await eventually(lambda: events.Disconnected(2, where, 10, 10, "") in told)
            await hang_up(local)
        now = target.statistics()
        assert (now.connections, now.sent, now.received) == (0, 10, 10)
        reader, writer = await target.open_connection("127.0.0.1", port)
        far.end_sessions("maintenance")
        await eventually(lambda: isinstance(told[-1], events.Disconnected))
        end = told[-1]
        assert isinstance(end, events.Disconnected)
        assert (end.connection, end.cause) == (3, "SessionClosed")
        assert "maintenance" in end.error
        assert target.statistics().errors["SessionClosed"] == 1
        with pytest.raises(ssmnet.SessionClosed, match="maintenance"):
            await reader.read()
        writer.close()


async def test_connections_end_before_the_target_s_events_do(far: Loopback) -> None:
    async with serving() as port:
        async with reach(far) as target:
            stream = target.events()
            _, writer = await target.open_connection("127.0.0.1", port)
        writer.close()
        seen = [event async for event in stream]
    assert [type(event).__name__ for event in seen] == ["Connected", "Disconnected"]


def _name(writer: asyncio.StreamWriter) -> str:
    host, port = writer.get_extra_info("sockname")
    return f"{host}:{port}"


# Credentials.


async def test_callables_are_asked_again_for_a_resume(far: Loopback) -> None:
    asked = 0

    def give() -> ssmnet.Credentials:
        nonlocal asked
        asked += 1
        return keys(far)

    async def give_later() -> ssmnet.Credentials:
        await asyncio.sleep(0)
        return give()

    for source in (give, give_later):
        asked = 0
        async with serving() as port, reach(far, credentials=source) as target:
            reader, writer = await target.open_connection("127.0.0.1", port)
            assert asked == 1
            far.cut_clients()
            assert await echoed(reader, writer) == b"hello"
            assert asked == 2
            await hang_up(writer)


async def test_an_aiobotocore_session(far: Loopback) -> None:
    session = AioSession()
    session.set_credentials(far.access_key_id, far.secret_access_key)
    session.set_config_variable("region", far.region)
    async with serving() as port:
        async with reach(far, credentials=session, region=None) as target:
            await use(target, port)


async def test_a_profile(
    far: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("aws") / "config"
    file.write_text(
        f"[profile mine]\nregion = {far.region}\naws_access_key_id = {far.access_key_id}\n"
        f"aws_secret_access_key = {far.secret_access_key}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    async with serving() as port:
        async with reach(far, profile="mine", credentials=None, region=None) as target:
            await use(target, port)


async def test_credentials_that_fail_are_told_at_once_and_not_shown(far: Loopback) -> None:
    def fail() -> ssmnet.Credentials:
        raise ValueError("hunter2")

    for source in (fail, lambda: None, lambda: "AKIA"):
        with pytest.raises(ssmnet.CredentialsError) as raised:
            await reach(far, credentials=source)
        assert "hunter2" not in str(raised.value)
    with pytest.raises(ssmnet.UsageError):
        await reach(far, credentials=5)
    with pytest.raises(ssmnet.UsageError):
        reach(far, profile="mine")
    assert "secret" not in repr(ssmnet.Credentials("AKIA", "secret", "secret token"))
    assert far.sessions_started == 0


# What it does to the process.


async def test_targets_in_loops_of_several_threads(far: Loopback) -> None:
    """The far end is in this loop, each target in one of its own."""
    failed: list[BaseException] = []

    async def main(port: int) -> None:
        async with reach(far) as target:
            for _ in range(3):
                await use(target, port)

    def work(port: int) -> None:
        try:
            asyncio.run(main(port))
        except BaseException as error:
            failed.append(error)

    async with serving() as port:
        threads = [threading.Thread(target=work, args=(port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 60
        while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
            await asyncio.sleep(0.01)
    assert not failed
    assert far.sessions_started == 3


def test_importing_it_costs_nothing_and_changes_nothing() -> None:
    program = """
import sys
import ssmnet
assert not {"asyncio", "aiohttp", "botocore", "msgspec", "ssl", "typer"} & set(sys.modules)
for name in ssmnet.__all__:
    getattr(ssmnet, name)
assert not {"botocore", "aiobotocore", "typer", "rich", "uvloop"} & set(sys.modules)
import asyncio, logging, signal
import ssmnet.aws_api
assert not logging.getLogger("aiobotocore").handlers
assert not logging.getLogger().handlers and not logging.getLogger("ssmnet").handlers
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert type(asyncio.new_event_loop()).__module__.startswith("asyncio")
assert set(dir(ssmnet)) >= set(ssmnet.__all__)
try:
    ssmnet.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


async def test_a_refusal_shows_in_a_forward_s_statistics(far: Loopback) -> None:
    async with reach(far) as target, target.forward(closed_port()) as listener:
        reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
        with pytest.raises(ConnectionResetError):
            async with asyncio.timeout(DEADLINE):
                await reader.readexactly(1)
        writer.close()
        await eventually(lambda: listener.statistics().errors == {"DestinationRefused": 1})
