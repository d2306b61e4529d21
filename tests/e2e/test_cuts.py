"""``ssmnet forward`` while its WebSocket is lost again and again, in the middle of transfers."""

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from .conftest import Start
from .processes import FarEnd, Program
from .transfers import TAIL, Transfer, echo, serving

pytestmark = pytest.mark.long

KIB = 1024
ROUNDS = 10
EACH_WAY = 10  # a round
# The agent's output is paced as in AWS; ten downloads at once make some 70 kB/s each.
SIZE = {"down": 48 * KIB, "up": 256 * KIB}


async def listening(program: Program) -> int:
    """The port of a forward that tells JSON."""
    return int((await program.out_line(r'"event":"listening".*"port":(\d+)'))[1])


def count(out: str) -> dict[str, int]:
    """How many events of each name there were."""
    names = [json.loads(line)["event"] for line in out.splitlines()]
    return {name: names.count(name) for name in names}


def drawn(seed: int) -> list[Transfer]:
    """Transfers both ways, with positions from a seed."""
    positions = random.Random(seed)
    return [
        Transfer(
            1 + 2 * number + (way == "up"),
            up=way == "up",
            size=SIZE[way],
            position=positions.randrange(1, SIZE[way] * 3 // 4),
        )
        for number in range(ROUNDS * EACH_WAY)
        for way in ("down", "up")
    ]


class Cutter:
    """Does something to the WebSocket, and waits until the session ``answers`` again."""

    def __init__(
        self,
        program: Program,
        answers: Callable[[], Coroutine[Any, Any, bool]],
        cut: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self.cuts = 0
        self._program = program
        self._answers = answers
        self._cut = cut
        self._one_by_one = asyncio.Lock()

    async def cut_both(self, down: Transfer, up: Transfer) -> None:
        """In the middle of these two, and of all others that are under way."""
        await asyncio.gather(down.reached.wait(), up.reached.wait())
        async with self._one_by_one:
            assert max(len(one.data) - one.received for one in (down, up)) >= TAIL
            await self.cut()
        down.may_end.set()
        up.may_end.set()

    async def cut(self) -> None:
        await self._cut()
        self.cuts += 1
        await self._program.out_line('"event":"resumed"')
        # The gateway has the new WebSocket, too: the next cut will hit it.
        assert await self._answers()


@pytest.mark.parametrize("far_end", [("--pace",)], indirect=True)
async def test_200_transfers_are_cut_in_their_middle_and_complete(
    forward: Start, far_end: FarEnd, record_property: Callable[[str, object], None]
) -> None:
    transfers = drawn(seed=3)
    started = time.monotonic()
    async with serving(*transfers) as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        port = await listening(program)
        async with echo(port) as probe:
            cutter = Cutter(program, probe.answers, lambda: far_end.fault("cut_clients"))
            complete = 0
            for first in range(0, len(transfers), 2 * EACH_WAY):
                together = transfers[first : first + 2 * EACH_WAY]
                cutting = [
                    cutter.cut_both(*together[number : number + 2])
                    for number in range(0, len(together), 2)
                ]
                digests, _ = await asyncio.gather(
                    asyncio.gather(*(transfer.run(port) for transfer in together)),
                    asyncio.gather(*cutting),
                )
                complete += sum(
                    digest == transfer.digest
                    for digest, transfer in zip(digests, together, strict=True)
                )
        done = await program.end()
    assert complete == len(transfers) == 200
    events = count(done.out)
    assert events["resumed"] == events["resuming"] == cutter.cuts == 100
    assert "restarting" not in events
    record_property("resumes", events["resumed"])
    record_property("seconds", round(time.monotonic() - started, 1))


# What happens to the WebSocket, and what then stands in the way of the next.
WAYS: dict[str, list[tuple[str, dict[str, object]]]] = {
    "going away": [("close_clients", {"code": 1001, "reason": ""})],
    "server error": [("close_clients", {"code": 1011, "reason": "server error"})],
    "refused five times": [
        (
            "fail_next",
            {"code": "InternalServerError", "times": 5, "action": "ResumeSession"},
        ),
        ("cut_clients", {}),
    ],
    "throttled five times": [
        (
            "fail_next",
            {"code": "ThrottlingException", "times": 5, "action": "ResumeSession"},
        ),
        ("cut_clients", {}),
    ],
    "expired before it was used": [("expire_tokens", {"also_next": 2}), ("cut_clients", {})],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("far_end", [("--pace",)], indirect=True)
async def test_a_transfer_outlives(way: str, forward: Start, far_end: FarEnd) -> None:
    down = Transfer(1, up=False, size=256 * KIB, position=100 * KIB)
    up = Transfer(2, up=True, size=1024 * KIB, position=100 * KIB)

    async def go_wrong() -> None:
        for name, arguments in WAYS[way]:
            await far_end.fault(name, **arguments)

    async with serving(down, up) as remote:
        program = await forward("--remote", str(remote), "--output", "json")
        port = await listening(program)
        async with echo(port) as probe:
            cutter = Cutter(program, probe.answers, go_wrong)
            got_down, got_up, _ = await asyncio.gather(
                down.run(port), up.run(port), cutter.cut_both(down, up)
            )
        done = await program.end()
    assert (got_down, got_up) == (down.digest, up.digest)
    events = count(done.out)
    assert "restarting" not in events
    # With an expired token a WebSocket comes about, though it does not last.
    assert events["resumed"] == 1
