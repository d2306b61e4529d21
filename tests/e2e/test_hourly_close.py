"""Two days of a database's connections: AWS closes each WebSocket once an hour, and says "Bye"."""

import asyncio
import re
import signal
import struct
import sys

import pytest

from .conftest import Postgres, Start
from .processes import TIMEOUT, FarEnd, started
from .test_cuts import Cutter, count, listening

pytestmark = pytest.mark.long

if sys.platform == "win32":
    pytest.skip("Windows has no such signals", allow_module_level=True)

HOURS = 50
# The first message of libpq, which the server answers with one byte before anything else.
SSL_REQUEST = struct.pack(">II", 8, 80877103)


async def answers(port: int) -> bool:
    """Whether the server speaks to a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(TIMEOUT):
        writer.write(SSL_REQUEST)
        answer = await reader.readexactly(1)
    writer.close()
    return answer in b"NS"


async def test_pgbench_notices_nothing_of_50_hourly_closes(
    postgres: Postgres, forward: Start, far_end: FarEnd
) -> None:
    postgres.run("pgbench", "-i", "-q", "-s", "1")
    program = await forward("--remote", str(postgres.port), "--output", "json")
    port = await listening(program)
    binary = postgres.binaries / "pgbench"
    # More time than this takes: it is told when to stop.
    options = ("-n", "-c", "8", "-j", "2", "-T", "1000", "-P", "1")
    async with started(binary, *options, env=postgres.env(port)) as pgbench:
        await pgbench.err_line("^progress: ")
        cutter = Cutter(program, lambda: answers(port), lambda: far_end.fault("close_clients"))
        for _ in range(HOURS):
            await cutter.cut()
        # The signal that it gives itself when its time is over.
        done = await pgbench.end(signal.SIGALRM)
    assert done.status == 0, done.err
    assert re.search(r"number of failed transactions: 0 ", done.out)
    processed = int(re.findall(r"number of transactions actually processed: (\d+)", done.out)[0])
    assert processed > HOURS
    # Each one was done once.
    ask = "select (select sum(abalance) from pgbench_accounts), sum(delta), count(*) "
    told = postgres.run("psql", "-Atc", ask + "from pgbench_history")
    accounts, history, transactions = map(int, told.split("|"))
    assert accounts == history
    assert transactions == processed

    ended = await program.end()
    events = count(ended.out)
    assert events["resumed"] == events["resuming"] == HOURS
    assert "restarting" not in events
    assert len(re.findall(r"\"resuming\".*\b1000\b.*\bBye\b", ended.out)) == HOURS
