"""Which servers does the target reach? All are asked at once; no local port is opened."""

import asyncio

import ssmnet

PLACES = [("cache.internal", 6379), ("cache.internal", 9)]


async def look(target: ssmnet.Target, host: str, port: int) -> str:
    try:
        async with asyncio.timeout(30):
            _, writer = await target.open_connection(host, port)
    except (ssmnet.DestinationRefused, ssmnet.DestinationNotFound) as error:
        return type(error).__name__
    writer.close()
    return "up"


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target, asyncio.TaskGroup() as group:
        tasks = {place: group.create_task(look(target, *place)) for place in PLACES}
    for (host, port), task in tasks.items():
        print(f"{host}:{port} {task.result()}")


asyncio.run(main())
