"""The options of ``ssmnet loopback`` that are about encryption, and about names."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

from ssmnet.loopback import Loopback
from tests import wire
from tests.e2e.processes import SSMNET, FarEnd, far_end_running, run
from tests.io.far_client import FarClient
from tests.loopback.clients import aws_client
from tests.loopback.test_encrypted_sessions import EncryptedClient


class Exported(Loopback):
    """The far end in another process, by its exports."""

    def __init__(self, far_end: FarEnd) -> None:
        self.access_key_id = far_end.exports["AWS_ACCESS_KEY_ID"]
        self.secret_access_key = far_end.exports["AWS_SECRET_ACCESS_KEY"]
        self._far_end = far_end

    @property
    def endpoint_url(self) -> str:
        return self._far_end.exports["AWS_ENDPOINT_URL_KMS"]

    @property
    def environment(self) -> dict[str, str]:
        return self._far_end.exports


@pytest.fixture
def env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment in which there is nothing of AWS's."""
    names = {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "credentials"}
    found = {name: str(tmp_path / file) for name, file in names.items()}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="there are no shells yet")
@pytest.mark.parametrize("required", [False, True])
async def test_it_encrypts(env: dict[str, str], required: bool) -> None:
    options = ("--kms", "--require-challenge") if required else ("--kms",)
    async with far_end_running(env, *options) as far_end:
        far = Exported(far_end)
        async with aws_client(far, "kms") as kms, EncryptedClient(far, kms) as client:
            await client.start("AWS-StartInteractiveCommand", command="echo $((6*7))0")
            await client.open()
            await client.answer(acknowledge=False)
            output = await (client.until_closed() if required else confirmed(client))
            assert ("does not support required" in (output or "")) is required


async def confirmed(client: EncryptedClient) -> str:
    """The message of the handshake that is completed; the session goes on to its end."""
    await client.confirm()
    await client.until_closed()
    assert b"420" in client.text()
    return str(json.loads(client.payload(wire.HANDSHAKE_COMPLETE))["CustomerMessage"])


async def test_a_challenge_needs_encryption(env: dict[str, str]) -> None:
    done = await run(SSMNET, "loopback", "--require-challenge", env=env)
    assert (done.status, done.err) == (2, "error: --require-challenge needs --kms\n")


async def test_names_that_are_none(env: dict[str, str]) -> None:
    for text in ("db.internal", "=127.0.0.1", "db.internal=other", "db.internal=127.0.0.1:80"):
        done = await run(SSMNET, "loopback", "--name", text, env=env)
        said = f"error: --name {text} is not HOST=ADDRESS, such as db.internal=127.0.0.1\n"
        assert (done.status, done.err) == (2, said)


async def test_names_that_the_agent_knows(env: dict[str, str]) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        names = ("--name", "db.internal=127.0.0.1", "--name", "none.internal=127.0.0.9")
        async with far_end_running(env, *names) as far_end, FarClient(Exported(far_end)) as client:
            await client.ready(
                "AWS-StartPortForwardingSessionToRemoteHost", host="db.internal", portNumber=port
            )
            await client.open_stream(3)
            await client.until(lambda: client.frames.data(3) == b"hello")
            await client.send_flag(wire.TERMINATE_SESSION)
            await client.until_closed()
