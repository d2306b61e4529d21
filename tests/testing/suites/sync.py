"""As a user writes it: no plugin but ssmnet's, no loop, no settings of AWS."""

import asyncio
import contextlib
import os
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiobotocore.session import get_session

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"
SECONDS = 20.0
# What the developer's shell has, and what no test may change for good.
FOUND = dict(os.environ)
seen: list[tuple[str, str]] = []


class Shout(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line.upper())


@pytest.fixture
def database() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Shout) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield int(server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def ssm_loopback_options() -> dict[str, object]:
    return {"names": {"db.internal": "127.0.0.1"}}


def ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), SECONDS) as client:
        client.sendall(b"hello\n")
        return client.makefile("rb").readline()


def test_a_forward(ssm_loopback: SsmLoopback, database: int) -> None:
    with ssmnet.blocking.forward(TARGET, database, host="db.internal") as port:
        assert ask(port) == b"HELLO\n"
        (session,) = ssm_loopback.sessions
        assert session.document == "AWS-StartPortForwardingSessionToRemoteHost"
        assert session.destination == f"db.internal:{database}"
        assert session.parameters["portNumber"] == str(database)
        assert session.state == "connected"
    ssm_loopback.assert_no_sessions_left()
    assert [session.state for session in ssm_loopback.sessions] == ["terminated"]
    assert ssm_loopback.open_sessions == []


def test_a_command(ssm_loopback: SsmLoopback) -> None:
    with ssmnet.blocking.connect(TARGET) as target:
        assert target.run("echo", "a  b").stdout == b"a  b\n"
    (session,) = ssm_loopback.sessions
    assert session.document == "AWS-StartNonInteractiveCommand"
    assert session.destination is None
    assert "a  b" not in repr(session)


@pytest.mark.parametrize("_", range(2))
def test_each_test_has_a_far_end_of_its_own(ssm_loopback: SsmLoopback, _: int) -> None:
    assert ssm_loopback.sessions == []
    assert os.environ["AWS_ENDPOINT_URL_SSM"] == ssm_loopback.endpoint_url
    assert os.environ["AWS_ACCESS_KEY_ID"] == ssm_loopback.credentials.access_key
    assert os.environ["AWS_REGION"] == ssm_loopback.region
    assert "AWS_PROFILE" not in os.environ
    assert os.environ["AWS_ENDPOINT_URL_SQS"] == FOUND["AWS_ENDPOINT_URL_SQS"]
    assert Path(os.environ["AWS_CONFIG_FILE"]).samefile(os.devnull)
    here = ssm_loopback.endpoint_url, ssm_loopback.credentials.access_key
    assert here not in seen
    seen.append(here)


def test_the_environment_is_as_found() -> None:
    now = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    assert now == {name: FOUND[name] for name in FOUND if name != "PYTEST_CURRENT_TEST"}


def test_what_a_test_sets_itself_ends_with_it(
    monkeypatch: pytest.MonkeyPatch, ssm_loopback: SsmLoopback
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")


def test_the_environment_is_as_found_again() -> None:
    test_the_environment_is_as_found()


def test_a_cut_is_survived(ssm_loopback: SsmLoopback, database: int) -> None:
    events: list[ssmnet.Event] = []
    with (
        ssmnet.blocking.forward(
            TARGET, database, host="db.internal", on_event=events.append
        ) as port,
        socket.create_connection(("127.0.0.1", port), SECONDS) as client,
        client.makefile("rb") as answers,
    ):
        client.sendall(b"one\n")
        assert answers.readline() == b"ONE\n"
        ssm_loopback.cut_clients()
        client.sendall(b"two\n")
        assert answers.readline() == b"TWO\n"
    assert "Resumed" in [type(event).__name__ for event in events]
    assert len(ssm_loopback.sessions) == 1


def test_an_ended_session_is_replaced(ssm_loopback: SsmLoopback, database: int) -> None:
    with ssmnet.blocking.forward(TARGET, database, host="db.internal") as port:
        assert ask(port) == b"HELLO\n"
        ssm_loopback.end_sessions()
        with contextlib.suppress(ConnectionError):
            ask(port)  # before the client has heard of it
        assert ask(port) == b"HELLO\n"
    ssm_loopback.assert_no_sessions_left()
    assert [session.state for session in ssm_loopback.sessions] == ["terminated"] * 2


@pytest.mark.ssm_loopback(names={"db.internal": "127.0.0.1"}, agent_away_limit=0.1)
def test_all_faults_can_be_called(ssm_loopback: SsmLoopback, database: int) -> None:
    with ssmnet.blocking.forward(TARGET, database, host="db.internal") as port:
        ssm_loopback.fail_next("ThrottlingException", times=2, action="ResumeSession")
        ssm_loopback.expire_tokens()
        ssm_loopback.close_clients(1001, "going away")
        ssm_loopback.impair(delay=0.01, jitter=0.01, loss=0.1, seed=3)
        assert ask(port) == b"HELLO\n"
        ssm_loopback.blackhole_clients(0.1)
        assert ask(port) == b"HELLO\n"
        ssm_loopback.impair()
        ssm_loopback.police(100_000, 64 * 1024)
        ssm_loopback.police()
        ssm_loopback.kill_agents()
    with pytest.raises(ValueError, match="loss is 2"):
        ssm_loopback.impair(loss=2)
    with pytest.raises(ValueError, match="no action 'Nothing'"):
        ssm_loopback.fail_next("ThrottlingException", action="Nothing")


def test_an_error_of_the_api(ssm_loopback: SsmLoopback) -> None:
    ssm_loopback.fail_next("TargetNotConnected", "It is off.")
    with pytest.raises(ssmnet.TargetNotConnected), ssmnet.blocking.connect(TARGET) as target:
        target.run("true")


def test_a_name_can_be_added(ssm_loopback: SsmLoopback, database: int) -> None:
    ssm_loopback.name("Cache.Internal.")
    with ssmnet.blocking.forward(TARGET, database, host="cache.internal", check=True) as port:
        assert ask(port) == b"HELLO\n"
    with pytest.raises(ValueError, match="'cache'"):
        ssm_loopback.name("cache.internal", "cache")


@pytest.mark.ssm_loopback(names={}, denied=["StartSession"])
def test_a_marker_wins(ssm_loopback: SsmLoopback) -> None:
    with pytest.raises(ssmnet.AccessDenied), ssmnet.blocking.connect(TARGET) as target:
        target.run("true")


@pytest.mark.ssm_loopback(names={})
def test_without_the_name(ssm_loopback: SsmLoopback, database: int) -> None:
    with (
        pytest.raises(ssmnet.Error, match="lookup db.internal"),
        ssmnet.blocking.forward(TARGET, database, host="db.internal", check=True),
    ):
        pass


@pytest.mark.ssm_loopback(tls=True, kms=True, require_challenge=True, agent_version="3.1.0.0")
def test_tls_and_an_encrypted_command(ssm_loopback: SsmLoopback) -> None:
    assert ssm_loopback.endpoint_url.startswith("https://localhost:")
    with ssmnet.blocking.connect(TARGET) as target:
        assert target.run("echo", "secret").stdout == b"secret\n"


@pytest.mark.ssm_loopback(away_limit=0.1)
def test_a_session_without_a_client_ends(ssm_loopback: SsmLoopback) -> None:
    asyncio.run(start_session())
    ssm_loopback.assert_no_sessions_left(timeout=SECONDS)
    assert [session.state for session in ssm_loopback.sessions] == ["terminated"]


async def start_session() -> None:
    async with get_session().create_client("ssm") as ssm:
        await ssm.start_session(Target=TARGET)
