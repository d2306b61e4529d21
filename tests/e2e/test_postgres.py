"""A real PostgreSQL, used through ``ssmnet forward`` by its own programs."""

import re
from pathlib import Path

import pytest

from .conftest import Postgres, Start


@pytest.fixture
async def local_port(postgres: Postgres, forward: Start) -> int:
    program = await forward("--host", "localhost", "--remote", str(postgres.port), "--check")
    return await program.port()


async def test_psql_asks_through_a_forward(postgres: Postgres, local_port: int) -> None:
    assert postgres.run("psql", "-Atc", "select 6 * 7", port=local_port) == "42\n"
    # Some MB in each direction, in one statement.
    ask = "select length(repeat('x', 1000)), count(*) from generate_series(1, 50000)"
    assert postgres.run("psql", "-Atc", ask, port=local_port) == "1000|50000\n"
    much = "select n || repeat('x', 1000) from generate_series(1, 5000) n"
    assert postgres.run("psql", "-Atc", much, port=local_port) == postgres.run("psql", "-Atc", much)


async def test_pgbench_with_16_connections_at_once(postgres: Postgres, local_port: int) -> None:
    postgres.run("pgbench", "-i", "-q", "-s", "1", port=local_port)
    told = postgres.run("pgbench", "-c", "16", "-j", "2", "-t", "25", port=local_port)
    assert re.search(r"number of transactions actually processed: 400/400", told)
    assert re.search(r"number of failed transactions: 0 ", told)
    sums = "select (select sum(abalance) from pgbench_accounts), sum(delta) from pgbench_history"
    accounts, history = postgres.run("psql", "-Atc", sums).split("|")
    assert int(accounts) == int(history)
    # A connection for each transaction: 400 more.
    again = postgres.run("pgbench", "-C", "-S", "-c", "16", "-j", "2", "-t", "25", port=local_port)
    assert re.search(r"number of transactions actually processed: 400/400", again)


async def test_a_dump_restored_through_the_forward_is_the_same(
    postgres: Postgres, local_port: int, tmp_path: Path
) -> None:
    for name in ("source", "copy"):
        postgres.run("psql", "-c", f"drop database if exists {name}")
        postgres.run("psql", "-c", f"create database {name}")
    postgres.run("pgbench", "-i", "-q", "-s", "1", "source")
    plain, custom = tmp_path / "plain.sql", tmp_path / "custom.dump"

    postgres.run("pg_dump", "-f", str(plain), "source", port=local_port)
    assert plain.stat().st_size > 5_000_000
    postgres.run("psql", "-q", "-v", "ON_ERROR_STOP=1", "-f", str(plain), "copy", port=local_port)
    assert rows(postgres, "copy") == rows(postgres, "source")

    postgres.run("pg_dump", "-Fc", "-f", str(custom), "copy", port=local_port)
    restore = ("pg_restore", "--clean", "--exit-on-error", "-d", "source", str(custom))
    postgres.run(*restore, port=local_port)
    assert rows(postgres, "source") == rows(postgres, "copy")


def rows(postgres: Postgres, database: str) -> str:
    """Return how many accounts there are, and a digest of them all."""
    ask = "select count(*), md5(string_agg(a::text, ',' order by aid)) from pgbench_accounts a"
    return postgres.run("psql", "-Atc", ask, database)
