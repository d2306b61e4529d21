"""Gateway and agent of one session by hand, in the words of wire.py: for what no kind one does."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

from ssmnet.aws import StartedSession
from ssmnet.errors import ConnectError
from ssmnet.message_socket import Handler
from ssmnet.session import Session
from ssmnet.upgrade import connect
from ssmnet.websocket import WebSocket
from tests import wire
from tests.io.raw_gateway import BINARY, CLOSE, TEXT, RawGateway, RawPeer, frame, raw_gateway

REQUEST = {
    "AgentVersion": "3.3.0.0",
    "RequestedClientActions": [
        {
            "ActionType": "SessionType",
            "ActionParameters": {
                "SessionType": "Port",
                "Properties": {"portNumber": "80", "type": "LocalPortForwarding"},
            },
        }
    ],
}


class RawAccess:
    """What a session needs of AWS; ``resumable`` says whether it lives on without its WebSocket."""

    def __init__(self, gateway: RawGateway) -> None:
        self.gateway = gateway
        self.resumable = False
        self.resumed = 0
        self.terminated = 0

    async def connect(self, stream_url: str, handler: Handler) -> WebSocket:
        return await connect(stream_url, handler)

    async def resume_session(self, session_id: str) -> StartedSession | None:
        self.resumed += 1
        return self.grant() if self.resumable else None

    async def generate_data_key(self, key_id: str, context: object) -> NoReturn:
        raise ConnectError(f"there is no key {key_id}")

    async def terminate_session(self, session_id: str) -> None:
        self.terminated += 1

    def grant(self) -> StartedSession:
        return StartedSession("session-1", f"token {self.resumed}", self.gateway.url)


class RawAgent:
    """The far end of a session over one WebSocket, and over the next one after ``take``.

    ``input`` holds the bytes of what is not ``multiplexed``.
    """

    def __init__(self, access: RawAccess, *, multiplexed: bool = True) -> None:
        self.access = access
        self.multiplexed = multiplexed
        self.input = bytearray()
        self.number = 0
        self.first: list[dict[str, str]] = []  # messages of the WebSockets
        self.acknowledged: list[int] = []
        self.received: list[wire.Message] = []
        self.frames = wire.Frames()
        self.expected = 0
        self.peer: RawPeer

    async def take(self) -> None:
        """Accept the next WebSocket and read its first message."""
        self.peer = await self.access.gateway.accept()
        opcode, text = await self.peer.frame()
        assert opcode == TEXT
        self.first.append(json.loads(text))

    async def shake_hands(self, request: object = REQUEST) -> None:
        self.peer.send(self.output(json.dumps(request).encode(), wire.HANDSHAKE_REQUEST))
        while not self.received:
            await self.next()
        assert self.received[0].payload_type == wire.HANDSHAKE_RESPONSE
        done = json.dumps({"HandshakeTimeToComplete": 1, "CustomerMessage": ""}).encode()
        self.peer.send(self.output(done, wire.HANDSHAKE_COMPLETE))
        while 1 not in self.acknowledged:
            await self.next()

    def output(self, payload: bytes, payload_type: int = wire.OUTPUT) -> bytes:
        """The frame of the agent's next message."""
        number, self.number = self.number, self.number + 1
        message_id = number.to_bytes(16)
        return frame(
            wire.encode(
                wire.OUTPUT_DATA,
                payload,
                number=number,
                payload_type=payload_type,
                message_id=message_id,
            )
        )

    def push(self, data: bytes, stream: int = 3) -> bytes:
        return self.output(wire.frame(wire.PSH, stream, data))

    def acknowledge(self, number: int) -> bytes:
        message = wire.Message(wire.INPUT, number, 0, "0" * 36, wire.OUTPUT, b"")
        return frame(wire.acknowledge(message))

    def channel_closed(self, output: str = "") -> bytes:
        content = {"SessionId": "session-1", "Output": output, "CreatedDate": "1", "MessageId": ""}
        return frame(wire.encode(wire.CHANNEL_CLOSED, json.dumps(content).encode(), flags=3))

    async def next(self, *, acknowledge: bool = True) -> wire.Message | None:
        """Take in the client's next message; None when that is its close."""
        opcode, data = await self.peer.frame()
        if opcode == CLOSE:
            return None
        assert opcode == BINARY
        message = wire.decode(data)
        if message.type == wire.ACKNOWLEDGE:
            self.acknowledged.append(wire.acknowledged(message))
        else:
            self._receive(message)
            if acknowledge:
                self.peer.send(self.acknowledge(message.number))
        return message

    def _receive(self, message: wire.Message) -> None:
        if message.number < self.expected:
            return
        assert message.number == self.expected, "nothing is lost on a WebSocket"
        self.expected += 1
        self.received.append(message)
        if message.payload_type == wire.OUTPUT and self.multiplexed:
            self.frames.feed(message.payload)
        elif message.payload_type == wire.OUTPUT:
            self.input += message.payload
        elif message.payload_type == wire.FLAG:
            (flag,) = struct.unpack(">I", message.payload)
            assert flag == wire.TERMINATE_SESSION
            self.peer.send(self.channel_closed())


@asynccontextmanager
async def by_hand(*, receive_buffer: int = 0) -> AsyncIterator[tuple[Session, RawAgent]]:
    """An open multiplexed session and its far end, which does only what it is told."""
    async with raw_gateway(receive_buffer=receive_buffer) as gateway:
        access = RawAccess(gateway)
        agent = RawAgent(access)
        session = Session(access, access.grant())
        opening = asyncio.ensure_future(session.open())
        await agent.take()
        await agent.shake_hands()
        await opening
        try:
            yield session, agent
        finally:
            gateway.drop()
            access.resumable = False
            await session.close()
