"""The far end as an object; what tests see of it through pytest is in test_pytest_plugin.py."""

import asyncio
import os
import ssl
import threading
from pathlib import Path

import pytest

from ssmnet import Credentials
from ssmnet.aws import Client
from ssmnet.testing import SsmLoopback


async def start_session(far_end: SsmLoopback) -> None:
    """Without a look at the environment."""

    async def credentials() -> Credentials:
        return far_end.credentials

    client = Client(
        region=far_end.region,
        credentials=credentials,
        endpoint_url=far_end.endpoint_url,
        messages_endpoint_url=far_end.endpoint_url,
    )
    await client.start_session(far_end.target, "AWS-StartSSHSession", {"portNumber": ["22"]})


def test_an_error_comes_before_sessions_that_are_left() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(KeyError), SsmLoopback() as far_end:
        asyncio.run(start_session(far_end))
        (session,) = far_end.open_sessions
        assert str(session).endswith(": AWS-StartSSHSession to localhost:22, connecting")
        raise KeyError
    assert set(threading.enumerate()) <= threads
    assert [session.state for session in far_end.sessions] == ["terminated"]


def test_sessions_that_are_left_are_an_error() -> None:
    threads = set(threading.enumerate())
    with pytest.raises(AssertionError, match="1 session was left open"), SsmLoopback() as far_end:
        asyncio.run(start_session(far_end))
    assert set(threading.enumerate()) <= threads


def test_a_method_that_needs_it_to_run() -> None:
    far_end = SsmLoopback()
    with pytest.raises(RuntimeError, match="`with`"):
        far_end.cut_clients()
    with far_end:
        far_end.cut_clients()
    with pytest.raises(RuntimeError, match="`with`"):
        far_end.assert_no_sessions_left()


def test_two_side_by_side() -> None:
    with SsmLoopback(check_sessions=False) as one, SsmLoopback() as other:
        asyncio.run(start_session(one))
        assert len(one.sessions) == 1
        assert other.sessions == []


def test_the_environment() -> None:
    os.environ["AWS_PROFILE"] = "production"
    os.environ["AWS_ENDPOINT_URL"] = "http://127.0.0.1:9"
    os.environ["NO_PROXY"] = "example.org"
    before = dict(os.environ)
    with SsmLoopback() as far_end, far_end.in_environment():
        assert os.environ.items() >= far_end.environment.items()
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["AWS_ENDPOINT_URL"] == before["AWS_ENDPOINT_URL"]
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"
    assert dict(os.environ) == before
    assert far_end.changes({"NO_PROXY": "*", "no_proxy": "*"}) == far_end.environment


def test_a_certificate_that_is_trusted_nowhere_else() -> None:
    with SsmLoopback(tls=True) as far_end:
        file = Path(far_end.environment["AWS_CA_BUNDLE"])
        context = ssl.create_default_context(cafile=str(file))
        assert len(context.get_ca_certs()) == 1
        assert [path.name for path in file.parent.iterdir()] == [file.name]  # no key
    assert not file.parent.exists()


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="'db'"):
        SsmLoopback(names={"db.internal": "db"})
    with pytest.raises(ValueError, match="limit of 0 s"):
        SsmLoopback(idle_timeout=0)
    with pytest.raises(ValueError, match="no action 'Nope'"):
        SsmLoopback(denied=["Nope"])
