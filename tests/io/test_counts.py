"""What a transfer costs, in things that can be counted: a count holds on any machine."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest

from ssmnet.forward import Forwarder, Listener
from ssmnet.protocol.message import PAYLOAD_SIZE
from ssmnet.session import Session
from tests.io.sessions import (
    Connection,
    Server,
    eventually,
    far_end,
    serving,
    websocket_of,
)

pytestmark = pytest.mark.usefixtures("clean")

MIB = 1024 * 1024
MESSAGES = MIB // PAYLOAD_SIZE
SIZE = 8  # MiB
READ = 64 * 1024


class Counted:
    """A transport whose writes are counted."""

    def __init__(self, transport: Any, counts: Counter[str], name: str) -> None:
        self._transport = transport
        self._counts = counts
        self._name = name

    def write(self, data: bytes) -> None:
        self._counts[self._name] += 1
        self._transport.write(data)

    def writelines(self, data: list[bytes]) -> None:
        self._counts[self._name] += 1
        self._transport.writelines(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


BETWEEN = ("asyncio", "ssmnet.alarm")


class Forwarding:
    """A forwarded connection between ``local`` and ``remote``, and what has been done for it."""

    def __init__(self, session: Session, listener: Listener) -> None:
        self.session = session
        self.listener = listener
        self.counts: Counter[str] = Counter()

    async def connect(self, server: Server) -> None:
        assert self.listener.port is not None
        streams = await asyncio.open_connection("127.0.0.1", self.listener.port)
        self.local = Connection(*streams)
        await self.local.send(b"hello")
        self.remote = await server.accept()
        await self.remote.read(5)
        (self.forwarder,) = self.listener._forwarders
        assert isinstance(self.forwarder, Forwarder)
        left: Any = self.forwarder.left
        left.transport = Counted(left.transport, self.counts, "local writes")
        websocket: Any = websocket_of(self.session)
        websocket._transport = Counted(websocket._transport, self.counts, "WebSocket writes")

    async def settle(self) -> None:
        """Until nothing is on its way."""
        await eventually(lambda: self.session.idle)


@pytest.fixture
async def forwarding(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Forwarding]:
    async with serving() as server, far_end() as far, far.opened(server.port) as session:
        listener = Listener(session.create_stream, "target:port", lambda _: None)
        await listener.listen_tcp(("127.0.0.1",))
        made = Forwarding(session, listener)
        await made.connect(server)
        count_calls(monkeypatch, made.counts)
        yield made
        made.local.drop()
        listener.close()
        await listener.wait_closed(1)


def count_calls(monkeypatch: pytest.MonkeyPatch, counts: Counter[str]) -> None:
    """Count what the client asks of the event loop, which others use as well."""
    loop = asyncio.get_running_loop()

    def count(name: str, call: Callable[..., object], *args: Any, **keywords: Any) -> object:
        counts[name] += is_ours()
        return call(*args, **keywords)

    for name in ("call_soon", "call_later", "call_at", "create_task"):
        monkeypatch.setattr(loop, name, partial(count, name, getattr(loop, name)))


def is_ours() -> bool:
    """Whether the client makes this call, be it by asyncio or an alarm, which others have too."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals["__name__"].startswith(BETWEEN):
        frame = frame.f_back
    name: str = frame.f_globals["__name__"]
    return name.startswith("ssmnet.") and not name.startswith("ssmnet.loopback")


@asynccontextmanager
async def counting(counts: Counter[str]) -> AsyncIterator[Counter[str]]:
    """What is counted meanwhile."""
    counts.clear()
    found: Counter[str] = Counter()
    yield found
    found.update(counts)


def check(found: Counter[str]) -> None:
    """Nothing is done for each message; some things for each read, which brings many."""
    assert found["create_task"] == 0
    assert found["call_at"] == 0
    assert found["call_later"] < SIZE * MESSAGES / 32
    assert found["call_soon"] < SIZE * MESSAGES / 4
    assert found["WebSocket writes"] < SIZE * MESSAGES / 4


async def test_upload(forwarding: Forwarding) -> None:
    async with counting(forwarding.counts) as found:
        sending = asyncio.ensure_future(forwarding.local.send(bytes(SIZE * MIB)))
        await forwarding.remote.read(SIZE * MIB)
        await sending
        await forwarding.settle()
    check(found)
    assert found["local writes"] == 0


async def test_download(forwarding: Forwarding) -> None:
    async with counting(forwarding.counts) as found:
        sending = asyncio.ensure_future(forwarding.remote.send(bytes(SIZE * MIB)))
        await forwarding.local.read(SIZE * MIB)
        await sending
        await forwarding.settle()
    check(found)
    assert 0 < found["local writes"] < SIZE * MESSAGES / 4


async def test_a_read_is_a_write(forwarding: Forwarding) -> None:
    """With an open window, what one read brings goes out at once and in one piece, or two."""
    left = forwarding.forwarder.left
    sender = forwarding.session._driver.channel._sender
    for _ in range(10):
        sender.window.limit = MIB
        received = left.received
        async with counting(forwarding.counts) as found:
            left.data_received(bytes(READ))
            assert forwarding.forwarder.right.transport is not None
            assert forwarding.forwarder.right.transport.get_write_buffer_size() == 0
        assert left.received == received + READ
        assert 1 <= found["WebSocket writes"] <= 2
        await forwarding.remote.read(READ)
        await forwarding.settle()


async def test_an_exchange(forwarding: Forwarding) -> None:
    """A byte there is one write; its echo is one to the local side, acknowledged by one.

    One more is for a machine so slow that something is sent again.
    """
    async with counting(forwarding.counts) as found:
        await forwarding.local.send(b"?")
        await forwarding.remote.read(1)
        await forwarding.remote.send(b"!")
        await forwarding.local.read(1)
        await forwarding.settle()
    assert found["create_task"] == 0
    assert found["call_soon"] <= 4
    assert found["call_later"] <= 2
    assert 2 <= found["WebSocket writes"] <= 3
    assert found["local writes"] == 1


async def test_an_idle_session_sleeps(forwarding: Forwarding) -> None:
    await forwarding.settle()
    # A timer of what has arrived meanwhile may still be set, and a ping may be due.
    async with counting(forwarding.counts) as found:
        await asyncio.sleep(1)
    assert sum(found.values()) <= 4
