"""The yardstick: a Session Manager client that sends as the reference client does, 1,024 bytes a
message and 1 ms of sleep after each. It shares ssmnet's codec and its AWS calls, nothing else.
"""

import asyncio
import json
import os
import time
from typing import Any, Self
from uuid import uuid4

import aiohttp

from ssmnet.aws import Client
from ssmnet.protocol import message
from ssmnet.protocol.message import AgentMessage, Flag, MessageType, PayloadType
from ssmnet.protocol.smux import HEADER, Command, frame

VERSION = "1.2.764.0"
STREAM = 3
SLEEP = 0.001


class PacedClient:
    """One multiplexed port session with one stream, for as long as ``async with`` lasts."""

    def __init__(self, target: str, port: int) -> None:
        self._target = target
        self._port = port
        self._client = Client()
        self._ids = message.message_ids(os.urandom(16))
        self._number = 0
        self._acknowledged: set[int] = set()
        self._answered = asyncio.Event()
        self._handshake = asyncio.Event()
        self._requested = asyncio.Event()

    async def __aenter__(self) -> Self:
        parameters = {"portNumber": [str(self._port)]}
        grant = await self._client.start_session(
            self._target, "AWS-StartPortForwardingSession", parameters
        )
        headers = await self._client.upgrade_headers(grant.stream_url)
        self._http = aiohttp.ClientSession()
        self._ws = await self._http.ws_connect(grant.stream_url, headers=headers)
        await self._ws.send_str(json.dumps(opening(grant.token_value)))
        self._reader = asyncio.create_task(self._read())
        await self._requested.wait()
        await self._send(handshake_response(), PayloadType.HANDSHAKE_RESPONSE)
        await self._handshake.wait()
        await self._open_stream()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._send(message.encode_flag(Flag.TERMINATE_SESSION), PayloadType.FLAG)
        await self._reader
        await self._http.close()

    async def send(self, size: int) -> None:
        """Send ``size`` bytes, and wait until the destination has answered."""
        payload_size = message.PAYLOAD_SIZE - HEADER.size
        payload = frame(Command.PSH, STREAM, bytes(payload_size))
        while size > 0:
            if size < payload_size:
                payload = frame(Command.PSH, STREAM, bytes(size))
            await self._send(payload)
            size -= payload_size
            # As the reference client does. asyncio.sleep would round up.
            time.sleep(SLEEP)  # noqa: ASYNC251
            await asyncio.sleep(0)
        await self._answered.wait()

    async def _open_stream(self) -> None:
        """Right after the handshake the agent drops input without a word: ask again."""
        number = self._number
        while number not in self._acknowledged:
            self._number = number
            await self._send(frame(Command.SYN, STREAM))
            await asyncio.sleep(0.1)

    async def _send(self, payload: bytes, payload_type: int = PayloadType.OUTPUT) -> None:
        data = AgentMessage(
            MessageType.INPUT_STREAM_DATA,
            payload,
            self._number,
            payload_type,
            message_id=next(self._ids),
            created_date=time.time_ns() // 1_000_000,
        )
        self._number += 1
        await self._ws.send_bytes(data.serialize())

    async def _read(self) -> None:
        expected = 0
        async for received in self._ws:
            got = message.parse(received.data)
            if got.message_type == MessageType.ACKNOWLEDGE:
                number = message.decode_json(got.payload, message.AcknowledgedNumber)
                self._acknowledged.add(number.acknowledged_message_sequence_number)
            elif got.message_type == MessageType.OUTPUT_STREAM_DATA:
                date = time.time_ns() // 1_000_000
                await self._ws.send_bytes(message.acknowledge(got, next(self._ids), date))
                if got.sequence_number == expected:
                    expected += 1
                    self._process(got)

    def _process(self, got: AgentMessage) -> None:
        if got.payload_type == PayloadType.HANDSHAKE_REQUEST:
            self._requested.set()
        elif got.payload_type == PayloadType.HANDSHAKE_COMPLETE:
            self._handshake.set()
        elif got.payload_type == PayloadType.OUTPUT:
            self._answered.set()


def opening(token: str) -> dict[str, str]:
    return {
        "MessageSchemaVersion": "1.0",
        "RequestId": str(uuid4()),
        "TokenValue": token,
        "ClientId": str(uuid4()),
        "ClientVersion": VERSION,
    }


def handshake_response() -> bytes:
    action: dict[str, Any] = {"ActionType": "SessionType", "ActionStatus": 1, "ActionResult": None}
    response = {"ClientVersion": VERSION, "ProcessedClientActions": [action], "Errors": None}
    return json.dumps(response).encode()
