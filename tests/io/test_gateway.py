"""The gateway and its agent, seen from outside: real sockets, and nothing of ssmnet's client."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
import trustme

from ssmnet.loopback import AgentOffer, Loopback
from tests import wire
from tests.io.far_client import TIMEOUT, FarClient, opening, sign

FORWARD = "AWS-StartPortForwardingSession"
REMOTE = "AWS-StartPortForwardingSessionToRemoteHost"
RAW = "AWS-StartSSHSession"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def destination(handler: Handler) -> AsyncIterator[str]:
    """A TCP server; its port in text."""
    tasks: set[asyncio.Task[Any]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield str(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.fixture
async def echo_port() -> AsyncIterator[str]:
    async with destination(echo) as port:
        yield port


@pytest.fixture
async def client(ssm_loopback: Loopback) -> AsyncIterator[FarClient]:
    async with FarClient(ssm_loopback) as client:
        yield client


@asynccontextmanager
async def far(**options: Any) -> AsyncIterator[FarClient]:
    async with Loopback(**options) as loopback, FarClient(loopback) as client:
        yield client


# The control plane.


async def test_there_is_one_instance(client: FarClient) -> None:
    status, answer = await client.call("DescribeInstanceInformation")
    assert status == 200
    (instance,) = answer["InstanceInformationList"]
    assert instance["InstanceId"] == "i-0123456789abcdef0"
    assert (instance["PingStatus"], instance["AgentVersion"]) == ("Online", "3.3.0.0")
    filters = [{"Key": "InstanceIds", "Values": ["i-other"]}]
    _, answer = await client.call("DescribeInstanceInformation", Filters=filters)
    assert answer == {"InstanceInformationList": []}


@pytest.mark.parametrize(
    ("action", "arguments", "code"),
    [
        ("StartSession", {"Target": "i-0fffffffffffffff0"}, "TargetNotConnected"),
        ("StartSession", {"Target": "loopback", "DocumentName": "X"}, "InvalidDocument"),
        ("StartSession", {}, "ValidationException"),
        ("StartSession", {"Target": 1}, "ValidationException"),
        (
            "StartSession",
            {"Target": "loopback", "DocumentName": FORWARD, "Parameters": {"portNumber": ["x"]}},
            "ValidationException",
        ),
        ("ResumeSession", {"SessionId": "nobody-0"}, "DoesNotExistException"),
        ("TerminateSession", {"SessionId": "nobody-0"}, "DoesNotExistException"),
        ("DeleteEverything", {}, "UnknownOperationException"),
    ],
)
async def test_api_errors(
    client: FarClient, action: str, arguments: dict[str, Any], code: str
) -> None:
    status, answer = await client.call(action, **arguments)
    assert (status, answer["__type"]) == (400, code)
    assert answer["message"]
    assert client.loopback.sessions_started == 0


async def test_calls_have_to_be_signed(client: FarClient) -> None:
    _, answer = await client.call("DescribeInstanceInformation", secret="wrong")
    assert answer["__type"] == "InvalidSignatureException"
    _, answer = await client.call("DescribeInstanceInformation", signed=False)
    assert answer["__type"] == "MissingAuthenticationTokenException"


async def test_denied_actions_and_failures_on_demand() -> None:
    async with far(denied={"StartSession"}) as client:
        _, answer = await client.call("StartSession", Target="loopback")
        assert answer["__type"] == "AccessDeniedException"
        client.loopback.fail_next("ThrottlingException", "Rate exceeded")
        _, answer = await client.call("DescribeInstanceInformation")
        assert answer == {"__type": "ThrottlingException", "message": "Rate exceeded"}
        assert (await client.call("DescribeInstanceInformation"))[0] == 200


async def test_only_loopback_addresses() -> None:
    with pytest.raises(ValueError, match="not a loopback address"):
        async with Loopback(host="0.0.0.0"):
            pass


# Opening the channel.


async def test_an_upgrade_has_to_be_signed(client: FarClient, echo_port: str) -> None:
    await client.start(FORWARD, portNumber=echo_port)
    assert await client.upgrade_status(signed=False) == 403
    assert await client.upgrade_status(secret="wrong") == 403
    await client.open()
    await client.shake_hands()


async def test_unsigned_upgrades_can_be_allowed(echo_port: str) -> None:
    async with far(allow_unsigned=True) as client:
        await client.start(FORWARD, portNumber=echo_port)
        assert await client.upgrade_status(secret="wrong") == 403
        await client.connect(signed=False)
        await client.ws.send_str(opening(client.token))
        await client.shake_hands()


async def test_an_unknown_session_has_no_channel(client: FarClient, echo_port: str) -> None:
    await client.start(FORWARD, portNumber=echo_port)
    nobody = client.url.replace(client.session_id, "nobody-0")
    assert await client.upgrade_status(nobody) == 404
    assert await client.upgrade_status(client.url.replace("publish_", "")) == 404


@pytest.mark.parametrize(
    "fields",
    [
        {"TokenValue": "wrong"},
        {"MessageSchemaVersion": "2.0"},
        {"RequestId": "1"},
        {"ClientId": "me"},
        {"ClientVersion": "latest"},
    ],
    ids=lambda fields: next(iter(fields)),
)
async def test_a_bad_first_message(
    client: FarClient, echo_port: str, fields: dict[str, str]
) -> None:
    await client.start(FORWARD, portNumber=echo_port)
    await client.connect()
    await client.ws.send_str(opening(client.token, **fields))
    assert await client.until_closed() is None
    assert client.received == []
    assert client.ws.close_code == 1008


@pytest.mark.parametrize("message", ["binary", "no json", "none"])
async def test_no_first_message(echo_port: str, message: str) -> None:
    async with far(open_timeout=0.2) as client:
        await client.start(FORWARD, portNumber=echo_port)
        await client.connect()
        if message == "binary":
            await client.ws.send_bytes(opening(client.token).encode())
        elif message == "no json":
            await client.ws.send_str("hello")
        assert await client.until_closed() is None
        assert client.received == []


async def test_a_ping_is_answered(client: FarClient, echo_port: str) -> None:
    await client.start(FORWARD, portNumber=echo_port)
    headers = sign(client.loopback, "GET", client.url)
    async with client._http.ws_connect(client.url, headers=headers, autoping=False) as ws:
        await ws.send_str(opening(client.token))
        await ws.ping(b"keepalive")
        while (message := await ws.receive(TIMEOUT)).type is not aiohttp.WSMsgType.PONG:
            assert message.type is aiohttp.WSMsgType.BINARY
        assert message.data == b"keepalive"


async def test_a_message_that_is_too_large_ends_the_websocket(
    client: FarClient, echo_port: str
) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.ws.send_bytes(bytes(1024 * 1024 + 1))
    assert await client.until_closed() is None
    assert client.ws.close_code == 1009
    assert client.loopback.sessions == 1


# Multiplexed ports.


async def test_two_streams(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3, b"first")
    await client.open_stream(5, b"second")
    await client.until(lambda: client.frames.data(3) and client.frames.data(5))
    assert client.frames.data(3) == b"first"
    assert client.frames.data(5) == b"second"
    assert client.loopback.connections == 2
    await client.send(wire.frame(wire.FIN, 3))
    await client.until(lambda: client.frames.ended(3))
    await client.send(wire.frame(wire.PSH, 5, b" still"))
    await client.until(lambda: client.frames.data(5) == b"second still")
    assert client.loopback.connections == 1


async def test_a_destination_that_refuses(client: FarClient) -> None:
    await client.ready(FORWARD, portNumber=closed_port())
    await client.open_stream(3, b"x")
    await client.until(lambda: client.frames.ended(3))
    assert client.flags == [wire.CONNECT_TO_PORT_ERROR]
    kinds = [m.payload_type for m in client.received if m.type == wire.OUTPUT_DATA]
    assert kinds[-2:] == [wire.FLAG, wire.OUTPUT], "the flag comes first"
    assert client.loopback.sessions == 1


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
async def test_the_destinations_end(client: FarClient, reset: bool) -> None:
    async def answer_and_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"x" * 5000)
        await reader.readexactly(1)
        if reset:
            writer.transport.abort()

    async with destination(answer_and_end) as port:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"?")
        await client.until(lambda: len(client.frames.data(3)) == 5000)
        await client.send(wire.frame(wire.PSH, 3, b"!"))
        await client.until(lambda: client.frames.ended(3))
        assert client.loopback.connections == 0


async def test_fin_closes_both_directions(client: FarClient) -> None:
    ended: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer_after_the_end(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await ended.put(await reader.read())
        writer.write(b"too late")

    async with destination(answer_after_the_end) as port:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"request")
        await client.send(wire.frame(wire.FIN, 3))
        assert await asyncio.wait_for(ended.get(), TIMEOUT) == b"request"
        await client.until(lambda: client.frames.ended(3))
        assert client.frames.data(3) == b""


async def test_an_ideal_agent_answers_after_fin() -> None:
    async def answer_after_the_end(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(await reader.read())

    async with destination(answer_after_the_end) as port, far(ideal=True) as client:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"request")
        await client.send(wire.frame(wire.FIN, 3))
        await client.until(lambda: client.frames.ended(3))
        assert client.frames.data(3) == b"request"


async def test_a_megabyte_there_and_back(client: FarClient, echo_port: str) -> None:
    data = bytes(range(256)) * 4096
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3)
    for start in range(0, len(data), 16384):
        frame = wire.frame(wire.PSH, 3, data[start : start + 16384])
        for cut in range(0, len(frame), 1024):
            client.number += 1
            payload = frame[cut : cut + 1024]
            await client.ws.send_bytes(wire.input_data(client.number, payload))
    await client.until(lambda: len(client.output()) >= len(data) + 8 * 32)
    await client.until(lambda: client.frames.data(3) == data)
    await client.until(lambda: client.number in client.acknowledged)
    assert client.acknowledged == list(range(client.number + 1)), "each once, in order"


async def test_a_remote_host(client: FarClient, echo_port: str) -> None:
    await client.ready(REMOTE, host="127.0.0.1", portNumber=echo_port)
    await client.open_stream(3, b"hello")
    await client.until(lambda: client.frames.data(3) == b"hello")


@pytest.mark.parametrize(
    ("host", "output"),
    [
        ("169.254.169.254", "Forwarding to IP address 169.254.169.254 is forbidden."),
        ("no..name", "lookup no..name: "),
    ],
)
async def test_hosts_that_end_the_session(client: FarClient, host: str, output: str) -> None:
    await client.ready(REMOTE, host=host, portNumber="80")
    closed = await client.until_closed()
    assert closed is not None
    assert closed.startswith(output)
    assert client.loopback.sessions == 0
    assert not await client.resume()


@pytest.mark.parametrize("host", ["db.internal", "DB.Internal", "db.internal."])
async def test_a_name_that_only_the_agent_knows(echo_port: str, host: str) -> None:
    async with far(names={"db.INTERNAL.": "127.0.0.1"}) as client:
        await client.ready(REMOTE, host=host, portNumber=echo_port)
        await client.open_stream(3, b"hello")
        await client.until(lambda: client.frames.data(3) == b"hello")


async def test_a_name_of_what_is_forbidden() -> None:
    async with far(names={"metadata.internal": "169.254.169.254"}) as client:
        await client.ready(REMOTE, host="metadata.internal", portNumber="80")
        closed = await client.until_closed()
        assert closed == "Forwarding to IP address metadata.internal is forbidden."


def test_what_a_name_stands_for_is_an_address() -> None:
    with pytest.raises(ValueError, match="other.internal"):
        Loopback(names={"db.internal": "other.internal"})


# Reliability.


async def test_a_duplicate_is_acknowledged_again(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3, b"once")
    data = wire.input_data(1, wire.frame(wire.SYN, 3) + wire.frame(wire.PSH, 3, b"once"))
    before = client.acknowledged.count(1)
    await client.ws.send_bytes(data)
    await client.until(lambda: client.acknowledged.count(1) == before + 1)
    await client.send(wire.frame(wire.PSH, 3, b"!"))
    await client.until(lambda: client.frames.data(3) == b"once!")


async def test_early_input_is_acknowledged_and_kept(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3)
    for number in (4, 3, 2):
        push = wire.frame(wire.PSH, 3, b"%d" % number)
        await client.ws.send_bytes(wire.input_data(number, push))
        await client.until(lambda number=number: number in client.acknowledged)
    await client.until(lambda: len(client.frames.data(3)) == 3)
    assert client.frames.data(3) == b"234"


async def test_a_lost_acknowledgement_is_repaired(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    client.acknowledging = False
    await client.open_stream(3, b"a")
    await client.until(lambda: client.frames.data(3) == b"a")
    first = client.received[-1]
    await client.send(wire.frame(wire.PSH, 3, b"b"))
    await client.until(lambda: client.frames.data(3) == b"ab")
    await client.until(lambda: client.received.count(first) == 3)
    assert [m.number for m in client.received[-2:]] == [first.number] * 2, "the head alone"
    client.acknowledging = True
    await client.ws.send_bytes(wire.acknowledge(first))
    await client.until(lambda: client.received[-1].number == first.number + 1)


async def test_input_is_dropped_until_the_port_is_ready(echo_port: str) -> None:
    async with far(setup_time=0.5) as client:
        await client.ready(FORWARD, portNumber=echo_port)
        syn = wire.input_data(1, wire.frame(wire.SYN, 3))
        await client.ws.send_bytes(syn)
        await client.send(wire.frame(wire.SYN, 3))
        assert client.loopback.agent(client.session_id).not_ready >= 1
        assert client.acknowledged == [0, 1]


# The end of a session.


async def test_terminate_by_flag(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3, b"x")
    await client.until(lambda: client.frames.data(3) == b"x")
    await client.send_flag(wire.TERMINATE_SESSION)
    assert await client.until_closed() == ""
    assert client.acknowledged[-1] == client.number
    closed = client.received[-1].json()
    assert closed["SessionId"] == client.session_id
    assert closed["DestinationId"] == client.loopback.target
    assert isinstance(closed["CreatedDate"], str)
    assert (client.loopback.sessions, client.loopback.sessions_terminated) == (0, 1)


async def test_terminate_by_api(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    status, answer = await client.call("TerminateSession", SessionId=client.session_id)
    assert (status, answer) == (200, {"SessionId": client.session_id})
    assert await client.until_closed() == ""
    assert client.ws.close_code == 1000
    status, _ = await client.call("TerminateSession", SessionId=client.session_id)
    assert status == 200, "it is over already"
    assert not await client.resume()


async def test_the_administrators_reason(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    client.loopback.end_sessions("maximum duration reached")
    assert await client.until_closed() == "maximum duration reached"


async def test_a_client_that_stays_away_loses_its_session(echo_port: str) -> None:
    async with far(away_limit=0.2) as client:
        await client.ready(FORWARD, portNumber=echo_port)
        await asyncio.sleep(0.3)  # longer than the limit: it counts only while the client is away
        assert client.loopback.sessions == 1
        client.loopback.cut_clients()
        await until(lambda: client.loopback.sessions == 0)
        assert not await client.resume()


async def until(condition: Callable[[], bool]) -> None:
    """For what shows on no socket of ours."""
    async with asyncio.timeout(TIMEOUT):
        while not condition():
            await asyncio.sleep(0.005)


async def test_leaving_closes_everything(echo_port: str) -> None:
    before = asyncio.all_tasks()
    async with far() as client:
        await client.ready(FORWARD, portNumber=echo_port)
        await client.open_stream(3, b"x")
        await client.until(lambda: client.frames.data(3) == b"x")
        loopback = client.loopback
        await loopback.__aexit__()
        assert await client.until_closed() == ""
        assert loopback.sessions == 0
        await until(lambda: loopback.connections == 0)
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.call("DescribeInstanceInformation")
    ours = {task for task in asyncio.all_tasks() - before if "handle" not in repr(task)}
    assert not ours


# Away and back.


async def test_resume_with_a_fresh_token(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    await client.open_stream(3, b"before")
    await client.until(lambda: client.frames.data(3) == b"before")
    agent = client.loopback.agent(client.session_id)
    old_token = client.token
    client.loopback.cut_clients()
    await until(lambda: client.loopback.clients == 0)
    await until(lambda: agent.paused)
    assert await client.resume()
    assert client.token != old_token
    await client.connect()
    await client.ws.send_str(opening(old_token))
    assert await client.until_closed() is None
    assert client.loopback.clients == 0
    await client.open()
    await client.send(wire.frame(wire.PSH, 3, b" after"))
    await client.until(lambda: client.frames.data(3) == b"before after")
    requests = [m for m in client.received if m.payload_type == wire.HANDSHAKE_REQUEST]
    assert len(requests) == 1, "no new handshake"


async def test_what_was_not_acknowledged_comes_again(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    client.acknowledging = False
    await client.open_stream(3, b"data")
    await client.until(lambda: client.frames.data(3) == b"data")
    message = client.received[-1]
    client.acknowledging = True
    client.loopback.close_clients()
    assert await client.until_closed() is None
    assert client.ws.close_code == 1000
    assert await client.resume()
    await client.open()
    await client.until(lambda: client.received.count(message) > 1)


async def test_the_agent_stops_reading_while_the_client_is_away(client: FarClient) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"first")
        await reader.readexactly(1)
        writer.write(b"second")
        await asyncio.Event().wait()

    async with destination(talk) as port:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3, b"?")
        await client.until(lambda: client.frames.data(3) == b"first")
        await client.send(wire.frame(wire.PSH, 3, b"!"))
        agent = client.loopback.agent(client.session_id)
        client.loopback.cut_clients()
        await until(lambda: agent.paused)
        assert await client.resume()
        await client.open()
        await client.until(lambda: client.frames.data(3) == b"firstsecond")


async def test_a_new_websocket_replaces_the_old_one(client: FarClient, echo_port: str) -> None:
    await client.ready(FORWARD, portNumber=echo_port)
    old = client.ws
    await client.open()
    await client.open_stream(3, b"x")
    await client.until(lambda: client.frames.data(3) == b"x")
    while (message := await old.receive(TIMEOUT)).type is aiohttp.WSMsgType.BINARY:
        pass
    assert message.type is aiohttp.WSMsgType.CLOSE
    assert client.loopback.clients == 1
    agent = client.loopback.agent(client.session_id)
    assert not agent.paused


# Backpressure.


async def test_a_client_that_does_not_read_stops_the_source(client: FarClient) -> None:
    progress = [0]
    total = 64 * 1024 * 1024

    async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        while progress[0] < total:
            writer.write(bytes(65536))
            await writer.drain()
            progress[0] += 65536

    async with destination(source) as port:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        await until_stuck(client, wire.input_data(2, wire.frame(wire.PSH, 3, b"!")), progress)
        assert 0 < progress[0] < 32 * 1024 * 1024
        stuck_at = progress[0]
        client.acknowledging = False
        await client.until(lambda: progress[0] > stuck_at)


async def until_stuck(client: FarClient, data: bytes, progress: list[int]) -> None:
    """Send ``data`` and read nothing until ``progress`` stands still for half a second."""
    await client.ws.send_bytes(data)
    await until(lambda: progress[0] > 0)
    seen = -1
    while seen != progress[0]:
        seen = progress[0]
        await asyncio.sleep(0.5)


async def test_a_destination_that_does_not_read_stops_the_client(client: FarClient) -> None:
    async def never_read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async with destination(never_read) as port:
        await client.ready(FORWARD, portNumber=port)
        await client.open_stream(3)
        sending = asyncio.create_task(send_forever(client))
        with pytest.raises(TimeoutError):
            await receive_until_silence(client)
        assert not sending.done()
        assert client.acknowledged[-1] * 32000 < 32 * 1024 * 1024
        assert client.number * 32000 < 64 * 1024 * 1024, "even the WebSocket takes no more"
        status, _ = await client.call("TerminateSession", SessionId=client.session_id)
        assert status == 200
        sending.cancel()
        assert client.loopback.sessions == 0


async def receive_until_silence(client: FarClient) -> None:
    while True:
        async with asyncio.timeout(1.0):
            await client.next()


async def send_forever(client: FarClient) -> None:
    frame = wire.frame(wire.PSH, 3, bytes(32000))
    while True:
        client.number += 1
        await client.ws.send_bytes(wire.input_data(client.number, frame))


# Basic mode and the raw stream.


async def test_basic_mode(echo_port: str) -> None:
    async with far(agent_version="3.0.161.0") as client:
        client.multiplexed = False
        await client.ready(FORWARD, portNumber=echo_port)
        hello = next(m for m in client.received if m.payload_type == wire.HANDSHAKE_REQUEST)
        assert hello.json()["AgentVersion"] == "3.0.161.0"
        await client.send(b"one")
        await client.until(lambda: client.output() == b"one")
        assert client.loopback.connections == 1
        await client.send(wire.DISCONNECT_TO_PORT.to_bytes(4), wire.FLAG)
        await until(lambda: client.loopback.connections == 0)
        await client.send(b"two")
        await client.until(lambda: client.output() == b"onetwo")
        assert client.loopback.connections == 1


async def test_basic_mode_without_a_destination() -> None:
    async with far(agent_version="3.0.161.0") as client:
        client.multiplexed = False
        await client.ready(FORWARD, portNumber=closed_port())
        output = await client.until_closed()
        assert output is not None
        assert output.startswith("Unable to connect to specified port: ")


async def test_raw(client: FarClient) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-greeting\r\n")
        writer.write(await reader.readexactly(5))

    async with destination(greet) as port:
        client.multiplexed = False
        await client.ready(RAW, portNumber=port)
        await client.until(lambda: client.output() == b"SSH-2.0-greeting\r\n")
        await client.send(b"hello")
        assert await client.until_closed() == ""
        assert client.output() == b"SSH-2.0-greeting\r\nhello"
        assert client.loopback.sessions == 0


# An agent of one's own.


async def test_an_external_agent() -> None:
    offers: list[AgentOffer] = []
    async with far(offer=offers.append) as client:
        await client.start(FORWARD, portNumber="1")
        (offer,) = offers
        assert offer.request.properties["portNumber"] == "1"
        await client.open()
        headers = sign(client.loopback, "GET", offer.url)
        async with client._http.ws_connect(offer.url, headers=headers) as agent:
            await agent.send_str(
                opening(offer.token, ClientId="agent", ClientInstanceId=client.loopback.target)
            )
            state = b'{"SessionState":"Connected"}'
            await agent.send_bytes(wire.encode("agent_session_state", state, flags=3))
            await agent.send_bytes(from_agent(0, b"hello"))
            message = await client.next()
            assert message is not None
            assert (message.number, message.payload) == (0, b"hello"), "its state is swallowed"
            answer = wire.decode((await agent.receive(TIMEOUT)).data)
            assert wire.acknowledged(answer) == 0
            await client.ws.send_bytes(wire.input_data(0, b"world"))
            assert wire.decode((await agent.receive(TIMEOUT)).data).payload == b"world"
            await client.ws.close()
            assert wire.decode((await agent.receive(TIMEOUT)).data).type == wire.PAUSE
            await client.open()
            assert wire.decode((await agent.receive(TIMEOUT)).data).type == wire.START
            offer.complete("that was all")
            assert await client.until_closed() == "that was all"
            assert wire.decode((await agent.receive(TIMEOUT)).data).type == wire.CHANNEL_CLOSED
        assert client.loopback.sessions == 0


def from_agent(number: int, payload: bytes) -> bytes:
    message_id = bytes.fromhex("8000000000000001") + bytes.fromhex("0000000000004000")
    return wire.encode(
        wire.OUTPUT_DATA, payload, number=number, payload_type=wire.OUTPUT, message_id=message_id
    )


async def test_the_client_is_told_that_the_agent_is_away_and_back() -> None:
    offers: list[AgentOffer] = []
    async with far(offer=offers.append, allow_unsigned=True) as client:
        await client.start(FORWARD, portNumber="1")
        await client.open()
        for _ in range(2):
            agent = await client._http.ws_connect(offers[0].url)
            await agent.send_str(opening(offers[0].token, ClientId="agent"))
            await agent.send_bytes(from_agent(0, b"here"))
            while (message := await client.next()) and message.payload != b"here":
                assert message.type == wire.START
            await agent.close()
            message = await client.next()
            assert message is not None
            assert message.type == wire.PAUSE
        assert [m.type for m in client.received].count(wire.START) == 1


# TLS.


async def test_tls(echo_port: str) -> None:
    ca = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)
    async with Loopback(tls=server, ca_file="ca.pem") as loopback:
        assert loopback.endpoint_url.startswith("https://localhost:")
        assert loopback.environment["AWS_CA_BUNDLE"] == "ca.pem"
        async with FarClient(loopback, trusting) as client:
            await client.ready(FORWARD, portNumber=echo_port)
            assert client.url.startswith("wss://localhost:")
            await client.open_stream(3, b"secret")
            await client.until(lambda: client.frames.data(3) == b"secret")


async def test_the_environment_leads_here(ssm_loopback: Loopback) -> None:
    environment = ssm_loopback.environment
    assert environment["AWS_ENDPOINT_URL_SSM"] == ssm_loopback.endpoint_url
    assert environment["AWS_ACCESS_KEY_ID"] == ssm_loopback.access_key_id
    assert environment["AWS_SECRET_ACCESS_KEY"] == ssm_loopback.secret_access_key
    assert environment["AWS_REGION"] == environment["AWS_DEFAULT_REGION"] == "us-east-1"
    async with Loopback() as other:
        assert other.access_key_id != ssm_loopback.access_key_id
