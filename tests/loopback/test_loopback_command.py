"""The options of ``ssmnet loopback`` that are about encryption."""

import json
import sys
from pathlib import Path

import pytest

from ssmnet.loopback import Loopback
from tests import wire
from tests.e2e.processes import SSMNET, FarEnd, far_end_running, run
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
