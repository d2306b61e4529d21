import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from ssmnet.loopback import Loopback

# Whoever starts the tests in the background has Ctrl-C ignored, for them and all their children.
for number in (signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)):
    if signal.getsignal(number) == signal.SIG_IGN:
        ours = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, ours)

IO_TESTS = Path(__file__).parent / "io"


@pytest.fixture(autouse=True)
def environment_as_found() -> Iterator[None]:
    """What a test sets is not for the next one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


@pytest_asyncio.fixture
async def ssm_loopback() -> "AsyncIterator[Loopback]":
    """In the test's own loop: this project's tests look inside, where a user's have no business."""
    from ssmnet.loopback import Loopback

    async with Loopback() as loopback:
        yield loopback


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Whatever does real IO is tested on both loops."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    if sys.platform != "win32" and item.path.is_relative_to(IO_TESTS):
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories
