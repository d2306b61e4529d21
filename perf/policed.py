"""What does a gateway that polices make of uploads, and they of its queue?

``python -m perf.policed`` prints three tables; ``--json`` takes the first.

policed
    In virtual time: the share of the rate that is used from the first byte on and in the second
    half, the most that ever was in the gateway's queue, which of these queues that would overflow,
    and what is stated to be enough. A queue that overflows ends the session.

policed_tenth
    The same, with a rate that drops to a tenth for 5 s: the share that is used of it, and how long
    until the rate is used again when it is back.

policed_real
    Sessions with a loopback gateway in this process, real time and sockets. ``share`` is what went
    over the wire, headers included, as a share of the rate, from the first byte to the answer of
    the destination; ``ended`` counts sessions that the gateway has ended, which must be none.
"""

import argparse
import asyncio
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

from perf.report import Row, parser, show
from ssmnet.aws import Client
from ssmnet.loopback import Loopback
from ssmnet.session import Session
from ssmnet.target import open_port_session
from ssmnet.testing.policed import MESSAGE, change, queue_needed, upload

KIB = 1024
MIB = 1024 * KIB
RATES = (50e3, 500e3, 2e6, 5e6, 20e6)
ROUND_TRIPS = (0.001, 0.01, 0.04, 0.1, 0.3)
QUEUES = (64 * KIB, 256 * KIB, 1024 * KIB, 4096 * KIB)
# A simulated run is at least so many round trips and, if that is not longer, so many messages.
MIN_ROUND_TRIPS = 30
MAX_MESSAGES = 40_000

RATE = 500e3
QUEUE = 256 * KIB
ROUND_TRIP = 0.04
# What goes over the wire for the payload of a full message, which begins with a frame's header.
PAYLOAD = MESSAGE - 128
TIMEOUT = 600.0


class Case(NamedTuple):
    what: str
    sessions: int = 1
    uploads: int = 1
    cuts: int = 0
    drops: bool = False


CASES = (
    Case("1 upload"),
    Case("1 upload, 4 cuts", cuts=4),
    Case("8 uploads in 1 session", uploads=8),
    Case("8 uploads in 1 session, 4 cuts", uploads=8, cuts=4),
    Case("8 uploads over 8 sessions", sessions=8, uploads=8),
    Case("8 uploads over 8 sessions, 4 cuts", sessions=8, uploads=8, cuts=4),
    Case("1 upload, a tenth of the rate for 5 s", drops=True),
)


def simulate(rates: Sequence[float]) -> list[Row]:
    rows: list[Row] = []
    for rate in rates:
        for round_trip in ROUND_TRIPS:
            least = MIN_ROUND_TRIPS * round_trip
            seconds = min(12.0, max(MAX_MESSAGES * MESSAGE / rate, least))
            for uploads in (1, 8):
                got = upload(rate, round_trip, uploads=uploads, seconds=seconds)
                row: dict[str, str | int | float] = {
                    "kB/s": round(rate / 1e3),
                    "ms": round(round_trip * 1e3),
                    "uploads": uploads,
                    "share": round(got.share, 2),
                    "steady": round(got.steady, 2),
                    "fairness": round(got.fairness, 2),
                    "peak KiB": got.peak // KIB,
                    "stated KiB": round(queue_needed(rate, round_trip) / KIB),
                }
                for queue in QUEUES:
                    row[f"{queue // KIB} KiB"] = "ok" if got.peak <= queue else "ended"
                rows.append(row)
    return rows


def simulate_changes() -> list[Row]:
    rows: list[Row] = []
    for rate, round_trip in ((500e3, 0.001), (500e3, 0.04), (2e6, 0.1), (5e6, 0.04)):
        got = change(rate, round_trip)
        rows.append(
            {
                "kB/s": round(rate / 1e3),
                "ms": round(round_trip * 1e3),
                "share of a tenth": round(got.share, 2),
                "queued then, KiB": got.queued // KIB,
                "back after s": got.comeback,
                "peak KiB": got.peak // KIB,
            }
        )
    return rows


class Upload(asyncio.Protocol):
    """Sends ``size`` bytes and waits for an answer."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._writable = asyncio.Event()
        self._writable.set()
        self._made: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        self.answered = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._made.set_result(transport)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self.answered.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()
        self._writable.set()
        self.answered.set()

    async def run(self) -> bool:
        """Whether all has arrived."""
        transport = await self._made
        transport.write(self._size.to_bytes(8))
        chunk, left = bytes(64 * KIB), self._size
        while left > 0 and not self.lost.is_set():
            transport.write(chunk[:left])
            left -= len(chunk)
            await self._writable.wait()
        await self.answered.wait()
        arrived = not self.lost.is_set()
        transport.close()
        return arrived


async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A destination that answers when it has all."""
    with suppress(ConnectionError, asyncio.IncompleteReadError):
        left = int.from_bytes(await reader.readexactly(8))
        while left > 0:
            left -= len(await reader.readexactly(min(left, 64 * KIB)))
        writer.write(b"!")
        await reader.read()
    writer.close()


@asynccontextmanager
async def sessions(far_end: Loopback, port: int, amount: int) -> AsyncIterator[list[Session]]:
    client = Client()
    opened = [await open_port_session(client, far_end.target, port=port) for _ in range(amount)]
    try:
        yield opened
    finally:
        await asyncio.gather(*(session.close() for session in opened))


async def disturb(far_end: Loopback, case: Case, seconds: float) -> None:
    """Spread over a transfer that takes so long."""
    for _ in range(case.cuts):
        await asyncio.sleep(seconds / (case.cuts + 1))
        far_end.cut_clients()
    if case.drops:
        await asyncio.sleep(seconds / 3)
        far_end.police(RATE / 10, QUEUE)
        await asyncio.sleep(5.0)
        far_end.police(RATE, QUEUE)


async def measure(case: Case, size: int) -> Row:
    async with Loopback() as far_end:
        os.environ.update(far_end.environment)
        server = await asyncio.start_server(take, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        far_end.impair(delay=ROUND_TRIP / 2)
        far_end.police(RATE, QUEUE)
        async with sessions(far_end, port, case.sessions) as opened:
            each = size * case.sessions // case.uploads
            uploads = [Upload(each) for _ in range(case.uploads)]
            for number, one in enumerate(uploads):
                opened[number % case.sessions].create_stream(one)
            wire = size * MESSAGE / PAYLOAD
            disturbing = asyncio.create_task(disturb(far_end, case, wire / RATE))
            began = time.perf_counter()
            async with asyncio.timeout(TIMEOUT):
                arrived = await asyncio.gather(*(one.run() for one in uploads))
            took = time.perf_counter() - began
            disturbing.cancel()
            alive = far_end.sessions
        server.close()
    # What the gateway passes in that time, which is less while its rate is.
    passed = RATE * took - (RATE * 0.9 * 5.0 if case.drops else 0.0)
    return {
        "case": case.what,
        "MiB": size * case.sessions / MIB,
        "s": round(took, 1),
        "share": round(wire / passed, 3),
        "complete": f"{sum(arrived)} of {case.uploads}",
        "ended": case.sessions - alive,
    }


async def real(cases: Sequence[Case], size: int) -> list[Row]:
    return [await measure(case, size) for case in cases]


def main() -> None:
    made: argparse.ArgumentParser = parser(__doc__)
    made.add_argument("--mib", type=int, default=20, help="how much a session uploads")
    made.add_argument("--only", choices=("simulated", "real"), help="one of the tables")
    arguments = made.parse_args()
    if arguments.only != "real":
        rates: Sequence[float] = RATES[:2] if arguments.quick else RATES
        show("policed", simulate(rates), arguments.json)
        show("policed_tenth", simulate_changes())
    if arguments.only != "simulated":
        size = 1 if arguments.quick else arguments.mib
        cases = CASES[:5:2] if arguments.quick else CASES
        show("policed_real", asyncio.run(real(cases, size * MIB)))


if __name__ == "__main__":
    main()
