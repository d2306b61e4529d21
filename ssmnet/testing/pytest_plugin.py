"""Fixtures for pytest. Register with ``pytest_plugins = ["ssmnet.testing.pytest_plugin"]``.

The fixtures are asynchronous: they need pytest-asyncio.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from ..loopback import Loopback


@pytest_asyncio.fixture
async def ssm_loopback() -> AsyncIterator[Loopback]:
    """A running Loopback with the real agent's habits, without its sleep after each message."""
    async with Loopback() as loopback:
        yield loopback
