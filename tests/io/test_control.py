"""The socket by which a running process is asked: who may, what comes back, and what is borne."""

import asyncio
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from ssmnet import control, control_client
from ssmnet.control import ControlServer, is_our_own, peer_user
from ssmnet.control_client import (
    Answer,
    Do,
    Request,
    Status,
    ask,
    find_running,
    is_private,
    peer_process,
    runtime_folder,
    socket_path,
    watch,
)
from ssmnet.errors import ConnectError, Error, ListenError, UsageError
from ssmnet.snapshot import Snapshot, State

if sys.platform == "win32":
    pytest.skip("there are no unix sockets", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("clean")

TIMEOUT = 20.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "ssmnet"


class Services:
    """What is asked here."""

    def __init__(self, config_path: str = "/etc/project/ssmnet.toml") -> None:
        self.config_path = config_path
        self.pid = os.getpid()
        self.started_at = 1_700_000_000.0
        self.names = ["db", "cache"]
        self.release = asyncio.Event()
        self.release.set()
        self.asked = asyncio.Event()

    def snapshots(self) -> list[Snapshot]:
        if self.names == ["broken"]:
            raise ZeroDivisionError
        return [
            Snapshot(name=name, kind="forward", target="i-1", destination="d", state=State.UP)
            for name in self.names
        ]

    async def down(self, names: Sequence[str]) -> list[str]:
        self.asked.set()
        await self.release.wait()
        if unknown := [name for name in names if name not in self.names]:
            raise UsageError(f"{unknown[0]!r} does not run here")
        stopped = list(names or self.names)
        self.names = [name for name in self.names if name not in stopped]
        return stopped

    async def reload(self) -> str:
        if self.names == ["broken"]:
            raise ZeroDivisionError
        if not self.names:
            raise Error("it can't")
        return "nothing has changed"


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[Path]:
    server = ControlServer(services)
    path = await server.listen()
    try:
        yield path
    finally:
        server.close()
        await server.wait_closed(TIMEOUT)


async def converse(path: Path, data: bytes) -> bytes:
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(data)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


def decode(line: bytes) -> Answer:
    return msgspec.json.decode(line, type=Answer)


async def status_of(path: Path) -> Status:
    answer = await ask(path, Request(Do.STATUS))
    assert answer is not None
    assert answer.status is not None
    return answer.status


async def test_a_status_says_what_runs_since_when_and_with_which_file() -> None:
    async with serving(Services()) as path:
        status = await status_of(path)
        assert status.pid == os.getpid()
        assert status.config == "/etc/project/ssmnet.toml"
        assert status.started.timestamp() == 1_700_000_000.0
        assert [one.name for one in status.services] == ["db", "cache"]
        assert [one.socket for one in await find_running()] == [path]
    assert await ask(path, Request(Do.STATUS)) is None
    assert await find_running() == []


async def test_only_this_user_can_reach_the_socket(folder: Path) -> None:
    old = os.umask(0)
    try:
        async with serving(Services()) as path:
            assert path.parent == folder
            assert folder.stat().st_mode & 0o777 == 0o700
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(old)
    assert not path.exists()


def test_the_system_says_who_is_at_the_other_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_user(one.fileno()) == os.geteuid()
        assert is_our_own(one.fileno())
        assert peer_process(one.fileno()) == os.getpid()
    assert peer_user(10_000_000) is None
    assert not is_our_own(10_000_000)
    assert peer_process(10_000_000) is None


def test_who_is_at_the_other_end_is_told_without_a_descriptor_to_spare() -> None:
    import resource

    one, other = socket.socketpair(socket.AF_UNIX)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with one, other:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
        try:
            assert is_our_own(one.fileno())
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert one.fileno() > 0


async def test_another_user_is_not_answered(folder: Path) -> None:
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("needs root, to be somebody else")
    async with serving(Services()) as path:
        # As if the rights of folder and socket had been lost.
        folder.chmod(0o755)
        path.chmod(0o666)
        program = (
            "import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            "s.settimeout(20); s.connect(sys.argv[1]); print('connected', flush=True);"
            """s.send(b'{"do":"status"}\\n'); print(s.recv(10))"""
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-c", program, path.name), cwd=folder, stdout=-1, stderr=-1
        )
        out, err = await process.communicate()
        assert out.startswith(b"connected\n")
        assert out.endswith(b"b''\n") or b"ConnectionResetError" in err or b"BrokenPipe" in err
        assert (await status_of(path)).pid == os.getpid()


async def test_a_second_process_with_the_same_file_is_told_of_the_first(tmp_path: Path) -> None:
    file = tmp_path / "ssmnet.toml"
    link = tmp_path / "link.toml"
    file.touch()
    link.symlink_to(file)
    async with serving(Services(str(file))) as path:
        with pytest.raises(ListenError, match=rf"already running with \S+, pid {os.getpid()}$"):
            await ControlServer(Services(str(link))).listen()
        # The first is as it was.
        assert (await status_of(path)).config == str(file)
        async with serving(Services(str(tmp_path / "other.toml"))):
            assert len(await find_running()) == 2
    async with serving(Services(str(file))):
        pass


async def test_the_socket_of_a_killed_process_is_in_nobody_s_way(folder: Path) -> None:
    services = Services()
    folder.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(socket_path(services.config_path)))
    assert await find_running() == []
    async with serving(services) as path:
        assert (await status_of(path)).pid == os.getpid()


@pytest.mark.parametrize("make", ["link", "writable", "file"])
async def test_a_folder_that_others_could_have_made_is_refused(
    folder: Path, tmp_path: Path, make: str
) -> None:
    if make == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    elif make == "writable":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.touch()
    with pytest.raises(ListenError, match="not a folder of yours alone"):
        await ControlServer(Services()).listen()
    with pytest.raises(ListenError, match="not a folder of yours alone"):
        await ask(socket_path("/etc/project/ssmnet.toml"), Request(Do.DOWN))
    with pytest.raises(ListenError, match="not a folder of yours alone"):
        await find_running()


def test_a_folder_of_another_user_is_not_private(tmp_path: Path) -> None:
    assert is_private(tmp_path)
    if os.geteuid() == 0:
        os.chown(tmp_path, 65534, 65534)
        assert not is_private(tmp_path)
    else:
        assert not is_private(Path("/"))


def test_without_a_folder_of_the_system_s_it_is_one_in_tmp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_private(Path(f"/run/user/{os.geteuid()}")):
        pytest.skip("systemd gives this user a folder")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for value in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("XDG_RUNTIME_DIR", value)
        assert runtime_folder() == tmp_path / f"ssmnet-{os.geteuid()}"


def test_a_socket_s_path_stays_short_and_readable(folder: Path) -> None:
    path = socket_path("/" + "very-long-/" * 40 + "a project\n\u00e4/ssmnet.toml")
    assert path.parent == folder
    assert path.name.isascii()
    assert path.name.isprintable()
    assert path.name.startswith("a-project-")
    assert len(path.name) <= 34
    assert path != socket_path("/" + "very-long-/" * 40 + "a project\n\u00e4/other.toml")


async def test_a_path_that_is_too_long_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(UsageError, match="too long for a socket: set XDG_RUNTIME_DIR to a shorter"):
        await ControlServer(Services()).listen()
    assert await find_running() == []


@pytest.mark.skipif(sys.platform != "linux", reason="there is no folder that root can't write to")
async def test_a_folder_that_cannot_be_made_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nobody can make a folder there.
    monkeypatch.setattr(control, "socket_path", lambda _: Path("/proc/ssmnet/x.sock"))
    with pytest.raises(ListenError, match="cannot make /proc/ssmnet: .*; set XDG_RUNTIME_DIR to"):
        await ControlServer(Services()).listen()


async def test_a_folder_that_nothing_is_known_of_has_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(UsageError, match=r"^cannot find ssmnet\.toml: No such file"):
        socket_path("ssmnet.toml")


async def test_nothing_is_left_of_those_that_ran(folder: Path) -> None:
    async with serving(Services()) as path:
        assert {one.suffix for one in folder.iterdir()} == {".sock", ".lock"}
        assert path.parent == folder
    assert list(folder.iterdir()) == []


async def test_a_lock_that_is_removed_while_it_is_taken_is_another_s(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    take = fcntl.flock

    async with serving(Services()) as path:
        lock = path.with_suffix(".lock")

        def late(descriptor: int, how: int) -> None:
            """As if the first had ended, and another begun, since the file was opened."""
            monkeypatch.setattr(fcntl, "flock", take)
            lock.rename(folder / "ended")
            assert control._hold(lock) is not None
            os.close(descriptor)
            assert os.open(folder / "ended2", os.O_RDWR | os.O_CREAT) == descriptor
            take(descriptor, how)

        monkeypatch.setattr(fcntl, "flock", late)
        assert control._lock(lock) is None


async def test_some_are_stopped_and_the_rest_goes_on() -> None:
    async with serving(Services()) as path:
        assert await ask(path, Request(Do.DOWN, ("db",))) == Answer(stopped=("db",))
        assert [one.name for one in (await status_of(path)).services] == ["cache"]
        with pytest.raises(UsageError, match="^'db' does not run here$"):
            await ask(path, Request(Do.DOWN, ("db",)))


async def test_when_all_has_stopped_another_may_run_before_the_answer_is_there() -> None:
    services = Services()
    async with serving(services) as path:
        assert await ask(path, Request(Do.DOWN)) == Answer(stopped=("db", "cache"))
        assert not path.exists()
        async with serving(Services()) as again:
            assert again == path
            assert len((await status_of(path)).services) == 2


async def test_who_asked_for_the_end_is_answered_though_the_server_closes() -> None:
    services = Services()
    services.release.clear()
    server = ControlServer(services)
    path = await server.listen()
    asking = asyncio.ensure_future(ask(path, Request(Do.DOWN)))
    async with asyncio.timeout(TIMEOUT):
        await services.asked.wait()
        server.close()
        services.release.set()
        await server.wait_closed(TIMEOUT)
        assert await asking == Answer(stopped=("db", "cache"))


async def test_what_takes_too_long_at_the_end_is_dropped() -> None:
    services = Services()
    services.release.clear()
    server = ControlServer(services)
    path = await server.listen()
    asking = asyncio.ensure_future(ask(path, Request(Do.DOWN)))
    await asyncio.wait_for(services.asked.wait(), TIMEOUT)
    server.close()
    await asyncio.wait_for(server.wait_closed(0.01), TIMEOUT)
    with pytest.raises(ConnectError, match="has ended"):
        await asking


async def test_who_has_nothing_more_to_say_is_answered_all_the_same() -> None:
    services = Services()
    services.release.clear()
    async with serving(services) as path, asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b'{"do":"down","names":["db"]}\n')
        writer.write_eof()
        await services.asked.wait()
        await status_of(path)  # the end has been read meanwhile
        services.release.set()
        assert decode(await reader.readline()).stopped == ("db",)
        writer.close()
        await writer.wait_closed()


async def test_what_was_asked_is_done_though_nobody_waits_for_it() -> None:
    services = Services()
    services.release.clear()
    async with serving(services) as path:
        asking = asyncio.ensure_future(ask(path, Request(Do.DOWN, ("db",))))
        await asyncio.wait_for(services.asked.wait(), TIMEOUT)
        asking.cancel()
        services.release.set()
        async with asyncio.timeout(TIMEOUT):
            while len((await status_of(path)).services) == 2:
                await asyncio.sleep(0)


async def test_a_reload_says_what_changed_or_why_not(caplog: pytest.LogCaptureFixture) -> None:
    services = Services()
    async with serving(services) as path:
        assert await ask(path, Request(Do.RELOAD)) == Answer(changed="nothing has changed")
        services.names = []
        with pytest.raises(ConnectError, match="^it can't$"):
            await ask(path, Request(Do.RELOAD))
        services.names = ["broken"]
        with pytest.raises(ConnectError, match="^reload failed: ZeroDivisionError$"):
            await ask(path, Request(Do.RELOAD))
        with pytest.raises(ConnectError, match="^status failed: ZeroDivisionError$"):
            await ask(path, Request(Do.STATUS))
    assert "ZeroDivisionError" in caplog.text


async def test_who_watches_sees_each_change_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WATCH_INTERVAL", 0.01)
    services = Services()
    seen: list[int] = []
    changed = asyncio.Event()

    def show(status: Status) -> None:
        seen.append(len(status.services))
        if len(seen) == 3:
            services.names.pop()
        if seen[-1] == 1:
            changed.set()

    async with serving(services) as path:
        watching = asyncio.ensure_future(watch(path, show))
        await asyncio.wait_for(changed.wait(), TIMEOUT)
    assert seen[:3] == [2, 2, 2]
    with pytest.raises(ConnectError, match="the process has ended"):
        await asyncio.wait_for(watching, TIMEOUT)


async def test_a_watcher_that_reads_nothing_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "WATCH_INTERVAL", 0.001)
    services = Services()
    services.names = [f"name-{number}" for number in range(500)]
    server = ControlServer(services)
    path = await server.listen()
    reader, writer = await asyncio.open_unix_connection(str(path), limit=1000)
    writer.write(b'{"do":"watch"}\n')
    async with asyncio.timeout(TIMEOUT):
        await reader.readexactly(1)
        # The reader takes no more than its limit, and the system's buffers fill.
        (client,) = server._watchers
        while not (held := client._transport.get_write_buffer_size()):
            await asyncio.sleep(0.001)
        one = len(msgspec.json.encode(Answer(status=await status_of(path))))
        assert held <= one + 1
        shown = asyncio.Event()
        watching = asyncio.ensure_future(watch(path, lambda _: shown.set()))
        for _ in range(3):
            shown.clear()
            await shown.wait()
        assert client._transport.get_write_buffer_size() <= held
    watching.cancel()
    writer.transport.abort()
    server.close()
    await server.wait_closed(TIMEOUT)


async def test_only_so_many_may_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_WATCHERS", 2)
    async with serving(Services()) as path:
        watching = []
        for _ in range(2):
            seen: asyncio.Queue[Status] = asyncio.Queue()
            watching.append(asyncio.ensure_future(watch(path, seen.put_nowait)))
            await asyncio.wait_for(seen.get(), TIMEOUT)
        with pytest.raises(ConnectError, match="2 others watch already"):
            await asyncio.wait_for(watch(path, lambda _: None), TIMEOUT)
        assert len((await status_of(path)).services) == 2
    for task in watching:
        with pytest.raises(ConnectError):
            await task


async def test_only_so_many_may_ask_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "MAX_CLIENTS", 2)
    async with serving(Services()) as path:
        silent = [await asyncio.open_unix_connection(str(path)) for _ in range(2)]
        assert decode(await converse(path, b"")).error == "too many ask at once"
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(TIMEOUT):
            while decode(await converse(path, b'{"do":"status"}\n')).status is None:
                pass


async def test_who_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CLIENT_TIMEOUT", 0.05)
    async with serving(Services()) as path:
        for data in (b"", b'{"do":'):
            with suppress(ConnectionResetError):
                assert await converse(path, data) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"garbage\n",
        b'{"do":"dance"}\n',
        b'{"do":"down","names":"db"}\n',
        b'{"do":"down","names":[1]}\n',
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
    ],
)
async def test_garbage_is_told_of_and_changes_nothing(data: bytes) -> None:
    services = Services()
    async with serving(services) as path:
        answer = decode(await converse(path, data))
        assert answer.usage_error is not None
        assert answer.usage_error.startswith("not a request: ")
        assert len(answer.usage_error) < 300
        assert len((await status_of(path)).services) == 2
    assert not services.asked.is_set()


async def test_a_line_has_a_bound() -> None:
    async with serving(Services()) as path:
        answer = decode(await converse(path, b" " * (control.MAX_REQUEST + 1)))
        assert answer.usage_error is not None
        assert "65536 bytes" in answer.usage_error


async def test_a_request_in_pieces_is_one() -> None:
    async with serving(Services()) as path:
        reader, writer = await asyncio.open_unix_connection(str(path))
        for byte in b'{"do":"status"}':
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        writer.write(b"\n and what comes after it\n\n")
        answer = decode(await asyncio.wait_for(reader.readline(), TIMEOUT))
        assert answer.status is not None
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "the process has ended"),
        (b'{"status":', "the process has ended"),
        (b"garbage\n", "another version"),
        (b'{"status":{"pid":1}}\n', "another version"),
        (b"x" * 2000, "no answer can be read"),
    ],
)
async def test_what_listens_may_be_no_ssmnet(
    folder: Path, monkeypatch: pytest.MonkeyPatch, said: bytes, expected: str
) -> None:
    monkeypatch.setattr(control_client, "MAX_ANSWER", 1000)
    folder.mkdir(mode=0o700)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    path = socket_path("x")
    server = await asyncio.start_unix_server(answer, str(path))
    with pytest.raises(ConnectError, match=expected):
        await ask(path, Request(Do.STATUS))
    with pytest.raises(ConnectError, match=expected):
        await find_running()
    async with serving(Services()) as other:
        assert [one.socket for one in await find_running()] == [other]
    server.close()


async def test_one_that_hangs_is_told_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_client, "STATUS_TIMEOUT", 0.05)
    folder.mkdir(mode=0o700)
    path = socket_path("x")
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(path))
        hanging.listen()
        told = f"^process {os.getpid()} does not answer; if it is suspended, kill -CONT "
        with pytest.raises(ConnectError, match=told):
            await ask(path, Request(Do.STATUS))
