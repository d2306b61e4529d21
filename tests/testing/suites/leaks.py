"""Code that leaves sessions open."""

import asyncio
from contextlib import AbstractContextManager

import pytest
from aiobotocore.session import get_session

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"
left: list[AbstractContextManager[int]] = []


def start_session() -> None:
    """As a program does that is interrupted before it opens the WebSocket."""

    async def start() -> None:
        async with get_session().create_client("ssm") as ssm:
            await ssm.start_session(
                Target=TARGET,
                DocumentName="AWS-StartPortForwardingSessionToRemoteHost",
                Parameters={"host": ["db.internal"], "portNumber": ["5432"]},
            )

    asyncio.run(start())


@pytest.mark.ssm_loopback(check_sessions=False)
def test_may_leak(ssm_loopback: SsmLoopback) -> None:
    start_session()
    with pytest.raises(AssertionError, match="1 session was left open"):
        ssm_loopback.assert_no_sessions_left(timeout=0.01)


def test_leaks_nothing(ssm_loopback: SsmLoopback) -> None:
    assert ssm_loopback.sessions == []


@pytest.mark.ssm_loopback(5432)
def test_of_a_marker_that_makes_no_sense(ssm_loopback: SsmLoopback) -> None:
    pass


def test_leaks(ssm_loopback: SsmLoopback) -> None:
    """The last one: what is left goes on trying to reach whatever far end there is."""
    start_session()
    left.append(ssmnet.blocking.forward(TARGET, 22))
    left[0].__enter__()
