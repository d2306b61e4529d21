"""Use a session that was started elsewhere: no call to AWS and no credentials are needed here.

What StartSession answered there comes on stdin, as JSON. The session is one to a Redis server.
"""

import asyncio
import json
import sys

import ssmnet


async def main() -> None:
    grant = json.load(sys.stdin)
    given = grant["SessionId"], grant["StreamUrl"], grant["TokenValue"]
    async with ssmnet.attach(*given) as session:
        reader, writer = await session.open_connection()
        writer.write(b"PING\r\n")
        print((await reader.readline()).decode(), end="")
        writer.close()


asyncio.run(main())
