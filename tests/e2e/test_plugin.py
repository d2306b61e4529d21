"""The plugin as other programs run it: a process of its own, with sessions to the loopback."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from ssmnet.aws import Client, StartedSession
from ssmnet.loopback import Loopback

from .conftest import free_port

PORT = "AWS-StartPortForwardingSession"
REMOTE_HOST = "AWS-StartPortForwardingSessionToRemoteHost"
SOCKET = "AWS-StartPortForwardingSessionToSocket"
VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
NO_MULTIPLEXING = "3.0.196.0"
TIMEOUT = 30.0
TERMINATED = "Terminate signal received, exiting.\n"
FAILED = "Cannot perform start session: "

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals there")


class Plugin:
    """A running plugin; what it printed is in ``said`` as it comes."""

    def __init__(self, process: asyncio.subprocess.Process, grant: StartedSession) -> None:
        self.process = process
        self.grant = grant
        self.said = ""

    @property
    def session_id(self) -> str:
        return self.grant.session_id

    @property
    def exiting(self) -> str:
        return f"\n\nExiting session with sessionId: {self.session_id}.\n\n"

    async def line(self) -> str:
        """The next line."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            line = (await self.process.stdout.readline()).decode()
        assert line, f"it ended after {self.said!r}"
        self.said += line
        return line

    async def opened(self) -> int:
        """The local port, once it is open and the lines about that have come."""
        assert await self.line() == "\n"
        assert await self.line() == f"Starting session with SessionId: {self.session_id}\n"
        port = (await self.line()).split()[1]
        return int(port)

    async def end(self) -> str:
        """All that it said, after its end."""
        async with asyncio.timeout(TIMEOUT):
            rest, errors = await self.process.communicate()
        self.said += (rest or b"").decode()
        assert errors == b""
        assert self.grant.token_value not in self.said
        return self.said

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.communicate()


class FarEnd:
    """A loopback, and plugins for it."""

    def __init__(self, loopback: Loopback, environment: dict[str, str]) -> None:
        self.loopback = loopback
        self.environment = environment | loopback.environment
        self._streams: list[Streams] = []

    async def connect(self, port: int, host: str = "127.0.0.1") -> Streams:
        """A connection that ``close`` will close."""
        self._streams.append(await asyncio.open_connection(host, port))
        return self._streams[-1]

    async def connect_unix(self, path: Path) -> Streams:
        if sys.platform == "win32":
            pytest.skip("not there")
        self._streams.append(await asyncio.open_unix_connection(path))
        return self._streams[-1]

    async def close(self) -> None:
        for _, writer in self._streams:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def grant(self, document: str, **parameters: object) -> StartedSession:
        given = {name: [str(value)] for name, value in parameters.items()}
        client = Client(region=self.loopback.region, endpoint_url=self.loopback.endpoint_url)
        return await client.start_session(self.loopback.target, document, given)

    async def run(
        self,
        grant: StartedSession,
        *,
        by_argument: bool = False,
        profile: str = "",
        stdout: int = asyncio.subprocess.PIPE,
        caller: tuple[str, ...] = (),
        **changes: str,
    ) -> Plugin:
        """Start the plugin as the AWS CLI does, or, ``by_argument``, as its old versions do."""
        response = json.dumps(
            {
                "SessionId": grant.session_id,
                "TokenValue": grant.token_value,
                "StreamUrl": grant.stream_url,
                "ResponseMetadata": {"RetryAttempts": 0},
            }
        )
        environment = self.environment | changes
        if not by_argument:
            environment[VARIABLE] = response
        request = json.dumps({"Target": self.loopback.target, "Parameters": None})
        process = await asyncio.create_subprocess_exec(
            *(*caller, sys.executable, "-m", "ssmnet.plugin"),
            *(response if by_argument else VARIABLE, self.loopback.region, "StartSession"),
            *(profile, request, self.loopback.endpoint_url),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
        )
        return Plugin(process, grant)

    async def start(self, document: str, **parameters: object) -> Plugin:
        return await self.run(await self.grant(document, **parameters))


Start = Callable[..., Any]


@pytest.fixture
def far_end(aws_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Start:
    """A far end that must have no session left when the test is through with it."""

    @asynccontextmanager
    async def start(**options: Any) -> AsyncIterator[FarEnd]:
        async with Loopback(**options) as loopback:
            for name, value in loopback.environment.items():
                monkeypatch.setenv(name, value)
            far = FarEnd(loopback, aws_env)
            try:
                yield far
            finally:
                await far.close()
            assert loopback.sessions == 0
            assert loopback.connections == 0

    return start


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a destination that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def exchange(streams: Streams, size: int = 100_000) -> None:
    """Send random bytes and get them back."""
    reader, writer = streams
    sent = os.urandom(size)
    writer.write(sent)
    async with asyncio.timeout(TIMEOUT):
        await writer.drain()
        assert await reader.readexactly(size) == sent


def reset(streams: Streams) -> None:
    sock = streams[1].get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    streams[1].transport.abort()


def is_free(port: int) -> bool:
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@posix
@pytest.mark.parametrize("by_argument", [False, True])
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
async def test_a_port_is_forwarded_until_a_signal_comes(
    far_end: Start, number: str, by_argument: bool
) -> None:
    async with far_end() as far, echoing() as destination:
        grant = await far.grant(PORT, portNumber=destination)
        async with await far.run(grant, by_argument=by_argument) as plugin:
            port = await plugin.opened()
            assert await plugin.line() == "Waiting for connections...\n"
            first = await far.connect(port)
            assert await plugin.line() + await plugin.line() == (
                f"\nConnection accepted for session [{plugin.session_id}]\n"
            )
            await asyncio.gather(
                exchange(first),
                exchange(await far.connect(port)),
                exchange(await far.connect(port)),
            )
            plugin.process.send_signal(signal.Signals[number])

            assert await plugin.end() == (
                f"\nStarting session with SessionId: {plugin.session_id}\n"
                f"Port {port} opened for sessionId {plugin.session_id}.\n"
                "Waiting for connections...\n"
                f"\nConnection accepted for session [{plugin.session_id}]\n"
                f"{TERMINATED}{plugin.exiting}"
            )
            assert plugin.process.returncode == 0
            assert far.loopback.sessions == 0
            assert is_free(port)


@posix
async def test_the_local_port_is_the_one_asked_for_on_both_loopback_addresses(
    far_end: Start,
) -> None:
    async with far_end() as far, echoing() as destination:
        wanted = free_port()
        async with await far.start(
            REMOTE_HOST, host="127.0.0.1", portNumber=destination, localPortNumber=wanted
        ) as plugin:
            assert await plugin.opened() == wanted
            await exchange(await far.connect(wanted))
            if socket.has_ipv6:
                await exchange(await far.connect(wanted, "::1"))
            plugin.process.send_signal(signal.SIGINT)
            assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
            assert plugin.process.returncode == 0


@posix
async def test_a_unix_socket_is_forwarded_and_leaves_no_file(
    far_end: Start, tmp_path: Path
) -> None:
    async with far_end() as far, echoing() as destination:
        path = tmp_path / "s"
        async with await far.start(
            SOCKET, portNumber=destination, localConnectionType="unix", localUnixSocket=path
        ) as plugin:
            while await plugin.line() != "Waiting for connections...\n":
                pass
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            await exchange(await far.connect_unix(path))
            plugin.process.send_signal(signal.SIGTERM)

            assert await plugin.end() == (
                f"\nStarting session with SessionId: {plugin.session_id}\n"
                f"Unix socket {path} opened for sessionId {plugin.session_id}.\n"
                "Waiting for connections...\n"
                f"\nConnection accepted for session [{plugin.session_id}]\n"
                f"{TERMINATED}{plugin.exiting}"
            )
            assert plugin.process.returncode == 0
            assert not path.exists()


@posix
async def test_an_agent_that_does_not_multiplex_serves_one_connection_after_the_other(
    far_end: Start,
) -> None:
    async with (
        far_end(agent_version=NO_MULTIPLEXING) as far,
        echoing() as destination,
        await far.start(PORT, portNumber=destination) as plugin,
    ):
        port = await plugin.opened()
        first = await far.connect(port)
        await exchange(first)
        # The second sends while it has to wait for its turn.
        second = await far.connect(port)
        second[1].write(b"early, ")
        reset(first)
        async with asyncio.timeout(TIMEOUT):
            assert await second[0].readexactly(7) == b"early, "
        await exchange(second)
        plugin.process.send_signal(signal.SIGINT)

        assert await plugin.end() == (
            f"\nStarting session with SessionId: {plugin.session_id}\n"
            f"Port {port} opened for sessionId {plugin.session_id}.\n"
            f"Connection accepted for session {plugin.session_id}.\n"
            f"{TERMINATED}{plugin.exiting}"
        )
        assert plugin.process.returncode == 0


@posix
async def test_a_destination_that_refuses_is_told_each_time_and_the_session_goes_on(
    far_end: Start,
) -> None:
    async with (
        far_end() as far,
        await far.start(PORT, portNumber=free_port()) as plugin,
    ):
        port = await plugin.opened()
        for _ in range(2):
            reader, writer = await far.connect(port)
            writer.write(b"x")
            with pytest.raises(ConnectionResetError):
                await reader.read()
        refused = "\nConnection to destination port failed, check SSM Agent logs.\n"
        while not plugin.said.endswith(refused * 2):
            await plugin.line()
        plugin.process.send_signal(signal.SIGINT)

        assert await plugin.end() == (
            f"\nStarting session with SessionId: {plugin.session_id}\n"
            f"Port {port} opened for sessionId {plugin.session_id}.\n"
            "Waiting for connections...\n"
            f"\nConnection accepted for session [{plugin.session_id}]\n"
            f"{refused}{refused}{TERMINATED}{plugin.exiting}"
        )
        assert plugin.process.returncode == 0


@pytest.mark.parametrize(
    ("output", "last_words"),
    [
        ("", "\n\nExiting session with sessionId: {}.\n\n"),
        ("Not today.", "\n\nSessionId: {} : Not today.\n\n"),
    ],
)
async def test_a_session_that_the_far_end_closes_is_told_and_is_no_failure(
    far_end: Start, output: str, last_words: str
) -> None:
    async with (
        far_end() as far,
        echoing() as destination,
        await far.start(PORT, portNumber=destination) as plugin,
    ):
        port = await plugin.opened()
        await exchange(await far.connect(port))
        far.loopback.end_sessions(output)
        assert (await plugin.end()).endswith("]\n" + last_words.format(plugin.session_id))
        assert plugin.process.returncode == 0


@posix
async def test_connections_outlive_the_websocket(far_end: Start) -> None:
    async with (
        far_end() as far,
        echoing() as destination,
        await far.start(PORT, portNumber=destination) as plugin,
    ):
        streams = await far.connect(await plugin.opened())
        await exchange(streams)
        far.loopback.close_clients()
        await exchange(streams)
        far.loopback.cut_clients()
        await exchange(streams)
        plugin.process.send_signal(signal.SIGINT)
        assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
        assert plugin.process.returncode == 0


async def test_a_session_that_aws_does_not_resume_has_timed_out(far_end: Start) -> None:
    async with (
        far_end() as far,
        echoing() as destination,
        await far.start(PORT, portNumber=destination) as plugin,
    ):
        await plugin.opened()
        # Nobody is there to be told of the end.
        far.loopback.cut_clients()
        far.loopback.end_sessions()
        timed_out = f"connections...\nSession: {plugin.session_id} timed out.\n"
        assert (await plugin.end()).endswith(timed_out)
        assert plugin.process.returncode == 0


@pytest.mark.parametrize("by_argument", [False, True])
async def test_a_stream_url_of_a_stranger_is_not_connected_to(
    far_end: Start, by_argument: bool
) -> None:
    """Nothing trusts this machine here: no endpoint on it is configured for the data channel."""
    met = []
    stranger = await asyncio.start_server(lambda *_: met.append(_), "127.0.0.1", 0)
    port = stranger.sockets[0].getsockname()[1]
    async with far_end() as far, stranger:
        grant = await far.grant(PORT, portNumber=1)
        changed = StartedSession(grant.session_id, grant.token_value, f"ws://127.0.0.1:{port}/")
        endpoint_url, far.loopback = far.loopback.endpoint_url, Strange(far.loopback)
        far.environment["AWS_ENDPOINT_URL_SSM"] = endpoint_url
        far.environment.pop("AWS_ENDPOINT_URL_SSMMESSAGES", None)
        async with await far.run(changed, by_argument=by_argument) as plugin:
            said = await plugin.end()
            assert said == (
                f"\nStarting session with SessionId: {plugin.session_id}\n"
                f"{FAILED}refused StreamUrl: '127.0.0.1:{port}' is not ssmmessages of us-east-1;"
                " if it is your own endpoint, set AWS_ENDPOINT_URL_SSMMESSAGES\n"
            )
            assert plugin.process.returncode == (0 if by_argument else 1)
    assert not met


class Strange:
    """A loopback that its caller passes no endpoint of."""

    endpoint_url = ""

    def __init__(self, loopback: Loopback) -> None:
        self.region = loopback.region
        self.target = loopback.target


@pytest.mark.parametrize("by_argument", [False, True])
async def test_a_port_that_is_taken_ends_the_session(far_end: Start, by_argument: bool) -> None:
    async with far_end() as far, echoing() as taken:
        grant = await far.grant(PORT, portNumber=taken, localPortNumber=taken)
        async with await far.run(grant, by_argument=by_argument) as plugin:
            assert await plugin.end() == (
                f"\nStarting session with SessionId: {plugin.session_id}\n"
                f"{FAILED}cannot listen on port {taken} on 127.0.0.1: it is in use\n"
            )
            assert plugin.process.returncode == (0 if by_argument else 1)


@pytest.mark.parametrize(
    ("document", "parameters", "told"),
    [
        (PORT, {"localPortNumber": "70000"}, "localPortNumber '70000' is not a port"),
        (PORT, {"localPortNumber": "-1"}, "localPortNumber '-1' is not a port"),
        (SOCKET, {"localUnixSocket": "a\0b"}, "localUnixSocket is not the path of a socket"),
        (SOCKET, {"localUnixSocket": "/nowhere/s"}, "cannot listen on /nowhere/s: "),
        (SOCKET, {"localUnixSocket": "/" + 200 * "s"}, "cannot listen on /sss"),
        (SOCKET, {"localUnixSocket": "s", "localConnectionType": "tcp"}, ""),
    ],
)
async def test_what_the_plugin_can_not_do_ends_the_session(
    far_end: Start, document: str, parameters: dict[str, str], told: str
) -> None:
    async with (
        far_end() as far,
        echoing() as destination,
        await far.start(document, portNumber=destination, **parameters) as plugin,
    ):
        if not told:
            await plugin.opened()  # a free port: that is what the reference client makes of it
            far.loopback.end_sessions()
            return
        lines = (await plugin.end()).splitlines()
        assert lines[:2] == ["", f"Starting session with SessionId: {plugin.session_id}"]
        assert len(lines) == 3
        assert lines[2].startswith(FAILED + told)
        assert plugin.process.returncode == 1


@posix
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
async def test_a_signal_while_it_starts_leaves_no_session_behind(
    far_end: Start, number: str
) -> None:
    async with (
        far_end() as far,
        await far.start(PORT, portNumber=1) as plugin,
    ):
        await plugin.line()
        await plugin.line()
        plugin.process.send_signal(signal.Signals[number])
        assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
        assert plugin.process.returncode == 0
        assert far.loopback.sessions == 0


@posix
async def test_a_second_signal_does_not_cut_the_end_short(far_end: Start) -> None:
    """A caller that is interrupted itself passes the signal on, and both arrive."""
    async with (
        far_end() as far,
        echoing() as destination,
        await far.start(PORT, portNumber=destination) as plugin,
    ):
        await exchange(await far.connect(await plugin.opened()))
        plugin.process.send_signal(signal.SIGINT)
        plugin.process.send_signal(signal.SIGTERM)
        while await plugin.line() != TERMINATED:
            pass
        plugin.process.send_signal(signal.SIGTERM)
        assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
        assert plugin.process.returncode == 0
        assert far.loopback.sessions == 0


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="it can't be watched there")
async def test_it_ends_with_its_caller(far_end: Start) -> None:
    """One that was killed can't tell us to end, and nobody else ever would."""
    async with far_end() as far, echoing() as destination:
        grant = await far.grant(PORT, portNumber=destination)
        caller = ("sh", "-c", '"$@" & wait', "sh")
        async with await far.run(grant, caller=caller) as plugin:
            streams = await far.connect(await plugin.opened())
            await exchange(streams)
            plugin.process.kill()
            assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
            assert far.loopback.sessions == 0


@posix
@pytest.mark.parametrize("detach", ["setsid", "nohup"])
async def test_but_not_when_it_was_detached(far_end: Start, detach: str) -> None:
    async with far_end() as far, echoing() as destination:
        grant = await far.grant(PORT, portNumber=destination)
        caller = ("sh", "-c", f'{detach} "$@" & echo $!; wait', "sh")
        async with await far.run(grant, caller=caller) as plugin:
            pid = int(await plugin.line())
            streams = await far.connect(await plugin.opened())
            plugin.process.kill()
            await asyncio.sleep(0.5)  # time to notice, if it did
            await exchange(streams)
            os.kill(pid, signal.SIGTERM)
            assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)


@posix
@pytest.mark.parametrize("caller", ["gone", "not reading"])
async def test_the_forward_needs_nobody_to_read_what_it_says(far_end: Start, caller: str) -> None:
    async with far_end() as far, echoing() as destination:
        port = free_port()
        grant = await far.grant(PORT, portNumber=destination, localPortNumber=port)
        read_end, write_end = os.pipe()
        try:
            fill(write_end)
            if caller == "gone":
                os.close(read_end)
            plugin = await far.run(grant, stdout=write_end)
        finally:
            os.close(write_end)
        async with plugin:
            await exchange(await connect_when_open(far, port))
            plugin.process.send_signal(signal.SIGTERM)
            assert await plugin.end() == ""
            assert plugin.process.returncode == 0
        if caller == "not reading":
            os.close(read_end)


def fill(write_end: int) -> None:
    """Write until nothing more fits."""
    if sys.platform == "win32":
        pytest.skip("not there")
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"\n")
    except BlockingIOError:
        os.set_blocking(write_end, True)


async def connect_when_open(far: FarEnd, port: int) -> Streams:
    async with asyncio.timeout(TIMEOUT):
        while True:
            try:
                return await far.connect(port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)


@posix
async def test_the_profile_signs_and_children_do_not_see_the_token(
    far_end: Start, tmp_path: Path
) -> None:
    """The credentials come from a program that the profile names; it writes down what it sees."""
    async with far_end() as far, echoing() as destination:
        keys = {
            "Version": 1,
            "AccessKeyId": far.loopback.access_key_id,
            "SecretAccessKey": far.loopback.secret_access_key,
        }
        program = tmp_path / "credentials"
        program.write_text(f"#!/bin/sh\nenv >{tmp_path}/seen\necho '{json.dumps(keys)}'\n")
        program.chmod(0o700)
        with open(far.environment["AWS_CONFIG_FILE"], "w") as config:  # noqa: ASYNC230 - it is small
            config.write(f"[profile mine]\ncredential_process = {program}\n")
        grant = await far.grant(PORT, portNumber=destination)
        del far.environment["AWS_ACCESS_KEY_ID"], far.environment["AWS_SECRET_ACCESS_KEY"]

        # The region is an argument, too: this one would be the wrong one to sign for.
        async with await far.run(grant, profile="mine", AWS_REGION="eu-west-1") as plugin:
            await exchange(await far.connect(await plugin.opened()))
            plugin.process.send_signal(signal.SIGINT)
            assert (await plugin.end()).endswith(TERMINATED + plugin.exiting)
        seen = (tmp_path / "seen").read_text()
        assert "AWS_REGION=eu-west-1" in seen
        assert grant.token_value not in seen
        assert VARIABLE not in seen


@posix
async def test_the_aws_cli_forwards_through_it(far_end: Start, aws_cli: Path) -> None:
    """Ctrl-C goes to both, as from a terminal; the AWS CLI leaves it to the plugin."""
    if sys.platform == "win32":
        pytest.skip("not there")
    async with far_end() as far, echoing() as destination:
        parameters = {"portNumber": [str(destination)], "localPortNumber": ["0"]}
        process = await asyncio.create_subprocess_exec(
            *(aws_cli, "ssm", "start-session", "--target", far.loopback.target),
            *("--document-name", PORT, "--parameters", json.dumps(parameters)),
            env=far.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert process.stdout is not None
            async with asyncio.timeout(TIMEOUT):
                said = await process.stdout.readuntil(b"Waiting for connections...\n")
            (session_id,) = far.loopback.session_ids
            await exchange(await far.connect(int(said.split()[6])))
            os.killpg(process.pid, signal.SIGINT)
            async with asyncio.timeout(TIMEOUT):
                rest, errors = await process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert said.startswith(f"\nStarting session with SessionId: {session_id}\nPort ".encode())
        assert rest.decode() == (
            f"\nConnection accepted for session [{session_id}]\n"
            f"{TERMINATED}\n\nExiting session with sessionId: {session_id}.\n\n"
        )
        assert (errors, process.returncode) == (b"", 0)
