import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

# A closed connection's last callbacks need a turn or two of the loop; a leak does not go away.
TURNS = 50


@pytest.fixture
async def clean() -> AsyncIterator[None]:
    """Whatever a test starts is gone at its end, and nothing was only logged by the loop."""
    loop = asyncio.get_running_loop()
    reported: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))
    before = asyncio.all_tasks()
    gc.freeze()  # what was there before is not searched: that takes longer than most tests
    yield
    left: set[asyncio.Task[Any]] = set()
    for _ in range(TURNS):
        left = {task for task in asyncio.all_tasks() - before if task is not asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0.01)
    gc.collect()
    gc.unfreeze()
    await asyncio.sleep(0)
    assert not left, f"tasks are left: {left}"
    assert not reported, f"the loop was told of: {reported}"
