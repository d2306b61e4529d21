"""ssmnet.attach: sessions that somebody else has started."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

import ssmnet
from ssmnet.errors import RemoteProtocolError
from ssmnet.loopback import Loopback
from ssmnet.starting import Starting
from tests.io.sessions import Access, Collector, eventually

from .targets import DEADLINE, Authority, echo, echoed, hang_up, keys, serving

pytestmark = pytest.mark.usefixtures("clean")
FORWARD = "AWS-StartPortForwardingSession"


@pytest.fixture
async def far(ssm_loopback: Loopback) -> AsyncIterator[Loopback]:
    yield ssm_loopback
    assert ssm_loopback.sessions == 0


async def started(far: Loopback, document: str | None = None, **parameters: str) -> dict[str, str]:
    """As another program starts one."""
    request: dict[str, Any] = {"Target": far.target}
    if document is not None:
        given = {name: [value] for name, value in parameters.items()}
        request |= {"DocumentName": document, "Parameters": given}
    return await Access(far).call("StartSession", **request)


def attach(
    far: Loopback, grant: dict[str, str], **options: Any
) -> Starting[ssmnet.AttachedSession]:
    given: dict[str, Any] = {
        "region": far.region,
        "credentials": keys(far),
        "endpoint_url": far.endpoint_url,
        "messages_endpoint_url": far.endpoint_url,
    }
    where = grant["SessionId"], grant["StreamUrl"], grant["TokenValue"]
    return ssmnet.attach(*where, **given | options)


async def no_credentials() -> ssmnet.Credentials:
    raise ssmnet.CredentialsError("kept")


async def test_a_port_session(far: Loopback) -> None:
    async with serving() as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        async with attach(far, grant) as session:
            assert session.session_id == grant["SessionId"]
            assert session.session_type == "Port"
            for _ in range(2):
                reader, writer = await session.open_connection()
                assert await echoed(reader, writer) == b"hello"
                await hang_up(writer)
            transport, protocol = await session.create_connection(Collector)
            transport.write(b"mine")
            await protocol.until_size(4)
            with pytest.raises(ssmnet.HandshakeError):
                _ = session.shell
        assert isinstance(await protocol.until_lost(), ssmnet.SessionClosed)
        assert far.sessions_started == 1


async def test_a_local_port_on_it(far: Loopback) -> None:
    async with serving() as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        async with attach(far, grant) as session, session.forward(bind="127.0.0.1") as listener:
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
            far.end_sessions("administrator")
            async with asyncio.timeout(DEADLINE):
                await listener.wait_closed()
                assert "administrator" in str(await session.wait_ended())


async def test_its_events_end_with_it(far: Loopback) -> None:
    async with serving() as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        async with attach(far, grant) as session:
            events = session.events()
            async with session.forward():
                pass
            far.end_sessions("administrator")
            async with asyncio.timeout(DEADLINE):
                seen = [event async for event in events]
    names = [type(event).__name__ for event in seen]
    assert names == ["Listening", "Closed", "Closed"], "of the port, and of the session"
    assert "administrator" in str(seen[-1])


@pytest.mark.parametrize(
    "options",
    [
        {"keep_alive": 0},
        {"keep_alive": -1.0},
        {"resume_timeout": "x"},
        {"size": (0, 24)},
        {"size": (80,)},
    ],
    ids=str,
)
async def test_arguments_that_mean_nothing(far: Loopback, options: dict[str, Any]) -> None:
    with pytest.raises(ssmnet.UsageError):
        ssmnet.attach("s", "wss://x", "t", **options)


async def test_tls_inside(far: Loopback) -> None:
    authority = Authority()
    async with serving(echo, authority.server("db.internal")) as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        async with attach(far, grant) as session:
            reader, writer = await session.open_connection(
                ssl=authority.client(), server_hostname="db.internal"
            )
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)


@pytest.mark.skipif(sys.platform == "win32", reason="the far end has no shells there")
async def test_a_shell() -> None:
    async with Loopback(first_output_delay=0.0) as far:
        async with attach(far, await started(far)) as session:
            session.shell.stdin.write(b"echo $((6 * 7))done\n")
            async with asyncio.timeout(DEADLINE):
                await session.shell.stdout.readuntil(b"42done")
            with pytest.raises(ssmnet.HandshakeError):
                await session.open_connection()
        assert far.sessions == 0


async def test_a_session_without_credentials_of_its_own() -> None:
    """Who has started it may keep the credentials; nothing of botocore is needed to open it."""
    async with Loopback(allow_unsigned=True) as far, serving() as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        async with attach(far, grant, credentials=no_credentials) as session:
            reader, writer = await session.open_connection()
            assert await echoed(reader, writer) == b"hello"
            await hang_up(writer)
        # The agent ends it: nobody here may call TerminateSession.
        await eventually(lambda: far.sessions == 0)


async def test_a_stranger_s_url_is_refused(far: Loopback) -> None:
    with pytest.raises(RemoteProtocolError):
        await ssmnet.attach("s-1", "wss://ssmmessages.eu-west-1.example.com/v1/x", "token")


async def test_a_wrong_token() -> None:
    """It is told, and not shown."""
    async with Loopback(allow_unsigned=True) as far, serving() as port:
        grant = await started(far, FORWARD, portNumber=str(port))
        with pytest.raises(ssmnet.Error) as raised:
            async with asyncio.timeout(60):
                await attach(
                    far,
                    grant | {"TokenValue": "wrong-token"},
                    credentials=no_credentials,
                    resume_timeout=0.5,
                )
        assert "wrong-token" not in str(raised.value)


@pytest.mark.parametrize("turns", [0, 2, 8, 30])
async def test_cancelled_anywhere_it_leaves_nothing(far: Loopback, turns: int) -> None:
    async def use(grant: dict[str, str]) -> None:
        async with attach(far, grant) as session:
            _, writer = await session.open_connection()
            await asyncio.Event().wait()
            writer.close()

    async with serving() as port:
        task = asyncio.create_task(use(await started(far, FORWARD, portNumber=str(port))))
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await eventually(lambda: far.sessions == 0)
