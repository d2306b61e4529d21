"""An aiohttp service that holds a tunnel for its lifetime: python aiohttp_service.py"""

from collections.abc import AsyncIterator

import redis.asyncio as redis
from aiohttp import web

import ssmnet

CACHE = web.AppKey("cache", redis.Redis)


async def cache(app: web.Application) -> AsyncIterator[None]:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        target.forward(6379, host="cache.internal") as listener,
        redis.Redis(port=listener.port) as app[CACHE],
    ):
        yield


async def visit(request: web.Request) -> web.Response:
    return web.Response(text=f"visit {await request.app[CACHE].incr('visits')}\n")


def make_app(argv: list[str] | None = None) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(cache)
    app.add_routes([web.get("/", visit)])
    return app


if __name__ == "__main__":
    web.run_app(make_app())
