"""The pytest plugin: ``ssm_loopback``, a far end for each test that asks for one.

Installing ssmnet is enough for pytest to load it, so it imports nothing until a test does ask.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .ssm_loopback import SsmLoopback

MARKER = "ssm_loopback(**options): settings of the ssm_loopback fixture, as of SsmLoopback"

ADVICE = "What is meant to stay open: @pytest.mark.ssm_loopback(check_sessions=False)"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def ssm_loopback_options() -> Mapping[str, Any]:
    """Settings of ``ssm_loopback``, to be overridden; those of a marker come on top."""
    return {}


@pytest.fixture
def ssm_loopback(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    ssm_loopback_options: Mapping[str, Any],
) -> Iterator[SsmLoopback]:
    """A far end of AWS Systems Manager on this machine, and an environment that leads there.

    Sessions that are left open at the end of the test are an error.
    """
    from .ssm_loopback import SsmLoopback

    options = dict(ssm_loopback_options)
    for marker in reversed(list(request.node.iter_markers("ssm_loopback"))):
        if marker.args:
            raise pytest.UsageError("the marker ssm_loopback takes arguments by name only")
        options |= marker.kwargs
    with SsmLoopback(**options) as far_end:
        for name, value in far_end.changes(os.environ).items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)
        yield far_end
        if far_end.check_sessions:
            _check_sessions(far_end)


def _check_sessions(far_end: SsmLoopback) -> None:
    left = ""
    try:
        far_end.assert_no_sessions_left()
    except AssertionError as error:
        left = str(error)
    if left:
        pytest.fail(f"{left}\n{ADVICE}", pytrace=False)
