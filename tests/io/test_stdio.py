"""Standard input and output as a transport: every kind of each, with real descriptors."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from ssmnet.stdio import HIGH_WATER, LOW_WATER, Stdio, open_stdio
from tests.io.sessions import TIMEOUT, eventually

if sys.platform == "win32":
    pytest.skip("descriptors of POSIX", allow_module_level=True)

import pty
import tty

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1024 * 1024
DATA = os.urandom(300_000)
# More than any pipe, terminal or socket takes while nobody reads.
TOO_MUCH = 4 * MIB
NOBODY = 65534


class Recorder(asyncio.Protocol):
    """Keeps what it is told. The output goes on after the input's end, as in a Forwarder."""

    go_on = True

    def __init__(self) -> None:
        self.received = bytearray()
        self.told: list[str] = []
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def data_received(self, data: bytes) -> None:
        assert "eof" not in self.told
        self.received += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self.go_on

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append("lost")
        self.lost.set_result(exc)


class Echo(Recorder):
    """Writes what it reads, and closes at its end."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.write(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.transport.close()
        return super().eof_received()


# --- every kind of input and output: (ours, theirs)


def make_fifo() -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "fifo")
        os.mkfifo(path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        writer = os.open(path, os.O_WRONLY)
        os.set_blocking(reader, True)
        return reader, writer


def make_sockets() -> tuple[int, int]:
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


def make_tcp() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, HIGH_WATER)
        ours = socket.create_connection(server.getsockname())
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, HIGH_WATER)
        theirs, _ = server.accept()
    return ours.detach(), theirs.detach()


def make_terminal() -> tuple[int, int]:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return slave, master


def make_controller() -> tuple[int, int]:
    """A terminal's other end, as a terminal emulator has it."""
    return make_terminal()[::-1]


def make_file(flags: int = 0) -> tuple[int, int]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        first = os.open(path, os.O_RDWR | os.O_CREAT | flags)
        return first, os.open(path, os.O_RDWR)


def make_appended_file() -> tuple[int, int]:
    return make_file(os.O_APPEND)


def reverse(make: Callable[[], tuple[int, int]]) -> Callable[[], tuple[int, int]]:
    return lambda: make()[::-1]


CONNECTED: dict[str, Callable[[], tuple[int, int]]] = {
    "pipe": os.pipe,
    "fifo": make_fifo,
    "socket": make_sockets,
    "tcp": make_tcp,
    "terminal": make_terminal,
}
SOURCES = {**CONNECTED, "controller": make_controller, "file": make_file}
SINKS = {
    **CONNECTED,
    "pipe": reverse(os.pipe),
    "fifo": reverse(make_fifo),
    "file": make_file,
    "appended file": make_appended_file,
}
FILES = {"file", "appended file"}


class Ends:
    """Opens descriptors for a test: "ours" is what would be inherited, "theirs" the other end."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def open(self, make: Callable[[], tuple[int, int]]) -> tuple[int, int]:
        ends = make()
        self._open.update(ends)
        return ends

    def device(self, path: str, flags: int = os.O_RDWR) -> int:
        descriptor = os.open(path, flags)
        self._open.add(descriptor)
        return descriptor

    def close(self, *descriptors: int) -> None:
        for descriptor in descriptors or tuple(self._open):
            self._open.discard(descriptor)
            os.close(descriptor)


@pytest.fixture
def ends() -> Iterator[Ends]:
    before = count_descriptors()
    ends = Ends()
    yield ends
    ends.close()
    assert count_descriptors() == before, "a descriptor is left open"


def count_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


@contextlib.asynccontextmanager
async def stdio(protocol: asyncio.Protocol, source: int, sink: int) -> AsyncIterator[Stdio]:
    transport = open_stdio(protocol, source, sink)
    try:
        assert os.get_blocking(source)
        assert os.get_blocking(sink)
        yield transport
    finally:
        transport.abort()
        await asyncio.sleep(0)
    assert os.get_blocking(source)
    assert os.get_blocking(sink)


async def lost(protocol: Recorder) -> Exception | None:
    async with asyncio.timeout(TIMEOUT):
        return await protocol.lost


def feed(descriptor: int, data: bytes) -> None:
    """Write all of it, from a thread, and close; a terminal can only be left alone."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def drain(descriptor: int, size: int) -> bytes:
    """Read that much, or up to the end."""
    data = bytearray()
    while len(data) < size and (piece := os.read(descriptor, MIB)):
        data += piece
    return bytes(data)


@pytest.mark.parametrize("sink_kind", SINKS)
@pytest.mark.parametrize("source_kind", SOURCES)
async def test_bytes_pass_from_every_kind_to_every_kind(
    source_kind: str, sink_kind: str, ends: Ends
) -> None:
    source, feeder = ends.open(SOURCES[source_kind])
    sink, drainer = ends.open(SINKS[sink_kind])
    feeding = asyncio.create_task(asyncio.to_thread(feed, feeder, DATA))
    if source_kind == "file":
        await feeding
    echo = Echo()
    async with stdio(echo, source, sink), asyncio.timeout(TIMEOUT):
        if sink_kind in FILES:
            await eventually(lambda: os.fstat(drainer).st_size == len(DATA))
        assert await asyncio.to_thread(drain, drainer, len(DATA)) == DATA
        await feeding
        if source_kind not in ("file", "terminal"):
            ends.close(feeder)
        if source_kind != "terminal":
            assert await lost(echo) is None
            assert echo.told[-2:] == ["eof", "lost"]


# --- the input


@pytest.mark.parametrize("kind", sorted(SOURCES.keys() - {"terminal"}))
async def test_the_end_of_input_is_told_once_and_output_goes_on(kind: str, ends: Ends) -> None:
    source, feeder = ends.open(SOURCES[kind])
    sink, drainer = ends.open(reverse(os.pipe))
    os.write(feeder, b"last words")
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        if kind != "file":
            ends.close(feeder)
        await eventually(lambda: "eof" in recorder.told)
        assert bytes(recorder.received) == b"last words"
        transport.write(b"an answer")
        assert await asyncio.to_thread(drain, drainer, 9) == b"an answer"
        transport.pause_reading()
        transport.resume_reading()
        transport.close()
        assert await lost(recorder) is None
    assert recorder.told == ["made", "eof", "lost"]


async def test_a_terminal_that_vanishes_ends_the_input(ends: Ends) -> None:
    source, feeder = ends.open(make_terminal)
    sink, _ = ends.open(reverse(os.pipe))
    recorder = Recorder()
    async with stdio(recorder, source, sink):
        await asyncio.sleep(0.02)
        ends.close(feeder)
        await eventually(lambda: "eof" in recorder.told)
    assert recorder.told == ["made", "eof", "lost"]


@pytest.mark.parametrize("kind", ["nothing", "only written", "a pipe's other end", "a directory"])
async def test_an_input_that_is_none(kind: str, ends: Ends, tmp_path: Path) -> None:
    reader, writer = ends.open(os.pipe)
    sink, _ = ends.open(reverse(os.pipe))
    source = {
        "nothing": lambda: ends.device(os.devnull),
        "only written": lambda: ends.device(os.devnull, os.O_WRONLY),  # as by nohup
        "a pipe's other end": lambda: writer,
        "a directory": lambda: ends.device(str(tmp_path), os.O_RDONLY),
    }[kind]()
    os.write(writer, b"for somebody else")
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        if kind == "a directory":
            assert isinstance(await lost(recorder), IsADirectoryError)
        else:
            if kind == "a pipe's other end":
                ends.close(reader)
            await eventually(lambda: "eof" in recorder.told)
            assert not transport.is_closing()
    assert not recorder.received


async def test_a_protocol_that_wants_no_more_after_the_end_of_input(ends: Ends) -> None:
    source, sink = ends.device(os.devnull), ends.device(os.devnull)
    recorder = Recorder()
    recorder.go_on = False
    async with stdio(recorder, source, sink):
        assert await lost(recorder) is None
    assert recorder.told == ["made", "eof", "lost"]


async def test_a_fifo_whose_writer_has_left_before(ends: Ends) -> None:
    source, feeder = ends.open(make_fifo)
    sink, _ = ends.open(reverse(os.pipe))
    os.write(feeder, b"left behind")
    ends.close(feeder)
    recorder = Recorder()
    async with stdio(recorder, source, sink):
        await eventually(lambda: "eof" in recorder.told)
    assert bytes(recorder.received) == b"left behind"


@pytest.mark.parametrize("kind", [*SOURCES, "endless"])
async def test_nothing_comes_while_reading_is_paused(kind: str, ends: Ends) -> None:
    if kind == "endless":
        source = ends.device("/dev/zero")
    else:
        source, feeder = ends.open(SOURCES[kind])
        await asyncio.to_thread(feed, feeder, bytes(4000))
    sink, _ = ends.open(reverse(os.pipe))
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.pause_reading()
        for _ in range(10):
            await asyncio.sleep(0)
        assert not recorder.received
        for _ in range(3):
            transport.resume_reading()
            transport.resume_reading()
            transport.pause_reading()
        assert not transport.is_reading()
        transport.resume_reading()
        await eventually(lambda: len(recorder.received) >= 4000)
        transport.pause_reading()
        size = len(recorder.received)
        await asyncio.sleep(0.02)
        assert len(recorder.received) == size
        assert "pause" not in recorder.told
        assert "lost" not in recorder.told


async def test_an_endless_input_leaves_the_loop_its_turns(ends: Ends) -> None:
    source, sink = ends.device("/dev/zero"), ends.device(os.devnull)
    echo = Echo()
    async with stdio(echo, source, sink):
        for size in range(1, 20):
            await asyncio.sleep(0)
            assert len(echo.received) <= size * 2 * HIGH_WATER
        await eventually(lambda: len(echo.received) > MIB)


# --- the output


@pytest.mark.parametrize("kind", CONNECTED)
async def test_a_reader_that_is_gone_is_told_of_though_nothing_is_written(
    kind: str, ends: Ends
) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(SINKS[kind])
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        await asyncio.sleep(0.02)
        assert recorder.told == ["made"]
        if kind == "tcp":  # whose end can't be told from a half-close
            sock = socket.socket(fileno=os.dup(drainer))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + 7 * [0]))
            sock.close()
        ends.close(drainer)
        assert isinstance(await lost(recorder), BrokenPipeError)
        assert transport.is_closing()
        transport.write(b"to nobody")
        transport.close()
        transport.abort()
    assert recorder.told == ["made", "lost"]


@pytest.mark.parametrize("kind", CONNECTED)
async def test_a_slow_reader_pauses_the_protocol_and_gets_all(kind: str, ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(SINKS[kind])
    recorder = Recorder()
    data = os.urandom(TOO_MUCH)
    async with stdio(recorder, source, sink) as transport:
        transport.write(b"")
        transport.write(data[:10])
        assert recorder.told == ["made"]
        transport.write(data[10:])
        assert recorder.told == ["made", "pause"]
        left = transport.get_write_buffer_size()
        assert HIGH_WATER < left <= TOO_MUCH
        transport.write(b"more")
        assert transport.get_write_buffer_size() == left + 4
        got = await asyncio.to_thread(drain, drainer, len(data))
        got += await asyncio.to_thread(drain, drainer, len(data) + 4 - len(got))
        assert got == data + b"more"
        await eventually(lambda: "resume" in recorder.told)
        assert transport.get_write_buffer_size() == 0
    assert recorder.told == ["made", "pause", "resume", "lost"]


@pytest.mark.parametrize("kind", SINKS)
async def test_what_was_written_goes_out_before_the_close(kind: str, ends: Ends) -> None:
    source, feeder = ends.open(os.pipe)
    sink, drainer = ends.open(SINKS[kind])
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        data = os.urandom(MIB)
        transport.write(data)
        transport.close()
        assert transport.is_closing()
        assert transport.get_write_buffer_size() > HIGH_WATER  # the loop goes on meanwhile
        os.write(feeder, b"too late")
        if kind in FILES:
            assert await lost(recorder) is None
        assert await asyncio.to_thread(drain, drainer, len(data)) == data
        assert await lost(recorder) is None
    assert not recorder.received


async def test_abort_drops_what_nobody_reads(ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(reverse(os.pipe))
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.write(bytes(TOO_MUCH))
        transport.close()
        assert "lost" not in recorder.told
        transport.abort()
        assert await lost(recorder) is None
        assert transport.get_write_buffer_size() == 0
    ends.close(sink)
    assert 0 < len(await asyncio.to_thread(drain, drainer, TOO_MUCH)) < TOO_MUCH


async def test_a_reader_that_leaves_in_the_middle(ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(reverse(os.pipe))
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.write(bytes(TOO_MUCH))
        transport.close()
        ends.close(drainer)
        assert isinstance(await lost(recorder), BrokenPipeError)


async def test_a_full_disk(ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink = ends.device("/dev/full")
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.write(b"there is no room")
        error = await lost(recorder)
        assert isinstance(error, OSError)
        assert error.errno == errno.ENOSPC


async def test_an_output_that_is_only_read(ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink = ends.device(os.devnull, os.O_RDONLY)
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.write(b"in vain")
        error = await lost(recorder)
        assert isinstance(error, OSError)
        assert error.errno == errno.EBADF


@pytest.mark.parametrize("make", [make_file, make_appended_file])
async def test_a_file_is_written_where_others_write(
    make: Callable[[], tuple[int, int]], ends: Ends
) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(make)
    os.write(sink, b"before\n")
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        transport.write(b"ours\n")
        os.write(sink, b"after\n")
        assert drain(drainer, 100) == b"before\nours\nafter\n"


async def test_limits(ends: Ends) -> None:
    source, _ = ends.open(os.pipe)
    sink, drainer = ends.open(reverse(os.pipe))
    recorder = Recorder()
    async with stdio(recorder, source, sink) as transport:
        assert transport.get_write_buffer_limits() == (LOW_WATER, HIGH_WATER)
        transport.set_write_buffer_limits(low=1)
        assert transport.get_write_buffer_limits() == (1, 4)
        with pytest.raises(ValueError, match="high"):
            transport.set_write_buffer_limits(high=1, low=2)
        transport.set_write_buffer_limits(high=0)
        transport.writelines([bytes(2 * HIGH_WATER), b"x"])
        assert recorder.told == ["made", "pause"]
        await asyncio.to_thread(drain, drainer, 2 * HIGH_WATER + 1)
        await eventually(lambda: "resume" in recorder.told)
        assert not transport.can_write_eof()
        with pytest.raises(NotImplementedError):
            transport.write_eof()
        other = Recorder()
        transport.set_protocol(other)
        assert transport.get_protocol() is other


async def test_a_closed_descriptor_is_told_of(ends: Ends) -> None:
    source, sink = ends.open(os.pipe)
    ends.close(source)
    recorder = Recorder()
    with pytest.raises(OSError, match="descriptor"):
        open_stdio(recorder, source, sink)
    assert recorder.told == []


async def test_standard_error_alone(ends: Ends) -> None:
    sink, drainer = ends.open(reverse(os.pipe))
    recorder = Recorder()
    transport = open_stdio(recorder, None, sink)
    transport.resume_reading()
    transport.write(b"trouble")
    assert os.read(drainer, 100) == b"trouble"
    transport.write(bytes(TOO_MUCH))
    assert recorder.told == ["made", "pause"]
    ends.close(drainer)
    assert isinstance(await lost(recorder), BrokenPipeError)
    nowhere = open_stdio(asyncio.Protocol(), None, sink)
    nowhere.abort()
    await asyncio.sleep(0)


# --- both together


async def test_one_socket_for_both_closed_by_a_peer_that_has_said_all(ends: Ends) -> None:
    ours, theirs = ends.open(make_sockets)
    recorder = Recorder()
    async with stdio(recorder, ours, ours) as transport:
        transport.pause_reading()
        os.write(theirs, b"all I had to say")
        ends.close(theirs)
        await asyncio.sleep(0.02)
        assert recorder.told == ["made"]
        transport.resume_reading()
        assert await lost(recorder) is None
    assert bytes(recorder.received) == b"all I had to say"
    assert recorder.told == ["made", "eof", "lost"]


async def test_one_socket_for_both_half_closed(ends: Ends) -> None:
    ours, theirs = ends.open(make_sockets)
    recorder = Recorder()
    peer = socket.socket(fileno=theirs)
    async with stdio(recorder, ours, ours) as transport:
        peer.sendall(b"question")
        peer.shutdown(socket.SHUT_WR)
        await eventually(lambda: "eof" in recorder.told)
        transport.write(b"answer")
        assert peer.recv(100) == b"answer"
        peer.detach()
        ends.close(theirs)
        assert isinstance(await lost(recorder), BrokenPipeError)


async def test_one_terminal_for_all_keeps_prints_from_failing(ends: Ends) -> None:
    ours, theirs = ends.open(make_terminal)
    os.write(theirs, b"typed")
    recorder = Recorder()
    async with stdio(recorder, ours, ours) as transport:
        transport.write(bytes(TOO_MUCH))
        await eventually(lambda: recorder.received)
        printing = asyncio.create_task(asyncio.to_thread(os.write, ours, b"our own words\n"))
        got = await asyncio.to_thread(drain, theirs, TOO_MUCH + 14)
        assert await printing == 14
        assert b"our own words\n" in got
    assert bytes(recorder.received) == b"typed"


@pytest.mark.parametrize("sink_kind", ["pipe", "fifo", "terminal"])
@pytest.mark.parametrize("source_kind", ["pipe", "fifo", "terminal"])
async def test_what_another_user_owns(source_kind: str, sink_kind: str, ends: Ends) -> None:
    """It can't be opened again, as under sudo and su."""
    source, feeder = ends.open(SOURCES[source_kind])
    sink, drainer = ends.open(SINKS[sink_kind])
    echo = Echo()
    with shut_out(source, sink):
        opened = open_stdio(echo, source, sink)
    try:
        assert os.get_blocking(source)
        assert os.get_blocking(sink)
        feeding = asyncio.create_task(asyncio.to_thread(feed, feeder, DATA))
        assert await asyncio.to_thread(drain, drainer, len(DATA)) == DATA
        await feeding
        opened.pause_reading()
        if sink_kind != "terminal":
            opened.write(bytes(TOO_MUCH))
            assert opened.get_write_buffer_size() > HIGH_WATER
            assert await asyncio.to_thread(drain, drainer, TOO_MUCH) == bytes(TOO_MUCH)
        ends.close(drainer)
        assert isinstance(await lost(echo), BrokenPipeError)
    finally:
        opened.abort()
        await asyncio.sleep(0)


@contextlib.contextmanager
def shut_out(*descriptors: int) -> Iterator[None]:
    """Nobody may open them again, in this block not even root."""
    for descriptor in descriptors:
        os.fchmod(descriptor, 0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
