"""Dialer: many destinations through real sessions with the loopback far end."""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ssmnet.aws import Client
from ssmnet.destination import Destination
from ssmnet.dialer import Dialer
from ssmnet.errors import (
    AccessDenied,
    ConnectError,
    CredentialsError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
    ServiceError,
    SessionClosed,
    TargetNotConnected,
)
from ssmnet.events import Event, Restarted, Restarting
from ssmnet.loopback import Loopback
from ssmnet.protocol.reconnect import MAX_REFUSALS
from ssmnet.session import Session
from ssmnet.target import open_port_session
from tests.io.sessions import (
    NO_MULTIPLEXING,
    Collector,
    Echo,
    closed_port,
    echoing,
    eventually,
    serving,
)

pytestmark = pytest.mark.usefixtures("clean")

DEADLINE = 100.0


class Dialling:
    """A dialer, and its way to AWS."""

    def __init__(self, far: Loopback, **options: Any) -> None:
        self.far = far
        self.client: Any = Client()
        self.shift = 0.0
        on_event = options.pop("on_event", lambda _: None)
        self.dialer = Dialer(self.start, on_event, clock=self.clock, **options)

    def clock(self) -> float:
        """What is remembered for a while can be forgotten sooner."""
        return time.monotonic() + self.shift

    async def start(self, destination: Destination) -> Session:
        return await open_port_session(
            self.client, self.far.target, host=destination.host, port=destination.port
        )

    async def connect(self, port: int, host: str = "127.0.0.1") -> Collector:
        collector = Collector()
        async with asyncio.timeout(DEADLINE):
            transport = await self.dialer.connect(collector, Destination(host, port))
        assert transport is collector.transport
        return collector

    async def echo(self, port: int, host: str = "127.0.0.1") -> None:
        collector = await self.connect(port, host)
        assert collector.transport is not None
        try:
            await echo(collector)
        finally:
            collector.transport.close()

    async def failure(self, port: int, host: str = "127.0.0.1") -> Error:
        with pytest.raises(Error) as raised:
            await self.connect(port, host)
        return raised.value


async def echo(collector: Collector, text: bytes = b"hello") -> None:
    assert collector.transport is not None
    before = len(collector.data)
    collector.transport.write(text)
    await collector.until_size(before + len(text))
    assert collector.data[before:] == text


@asynccontextmanager
async def dialling(
    far: Loopback, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> AsyncIterator[Dialling]:
    for name, value in far.environment.items():
        monkeypatch.setenv(name, value)
    made = Dialling(far, **options)
    try:
        yield made
    finally:
        async with asyncio.timeout(DEADLINE):
            await made.dialer.close()
        assert far.sessions == 0
        assert made.dialer.sessions == made.dialer.destinations == made.dialer.connections == 0


@asynccontextmanager
async def echoing_on(port: int) -> AsyncIterator[None]:
    """A destination that comes up, and goes down with its connections."""
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", port)
    try:
        yield
    finally:
        server.close()
        for protocol in made:
            if not protocol.transport.is_closing():
                protocol.transport.abort()


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """One whose queue of connections is full: the next SYN gets no answer."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(3):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
        yield port


@asynccontextmanager
async def destinations(number: int) -> AsyncIterator[list[int]]:
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(echoing()) for _ in range(number)]


async def test_a_destination_has_one_session_for_all_its_connections(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        collectors = await asyncio.gather(*(it.connect(port) for _ in range(100)))
        await asyncio.gather(*map(echo, collectors))
        assert ssm_loopback.sessions_started == 1
        assert (it.dialer.sessions, it.dialer.destinations) == (1, 1)
        assert it.dialer.connections == 100
        assert it.dialer.round_trip_time is not None


async def test_a_hundred_destinations_take_turns(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    async def use(it: Dialling, port: int) -> None:
        nonlocal most
        await it.echo(port)
        most = max(most, ssm_loopback.sessions)

    # On a slow machine that takes a while.
    options = {"wait_timeout": DEADLINE}
    async with dialling(ssm_loopback, monkeypatch, **options) as it, destinations(100) as ports:
        await asyncio.gather(*(use(it, port) for port in ports))
        assert ssm_loopback.sessions_started == 100
        assert 1 < most <= 20
        assert it.dialer.sessions <= 20


async def test_the_connections_of_a_destination_are_of_that_destination(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def name(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"%d" % writer.get_extra_info("sockname")[1])
        writer.close()

    servers = [await asyncio.start_server(name, "127.0.0.1", 0) for _ in range(3)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    async with dialling(ssm_loopback, monkeypatch) as it:
        collectors = await asyncio.gather(*(it.connect(port) for port in ports * 5))
        for port, collector in zip(ports * 5, collectors, strict=True):
            await collector.until_lost()
            assert collector.data == b"%d" % port
    for server in servers:
        server.close()


async def test_the_destination_that_was_idle_for_longest_gives_way(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch, max_sessions=3) as it, destinations(4) as ports:
        for port in ports[:3]:
            await it.echo(port)
        await it.echo(ports[0])
        used = await it.connect(ports[2])
        await it.echo(ports[3])  # in the place of ports[1]
        assert ssm_loopback.sessions_started == 4
        await it.echo(ports[0])
        await echo(used)
        assert ssm_loopback.sessions_started == 4
        await it.echo(ports[1])
        assert ssm_loopback.sessions_started == 5
        assert it.dialer.sessions == 3


async def test_who_asks_first_comes_first(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []

    async def use(it: Dialling, port: int) -> None:
        await it.echo(port)
        order.append(port)

    async with dialling(ssm_loopback, monkeypatch, max_sessions=1) as it, destinations(8) as ports:
        first = await it.connect(ports[0])
        waiting = [asyncio.create_task(use(it, port)) for port in ports[1:]]
        await eventually(lambda: it.dialer.waiting == 7)
        await echo(first)
        assert order == []
        assert first.transport is not None
        first.transport.close()
        await asyncio.gather(*waiting)
        assert order == ports[1:]


async def test_nobody_waits_for_ever_for_a_session(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch, max_sessions=2, wait_timeout=0.3) as it:
        async with destinations(3) as ports:
            used = [await it.connect(port) for port in ports[:2]]
            error = await it.failure(ports[2])
            assert isinstance(error, ConnectError)
            assert "all 2 " in str(error)
            assert it.dialer.destinations == 2
            for collector in used:
                await echo(collector)


async def test_an_idle_destination_is_given_up(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch, idle_time=0.1) as it, echoing() as port:
        collector = await it.connect(port)
        await asyncio.sleep(0.3)
        await echo(collector)
        assert collector.transport is not None
        collector.transport.close()
        await eventually(lambda: ssm_loopback.sessions == 0)
        assert it.dialer.destinations == 0
        await it.echo(port)
        assert ssm_loopback.sessions_started == 2


async def test_throttling_is_waited_out(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, destinations(4) as ports:
        ssm_loopback.fail_next("ThrottlingException", "Rate exceeded", 4, "StartSession")
        await asyncio.gather(*(it.echo(port) for port in ports))
        assert ssm_loopback.sessions_started == 4


async def test_what_is_not_the_destination_s_fault_is_not_remembered(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        for code, kind in (
            ("TargetNotConnected", TargetNotConnected),
            ("AccessDeniedException", AccessDenied),
            ("ExpiredTokenException", CredentialsError),
            ("SomethingElse", ServiceError),
        ):
            ssm_loopback.fail_next(code)
            assert isinstance(await it.failure(port), kind)
        await it.echo(port)


async def test_all_who_wait_for_a_session_that_does_not_start_are_told(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        ssm_loopback.fail_next("TargetNotConnected")
        errors = await asyncio.gather(*(it.failure(port) for _ in range(20)))
        assert {type(error) for error in errors} == {TargetNotConnected}
        await it.echo(port)


async def test_a_destination_that_refuses_costs_one_session(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with dialling(ssm_loopback, monkeypatch) as it:
        errors = await asyncio.gather(*(it.failure(port) for _ in range(10)))
        errors += [await it.failure(port) for _ in range(10)]
        assert {type(error) for error in errors} == {DestinationRefused}
        assert f"127.0.0.1:{port}" in str(errors[0])
        assert ssm_loopback.sessions_started == 1


async def test_a_refusal_is_remembered_when_its_session_is_gone(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with dialling(ssm_loopback, monkeypatch, max_sessions=1) as it, echoing() as other:
        assert isinstance(await it.failure(port), DestinationRefused)
        await it.echo(other)
        assert ssm_loopback.sessions_started == 2
        assert isinstance(await it.failure(port), DestinationRefused)
        assert ssm_loopback.sessions_started == 2
        it.shift = 6.0
        assert isinstance(await it.failure(port), DestinationRefused)
        assert ssm_loopback.sessions_started == 3


async def test_a_destination_that_comes_up_is_reached(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with dialling(ssm_loopback, monkeypatch) as it:
        assert isinstance(await it.failure(port), DestinationRefused)
        async with echoing_on(port):
            await it.echo(port)
        assert ssm_loopback.sessions_started == 1


async def test_a_destination_goes_down_and_comes_up(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with dialling(ssm_loopback, monkeypatch) as it:
        async with echoing_on(port):
            await it.echo(port)
        # It was known to answer, so that nobody asked.
        assert isinstance(await (await it.connect(port)).until_lost(), DestinationRefused)
        for _ in range(5):
            assert isinstance(await it.failure(port), DestinationRefused)
        async with echoing_on(port):
            await it.echo(port)
        assert ssm_loopback.sessions_started == 1


async def test_one_that_answers_is_not_asked_again(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, serving() as server:
        for _ in range(10):
            collector = await it.connect(server.port)
            if server.accepted == 1:
                assert await (await server.accept()).rest() == b""  # it was only asked
            destination = await server.accept()
            await destination.send(b"hello")
            await collector.until_size(5)
            assert collector.transport is not None
            collector.transport.close()
        assert server.accepted == 11


@pytest.mark.parametrize(
    ("host", "kind"),
    [("169.254.169.254", DestinationForbidden), ("no..name", DestinationNotFound)],
)
async def test_what_the_agent_does_not_connect_to_is_remembered(
    ssm_loopback: Loopback,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    kind: type[Error],
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it:
        errors = await asyncio.gather(*(it.failure(80, host) for _ in range(10)))
        errors += [await it.failure(80, host) for _ in range(3)]
        assert {type(error) for error in errors} == {kind}
        assert host in str(errors[-1])
        assert ssm_loopback.sessions_started == 1
        it.shift = 11.0
        assert isinstance(await it.failure(80, host), kind)
        assert ssm_loopback.sessions_started == 2


async def test_an_agent_that_is_too_old_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Loopback(agent_version=NO_MULTIPLEXING) as far:
        async with dialling(far, monkeypatch) as it, echoing() as port:
            for _ in range(3):
                await it.echo(port)
            monkeypatch.setattr("ssmnet.dialer.OLD_AGENT_TIME", 20.0)
            assert isinstance(await it.failure(80, "no..name"), DestinationNotFound)
            assert isinstance(await it.failure(closed_port()), DestinationRefused)


async def test_an_old_agent_that_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose process falls over the refusal."""
    monkeypatch.setattr("ssmnet.dialer.OLD_AGENT_TIME", 2.0)
    async with Loopback(agent_version=NO_MULTIPLEXING) as far:
        async with dialling(far, monkeypatch) as it, echoing() as port:
            failing = asyncio.ensure_future(it.failure(port))
            await eventually(lambda: it.dialer.sessions)
            far.end_sessions("")
            assert isinstance(await failing, DestinationRefused)
            assert far.sessions_started <= 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a full queue refuses")
async def test_a_destination_that_does_not_answer_is_remembered(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch, probe_timeout=0.3) as it:
        with deaf_port() as port:
            errors = await asyncio.gather(*(it.failure(port) for _ in range(5)))
            errors += [await it.failure(port) for _ in range(5)]
            assert {type(error) for error in errors} == {DestinationRefused}
            assert "within 0.3 s" in str(errors[-1])
            assert ssm_loopback.sessions_started == 1
            it.shift = 31.0
            assert isinstance(await it.failure(port), DestinationRefused)
            assert ssm_loopback.sessions_started == 2


async def test_a_session_that_is_over_is_followed_by_another(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, destinations(2) as ports:
        collectors = [await it.connect(port) for port in ports]
        ssm_loopback.end_sessions("Your session has reached its maximum duration.")
        for collector in collectors:
            assert isinstance(await collector.until_lost(), SessionClosed)
        await asyncio.gather(*(it.echo(port) for port in ports))
        assert ssm_loopback.sessions_started == 4


async def test_nobody_starts_a_session_for_nobody(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        await it.echo(port)
        ssm_loopback.end_sessions()
        await eventually(lambda: it.dialer.destinations == 0)
        assert ssm_loopback.sessions_started == 1


async def test_an_agent_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Loopback(agent_away_limit=0.2) as far:
        async with dialling(far, monkeypatch) as it, destinations(2) as ports:
            collectors = [await it.connect(port) for port in ports]
            far.kill_agents()
            for collector in collectors:
                assert isinstance(await collector.until_lost(), SessionClosed)
            await asyncio.gather(*(it.echo(port) for port in ports))
            assert far.sessions_started == 4


async def test_a_name_that_leads_nowhere_is_looked_up_again(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    port = closed_port()
    async with dialling(ssm_loopback, monkeypatch, on_event=events.append) as it:
        for _ in range(MAX_REFUSALS + 1):
            assert isinstance(await it.failure(port, "localhost"), DestinationRefused)
        await eventually(lambda: len(events) == 2)
        assert [type(event) for event in events] == [Restarting, Restarted]
        await eventually(lambda: ssm_loopback.sessions == 1)
        async with echoing_on(port):
            await it.echo(port, "localhost")
        assert ssm_loopback.sessions_started == 2


async def test_a_destination_may_have_more_than_one_session(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But nobody gives way for a second one, and nobody else is kept out by it for long."""
    async with dialling(ssm_loopback, monkeypatch, max_sessions=3, width=4) as it:
        async with destinations(2) as ports:
            first = [await it.connect(ports[0]) for _ in range(8)]
            await eventually(lambda: ssm_loopback.sessions == 3)
            await asyncio.gather(*map(echo, first))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await it.echo(ports[1])
            for collector in first:
                assert collector.transport is not None
                collector.transport.close()
            await it.echo(ports[1])
            assert it.dialer.sessions <= 3


async def test_what_is_not_allowed_takes_no_place(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(destination: Destination) -> None:
        if destination.host != "127.0.0.1":
            raise DestinationForbidden(f"no rule allows {destination}")

    async with dialling(ssm_loopback, monkeypatch, max_sessions=1, check=check) as it:
        async with echoing() as port:
            await it.echo(port)
            error = await it.failure(port, "localhost")
            assert isinstance(error, DestinationForbidden)
            assert "no rule" in str(error)
            await it.echo(port)
            assert ssm_loopback.sessions_started == 1


async def test_a_fault_of_ours_is_told_without_its_text(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        client, it.client = it.client, None
        error = await it.failure(port)
        assert isinstance(error, ConnectError)
        assert "AttributeError" in str(error)
        assert "cannot connect to" in caplog.text
        it.client = client
        await it.echo(port)


# Cancelling.


async def test_who_started_it_is_cancelled_and_the_others_get_it(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        first, *others = [asyncio.create_task(it.echo(port)) for _ in range(5)]
        await eventually(lambda: ssm_loopback.sessions_started)
        first.cancel()
        await asyncio.gather(*others)
        assert first.cancelled()
        assert ssm_loopback.sessions_started == 1


@pytest.mark.parametrize("moment", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89])
async def test_when_all_are_cancelled_nothing_is_left(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch, moment: int
) -> None:
    """After so many turns of the loop, which are as many places to be cancelled at."""
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        tasks = [
            asyncio.create_task(it.dialer.connect(Collector(), Destination("127.0.0.1", port)))
            for _ in range(3)
        ]
        for _ in range(moment):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await eventually(lambda: it.dialer.connections == 0)
        await it.echo(port)


async def test_a_storm_of_connections_that_are_cancelled(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def try_once(it: Dialling, port: int, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await it.echo(port)

    async with dialling(ssm_loopback, monkeypatch, max_sessions=3) as it:
        async with destinations(6) as ports:
            storm = [try_once(it, port, 0.002 * number) for number in range(30) for port in ports]
            await asyncio.gather(*storm)
            await asyncio.gather(*(it.echo(port) for port in ports))
            await eventually(lambda: it.dialer.connections == 0)
            assert it.dialer.sessions <= 3


async def test_close_ends_those_that_wait(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch, max_sessions=1) as it:
        async with destinations(3) as ports:
            used = await it.connect(ports[0])
            waiting = [asyncio.create_task(it.failure(port)) for port in ports[1:]]
            await eventually(lambda: it.dialer.waiting == 2)
            await it.dialer.close(drain=0.1)
            for task in waiting:
                assert isinstance(await task, SessionClosed)
            assert isinstance(await used.until_lost(), SessionClosed)
            assert isinstance(await it.failure(ports[0]), SessionClosed)


async def test_close_does_not_wait_for_ever(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, destinations(3) as ports:
        collectors = [await it.connect(port) for port in ports]
        ssm_loopback.blackhole_clients(30)
        async with asyncio.timeout(20):
            await it.dialer.close(drain=0.1)
        for collector in collectors:
            assert isinstance(await collector.until_lost(), SessionClosed)
        assert ssm_loopback.sessions == 0


async def test_what_was_sent_again_is_counted_on(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with dialling(ssm_loopback, monkeypatch) as it, echoing() as port:
        collector = await it.connect(port)
        ssm_loopback.impair(loss=0.5, seconds=1.0)
        for _ in range(20):
            await echo(collector)
        assert (before := it.dialer.retransmissions) > 0
        await it.dialer.close()
        assert it.dialer.retransmissions >= before
