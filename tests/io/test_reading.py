"""ReadingGate: who keeps a session from reading, and for how long."""

import asyncio

import pytest

from ssmnet.reading import RECENT, ReadingGate


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


async def test_a_holder_is_given_up_in_the_end() -> None:
    gate, _, _ = new_gate()
    given_up = asyncio.Event()
    gate.hold("a", timeout=0.01, give_up=given_up.set)
    async with asyncio.timeout(5):
        await given_up.wait()


async def test_but_not_one_that_went_on_or_when_all_is_over() -> None:
    gate, _, _ = new_gate()
    given_up: list[str] = []
    gate.hold("a", timeout=0.01, give_up=lambda: given_up.append("a"))
    gate.allow("a")
    gate.hold("b", timeout=0.01, give_up=lambda: given_up.append("b"))
    gate.close()
    await asyncio.sleep(0.05)
    assert given_up == []
