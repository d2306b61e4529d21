"""The clock on the wall jumps: after a sleep, when somebody sets it. Never this machine's own."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from .processes import SSMNET, FarEnd, far_end_running, started
from .test_cuts import KIB, count, listening
from .transfers import Transfer, serving

pytestmark = pytest.mark.long

# s. A link that goes dead is noticed after 24 s at the earliest, and after a sleep within 11.
BEFORE_ANY_SILENCE_COUNTS = 20


class Scene(NamedTuple):
    """Programs whose clock on the wall is not this machine's."""

    env: dict[str, str]
    far_end: FarEnd
    offset: Path

    def jump(self, offset: str) -> None:
        """Set their clock to so much beyond the right time."""
        self.offset.write_text(offset)


@pytest.fixture
async def scene(aws_env: dict[str, str], tmp_path: Path) -> AsyncIterator[Scene]:
    """The far end lives through the same time: AWS takes no signature of another."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        pytest.skip("NO LIBFAKETIME: run tests/e2e/install.sh as root, or install it")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    faked = aws_env | {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        # As on Linux: this one stands still in a sleep.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    async with far_end_running(faked, "--pace") as far_end:
        yield Scene(faked | far_end.exports, far_end, offset)


async def test_after_a_sleep_a_dead_link_is_noticed_at_once(scene: Scene) -> None:
    transfer = Transfer(1, up=False, size=512 * KIB, position=100 * KIB)
    async with serving(transfer) as remote:
        command = (SSMNET, "forward", "-t", scene.far_end.target, "--remote", str(remote))
        async with started(*command, "--output", "json", env=scene.env) as program:
            port = await listening(program)
            going = asyncio.ensure_future(transfer.run(port))
            await transfer.reached.wait()
            await scene.far_end.fault("blackhole_clients", seconds=120)
            scene.jump("+8h")
            began = time.monotonic()
            await program.out_line('"event":"resumed"')
            assert time.monotonic() - began < BEFORE_ANY_SILENCE_COUNTS
            transfer.may_end.set()
            assert await going == transfer.digest
            done = await program.end()
    events = count(done.out)
    assert events["resuming"] == events["resumed"] == 1
    assert "restarting" not in events


async def test_a_link_that_lives_is_kept_through_jumps(scene: Scene) -> None:
    # Three seconds longer than from one ping to the next.
    transfers = [
        Transfer(number, up=False, size=8000 * KIB, position=position * KIB)
        for number, position in ((1, 100), (2, 4000))
    ]
    async with serving(*transfers) as remote:
        command = (SSMNET, "forward", "-t", scene.far_end.target, "--remote", str(remote))
        async with started(*command, "--output", "json", env=scene.env) as program:
            port = await listening(program)
            going = asyncio.gather(*(transfer.run(port) for transfer in transfers))
            for transfer, offset in zip(transfers, ("+8h", "-8h"), strict=True):
                await transfer.reached.wait()
                scene.jump(offset)
                transfer.may_end.set()
            assert await going == [transfer.digest for transfer in transfers]
            done = await program.end()
    assert not {"resuming", "restarting"} & count(done.out).keys()
