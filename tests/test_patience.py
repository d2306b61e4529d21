import asyncio

import pytest

from ssmnet.patience import INTERRUPT_ECHO, INTERRUPT_TIMEOUT, Interrupts, Silence
from ssmnet.testing.clock import run

LATER = INTERRUPT_TIMEOUT + 0.1


def test_a_second_one_soon_after_the_first_may_be_the_same_wish() -> None:
    interrupts = Interrupts()
    assert not interrupts.any
    assert not interrupts.sent(10.0, converses=True)
    assert interrupts.any
    assert not interrupts.sent(10.0 + INTERRUPT_TIMEOUT / 2, converses=True)


@pytest.mark.parametrize("echo", [(), (INTERRUPT_ECHO,), (b"^C\r\n",), (b"^", b"C", b"\r\n")])
def test_one_that_nothing_but_its_echo_answers_has_reached_nobody(echo: tuple[bytes, ...]) -> None:
    interrupts = Interrupts()
    interrupts.sent(10.0, converses=True)
    for piece in echo:
        interrupts.heard(piece)
    assert interrupts.sent(10.0 + LATER, converses=True)


def test_an_answer_makes_the_next_one_the_first() -> None:
    interrupts = Interrupts()
    interrupts.sent(10.0, converses=True)
    interrupts.heard(INTERRUPT_ECHO)
    interrupts.heard(b"\r\n$ ")
    assert not interrupts.sent(10.0 + LATER, converses=True)
    assert interrupts.sent(10.0 + 2 * LATER, converses=True)


def test_what_a_command_says_is_no_answer() -> None:
    interrupts = Interrupts()
    interrupts.sent(10.0, converses=False)
    interrupts.heard(b"another line\n")
    assert interrupts.sent(10.0 + LATER, converses=False)


def silent_after(*, broken: tuple[float, ...] = (), read_at: float = 0.0) -> float:
    """When a silence of 5 s is over that something breaks, or that has unread bytes."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        silence = Silence(lambda: int(loop.time() - began < read_at))
        for time in broken:
            loop.call_later(time, silence.broken)
        await silence.last(5.0)
        return loop.time() - began

    return run(main())


def test_silence_lasts_from_the_last_word() -> None:
    assert silent_after() == pytest.approx(5.0)
    assert silent_after(broken=(2.0, 4.0)) == pytest.approx(9.0)
    assert silent_after(broken=(6.0,)) == pytest.approx(5.0)


def test_it_is_no_silence_while_there_is_something_to_read() -> None:
    assert silent_after(read_at=8.0) == pytest.approx(15.0)
