"""A client of the gateway made of aiohttp's WebSocket and tests/wire.py, nothing of ssmnet."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any, Self
from uuid import uuid4

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ssmnet.loopback import Loopback
from tests import wire

TIMEOUT = 10.0
CLIENT_VERSION = "1.2.764.0"


def sign(
    loopback: Loopback,
    method: str,
    url: str,
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    service: str = "ssmmessages",
    secret: str | None = None,
) -> dict[str, str]:
    """The headers of a request, signed by botocore."""
    request = AWSRequest(method, url.replace("ws", "http", 1), data=body, headers=headers or {})
    credentials = Credentials(loopback.access_key_id, secret or loopback.secret_access_key)
    SigV4Auth(credentials, service, loopback.region).add_auth(request)
    return dict(request.headers.items())


def opening(token: str, **fields: str) -> str:
    content = {
        "MessageSchemaVersion": "1.0",
        "RequestId": str(uuid4()),
        "TokenValue": token,
        "ClientId": str(uuid4()),
        "ClientVersion": CLIENT_VERSION,
    }
    return json.dumps(content | fields)


class FarClient:
    """One session. ``received`` collects messages, ``frames`` what they say in smux."""

    def __init__(self, loopback: Loopback, tls: ssl.SSLContext | None = None) -> None:
        self.loopback = loopback
        self.acknowledging = True
        self.received: list[wire.Message] = []
        self.frames = wire.Frames()
        self.acknowledged: list[int] = []
        self.flags: list[int] = []
        self.session_id = self.token = self.url = ""
        self.number = 0
        self._tls = tls or True
        self.multiplexed = True
        self._all: list[aiohttp.ClientWebSocketResponse] = []

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for ws in self._all:
            await ws.close()
        await self._http.close()

    @property
    def ws(self) -> aiohttp.ClientWebSocketResponse:
        return self._all[-1]

    # The control plane.

    async def call(
        self, action: str, *, secret: str | None = None, signed: bool = True, **arguments: Any
    ) -> tuple[int, dict[str, Any]]:
        url = self.loopback.endpoint_url + "/"
        body = json.dumps(arguments).encode()
        headers = {
            "X-Amz-Target": f"AmazonSSM.{action}",
            "Content-Type": "application/x-amz-json-1.1",
        }
        if signed:
            headers = sign(
                self.loopback, "POST", url, body=body, headers=headers, service="ssm", secret=secret
            )
        async with self._http.post(url, data=body, headers=headers, ssl=self._tls) as response:
            assert response.headers["Content-Type"] == "application/x-amz-json-1.1"
            assert response.headers["x-amzn-RequestId"]
            return response.status, await response.json(content_type=None)

    async def start(self, document: str, **parameters: str) -> None:
        status, answer = await self.call(
            "StartSession",
            Target=self.loopback.target,
            DocumentName=document,
            Parameters={name: [value] for name, value in parameters.items()},
        )
        assert status == 200, answer
        self.session_id = answer["SessionId"]
        self.token, self.url = answer["TokenValue"], answer["StreamUrl"]

    async def resume(self) -> bool:
        status, answer = await self.call("ResumeSession", SessionId=self.session_id)
        assert status == 200
        self.token, self.url = answer["TokenValue"], answer["StreamUrl"] or self.url
        return bool(self.token)

    # The data channel.

    async def connect(self, url: str = "", *, signed: bool = True) -> None:
        url = url or self.url
        headers = sign(self.loopback, "GET", url) if signed else {}
        self._all.append(await self._http.ws_connect(url, headers=headers, ssl=self._tls))

    async def upgrade_status(
        self, url: str = "", *, signed: bool = True, secret: str | None = None
    ) -> int:
        """The HTTP status of an upgrade that is expected to fail."""
        url = url or self.url
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        }
        if signed:
            headers |= sign(self.loopback, "GET", url, secret=secret)
        async with self._http.get(url.replace("ws", "http", 1), headers=headers) as response:
            await response.read()
            return response.status

    async def open(self) -> None:
        await self.connect()
        await self.ws.send_str(opening(self.token))

    async def next(self) -> wire.Message | None:
        """The next message, acknowledged; None when the WebSocket has ended."""
        message = await self.ws.receive(TIMEOUT)
        if message.type is not aiohttp.WSMsgType.BINARY:
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED), message
            return None
        decoded = wire.decode(message.data)
        if not decoded.type.endswith("_publication"):
            wire.check_version_4(decoded.id)
        await self._note(decoded)
        return decoded

    async def _note(self, message: wire.Message) -> None:
        self.received.append(message)
        if message.type == wire.ACKNOWLEDGE:
            self.acknowledged.append(wire.acknowledged(message))
        elif message.type == wire.OUTPUT_DATA:
            known = {m.number for m in self.received[:-1] if m.type == wire.OUTPUT_DATA}
            if message.number not in known:
                if message.payload_type == wire.OUTPUT and self.multiplexed:
                    self.frames.feed(message.payload)
                elif message.payload_type == wire.FLAG:
                    self.flags.append(message.flag)
            if self.acknowledging:
                await self.ws.send_bytes(wire.acknowledge(message))

    async def until(self, condition: Any) -> None:
        """Receive until ``condition()`` holds; fails at the end of the WebSocket."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                assert await self.next() is not None, "the WebSocket has ended"

    async def until_closed(self) -> str | None:
        """Receive until the end; the Output of channel_closed."""
        async with asyncio.timeout(TIMEOUT):
            while await self.next() is not None:
                pass
        closed = [m for m in self.received if m.type == wire.CHANNEL_CLOSED]
        assert len(closed) <= 1
        return str(closed[0].json()["Output"]) if closed else None

    async def shake_hands(self) -> None:
        await self.until(lambda: self._has(wire.HANDSHAKE_REQUEST))
        response = wire.handshake_response()
        await self.ws.send_bytes(wire.input_data(0, response, wire.HANDSHAKE_RESPONSE))
        await self.until(lambda: self._has(wire.HANDSHAKE_COMPLETE) and 0 in self.acknowledged)

    def _has(self, payload_type: int) -> bool:
        return any(message.payload_type == payload_type for message in self.received)

    async def ready(self, document: str, **parameters: str) -> None:
        """From nothing to a session that takes input."""
        await self.start(document, **parameters)
        await self.open()
        await self.shake_hands()

    async def send(self, payload: bytes, payload_type: int = wire.OUTPUT) -> int:
        """Send one input message and resend it until it is acknowledged; its number."""
        self.number += 1
        number = self.number
        data = wire.input_data(number, payload, payload_type)
        async with asyncio.timeout(TIMEOUT):
            while number not in self.acknowledged:
                await self.ws.send_bytes(data)
                # Right after the handshake the agent drops input without a word.
                try:
                    async with asyncio.timeout(0.2):
                        await self.until(lambda: number in self.acknowledged)
                except TimeoutError:
                    continue
        return number

    async def send_flag(self, flag: int) -> None:
        """Without waiting for the acknowledgement, which a session's end may overtake."""
        self.number += 1
        await self.ws.send_bytes(wire.flag(self.number, flag))

    async def open_stream(self, stream: int, data: bytes = b"") -> None:
        push = wire.frame(wire.PSH, stream, data) if data else b""
        await self.send(wire.frame(wire.SYN, stream) + push)

    def output(self) -> bytes:
        """All Output payloads in order of their numbers, each once."""
        by_number = {m.number: m for m in self.received if m.payload_type == wire.OUTPUT}
        return b"".join(by_number[number].payload for number in sorted(by_number))
