"""How fast does ``ssmnet forward`` upload?

``python -m perf.upload`` moves bytes from a TCP client through ``ssmnet forward`` and ``ssmnet
loopback``, each a process of its own, to a TCP sink. In the same run and through the same far end
it moves bytes as the reference client does: messages of 1,024 bytes, with 1 ms of sleep after each.
What counts is the ratio of the two; the rest depends on the machine.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from perf import report
from perf.paced_client import PacedClient

MIB = 1024 * 1024
TARGET = "i-0123456789abcdef0"
TIMEOUT = 300.0  # s a transfer


class Sink:
    """Takes ``expected`` bytes of a connection and then answers with one."""

    def __init__(self) -> None:
        self.expected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = self.expected
        while left and (data := await reader.read(256 * 1024)):
            left -= len(data)
        if not left:
            writer.write(b"!")
        writer.close()


class Rates(NamedTuple):
    """MB/s (10^6 bytes a second)."""

    ssmnet: float
    calibrator: float


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run an ssmnet command, and end it as Ctrl-C does."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ssmnet", *arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(TIMEOUT):
        return (await process.stdout.readline()).decode()


async def use_far_end(process: asyncio.subprocess.Process) -> None:
    """Take what ``ssmnet loopback`` prints into the environment."""
    while "AWS_EC2_METADATA_DISABLED" not in (text := await line(process)):
        if text.startswith("export "):
            name, _, value = text.removeprefix("export ").strip().partition("=")
            os.environ[name] = value


async def upload(port: int, sink: Sink, size: int) -> float:
    """Bytes a second through the forward."""
    sink.expected = size
    chunk = bytes(256 * 1024)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.perf_counter()
    async with asyncio.timeout(TIMEOUT):
        for _ in range(size // len(chunk)):
            writer.write(chunk)
            await writer.drain()
        assert await reader.read() == b"!"
    writer.close()
    return size / (time.perf_counter() - started)


async def calibrate(port: int, sink: Sink, size: int) -> float:
    """Bytes a second of the client that sleeps."""
    sink.expected = size
    async with PacedClient(TARGET, port) as client, asyncio.timeout(TIMEOUT):
        started = time.perf_counter()
        await client.send(size)
        return size / (time.perf_counter() - started)


async def measure(mib: int, rounds: int, options: list[str]) -> list[Rates]:
    sink = Sink()
    server = await asyncio.start_server(sink.serve, "127.0.0.1", 0)
    remote = server.sockets[0].getsockname()[1]
    found = []
    async with command("loopback", *options) as far_end:
        await use_far_end(far_end)
        arguments = ("-t", TARGET, "--remote", str(remote), "--output", "json")
        async with command("forward", *arguments) as forward:
            port = json.loads(await line(forward))["port"]
            await upload(port, sink, MIB)
            for _ in range(rounds):
                calibrator = await calibrate(remote, sink, MIB)
                ssmnet = await upload(port, sink, mib * MIB)
                found.append(Rates(ssmnet / 1e6, calibrator / 1e6))
    server.close()
    return found


def row(number: int | str, rates: Rates) -> report.Row:
    return {
        "round": number,
        "ssmnet MB/s": round(rates.ssmnet, 1),
        "calibrator MB/s": round(rates.calibrator, 3),
        "ratio": round(rates.ssmnet / rates.calibrator, 1),
    }


def main() -> None:
    parser = report.parser(__doc__)
    parser.add_argument("--mib", type=int, help="how much a round uploads")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--ideal", action="store_true", help="of ssmnet loopback")
    arguments = parser.parse_args()
    mib, rounds = (16, 2) if arguments.quick else (64, 5)
    options = ["--ideal"] if arguments.ideal else []
    found = asyncio.run(measure(arguments.mib or mib, arguments.rounds or rounds, options))
    rows = [row(number, rates) for number, rates in enumerate(found, 1)]
    rows.append(row("median", Rates(*map(statistics.median, zip(*found, strict=True)))))
    report.show("upload", rows, arguments.json)


if __name__ == "__main__":
    main()
