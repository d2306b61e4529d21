"""Encrypted sessions over real sockets: the client's half is written here, by hand."""

import json
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ssmnet.loopback import Loopback
from ssmnet.loopback.handshake import FAILED
from tests import wire
from tests.io.far_client import FarClient
from tests.loopback.clients import aws_client

INTERACTIVE = "AWS-StartInteractiveCommand"
NON_INTERACTIVE = "AWS-StartNonInteractiveCommand"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no shells yet")

CHALLENGE_REQUEST, CHALLENGE_RESPONSE, EXIT_CODE = 8, 9, 12


class EncryptedClient(FarClient):
    """A client with a data key from the loopback's KMS."""

    def __init__(self, loopback: Loopback, kms: Any) -> None:
        super().__init__(loopback)
        self.multiplexed = False
        self.kms = kms
        self.target = loopback.target
        self.asked: dict[str, str] = {}
        self.key = b""

    def payload(self, payload_type: int) -> bytes:
        return next(m.payload for m in self.received if m.payload_type == payload_type)

    async def answer(
        self, *, acknowledge: bool = True, context: dict[str, str] | None = None
    ) -> None:
        """Get a data key and answer the HandshakeRequest with it."""
        await self.until(lambda: self._has(wire.HANDSHAKE_REQUEST))
        actions = json.loads(self.payload(wire.HANDSHAKE_REQUEST))["RequestedClientActions"]
        assert [action["ActionType"] for action in actions] == ["SessionType", "KMSEncryption"]
        self.asked = actions[1]["ActionParameters"]
        if context is None:
            context = {"aws:ssm:SessionId": self.session_id, "aws:ssm:TargetId": self.target}
            if acknowledge:
                context["aws:ssm:RandomChallenge"] = self.asked["Challenge"]
        data_key = await self.kms.generate_data_key(
            KeyId=self.asked["KMSKeyId"], NumberOfBytes=64, EncryptionContext=context
        )
        self.key = data_key["Plaintext"]
        result = {
            "KMSCipherTextKey": b64encode(data_key["CiphertextBlob"]).decode(),
            "KMSCipherTextHash": None,
            "ChallengeAcknowledgement": acknowledge,
        }
        processed = [
            {"ActionType": kind, "ActionStatus": 1, "ActionResult": result, "Error": ""}
            for kind in ("SessionType", "KMSEncryption")
        ]
        content = {"ClientVersion": "1.2.764.0", "ProcessedClientActions": processed}
        payload = json.dumps(content).encode()
        await self.ws.send_bytes(wire.input_data(0, payload, wire.HANDSHAKE_RESPONSE))

    async def confirm(self) -> None:
        """Answer the challenge, and wait for HandshakeComplete."""
        await self.until(lambda: self._has(CHALLENGE_REQUEST))
        challenge = b64decode(json.loads(self.payload(CHALLENGE_REQUEST))["Challenge"])
        again = b64encode(self.encrypt(self.decrypt(challenge))).decode()
        await self.send(json.dumps({"Challenge": again}).encode(), CHALLENGE_RESPONSE)
        await self.until(lambda: self._has(wire.HANDSHAKE_COMPLETE))

    def encrypt(self, data: bytes) -> bytes:
        return b"n" * 12 + AESGCM(self.key[32:]).encrypt(b"n" * 12, data, None)

    def decrypt(self, data: bytes) -> bytes:
        return AESGCM(self.key[:32]).decrypt(data[:12], data[12:], None)

    def text(self, payload_type: int = wire.OUTPUT) -> bytes:
        """All that came in payloads of that type, decrypted."""
        found = {m.number: m.payload for m in self.received if m.payload_type == payload_type}
        return b"".join(self.decrypt(found[number]) for number in sorted(found))


@asynccontextmanager
async def encrypted(**options: Any) -> AsyncIterator[EncryptedClient]:
    loopback = Loopback(kms=True, **options)
    async with (
        loopback,
        aws_client(loopback, "kms") as kms,
        EncryptedClient(loopback, kms) as client,
    ):
        yield client


@pytest.mark.parametrize("acknowledge", [True, False])
async def test_an_interactive_command(acknowledge: bool) -> None:
    async with encrypted() as client:
        await client.start(INTERACTIVE, command="read line; echo got $line")
        await client.open()
        await client.answer(acknowledge=acknowledge)
        await client.confirm()
        complete = json.loads(client.payload(wire.HANDSHAKE_COMPLETE))
        assert complete["CustomerMessage"] == "This session is encrypted using AWS KMS."
        assert client.asked["KMSKeyId"] == client.loopback.kms_key_id
        await client.send(b'{"cols":80,"rows":24}', wire.SIZE)
        await client.send(client.encrypt(b"secret\n"))
        assert await client.until_closed() == ""
        assert b"got secret" in client.text()
        assert not any(b"secret" in message.payload for message in client.received)


async def test_separate_output_is_encrypted_with_its_exit_code() -> None:
    async with encrypted() as client:
        await client.start(
            NON_INTERACTIVE,
            command="sh -c 'echo out; echo err >&2; exit 7'",
            separateOutputStream="True",
        )
        await client.open()
        await client.answer()
        await client.confirm()
        await client.until_closed()
        assert client.text() == b"out\n"
        assert client.text(wire.STDERR) == b"err\n"
        assert client.text(EXIT_CODE) == b"EXIT_CODE: 7"


async def test_a_shell() -> None:
    async with encrypted() as client:
        await client.start("SSM-SessionManagerRunShell")
        await client.open()
        await client.answer()
        await client.confirm()
        await client.send(client.encrypt(b"echo $((6*7))0; exit\n"))
        await client.until_closed()
        assert b"420" in client.text()


async def test_an_ecs_command_is_bound_to_its_target() -> None:
    async with encrypted() as client, aws_client(client.loopback, "ecs") as ecs:
        far = client.loopback
        executed = await ecs.execute_command(
            cluster=far.cluster, task=far.task, command="echo $((6*7))0", interactive=True
        )
        session = executed["session"]
        client.session_id, client.target = session["sessionId"], far.ecs_target
        client.token, client.url = session["tokenValue"], session["streamUrl"]
        await client.open()
        await client.answer()
        await client.confirm()
        await client.until_closed()
        assert b"420" in client.text()


async def test_a_port_is_never_encrypted() -> None:
    async with encrypted() as client:
        await client.ready("AWS-StartPortForwardingSession", portNumber="1")
        actions = json.loads(client.payload(wire.HANDSHAKE_REQUEST))["RequestedClientActions"]
        assert [action["ActionType"] for action in actions] == ["SessionType"]


async def refused(client: EncryptedClient, **how: Any) -> str:
    """How a session ends whose client answers like that."""
    await client.start(INTERACTIVE, command="echo secret")
    await client.open()
    await client.answer(**how)
    output = await client.until_closed()
    assert not client.text()
    assert output is not None
    return output


async def test_a_key_of_another_context_ends_the_session() -> None:
    async with encrypted() as client:
        output = await refused(client, context={"aws:ssm:SessionId": "another"})
        assert output.startswith(FAILED + "Fetching data key failed: ")
        assert output.endswith("InvalidCiphertextException: ")


async def test_the_agent_may_be_denied_to_decrypt() -> None:
    async with encrypted(denied={"Decrypt"}) as client:
        output = await refused(client)
        assert output.endswith("User is not authorized to perform: kms:Decrypt")


async def test_a_client_without_the_challenge_can_be_refused() -> None:
    async with encrypted(require_challenge=True) as client:
        output = await refused(client, acknowledge=False)
        assert output == FAILED + (
            "client does not support required encryption context random challenge"
        )


async def test_plain_text_is_not_taken_for_input() -> None:
    """Like the real agent, which does not acknowledge it either."""
    async with encrypted() as client:
        await client.start(INTERACTIVE, command="cat")
        await client.open()
        await client.answer()
        await client.confirm()
        client.number += 1
        await client.ws.send_bytes(wire.input_data(client.number, b"plain\n"))
        late = wire.input_data(client.number + 1, client.encrypt(b"late\n"))
        await client.ws.send_bytes(late)
        await client.until(lambda: client.number + 1 in client.acknowledged)
        assert client.number not in client.acknowledged
        assert not client.text()
        client.number -= 1
        await client.send(client.encrypt(b"sealed\n"))
        await client.until(lambda: b"late" in client.text())
        assert b"sealed" in client.text()


@pytest.mark.parametrize("document", ["SSM-SessionManagerRunShell", INTERACTIVE, NON_INTERACTIVE])
async def test_whoever_runs_commands_has_to_sign(document: str) -> None:
    async with Loopback(allow_unsigned=True) as loopback, FarClient(loopback) as client:
        command = {} if document.startswith("SSM-") else {"command": "true"}
        await client.start(document, **command)
        assert await client.upgrade_status(signed=False) == 403
        assert await client.upgrade_status(secret="wrong") == 403
        assert loopback.clients == 0
        await client.open()
        assert await client.next() is not None
