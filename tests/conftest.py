import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

pytest_plugins = ["ssmnet.testing.pytest_plugin"]

IO_TESTS = Path(__file__).parent / "io"


@pytest.fixture(autouse=True)
def environment_as_found() -> Iterator[None]:
    """What a test sets is not for the next one."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ.update(before)


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
