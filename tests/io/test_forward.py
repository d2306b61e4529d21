"""Listeners and forwarders: local sockets on one side, sessions or connections on the other."""

import asyncio
import contextlib
import os
import random
import socket
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import ssmnet.forward
import ssmnet.session
from ssmnet.bind import LOOPBACK
from ssmnet.errors import ConnectError, ListenError
from ssmnet.events import Connected, Disconnected, Event
from ssmnet.forward import Dialled, Listener
from ssmnet.session import Session
from tests.io.sessions import (
    TIMEOUT,
    Connection,
    FarEnd,
    Server,
    closed_port,
    echoing,
    eventually,
    far_end,
    serving,
    websocket_of,
)

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1024 * 1024
QUIET = 0.3
AF_UNIX = getattr(socket, "AF_UNIX", -1)
ON_UNIX = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")


@pytest.fixture
async def far() -> AsyncIterator[FarEnd]:
    async with far_end() as far:
        yield far


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-closed connection is taken for done sooner."""
    monkeypatch.setattr(ssmnet.forward, "QUIET_TIME", QUIET)


class Forward:
    """A listener with its events."""

    def __init__(self, dial: Callable[[asyncio.Protocol], Dialled]) -> None:
        self.events: list[Event] = []
        self.local: list[Connection] = []
        self.listener = Listener(dial, "target:port", self.events.append)

    @property
    def ended(self) -> list[Disconnected]:
        return [event for event in self.events if isinstance(event, Disconnected)]

    async def connect(self, host: str = "127.0.0.1") -> Connection:
        if self.listener.port is None:
            sock = socket.socket(AF_UNIX)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, self.listener.address)
            streams = await asyncio.open_connection(sock=sock)
        else:
            streams = await asyncio.open_connection(host, self.listener.port)
        self.local.append(Connection(*streams))
        return self.local[-1]

    async def disconnected(self, count: int = 1) -> Disconnected:
        """The event of the end of one connection; the last of ``count``."""
        await eventually(lambda: len(self.ended) >= count)
        assert len(self.ended) == count
        return self.ended[-1]


@asynccontextmanager
async def listening(
    dial: Callable[[asyncio.Protocol], Dialled], path: str = ""
) -> AsyncIterator[Forward]:
    forward = Forward(dial)
    if path:
        await forward.listener.listen_unix(path)
    else:
        await forward.listener.listen_tcp()
    try:
        yield forward
    finally:
        forward.listener.close()
        async with asyncio.timeout(5):
            await forward.listener.wait_closed(0)
        for local in forward.local:
            local.drop()
        assert forward.listener.connections == 0
        made = [event for event in forward.events if isinstance(event, Connected)]
        assert len(made) == len(forward.ended)


@asynccontextmanager
async def forwarding(far: FarEnd, port: int) -> AsyncIterator[tuple[Forward, Session]]:
    async with far.opened(port) as session, listening(session.create_stream) as forward:
        yield forward, session


class Dial:
    """Dials a TCP port of this machine, as soon as it may: the other side in place of a session."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.may = asyncio.Event()
        self.may.set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.aborted = 0

    def __call__(self, protocol: asyncio.Protocol) -> Dialled:
        dialling = Dialling(self, protocol)
        self.tasks.add(dialling.task)
        dialling.task.add_done_callback(self.tasks.discard)
        return dialling


class Dialling:
    def __init__(self, dial: Dial, protocol: asyncio.Protocol) -> None:
        self.dial = dial
        self.protocol = protocol
        self.task = asyncio.ensure_future(self.run())

    async def run(self) -> None:
        await self.dial.may.wait()
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.protocol, "127.0.0.1", self.dial.port)
        except OSError as error:
            self.protocol.connection_lost(ConnectError(str(error)))

    def abort(self) -> None:
        self.dial.aborted += 1
        self.task.cancel()


def nobody(_: asyncio.Protocol) -> Dialled:
    raise ConnectError("nobody is there")


async def is_reset(connection: Connection) -> bool:
    """Whether the connection ends with a reset, and not as if all were well."""
    try:
        await connection.rest()
    except ConnectionResetError:
        # The writer knows of it, too, and complains where nobody asks.
        with contextlib.suppress(ConnectionResetError):
            await connection.writer.wait_closed()
        return True
    return False


# Listening.


async def test_one_port_on_both_loopback_addresses(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        listener = forward.listener
        assert listener.port
        assert listener.address == "127.0.0.1"
        for host in LOOPBACK:
            local = await forward.connect(host)
            await local.send(b"x")
            assert await (await server.accept()).read(1) == b"x"
            connected = forward.events[-1]
            assert isinstance(connected, Connected)
            assert connected.peer.startswith(f"{host}:")


async def test_a_port_of_ones_own() -> None:
    port = closed_port()
    listener = Listener(nobody, "", lambda _: None)
    await listener.listen_tcp(port=port)
    assert listener.port == port
    listener.close()
    # And it can be had again at once.
    again = Listener(nobody, "", lambda _: None)
    await again.listen_tcp(port=port)
    again.close()


@pytest.mark.parametrize("host", LOOPBACK)
async def test_a_port_that_is_in_use(host: str) -> None:
    """On either address; nothing is left listening on the other."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        listener = Listener(nobody, "", lambda _: None)
        with pytest.raises(ListenError) as caught:
            await listener.listen_tcp(port=port)
        assert str(caught.value) == f"cannot listen on port {port} on {host}: it is in use"
        other = LOOPBACK[1 - LOOPBACK.index(host)]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(other, port)


@pytest.mark.parametrize(
    ("hosts", "reached"),
    [
        (["0.0.0.0"], ["127.0.0.1", "127.0.0.2"]),
        (["::"], ["::1"]),
        (["0.0.0.0", "::"], ["127.0.0.1", "::1"]),
        (["localhost"], ["localhost"]),
        (["::1"], ["::1"]),
    ],
)
async def test_other_addresses(server: Server, hosts: list[str], reached: list[str]) -> None:
    listener = Listener(Dial(server.port), "", lambda _: None)
    await listener.listen_tcp(hosts)
    for host in reached:
        reader, writer = await asyncio.open_connection(host, listener.port)
        writer.write(b"x")
        connection = await server.accept()
        assert await connection.read(1) == b"x"
        connection.writer.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    listener.close()
    await listener.wait_closed(TIMEOUT)


@pytest.mark.parametrize("port", [0, 40_000])
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "no-such-host.invalid", "x" * 70])
async def test_an_address_that_is_not_ours(host: str, port: int) -> None:
    listener = Listener(nobody, "", lambda _: None)
    with pytest.raises(ListenError, match=f"cannot listen on .*{host}: ") as caught:
        await listener.listen_tcp([host], port)
    assert "\n" not in str(caught.value)


async def test_every_address_that_was_asked_for_is_had_or_none() -> None:
    """A second address is not left out without a word; only IPv6's usual ones may be."""
    port = closed_port()
    for host in ("192.0.2.1", "2001:db8::1", "no-such-host.invalid"):
        listener = Listener(nobody, "", lambda _: None)
        with pytest.raises(ListenError, match=f"port {port} on {host}: "):
            await listener.listen_tcp(["127.0.0.1", host], port)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)


async def test_an_address_is_named_twice() -> None:
    listener = Listener(nobody, "", lambda _: None)
    with pytest.raises(ListenError, match=r"cannot listen on 127\.0\.0\.1:\d+: it is in use"):
        await listener.listen_tcp(["127.0.0.1", "127.0.0.1"])
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", listener.port)


async def test_what_is_bound_does_not_accept_yet() -> None:
    """Who waits for the port to be there does not take it for open too early."""
    listener = Listener(nobody, "", lambda _: None)
    listener.bind_tcp()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", listener.port)
    listener.close()
    with socket.create_server(("127.0.0.1", listener.port or 0)):
        pass


@pytest.mark.parametrize("port", [-1, 65_536, 70_000])
async def test_what_is_no_port(port: int) -> None:
    """The name look-up would make 4464 of 70000."""
    listener = Listener(nobody, "", lambda _: None)
    with pytest.raises(ListenError, match=f"cannot listen on port {port}: "):
        await listener.listen_tcp(port=port)


async def test_close_accepts_no_more(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        connection = await server.accept()
        port = forward.listener.port
        forward.listener.close()
        forward.listener.close()
        for host in LOOPBACK:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(host, port)
        # What is open goes on.
        await local.send(b"still here")
        assert await connection.read(10) == b"still here"
        assert forward.listener.port == port
        assert forward.listener.address == "127.0.0.1"


# Unix sockets.


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


@ON_UNIX
async def test_a_unix_socket(server: Server, path: str) -> None:
    async with listening(Dial(server.port), path) as forward:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert forward.listener.port is None
        assert forward.listener.address == path
        local = await forward.connect()
        data = random.randbytes(500_000)
        connection = await server.accept()
        assert (await asyncio.gather(local.send(data), connection.read(len(data))))[1] == data
        assert (await asyncio.gather(connection.send(data), local.read(len(data))))[1] == data
        connected = forward.events[0]
        assert isinstance(connected, Connected)
        assert connected.peer == ""
        local.writer.close()
        assert await connection.rest() == b""
        connection.writer.close()
        await forward.disconnected()
        forward.listener.close()
        assert not os.path.exists(path)
        assert forward.listener.address == path


@ON_UNIX
async def test_a_stale_unix_socket_is_replaced(server: Server, path: str) -> None:
    with socket.socket(AF_UNIX) as stale:
        stale.bind(path)
    assert os.path.exists(path)
    async with listening(Dial(server.port), path) as forward:
        local = await forward.connect()
        await local.send(b"x")
        assert await (await server.accept()).read(1) == b"x"
        local.writer.close()


@ON_UNIX
async def test_a_unix_socket_in_use_is_left_alone(path: str) -> None:
    with socket.socket(AF_UNIX) as used:
        used.bind(path)
        used.listen()
        listener = Listener(nobody, "", lambda _: None)
        with pytest.raises(ListenError) as caught:
            await listener.listen_unix(path)
        assert str(caught.value) == f"cannot listen on {path}: it is in use"
        with socket.socket(AF_UNIX) as client:
            client.connect(path)


@ON_UNIX
async def test_a_unix_socket_whose_owner_is_too_busy_to_accept(path: str) -> None:
    """The question whether it is in use must not wait for an answer: the loop stands still."""
    with socket.socket(AF_UNIX) as used, contextlib.ExitStack() as stack:
        used.bind(path)
        used.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                client = stack.enter_context(socket.socket(AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        listener = Listener(nobody, "", lambda _: None)
        with pytest.raises(ListenError, match="it is in use"):
            await listener.listen_unix(path)
        assert os.path.exists(path)


@ON_UNIX
async def test_a_file_is_not_taken_for_a_stale_socket(path: str) -> None:
    Path(path).write_text("precious")
    listener = Listener(nobody, "", lambda _: None)
    with pytest.raises(ListenError, match="it is in use"):
        await listener.listen_unix(path)
    assert Path(path).read_text() == "precious"


@ON_UNIX
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x" * 120, "too long"),
        ("y" * 300, "too long"),
        ("missing/s.sock", "No such file or directory"),
    ],
)
async def test_a_path_that_can_not_be_had(tmp_path: Path, name: str, text: str) -> None:
    listener = Listener(nobody, "", lambda _: None)
    with pytest.raises(ListenError, match=text) as caught:
        await listener.listen_unix(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("cannot listen on ")


@ON_UNIX
async def test_close_removes_no_socket_but_its_own(path: str) -> None:
    listener = Listener(nobody, "", lambda _: None)
    await listener.listen_unix(path)
    os.rename(path, path + ".old")
    with socket.socket(AF_UNIX) as other:
        other.bind(path)
        listener.close()
        assert os.path.exists(path)
    os.unlink(path)


# Connections through a session.


async def test_bytes_go_both_ways_and_are_counted(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        up, down = random.randbytes(3_000_000), random.randbytes(2_000_000)
        connection = await server.accept()
        assert (await asyncio.gather(local.send(up), connection.read(len(up))))[1] == up
        assert (await asyncio.gather(connection.send(down), local.read(len(down))))[1] == down
        assert forward.listener.connections == 1
        connection.writer.close()
        assert await local.rest() == b""
        local.writer.close()
        event = await forward.disconnected()
        assert event == Disconnected(1, "target:port", len(up), len(down), "")
        assert isinstance(forward.events[0], Connected)
        assert forward.events[0].connection == 1
        assert forward.events[0].destination == "target:port"
        assert forward.listener.connections == 0
    await eventually(lambda: far.loopback.connections == 0)


async def test_many_connections_at_once(far: FarEnd) -> None:
    async with echoing() as port, forwarding(far, port) as (forward, _):

        async def one(number: int) -> None:
            local = await forward.connect(LOOPBACK[number % 2])
            data = random.randbytes(random.choice([1, 1000, 20_000]))
            await local.send(data)
            assert await local.read(len(data)) == data
            local.writer.close()

        async with asyncio.timeout(60):
            await asyncio.gather(*(one(number) for number in range(500)))
        assert len([event for event in forward.events if isinstance(event, Connected)]) == 500
        assert all(event.error == "" for event in forward.ended)


async def test_idle_connections_need_no_task(far: FarEnd) -> None:
    async with echoing() as port, forwarding(far, port) as (forward, _):
        before = len(asyncio.all_tasks())
        local = [await forward.connect() for _ in range(50)]
        for connection in local:
            await connection.send(b"x")
            await connection.read(1)
        assert len(asyncio.all_tasks()) == before
        for connection in local:
            connection.writer.close()


# Half-close: a stream has none, and the agent closes both directions on FIN.


@pytest.mark.usefixtures("quick")
async def test_the_answer_comes_after_the_end_of_the_question(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"question")
        local.writer.write_eof()
        connection = await server.accept()
        assert await connection.read(8) == b"question"
        answer = random.randbytes(300_000)
        loop = asyncio.get_running_loop()
        for piece in (answer[:100_000], answer[100_000:200_000], answer[200_000:]):
            # Each within the quiet time of the last, and all of it longer than that.
            await asyncio.sleep(QUIET * 0.6)
            await connection.send(piece)
        assert await local.read(len(answer)) == answer
        answered = loop.time()
        # Only now, and after the quiet time, does the destination see an end.
        assert await connection.rest() == b""
        assert QUIET * 0.9 < loop.time() - answered < QUIET * 5
        assert await local.rest() == b""
        assert (await forward.disconnected()).error == ""


@pytest.mark.usefixtures("quick")
async def test_an_answer_may_be_held_up_by_an_interruption(far: FarEnd, server: Server) -> None:
    """The quiet time begins anew after it: nothing could be heard."""
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"question")
        local.writer.write_eof()
        connection = await server.accept()
        assert await connection.read(8) == b"question"
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await asyncio.sleep(QUIET * 3)
        far.access.may_resume.set()
        await eventually(lambda: far.loopback.clients)
        await asyncio.sleep(QUIET * 0.4)
        await connection.send(b"answer")
        assert await local.read(6) == b"answer"
        assert await local.rest() == b""
        assert (await forward.disconnected()).error == ""


@pytest.mark.usefixtures("quick")
async def test_the_end_of_the_destination_needs_no_quiet_time(
    monkeypatch: pytest.MonkeyPatch, far: FarEnd, server: Server
) -> None:
    monkeypatch.setattr(ssmnet.forward, "QUIET_TIME", 60.0)
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"question")
        local.writer.write_eof()
        connection = await server.accept()
        assert await connection.read(8) == b"question"
        await connection.send(b"answer")
        connection.writer.close()
        async with asyncio.timeout(5):
            assert await local.rest() == b"answer"
            await forward.disconnected()


@pytest.mark.usefixtures("quick")
async def test_a_big_question_is_whole_before_its_end(far: FarEnd, server: Server) -> None:
    """The quiet time counts from when the destination has it all."""
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        question = random.randbytes(16 * MIB)
        sending = asyncio.ensure_future(local.send(question))
        connection = await server.accept()
        await asyncio.sleep(QUIET * 4)  # the destination is slow to begin
        got = bytearray()
        async with asyncio.timeout(30):
            while len(got) < len(question):
                got += await connection.reader.read(65536)
                if sending.done() and not local.writer.transport.is_closing():
                    local.writer.write_eof() if local.writer.can_write_eof() else None
        assert got == question
        await sending
        local.writer.close()
        assert await connection.rest() == b""
        await forward.disconnected()


@pytest.mark.usefixtures("quick")
async def test_a_closed_connection_ends_though_others_are_busy(far: FarEnd, server: Server) -> None:
    """A local close looks like a half-close; it must not wait for the whole session to be idle."""
    async with forwarding(far, server.port) as (forward, _):
        busy = await forward.connect()
        sink = await server.accept()

        async def upload() -> None:
            while True:
                busy.writer.write(bytes(100_000))
                await busy.writer.drain()

        async def swallow() -> None:
            while await sink.reader.read(1_000_000):
                pass

        tasks = [asyncio.ensure_future(upload()), asyncio.ensure_future(swallow())]
        local = await forward.connect()
        await local.send(b"short")
        connection = await server.accept()
        assert await connection.read(5) == b"short"
        local.writer.close()
        try:
            async with asyncio.timeout(QUIET * 10):
                assert await connection.rest() == b""
                await forward.disconnected()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


# Resets.


async def test_a_local_reset_closes_the_destination(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        local.reset()
        async with asyncio.timeout(2):
            assert await connection.rest() == b""
        event = await forward.disconnected()
        assert event.error
        assert event.bytes_sent == 1


async def test_a_local_reset_in_the_middle_of_an_upload(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect()
        local.writer.write(bytes(4 * MIB))
        connection = await server.accept()
        await connection.read(1_000_000)
        local.reset()
        async with asyncio.timeout(5):
            await connection.rest()
        assert (await forward.disconnected()).error
        assert session.ended is None


async def test_a_local_close_in_the_middle_of_a_download(far: FarEnd, server: Server) -> None:
    """The first write that fails tells that nobody reads any more."""
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        connection = await server.accept()
        await connection.send(b"x")
        await local.read(1)
        local.writer.close()
        async with asyncio.timeout(4):  # less than the quiet time
            with pytest.raises(ConnectionError):
                while True:
                    await connection.send(bytes(10_000))
                    await asyncio.sleep(0.01)
        await forward.disconnected()


async def test_the_destination_resets(far: FarEnd, server: Server) -> None:
    """It comes as FIN: the agent has no other word."""
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        connection.reset()
        async with asyncio.timeout(5):
            assert await local.rest() == b""
        local.writer.close()
        assert (await forward.disconnected()).error == ""


@pytest.mark.parametrize("host", LOOPBACK)
async def test_the_destination_refuses(far: FarEnd, host: str) -> None:
    async with forwarding(far, closed_port()) as (forward, session):
        local = await forward.connect(host)
        assert await is_reset(local)
        event = await forward.disconnected()
        assert "could not connect to the destination" in event.error
        assert (event.bytes_sent, event.bytes_received) == (0, 0)
        assert session.ended is None


async def test_a_dial_that_fails_at_once() -> None:
    async with listening(nobody) as forward:
        local = await forward.connect()
        assert await is_reset(local)
        assert (await forward.disconnected()).error == "nobody is there"


async def test_a_dial_that_fails_later(server: Server) -> None:
    async with listening(dial := Dial(closed_port())) as forward:
        dial.may.clear()
        local = await forward.connect()
        await local.send(b"x")
        dial.may.set()
        assert await is_reset(local)
        assert "111" in (await forward.disconnected()).error


@pytest.mark.parametrize("host", LOOPBACK)
async def test_the_session_is_killed(far: FarEnd, server: Server, host: str) -> None:
    """A connection that was cut must not look like one that is complete."""
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect(host)
        connection = await server.accept()
        await connection.send(b"half of the ans")
        assert await local.read(15) == b"half of the ans"
        await far.terminate(session)
        assert await is_reset(local)
        assert "closed" in (await forward.disconnected()).error
        # New ones are reset at once.
        assert await is_reset(await forward.connect(host))
        await forward.disconnected(2)


async def test_the_session_is_killed_while_a_local_reader_is_slow(
    monkeypatch: pytest.MonkeyPatch, far: FarEnd, server: Server
) -> None:
    # The agent's answer to the end is not read, either.
    monkeypatch.setattr(ssmnet.session, "TERMINATE_TIMEOUT", 0.3)
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect()
        connection = await server.accept()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.ensure_future(connection.send(bytes(16 * MIB)))
        await eventually(lambda: websocket_of(session).reading_paused)
        await session.close()
        assert (await forward.disconnected()).error
        local.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await is_reset(local)
        await asyncio.wait((sending,))
        sending.exception()


# Slow peers.


async def test_a_slow_local_reader_gets_every_byte(far: FarEnd, server: Server) -> None:
    """Though the destination has closed long ago."""
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await server.accept()
        data = random.randbytes(16 * MIB)
        sending = asyncio.ensure_future(connection.send(data))
        await eventually(lambda: websocket_of(session).reading_paused)
        local.writer.transport.resume_reading()  # type: ignore[attr-defined]
        got = bytearray()
        async with asyncio.timeout(60):
            while len(got) < len(data):
                got += await local.reader.read(300_000)
                if len(got) < MIB:
                    await asyncio.sleep(0.01)
                if sending.done():
                    connection.writer.close()
            assert await local.rest() == b""
        assert got == data
        await sending
        local.writer.close()
        event = await forward.disconnected()
        assert event.bytes_received == len(data)
        assert event.error == ""


async def test_the_destination_closes_while_the_local_reader_sleeps(
    far: FarEnd, server: Server
) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await server.accept()
        data = random.randbytes(6 * MIB)
        await connection.send(data)
        connection.writer.close()
        await asyncio.sleep(0.3)
        local.writer.transport.resume_reading()  # type: ignore[attr-defined]
        async with asyncio.timeout(30):
            assert await local.reader.read(-1) == data
        local.writer.close()
        await forward.disconnected()


async def test_a_destination_that_does_not_read_stops_its_local_writer(
    far: FarEnd, server: Server
) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        data = random.randbytes(40 * MIB)
        local.writer.write(data)
        connection = await server.accept()
        left = -1
        async with asyncio.timeout(60):
            while left != local.writer.transport.get_write_buffer_size():
                left = local.writer.transport.get_write_buffer_size()
                await asyncio.sleep(0.4)
        assert left > 10 * MIB, "it was read without end"
        async with asyncio.timeout(60):
            assert await connection.reader.readexactly(len(data)) == data


# The time before the other side is there.


async def test_what_is_sent_early_waits(server: Server) -> None:
    async with listening(dial := Dial(server.port)) as forward:
        dial.may.clear()
        local = await forward.connect()
        data = random.randbytes(40 * MIB)
        sending = asyncio.ensure_future(local.send(data))
        await asyncio.sleep(0.1)
        assert not sending.done(), "it must wait in the socket, not in memory"
        dial.may.set()
        connection = await server.accept()
        assert await connection.read(len(data)) == data
        await sending
        assert (await forward_ends(forward, local)).bytes_sent == len(data)


async def forward_ends(forward: Forward, local: Connection) -> Disconnected:
    local.reset()
    return await forward.disconnected()


async def test_a_whole_conversation_sent_early(server: Server) -> None:
    """Data and the end of input are there before the other side is."""
    async with listening(dial := Dial(server.port)) as forward:
        dial.may.clear()
        local = await forward.connect()
        await local.send(b"all that I have to say")
        local.writer.write_eof()
        await asyncio.sleep(0.05)
        dial.may.set()
        connection = await server.accept()
        assert await connection.rest() == b"all that I have to say"
        await connection.send(b"and the answer")
        connection.writer.close()
        assert await local.rest() == b"and the answer"
        local.writer.close()
        assert (await forward.disconnected()).error == ""


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("talkative", [False, True])
async def test_the_peer_vanishes_before_the_other_side_is_there(
    server: Server, how: str, talkative: bool
) -> None:
    async with listening(dial := Dial(server.port)) as forward:
        dial.may.clear()
        local = await forward.connect()
        if talkative:
            await local.send(b"x" * 10)
        await eventually(lambda: forward.events)
        if how == "reset":
            local.reset()
        else:
            local.writer.close()
        await asyncio.sleep(0.05)
        dial.may.set()
        if how == "close":
            # It could as well be a half-close: the destination hears of it, and ends it.
            connection = await server.accept()
            assert await connection.rest() == b"x" * 10 * talkative
            connection.writer.close()
        await forward.disconnected()
        assert forward.listener.connections == 0


async def test_the_peer_vanishes_while_the_session_resumes(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, session):
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        local = await forward.connect()
        await local.send(b"x")
        await eventually(lambda: forward.events)
        local.reset()
        await asyncio.sleep(0.02)
        far.access.may_resume.set()
        await forward.disconnected()
        assert session.ended is None


async def test_connections_made_while_the_session_resumes(far: FarEnd) -> None:
    async with echoing() as port, forwarding(far, port) as (forward, _):
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        local = [await forward.connect() for _ in range(20)]
        for connection in local:
            await connection.send(b"early")
        await eventually(lambda: forward.listener.connections == 20)
        far.access.may_resume.set()
        for connection in local:
            assert await connection.read(5) == b"early"


# Both sides with a half-close of their own.


async def test_a_half_close_is_passed_on_where_there_is_one(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        await local.send(b"question")
        local.writer.write_eof()
        connection = await server.accept()
        assert await connection.rest() == b"question"
        await connection.send(b"answer")
        connection.writer.write_eof()
        assert await local.rest() == b"answer"
        assert (await forward.disconnected()).error == ""


async def test_the_far_side_may_half_close_first(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        connection = await server.accept()
        connection.writer.write_eof()
        assert await local.rest() == b""
        await local.send(b"goodbye")
        local.writer.write_eof()
        assert await connection.rest() == b"goodbye"
        assert (await forward.disconnected()).error == ""


async def test_a_reset_is_passed_on_where_that_can_be(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        connection.reset()
        assert await is_reset(local)
        assert "reset" in (await forward.disconnected()).error.lower()
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        local.reset()
        assert await is_reset(connection)
        await forward.disconnected(2)


# The end.


async def test_wait_closed_waits_for_connections(server: Server) -> None:
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        connection = await server.accept()
        forward.listener.close()
        waiting = asyncio.ensure_future(forward.listener.wait_closed(TIMEOUT))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        connection.writer.close()
        local.writer.close()
        async with asyncio.timeout(5):
            await waiting
        assert forward.ended[0].error == ""


async def test_wait_closed_of_a_listener_without_connections() -> None:
    listener = Listener(nobody, "", lambda _: None)
    await listener.listen_tcp()
    listener.close()
    async with asyncio.timeout(1):
        assert await listener.wait_closed(30) is True


async def test_wait_closed_needs_no_quiet_time(far: FarEnd, server: Server) -> None:
    """Who has ended its input, and has no more to get, is not waited for."""
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        local.writer.write_eof()
        (forwarder,) = forward.listener._forwarders
        await eventually(lambda: forwarder.left.ended)
        forward.listener.close()
        async with asyncio.timeout(2):
            assert await forward.listener.wait_closed(30) is True
        assert await connection.rest() == b""
        assert await local.rest() == b""
        assert forward.ended[0].error == ""


async def test_wait_closed_waits_for_the_last_acknowledgement(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        await local.send(b"x")
        connection = await server.accept()
        await connection.read(1)
        far.loopback.impair(delay=0.2)
        await local.send(b"y")
        local.writer.write_eof()
        (forwarder,) = forward.listener._forwarders
        await eventually(lambda: forwarder.left.ended)
        forward.listener.close()
        async with asyncio.timeout(3):
            assert await forward.listener.wait_closed(30) is True
        assert await connection.rest() == b"y"
        assert forward.ended[0].error == ""


async def test_the_deadline_ends_one_that_has_ended_and_reads_nothing(
    far: FarEnd, server: Server
) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await server.accept()
        (forwarder,) = forward.listener._forwarders
        sending = asyncio.ensure_future(connection.send(bytes(32 * MIB)))
        await eventually(
            lambda: forwarder.left.transport and forwarder.left.transport.get_write_buffer_size()
        )
        local.writer.write_eof()
        await eventually(lambda: forwarder.left.ended)
        forward.listener.close()
        async with asyncio.timeout(5):
            await forward.listener.wait_closed(0)
        assert str(forwarder.error) == "the forward was closed"
        local.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await is_reset(local)
        sending.cancel()
        await asyncio.wait((sending,))


async def test_what_was_written_before_a_close_arrives_after_the_deadline(
    far: FarEnd, server: Server
) -> None:
    data = random.randbytes(5 * MIB)
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect()
        connection = await server.accept()
        await local.send(data)
        local.writer.close()
        (forwarder,) = forward.listener._forwarders
        await eventually(lambda: forwarder.left.ended)
        far.loopback.impair(delay=0.2)  # so that it is not acknowledged yet
        forward.listener.close()
        assert await forward.listener.wait_closed(0) is True
        closing = asyncio.ensure_future(session.close())
        assert await connection.rest() == data
        await closing


async def test_wait_closed_has_a_deadline(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, session):
        local = [await forward.connect() for _ in range(3)]
        connections = [await server.accept() for _ in local]
        forward.listener.close()
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await forward.listener.wait_closed(0.1) is False
        assert 0.09 < loop.time() - started < 2
        assert forward.listener.connections == 0
        for connection in local:
            assert await is_reset(connection)
        for connection in connections:
            assert await connection.rest() == b""
        assert [event.error for event in forward.ended] == ["the forward was closed"] * 3
        assert session.ended is None


async def test_the_deadline_ends_connections_that_wait(far: FarEnd, server: Server) -> None:
    """Accepted, and without a stream yet."""
    async with forwarding(far, server.port) as (forward, _):
        far.access.may_resume.clear()
        far.loopback.cut_clients()
        await eventually(lambda: far.access.resumed)
        local = [await forward.connect() for _ in range(3)]
        await eventually(lambda: forward.listener.connections == 3)
        forward.listener.close()
        await forward.listener.wait_closed(0)
        for connection in local:
            assert await is_reset(connection)
        assert len(forward.ended) == 3
        far.access.may_resume.set()


async def test_the_deadline_ends_dials_that_do_not_come_about(server: Server) -> None:
    async with listening(dial := Dial(server.port)) as forward:
        dial.may.clear()
        local = await forward.connect()
        await eventually(lambda: forward.listener.connections)
        forward.listener.close()
        await forward.listener.wait_closed(0)
        assert await is_reset(local)
        assert dial.aborted == 1
        await eventually(lambda: not dial.tasks)
        assert server.accepted == 0


async def test_the_deadline_ends_a_connection_that_is_half_gone(server: Server) -> None:
    """One side has closed after its last bytes, and the other can't get rid of its own."""
    async with listening(Dial(server.port)) as forward:
        local = await forward.connect()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await server.accept()
        connection.writer.transport.pause_reading()  # type: ignore[attr-defined]
        (forwarder,) = forward.listener._forwarders
        for peer, source in ((forwarder.right, local), (forwarder.left, connection)):
            # As much as the sockets take, and a bit that waits; not so much that reading stops.
            assert peer.transport is not None
            while not peer.transport.get_write_buffer_size():
                await source.send(bytes(20_000))
                await asyncio.sleep(0.002)
        local.writer.write_eof()
        await eventually(lambda: forwarder.left.ended)
        connection.writer.write_eof()
        await eventually(lambda: forwarder.right.ended)
        connection.writer.transport.resume_reading()  # type: ignore[attr-defined]
        reading = asyncio.ensure_future(connection.rest())
        await eventually(lambda: forwarder.right.lost)
        assert not forwarder.left.lost
        forward.listener.close()
        async with asyncio.timeout(5):
            await forward.listener.wait_closed(0)
        assert forward.listener.connections == 0
        local.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert await is_reset(local)
        await reading


async def test_the_deadline_ends_one_whose_far_side_is_closed(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        local.writer.transport.pause_reading()  # type: ignore[attr-defined]
        connection = await server.accept()
        data = random.randbytes(6 * MIB)
        await connection.send(data)
        connection.writer.close()
        await eventually(lambda: far.loopback.connections == 0)
        forward.listener.close()
        async with asyncio.timeout(5):
            await forward.listener.wait_closed(0.1)
        assert forward.listener.connections == 0


# Counts.


class CountingTransport:
    """A real transport that counts its writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


async def test_two_writes_at_most_for_64_kib(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, session):
        local = await forward.connect()
        connection = await server.accept()
        data = random.randbytes(8 * MIB)

        async def upload() -> None:
            _, got = await asyncio.gather(local.send(data), connection.read(len(data)))
            assert got == data

        await upload()  # the window has opened by now
        websocket = websocket_of(session)
        counting = CountingTransport(websocket._transport)
        websocket._transport = counting  # type: ignore[assignment]
        writes = []
        for _ in range(3):  # a busy machine may give out less than 64 KiB at a time
            before = counting.writes
            await upload()
            writes.append(counting.writes - before)
        assert min(writes) <= 2 * len(data) / 65536


async def test_no_task_is_made_for_what_is_read(far: FarEnd, server: Server) -> None:
    async with forwarding(far, server.port) as (forward, _):
        local = await forward.connect()
        connection = await server.accept()
        made = []

        def factory(loop: asyncio.AbstractEventLoop, coro: object, **more: object) -> object:
            made.append(coro)
            return asyncio.Task(coro, loop=loop, **more)  # type: ignore[arg-type]

        local.writer.write(data := random.randbytes(MIB))
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        assert await connection.reader.readexactly(MIB) == data
        loop.set_task_factory(None)
        assert made == []


async def test_a_listen_that_is_cancelled_leaves_no_deaf_socket() -> None:
    """On asyncio's loop, one that the next file with its number would have inherited."""
    listener = Listener(nobody, "", lambda _: None)
    listener.bind_tcp()
    listening = asyncio.ensure_future(listener.listen())
    await asyncio.sleep(0)
    listening.cancel()
    await asyncio.wait((listening,))
    listener.close()
    for _ in range(2):
        again = Listener(nobody, "", lambda _: None)
        await again.listen_tcp()
        _, writer = await asyncio.open_connection("127.0.0.1", again.port)
        await eventually(lambda: again.accepted == 1)
        writer.close()
        again.close()
        await again.wait_closed(0)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no unix sockets")
async def test_closing_twice_leaves_another_s_socket_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "it.sock")
    first, second = (Listener(nobody, "", lambda _: None) for _ in range(2))
    await first.listen_unix(path)
    first.close()
    await second.listen_unix(path)
    # File systems give the number of a file that is gone to the next one.
    first.close()
    assert Path(path).exists()
    second.close()
    assert not Path(path).exists()
