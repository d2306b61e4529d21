"""ReadingGate: who keeps a session from reading, and for how long."""

import asyncio

import pytest

from ssmnet.errors import StreamStalled
from ssmnet.reading import RECENT, ReadingGate, SlowReaders


class Clock:
    now = 100.0


def new_gate() -> tuple[ReadingGate, Clock, list[str]]:
    clock, log = Clock(), list[str]()
    gate = ReadingGate(lambda: clock.now, lambda: log.append("pause"), lambda: log.append("resume"))
    return gate, clock, log


async def test_it_opens_when_the_last_holder_allows_it() -> None:
    gate, _, log = new_gate()
    assert gate.is_open
    gate.hold("a")
    gate.hold("a")
    assert gate.held_only_by("a")
    gate.hold("b")
    assert not gate.held_only_by("a")
    gate.allow("a")
    assert not gate.is_open
    assert "resume" not in log
    gate.allow("b")
    gate.allow("b")
    assert gate.is_open
    assert log == ["pause", "pause", "resume"]


async def test_what_is_gone_does_not_open_it_for_what_is_to_come() -> None:
    gate, _, log = new_gate()
    gate.hold("websocket")
    gate.forget("websocket")
    assert gate.is_open
    assert log == ["pause"]


async def test_how_long_it_has_been_held() -> None:
    gate, clock, _ = new_gate()
    assert gate.held_for == 0.0
    gate.hold("a")
    clock.now += 3.0
    assert gate.held_for == 3.0
    gate.allow("a")
    clock.now += 0.1
    assert gate.held_for == 3.0
    clock.now += RECENT
    assert gate.held_for == 0.0


async def test_a_slow_reader_holds_it_again_and_again() -> None:
    gate, clock, _ = new_gate()
    for _ in range(100):
        gate.hold("a")
        clock.now += 0.09
        gate.allow("a")
        clock.now += 0.01
    assert gate.held_for == pytest.approx(9.99)
    gate.hold("a")
    assert gate.held_for == pytest.approx(10.0)


async def test_one_that_is_fast_enough_does_not() -> None:
    gate, clock, _ = new_gate()
    for _ in range(100):
        gate.hold("a")
        clock.now += 0.01
        gate.allow("a")
        clock.now += 0.09
    assert gate.held_for == 0.0
    gate.hold("a")
    assert gate.held_for == 0.0


class Reader:
    def __init__(self, readers: SlowReaders) -> None:
        self.readers = readers
        self.unread_size = 0
        self.error: Exception | None = None

    def keep(self, change: int) -> None:
        self.unread_size += change
        self.readers.changed(self, change)

    def fail(self, error: Exception) -> None:
        self.error = error
        self.keep(-self.unread_size)


LIMIT = 100
PATIENCE = 0.2


def new_readers(amount: int) -> tuple[ReadingGate, list[Reader]]:
    clock = asyncio.get_running_loop().time
    gate = ReadingGate(clock, lambda: None, lambda: None)
    readers = SlowReaders(gate, clock, limit=LIMIT, patience=PATIENCE)
    return gate, [Reader(readers) for _ in range(amount)]


async def test_slow_readers_hold_it_together() -> None:
    gate, (one, other) = new_readers(2)
    one.keep(LIMIT - 10)
    assert gate.is_open
    other.keep(20)
    assert not gate.is_open
    other.keep(-20)
    assert not gate.is_open  # not at once: it would be again
    one.keep(-LIMIT // 2)
    assert gate.is_open


async def test_all_that_take_nothing_are_given_up() -> None:
    gate, readers = new_readers(4)
    started = asyncio.get_running_loop().time()
    for reader in readers:
        reader.keep(LIMIT)
    async with asyncio.timeout(10):
        while not gate.is_open:
            await asyncio.sleep(0.01)
    # All at the same time: each has waited long enough.
    assert asyncio.get_running_loop().time() - started < 2 * PATIENCE
    assert all(isinstance(reader.error, StreamStalled) for reader in readers)
    assert "not read for 0.2 s" in str(readers[0].error)


async def test_one_that_takes_a_little_now_and_then_is_not() -> None:
    gate, (slow, stuck) = new_readers(2)
    slow.keep(3 * LIMIT)
    stuck.keep(1)
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < started + 4 * PATIENCE:
        await asyncio.sleep(PATIENCE / 20)
        slow.keep(-1)
    assert stuck.error is not None
    assert slow.error is None
    assert not gate.is_open
    slow.keep(-slow.unread_size)
    assert gate.is_open


async def test_nor_one_that_was_slow_while_nobody_was_held_up() -> None:
    _, (idle, stuck) = new_readers(2)
    idle.keep(10)
    await asyncio.sleep(2 * PATIENCE)
    stuck.keep(2 * LIMIT)
    await asyncio.sleep(PATIENCE / 4)
    assert idle.error is None
    idle.keep(-10)
    stuck.keep(-2 * LIMIT)


async def test_nobody_is_given_up_when_all_is_over() -> None:
    _, (stuck,) = new_readers(1)
    stuck.keep(2 * LIMIT)
    stuck.readers.close()
    await asyncio.sleep(2 * PATIENCE)
    assert stuck.error is None
