"""SessionPool: a new session behind the same listener."""

import asyncio
import socket
from pathlib import Path

import pytest

from ssmnet.errors import ConnectError, SessionClosed
from ssmnet.events import Disconnected, Restarted, Restarting, Resumed, Resuming
from ssmnet.loopback import Loopback
from ssmnet.protocol.reconnect import MAX_REFUSALS
from ssmnet.session import Session
from tests.io.sessions import closed_port, eventually, reset, serving
from tests.io.tunnels import DEADLINE, echo, fill, pour, tunnel

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture(autouse=True)
def no_life_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssmnet.protocol.reconnect.SHORT_LIFE", 0.0)


async def test_a_session_that_is_over_is_followed_by_another(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        reader, writer = await it.connect()
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        first = it.pool.session_id
        ssm_loopback.end_sessions("Your session has reached its maximum duration.")
        with pytest.raises(ConnectionResetError):
            await reader.read()
        assert await it.echo(b"after") == b"after"
        writer.close()
        assert it.pool.session_id != first
        restarting = await it.seen(lambda event: isinstance(event, Restarting))
        assert isinstance(restarting, Restarting)
        assert "maximum duration" in restarting.cause
        await it.seen(lambda event: isinstance(event, Restarted))


async def test_new_connections_wait_until_the_target_is_back(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.fail_next("TargetNotConnected", times=2)
        ssm_loopback.end_sessions()
        await it.seen(
            lambda event: isinstance(event, Restarting) and "not connected" in event.cause
        )
        answers = await asyncio.gather(*(it.echo(b"%d" % n) for n in range(10)))
        assert answers == [b"%d" % n for n in range(10)]


async def test_a_connection_does_not_wait_for_ever(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.pool.WAIT_TIMEOUT", 0.2)
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.fail_next("TargetNotConnected", times=1000)
        ssm_loopback.end_sessions()
        await it.seen(lambda event: isinstance(event, Restarting))
        with pytest.raises(ConnectionResetError):
            await it.echo(b"x")
        lost = await it.seen(lambda event: isinstance(event, Disconnected) and bool(event.error))
        assert isinstance(lost, Disconnected)
        assert "no session within 0.2 s" in lost.error


async def test_a_connection_that_goes_while_it_waits_leaves_nothing(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.fail_next("TargetNotConnected", times=3)
        ssm_loopback.end_sessions()
        await it.seen(lambda event: isinstance(event, Restarting))
        _, writer = await it.connect()
        await it.seen(lambda event: event.__class__.__name__ == "Connected")
        writer.transport.abort()
        assert await it.echo(b"next") == b"next"


async def test_whatever_keeps_a_session_from_starting_may_pass(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        config = tmp_path / "config"
        config.write_text("[defau")  # as when somebody is just writing it
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        for end in (ssm_loopback.cut_clients, ssm_loopback.end_sessions):
            it.events.seen.clear()
            end()
            await it.seen(
                lambda event: isinstance(event, Resuming | Restarting) and "config" in event.cause
            )
            config.unlink()
            assert await it.echo(b"after") == b"after"
            config.write_text("[defau")
        config.unlink()


async def test_a_fault_of_ours_does_not_end_it_all(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        failures = [RuntimeError("oops")]
        start = it.pool._start

        async def fail_first() -> Session:
            while failures:
                raise failures.pop()
            return await start()

        monkeypatch.setattr(it.pool, "_start", fail_first)
        ssm_loopback.end_sessions()
        restarting = await it.seen(
            lambda event: isinstance(event, Restarting) and "RuntimeError" in event.cause
        )
        assert "oops" not in str(restarting)
        assert await it.echo(b"after") == b"after"


async def test_restarts_can_be_bounded(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, max_restarts=1) as it:
        ssm_loopback.end_sessions()
        assert await it.echo(b"once") == b"once"
        ssm_loopback.end_sessions("enough")
        async with asyncio.timeout(DEADLINE):
            error = await it.pool.wait_ended()
        assert isinstance(error, SessionClosed)
        assert error.output == "enough"
        with pytest.raises(SessionClosed):
            it.pool.dial(asyncio.Protocol())
        with pytest.raises(ConnectionResetError):
            await it.echo(b"never")


async def test_the_first_session_must_start(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssm_loopback.fail_next("TargetNotConnected")
    with pytest.raises(ConnectError):
        async with tunnel(ssm_loopback, monkeypatch):
            pass


async def test_a_session_that_is_refused_at_once_is_not_followed_by_another(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.protocol.reconnect.SHORT_LIFE", 5.0)
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.end_sessions("Forwarding to IP address 169.254.169.254 is forbidden.")
        async with asyncio.timeout(DEADLINE):
            error = await it.pool.wait_ended()
        assert "forbidden" in str(error)
        assert ssm_loopback.sessions_started == 1


async def test_a_session_that_may_not_be_resumed_is_followed_by_another(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        assert await it.echo(b"before") == b"before"
        ssm_loopback.fail_next("AccessDeniedException", "no ssm:ResumeSession for you")
        ssm_loopback.cut_clients()
        await it.seen(lambda event: isinstance(event, Restarted))
        assert await it.echo(b"after") == b"after"
        causes = [event.cause for event in it.events.seen if isinstance(event, Restarting)]
        assert "ssm:ResumeSession" in causes[0]


async def test_what_keeps_a_session_from_resuming_is_told_once(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.fail_next("ExpiredTokenException", times=4)
        ssm_loopback.cut_clients()
        await it.seen(lambda event: isinstance(event, Resumed))
        assert await it.echo(b"after") == b"after"
        causes = [event.cause for event in it.events.seen if isinstance(event, Resuming)]
        assert len(causes) == 2
        assert "aws sso login" in causes[1]


async def test_a_new_connection_does_not_wait_for_ever_for_a_resume(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.pool.WAIT_TIMEOUT", 0.2)
    async with tunnel(ssm_loopback, monkeypatch) as it:
        ssm_loopback.fail_next("ExpiredTokenException", times=1000)
        ssm_loopback.cut_clients()
        await it.seen(lambda event: isinstance(event, Resuming) and "sso login" in event.cause)
        with pytest.raises(ConnectionResetError):
            await it.echo(b"x")
        lost = await it.seen(lambda event: isinstance(event, Disconnected) and bool(event.error))
        assert isinstance(lost, Disconnected)
        assert "no session within 0.2 s" in lost.error
        ssm_loopback.end_sessions()  # which can't be terminated without credentials


async def test_sessions_that_die_at_once_are_restarted_ever_more_slowly(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.protocol.reconnect.SHORT_LIFE", 60.0)
    async with tunnel(ssm_loopback, monkeypatch) as it:
        loop = asyncio.get_running_loop()
        times = []
        for _ in range(4):
            before = ssm_loopback.sessions_started
            ssm_loopback.end_sessions()
            started = loop.time()
            await it.seen(lambda event: isinstance(event, Restarted))
            times.append(loop.time() - started)
            it.events.seen.clear()
            assert ssm_loopback.sessions_started == before + 1
        # After 0.1, 0.2, 0.4 and 0.8 s, each less up to half of it.
        assert times[3] > 0.4


async def test_a_destination_that_does_not_read_is_no_trouble_for_others(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port) as it:
            _, stuck = await it.connect()
            destination = await server.accept()
            written = await fill(stuck)
            assert written < 40_000_000
            first = it.pool.session_id
            for _ in range(5):
                reader, writer = await it.connect()
                writer.write(b"question")
                other = await server.accept()
                assert await other.read(8) == b"question"
                await other.send(b"answer")
                assert await reader.readexactly(6) == b"answer"
                reset(writer)
            assert it.pool.sessions == 2
            restarting = await it.seen(lambda event: isinstance(event, Restarting))
            assert restarting == Restarting(first, "nothing gets through it", False)
            # It only waited: nothing is lost when the destination reads again.
            assert len(await destination.read(written)) == written
            destination.drop()
            await eventually(lambda: it.pool.sessions == 1)
            await eventually(lambda: ssm_loopback.session_ids == [it.pool.session_id])
            assert it.pool.session_id != first
            stuck.close()


async def test_a_connection_that_is_never_read_is_no_trouble_for_others(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = source.sockets[0].getsockname()[1]
    async with tunnel(ssm_loopback, monkeypatch, port=port) as it:
        stuck = socket.create_connection(("127.0.0.1", it.listener.port or 0))
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await eventually(lambda: it.pool._sessions[0].stalled)
        reader, writer = await it.connect()
        async with asyncio.timeout(DEADLINE):
            await reader.readexactly(1_000_000)
        assert it.pool.sessions == 2
        writer.transport.abort()
        stuck.close()
    source.close()


async def test_a_stream_that_nobody_reads_is_reset_in_the_end(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = await asyncio.start_server(pour, "127.0.0.1", 0)
    port = source.sockets[0].getsockname()[1]
    async with tunnel(ssm_loopback, monkeypatch, port=port, stall_timeout=0.3) as it:
        stuck = socket.create_connection(("127.0.0.1", it.listener.port or 0))
        lost = await it.seen(lambda event: isinstance(event, Disconnected))
        assert isinstance(lost, Disconnected)
        assert "not read for 0.3 s" in lost.error
        with pytest.raises(ConnectionResetError):
            while stuck.recv(1_000_000):
                pass
        stuck.close()
        reader, writer = await it.connect()
        async with asyncio.timeout(DEADLINE):
            await reader.readexactly(1_000_000)
        assert it.pool.sessions == 1
        writer.transport.abort()
    source.close()


async def test_refusals_in_a_row_make_a_session_look_the_name_up_again(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, port=closed_port()) as it:
        first = it.pool.session_id
        for _ in range(MAX_REFUSALS):
            with pytest.raises(ConnectionResetError):
                await it.echo(b"x")
        assert ssm_loopback.sessions_started == 1
        with pytest.raises(ConnectionResetError):
            await it.echo(b"x")
        assert it.pool.session_id != first
        assert it.pool.sessions == 1
        # A destination that is down is no reason to start one session after the other.
        for _ in range(3 * MAX_REFUSALS):
            with pytest.raises(ConnectionResetError):
                await it.echo(b"x")
        assert ssm_loopback.sessions_started == 2


async def test_a_destination_that_answers_is_not_refusing(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with tunnel(ssm_loopback, monkeypatch, port=port) as it:
        for _ in range(MAX_REFUSALS):
            for _ in range(MAX_REFUSALS - 1):
                with pytest.raises(ConnectionResetError):
                    await it.echo(b"x")
            server = await asyncio.start_server(echo, "127.0.0.1", port)
            assert await it.echo(b"hello") == b"hello"
            server.close()
        assert ssm_loopback.sessions_started == 1


async def test_an_old_session_keeps_its_connections_and_gets_no_more(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, max_age=0.5) as it:
        first = it.pool.session_id
        reader, writer = await it.connect()
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        restarting = await it.seen(lambda event: isinstance(event, Restarting))
        assert restarting == Restarting(first, "it has reached its maximum age", False)
        await it.seen(lambda event: isinstance(event, Restarted))
        writer.write(b"after")
        assert await reader.readexactly(5) == b"after"
        assert first in ssm_loopback.session_ids
        reset(writer)
        await eventually(lambda: first not in ssm_loopback.session_ids)


async def test_no_session_beside_the_one_that_was_allowed(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with tunnel(ssm_loopback, monkeypatch, max_age=0.05, max_restarts=0) as it:
        await asyncio.sleep(0.2)
        assert await it.echo(b"x") == b"x"
        assert ssm_loopback.sessions_started == 1


async def test_the_last_bytes_of_a_session_that_retires_have_time(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 20_000
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port, max_age=0.5) as it:
            _, writer = await it.connect()
            destination = await server.accept()
            writer.write(data)
            await writer.drain()
            await it.seen(lambda event: isinstance(event, Restarted))
            await eventually(lambda: it.pool._sessions[0].idle)
            reset_when_sent = it.pool._sessions[0]._driver._transports
            next(iter(reset_when_sent.values())).close()
            await eventually(lambda: it.pool.sessions == 1)
            assert ssm_loopback.sessions == 2
            assert await destination.rest() == data
            await eventually(lambda: ssm_loopback.sessions == 1)


async def test_but_not_when_all_is_closed(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port, max_age=0.5) as it:
            _, writer = await it.connect()
            await server.accept()
            writer.write(bytes(5_000_000))
            await writer.drain()
            await it.seen(lambda event: isinstance(event, Restarted))
            transports = it.pool._sessions[0]._driver._transports
            next(iter(transports.values())).close()
            await eventually(lambda: it.pool.sessions == 1)
            async with asyncio.timeout(DEADLINE):
                await it.pool.close(drain=0.1)
            assert ssm_loopback.sessions == 0


async def test_no_session_is_started_while_all_is_closed(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end takes a while when the far end does not answer, and the session grows old in it."""
    async with tunnel(ssm_loopback, monkeypatch, max_age=0.6) as it:
        ssm_loopback.blackhole_clients(30)
        async with asyncio.timeout(DEADLINE):
            await it.pool.close()
        assert ssm_loopback.sessions_started == 1
        assert ssm_loopback.sessions == 0


async def test_sessions_that_drain_count_too(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may try again and again to reach a destination that does not read."""
    monkeypatch.setattr("ssmnet.pool.MAX_SESSIONS", 3)
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port) as it:
            for _ in range(5):
                _, writer = await it.connect()
                await server.accept()
                await fill(writer)
                reader, other = await it.connect()
                await (await server.accept()).send(b"hello")
                assert await reader.readexactly(5) == b"hello"
                reset(other)
                first = next(iter(it.pool._sessions))
                for transport in tuple(first._driver._transports.values()):
                    transport.abort()
                await eventually(lambda: it.pool.sessions == 1)
                assert ssm_loopback.sessions <= 3 + 2  # two may be on their way out
            await eventually(lambda: ssm_loopback.sessions <= 3)
            assert ssm_loopback.sessions_started == 6


async def test_a_destination_that_is_back_is_reached_though_no_session_can_be_started(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = closed_port()
    async with tunnel(ssm_loopback, monkeypatch, port=port) as it:
        ssm_loopback.fail_next("AccessDeniedException", times=1000, action="StartSession")
        for _ in range(MAX_REFUSALS + 2):
            with pytest.raises(ConnectionResetError):
                await it.echo(b"x")
        server = await asyncio.start_server(echo, "127.0.0.1", port)
        assert await it.echo(b"hello") == b"hello"
        server.close()


async def test_a_session_that_is_only_old_is_used_rather_than_another_cut_short(
    ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.pool.MAX_SESSIONS", 2)
    async with serving() as server:
        async with tunnel(ssm_loopback, monkeypatch, port=server.port, max_age=0.5) as it:
            _, writer = await it.connect()
            destination = await server.accept()
            await fill(writer)
            await it.seen(lambda event: isinstance(event, Restarted))
            (transport,) = it.pool._sessions[0]._driver._transports.values()
            transport.close()
            await eventually(lambda: it.pool.sessions == 1)
            await asyncio.sleep(1.0)  # the next one is old, too, and stays
            reader, other = await it.connect()
            await (await server.accept()).send(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert ssm_loopback.sessions == ssm_loopback.sessions_started == 2
            destination.drop()
            reset(other)
