"""Several forwards, of which some fail."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from ssmnet.aws import Client
from ssmnet.config import NamedForward, load_config
from ssmnet.errors import ListenError, UsageError
from ssmnet.events import Event, Listening, Reloaded, Widened
from ssmnet.forwards import AUTO_SESSIONS, MAX_SESSIONS, Forward, Request, parse_sessions
from ssmnet.loopback import Loopback
from ssmnet.runner import finish
from ssmnet.service import ForwardService, Service
from ssmnet.up import Named, Up, run_forwards
from tests.io.tunnels import echo

pytestmark = pytest.mark.usefixtures("clean")


@pytest.fixture
def client(ssm_loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> Client:
    for name, value in ssm_loopback.environment.items():
        monkeypatch.setenv(name, value)
    return Client()


async def test_one_that_fails_takes_the_others_with_it_and_leaves_no_session(
    client: Client, ssm_loopback: Loopback
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        forwards = [Forward(port, 22) for _ in range(4)] + [Forward(0, 22)]
        with pytest.raises(ListenError, match="in use"):
            await run_forwards(
                client,
                Request(ssm_loopback.target),
                forwards,
                lambda _: None,
                asyncio.Event(),
            )
    assert ssm_loopback.sessions_started >= 1
    assert ssm_loopback.sessions == 0


async def test_stops_when_told(client: Client, ssm_loopback: Loopback) -> None:
    stop = asyncio.Event()
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        if sum(isinstance(event, Listening) for event in events) == 3:
            stop.set()

    async with asyncio.timeout(20):
        ok = await run_forwards(
            client, Request(ssm_loopback.target), [Forward(0, 22)] * 3, on_event, stop
        )
    assert ok
    assert ssm_loopback.sessions == 0


async def test_a_forward_may_have_several_sessions(client: Client, ssm_loopback: Loopback) -> None:
    stop = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []
    dialling: list[asyncio.Task[None]] = []
    server = await asyncio.start_server(echo, "127.0.0.1", 0)

    async def dial(port: int | None) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)

    def on_event(event: Event) -> None:
        if isinstance(event, Listening):
            dialling.append(asyncio.ensure_future(dial(event.port)))
        elif isinstance(event, Widened):
            assert ssm_loopback.sessions == event.sessions == 2
            stop.set()

    forward = Forward(0, server.sockets[0].getsockname()[1])
    request = Request(ssm_loopback.target, sessions=2)
    async with asyncio.timeout(20):
        assert await run_forwards(client, request, [forward], on_event, stop)
    assert ssm_loopback.sessions == 0
    for writer in writers:
        writer.transport.abort()
    server.close()


@pytest.mark.parametrize(
    ("text", "sessions"),
    [("1", 1), ("12", 12), (str(MAX_SESSIONS), MAX_SESSIONS), ("auto", AUTO_SESSIONS)],
)
def test_how_many_sessions(text: str, sessions: int) -> None:
    assert parse_sessions(text) == sessions


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "1.5", "many", "AUTO", "\u0663", str(MAX_SESSIONS + 1), "9" * 5000]
)
def test_what_is_no_number_of_sessions(text: str) -> None:
    with pytest.raises(UsageError, match="auto"):
        parse_sessions(text)


async def test_what_is_to_be_finished_is_finished_though_cancelled() -> None:
    release = asyncio.Event()
    finished = False

    async def closing() -> None:
        nonlocal finished
        await release.wait()
        finished = True

    task = asyncio.ensure_future(finish(closing()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert finished


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ssmnet.toml"


def write(file: Path, target: str, *names: str) -> None:
    """Have the file name these forwards."""
    lines = [f"[forwards.{name}]\nlocal = 0\nremote = 22\ntarget = '{target}'\n" for name in names]
    new = file.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(file)


async def test_each_change_of_the_file_is_told_once(
    client: Client, ssm_loopback: Loopback, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.up.LOOK_AT_FILE_TIME", 0.01)
    told: asyncio.Queue[Reloaded] = asyncio.Queue()

    def make(named: Named, tell: Callable[[Event], None]) -> Service:
        assert isinstance(named, NamedForward)
        return ForwardService(client, named.request, named.forward, tell)

    def tell(event: Event, _: str) -> None:
        if isinstance(event, Reloaded):
            told.put_nowait(event)

    write(file, ssm_loopback.target, "one")
    up = Up(lambda: load_config(file), make, (), tell)
    stop = asyncio.Event()
    running = asyncio.ensure_future(up.run(stop))
    async with asyncio.timeout(20):
        write(file, ssm_loopback.target, "one", "two")
        assert await up.reload() == "started two"
        write(file, ssm_loopback.target, "two")
        assert [(await told.get()).changes for _ in range(2)] == ["started two", "stopped one"]
        assert [one.name for one in up.snapshots()] == ["two"]
        stop.set()
        await running
    assert told.empty()
    assert ssm_loopback.sessions == 0
