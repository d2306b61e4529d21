"""A session's agent in a process of its own, to be killed: joins by WebSocket as agents do.

What it has to know comes by stdin, as one line of JSON; it holds a token.
"""

import asyncio
import json
import sys
from uuid import uuid4

import aiohttp

from ssmnet.loopback.documents import SessionRequest
from ssmnet.loopback.driver import BuiltInAgent
from ssmnet.loopback.gateway import INSTANCE_ID
from ssmnet.loopback.port import SETUP_TIME

# Beyond this many messages the agent waits until they are sent.
QUEUE = 1000


async def serve(offer: dict[str, str], properties: dict[str, str]) -> None:
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    def send(messages: list[bytes]) -> None:
        for message in messages:
            queue.put_nowait(message)
        if queue.qsize() > QUEUE:
            agent.block(True)

    agent = BuiltInAgent(
        SessionRequest("Port", properties),
        session_id=offer["session_id"],
        agent_version="3.3.0.0",
        pace=True,
        ideal=False,
        setup_time=SETUP_TIME,
        send=send,
        flow=lambda full: None,
        ended=lambda output: None,
    )

    async def write(ws: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await ws.send_bytes(await queue.get())
            if queue.empty():
                agent.block(False)

    async with aiohttp.ClientSession() as http, http.ws_connect(offer["url"]) as ws:
        opening = {
            "MessageSchemaVersion": "1.0",
            "RequestId": str(uuid4()),
            "TokenValue": offer["token"],
            "ClientId": str(uuid4()),
            "ClientInstanceId": INSTANCE_ID,
        }
        await ws.send_str(json.dumps(opening))
        agent.start()
        writing = asyncio.ensure_future(write(ws))
        async for message in ws:
            agent.send(message.data)
        writing.cancel()
        agent.close()


if __name__ == "__main__":
    told = json.loads(sys.stdin.readline())
    asyncio.run(serve(told["offer"], told["properties"]))
