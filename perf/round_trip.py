"""How long does one byte take to the far end and back, through a session that is idle otherwise?

``python -m perf.round_trip`` sends a byte on a stream of a session and waits for it to come back,
again and again. The far end, in another process, answers each message with its acknowledgement and
the byte, in one write. The calibrator, in the same run, is aiohttp alone at both ends, which has a
message of the same size sent back. Turns are interleaved; medians of the times of all exchanges.
``fast far end`` is aiohttp against the far end that the sessions have, but with nothing in the
messages: what an ideal client could come near to.

``stream`` is an application's own protocol on the session's transport. ``forward`` is another
process whose TCP connection is forwarded: two more hops each way, which the calibrator has not.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import cast

import aiohttp
import uvloop

from perf import near_end, report
from perf.far_agent import ORDER
from perf.near_end import FarEnd
from ssmnet.session import Session

# An AgentMessage around a smux frame around one byte.
MESSAGE = bytes(120 + 8 + 1)
# Exchanges in a row, before the next one's turn.
TURN = 100
Turn = Callable[[], Awaitable[list[float]]]


class Exchanger(asyncio.Protocol):
    """Sends a byte and waits for it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._answered.set_result(None)

    async def take_turn(self) -> list[float]:
        loop = asyncio.get_running_loop()
        self._transport.write(ORDER.pack(b"E", TURN))
        times = []
        for _ in range(TURN):
            began = time.perf_counter()
            self._answered = loop.create_future()
            self._transport.write(b"x")
            await self._answered
            times.append(time.perf_counter() - began)
        return times


async def exchange_bare(websocket: aiohttp.ClientWebSocketResponse) -> list[float]:
    times = []
    for _ in range(TURN):
        began = time.perf_counter()
        await websocket.send_bytes(MESSAGE)
        await websocket.receive()
        times.append(time.perf_counter() - began)
    return times


async def prepare(stack: AsyncExitStack, far_end: FarEnd, scheme: str) -> dict[str, Turn]:
    """Everybody who takes turns."""
    turns: dict[str, Turn] = {}
    for name, server in (("aiohttp", f"aiohttp {scheme}"), ("fast far end", scheme)):
        websocket = await stack.enter_async_context(far_end.bare(server))
        await websocket.send_str("E")
        turns[name] = partial(exchange_bare, websocket)
    for kind in ("raw", "mux"):
        session: Session = await stack.enter_async_context(far_end.session(scheme, kind))
        exchanger = Exchanger()
        session.create_stream(exchanger)
        turns[f"{kind} stream"] = exchanger.take_turn
    session = await stack.enter_async_context(far_end.session(scheme, "mux"))
    application = await stack.enter_async_context(near_end.application(session))
    turns["mux forward"] = partial(application.order, "E", 1, times=TURN)
    return turns


async def measure(scheme: str, rounds: int) -> list[report.Row]:
    found: dict[str, list[float]] = defaultdict(list)
    async with near_end.far_end() as far_end, AsyncExitStack() as stack:
        turns = await prepare(stack, far_end, scheme)
        for number in range(rounds + 1):
            for name, take_turn in turns.items():
                async with asyncio.timeout(near_end.TIMEOUT):
                    times = await take_turn()
                if number:  # the first warms caches
                    found[name] += times
    bare = report.median(found["aiohttp"], 6)
    return [
        {
            "over": "TLS" if scheme == "wss" else "plain",
            "what": name,
            "p50 us": report.median([one * 1e6 for one in times]),
            "p99 us": report.median([sorted(times)[len(times) * 99 // 100] * 1e6]),
            "vs aiohttp": report.median([report.median(times, 6) / bare]),
        }
        for name, times in found.items()
    ]


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    rounds = 20 if arguments.quick else 200
    rows: list[report.Row] = []
    for scheme in ("ws", "wss"):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            rows += runner.run(measure(scheme, rounds))
    report.show("round_trip", rows, arguments.json)


if __name__ == "__main__":
    main()
