"""The programs that the end-to-end tests lean on are real, and apart from the user's own set-up."""

import subprocess
from pathlib import Path

from .conftest import Postgres


def test_the_aws_cli_is_the_real_version_1(aws_cli: Path, aws_env: dict[str, str]) -> None:
    said = subprocess.run(
        [aws_cli, "--version"], env=aws_env, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.startswith("aws-cli/1.")


def test_the_aws_cli_sees_only_the_throw_away_credentials(
    aws_cli: Path, aws_env: dict[str, str]
) -> None:
    said = subprocess.run(
        [aws_cli, "configure", "list"],
        env=aws_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = {line.split()[0]: line for line in said.stdout.splitlines() if line}
    assert "env" in rows["access_key"]
    assert "PLE" in rows["access_key"]
    assert "us-east-1" in rows["region"]
    assert "<not set>" in rows["profile"]


def test_the_postgres_server_answers_and_keeps_data(postgres: Postgres) -> None:
    assert postgres.run("psql", "-Atc", "select 6 * 7") == "42\n"
    postgres.run("pgbench", "-i", "-q", "-s", "1")
    assert postgres.run("psql", "-Atc", "select count(*) from pgbench_accounts") == "100000\n"


def test_the_postgres_server_does_not_run_as_root(postgres: Postgres) -> None:
    owner = postgres.run("psql", "-Atc", "select pg_read_file('/proc/self/status')")
    (user,) = (line.split()[1] for line in owner.splitlines() if line.startswith("Uid:"))
    assert user != "0"
