"""Several forwards, of which some fail."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ssmnet.aws import Client
from ssmnet.config import NamedForward, load_config
from ssmnet.errors import ListenError, SessionClosed, UsageError
from ssmnet.events import Event, Failed, Listening, Reloaded, Widened
from ssmnet.forwards import AUTO_SESSIONS, MAX_SESSIONS, Forward, Request, parse_sessions
from ssmnet.loopback import Loopback
from ssmnet.runner import finish
from ssmnet.service import ForwardService, Service
from ssmnet.up import Named, Up, run_forwards
from tests.io.sessions import eventually
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


def write(file: Path, target: str, **remotes: int) -> None:
    """Have the file name these forwards."""
    common = f"local = 0\ntarget = '{target}'\n"
    lines = [f"[forwards.{name}]\nremote = {port}\n{common}" for name, port in remotes.items()]
    new = file.with_suffix(".new")
    new.write_text("".join(lines))
    new.replace(file)


class Scene:
    """An Up with forwards from a file, which tells what it has reloaded."""

    def __init__(self, client: Client, target: str, file: Path) -> None:
        self.target = target
        self.file = file
        self.reloaded: asyncio.Queue[Reloaded] = asyncio.Queue()
        self.stop = asyncio.Event()
        self._client = client
        self.up = Up(file, lambda: load_config(file), self._make, (), self._tell)
        self.running = asyncio.ensure_future(self.up.run(self.stop))

    def _make(self, named: Named, tell: Callable[[Event], None]) -> Service:
        assert isinstance(named, NamedForward)
        if named.forward.remote == BAD:
            raise UsageError("this one can't be made")
        return ForwardService(self._client, named.request, named.forward, tell)

    def _tell(self, event: Event, _: str) -> None:
        if isinstance(event, Reloaded):
            self.reloaded.put_nowait(event)

    def write(self, **remotes: int) -> None:
        write(self.file, self.target, **remotes)

    @property
    def states(self) -> dict[str, str]:
        return {one.name: str(one.state) for one in self.up.snapshots()}

    async def all_up(self) -> None:
        await eventually(lambda: set(self.states.values()) == {"up"})


BAD = 9


@pytest.fixture
async def scene(
    client: Client, ssm_loopback: Loopback, file: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    """One that runs, with the forwards one and two. At the end nothing may be left."""
    monkeypatch.setattr("ssmnet.up.LOOK_AT_FILE_TIME", 600)
    write(file, ssm_loopback.target, one=22, two=22)
    scene = Scene(client, ssm_loopback.target, file)
    async with asyncio.timeout(40):
        await scene.all_up()
        yield scene
        scene.stop.set()
        await scene.running
    assert ssm_loopback.sessions == 0


async def test_a_change_of_all_ends_nothing(scene: Scene) -> None:
    scene.write(one=23, two=23)
    assert await scene.up.reload() == "changed one, two"
    await scene.all_up()
    assert not scene.running.done()


async def test_what_is_down_is_shown_and_comes_back_by_a_reload(scene: Scene) -> None:
    assert await scene.up.down(["one", "one"]) == ["one"]
    assert scene.states == {"one": "stopped", "two": "up"}
    assert await scene.up.down(["one"]) == []
    assert await scene.up.reload() == "started one"
    await scene.all_up()
    with pytest.raises(UsageError, match="'three' does not run here"):
        await scene.up.down(["one", "three"])


@pytest.mark.parametrize("names", [[], ["one", "two"]])
async def test_when_all_are_down_it_ends(scene: Scene, names: list[str]) -> None:
    assert await scene.up.down(names) == ["one", "two"]
    await scene.running


async def test_one_that_can_t_be_made_changes_nothing(scene: Scene) -> None:
    scene.write(one=BAD, two=23, three=22)
    with pytest.raises(UsageError, match="this one can't be made"):
        await scene.up.reload()
    assert scene.states == {"one": "up", "two": "up"}
    assert scene.reloaded.get_nowait().error == "this one can't be made"
    scene.write(one=22, two=23, three=22)
    assert await scene.up.reload() == "started three; changed two"


async def test_an_end_in_the_middle_of_a_reload(scene: Scene) -> None:
    scene.write(one=23, two=23, three=23)
    reloading = asyncio.ensure_future(scene.up.reload())
    await asyncio.sleep(0)
    scene.stop.set()
    with pytest.raises(SessionClosed, match="the process ends"):
        await reloading
    await scene.running
    assert set(scene.states.values()) == {"stopped"}


async def test_all_down_in_the_middle_of_a_reload(scene: Scene) -> None:
    scene.write(one=23, two=22, three=23)
    reloading = asyncio.ensure_future(scene.up.reload())
    await asyncio.sleep(0)
    assert set(await scene.up.down(())) == {"one", "two", "three"}
    await reloading
    await scene.running


async def test_each_change_of_the_file_is_told_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(one=22, two=22, three=22)
    assert await scene.up.reload() == "started three"
    monkeypatch.setattr("ssmnet.up.LOOK_AT_FILE_TIME", 0.01)
    watching = asyncio.ensure_future(scene.up._watch_file())
    assert scene.reloaded.get_nowait().changes == "started three"
    scene.write(one=22, two=22)
    assert (await scene.reloaded.get()).changes == "stopped three"
    scene.file.write_text("[forwards")
    assert "Expected ']'" in (await scene.reloaded.get()).error
    scene.file.unlink()
    scene.write(one=22)
    assert (await scene.reloaded.get()).changes == "stopped two"
    watching.cancel()
    await asyncio.wait((watching,))
    assert scene.reloaded.empty()


async def test_what_keeps_one_from_starting_is_counted_each_time_and_told_once(
    client: Client, ssm_loopback: Loopback, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ssmnet.up.FIRST_RETRY_TIME", 0.001)
    told: list[Event] = []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        forward = Forward(port, 22)
        service = ForwardService(client, Request(ssm_loopback.target), forward, told.append)
        file.write_text("[forwards.one]\nremote = 22\n")
        up = Up(file, lambda: load_config(file), lambda *_: service, (), lambda *_: None)
        stop = asyncio.Event()
        running = asyncio.ensure_future(up.run(stop))
        async with asyncio.timeout(20):
            await eventually(
                lambda: [one for one in up.snapshots() if sum(one.errors.values()) >= 4]
            )
            stop.set()
            await running
    assert [type(event) for event in told] == [Failed]
    assert ssm_loopback.sessions_started == 0
