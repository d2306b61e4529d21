import asyncio
import threading
import time

import pytest

from ssmnet.testing.clock import Deadlock, Livelock, VirtualLoop, run


def test_an_hour_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    started = time.monotonic()
    assert run(main()) == pytest.approx(3600)
    assert time.monotonic() - started < 60


def test_more_than_the_loop_waits_at_once() -> None:
    async def main() -> float:
        await asyncio.sleep(30 * 86_400)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(30 * 86_400)


def test_timers_come_in_their_order_and_at_their_times() -> None:
    seen = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def note(delay: float) -> None:
            seen.append((delay, loop.time()))

        for delay in (3.0, 1.0, 2.0, 1.0):
            loop.call_later(delay, note, delay)
        loop.call_soon(note, 0.0)
        await asyncio.sleep(5)

    run(main())
    assert seen == [(0.0, 0.0), (1.0, 1.0), (1.0, 1.0), (2.0, 2.0), (3.0, 3.0)]


def test_tasks_take_turns_in_time() -> None:
    log = []

    async def tick(name: str, interval: float) -> None:
        for _ in range(3):
            await asyncio.sleep(interval)
            log.append((name, asyncio.get_running_loop().time()))

    async def main() -> None:
        await asyncio.gather(tick("slow", 2.5), tick("fast", 1.0))

    run(main())
    assert log == [
        ("fast", 1.0),
        ("fast", 2.0),
        ("slow", 2.5),
        ("fast", 3.0),
        ("slow", 5.0),
        ("slow", 7.5),
    ]


def test_time_outs_pass() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(loop.create_future(), 60)
        first = loop.time()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(40):
                await asyncio.Event().wait()
        return first, loop.time()

    assert run(main()) == (60.0, 100.0)


def test_waiting_for_what_never_comes_is_a_deadlock() -> None:
    cancelled = []

    async def other() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    async def main() -> None:
        task = asyncio.create_task(other())
        await asyncio.sleep(7)
        await task

    with pytest.raises(Deadlock, match=r"after 7\.000 s"):
        run(main())
    assert cancelled == [True]


def test_a_program_that_goes_round_in_circles_is_told() -> None:
    async def main() -> None:
        while True:
            await asyncio.sleep(0)

    loop = VirtualLoop(max_turns=1000)
    try:
        task = loop.create_task(main())
        with pytest.raises(Livelock, match=r"at 0\.000 s"):
            loop.run_until_complete(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()


def test_many_turns_are_no_circle_while_time_passes() -> None:
    async def main() -> None:
        for _ in range(100):
            await asyncio.sleep(0.001)
            await asyncio.sleep(0)

    loop = VirtualLoop(max_turns=10)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_timers_that_are_left_can_be_seen() -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        loop.call_later(1, print)
        loop.call_later(2, print).cancel()
        await asyncio.sleep(0.5)
        before = len(loop.timers())
        await asyncio.sleep(0.25)
        assert len(loop.timers()) == before
        return before

    assert run(main()) == 1


def test_errors_and_results_come_out() -> None:
    async def main() -> None:
        await asyncio.sleep(1)
        raise KeyError("x")

    with pytest.raises(KeyError):
        run(main())


def test_no_thread_is_started() -> None:
    async def main() -> int:
        await asyncio.sleep(1)
        return threading.active_count()

    assert run(main()) == threading.active_count()
