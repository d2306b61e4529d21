"""docs/howto/database-gui.md, where it needs a server with a certificate and a password."""

import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ssmnet.loopback import Loopback

from .conftest import find_postgres
from .page_blocks import ROOT, read_blocks
from .processes import SSMNET, FarEnd, run, started
from .servers import Authority, postgres_running, unused_address

if sys.platform == "win32":
    pytest.skip("the lines are for a POSIX shell", allow_module_level=True)

pytestmark = pytest.mark.long

BLOCKS = read_blocks((ROOT / "docs/howto/database-gui.md").read_text("utf-8"))
PASSWORD = "secret"  # as in the page's ~/.pgpass


def checked(name: str) -> list[str]:
    """The blocks of the page that this test checks."""
    place = f"tests/e2e/test_page_database_gui.py::{name}"
    return [block.text for block in BLOCKS if block.directives.get("checked by") == place]


@pytest.fixture
async def env(aws_env: dict[str, str], tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """What the page's commands find: the forward, and the page's files in HOME."""
    address, authority = unused_address(), Authority(tmp_path)
    binaries = find_postgres()
    path = os.pathsep.join([str(binaries), aws_env["PATH"]])
    env = aws_env | {"PATH": path}
    trusted = Path(env["HOME"], ".postgresql/root.crt")
    trusted.parent.mkdir()
    trusted.write_bytes(authority.file.read_bytes())
    with postgres_running(address, authority):
        for ask in (
            f"ALTER ROLE app PASSWORD '{PASSWORD}'",
            # From now on, by TCP with a password only.
            "COPY (VALUES ('hostssl all app all scram-sha-256'), ('host all postgres all trust'))"
            " TO PROGRAM 'cat >pg_hba.conf'",
            "SELECT pg_reload_conf()",
        ):
            psql = (binaries / "psql", "-h", address, "-U", "postgres", "-c", ask)
            done = await run(*psql, env=env)
            assert done.status == 0, done
        async with Loopback(names={"db.internal": address}) as far:
            options = ("--host", "db.internal", "--remote", "5432", "--local", "0")
            command = (SSMNET, "forward", "-t", FarEnd.target, *options)
            async with started(*command, env=aws_env | far.environment) as forward:
                port = str(await forward.port())
                for block in BLOCKS:
                    if name := block.directives.get("file", "").removeprefix("~/"):
                        text = block.text.replace("5432", port)
                        Path(env["HOME"], name).write_text(text, "utf-8")
                yield env | {"LOCAL_PORT": port}


async def sh(text: str, env: dict[str, str]) -> tuple[int, str]:
    done = await run("bash", "-euc", text.replace("5432", env["LOCAL_PORT"]), env=env)
    return done.status, done.out + done.err


async def test_the_commands_with_tls_and_a_password(env: dict[str, str]) -> None:
    by_options, by_service = checked("test_the_commands_with_tls_and_a_password")
    # Only the service has a password file that fits.
    password = env | {"PGPASSWORD": PASSWORD}
    status, said = await sh(by_options, password)
    assert status == 0, said
    assert re.search(r"t +\| TLSv1\.", said)
    status, said = await sh(by_service, env)
    assert status == 0, said
    assert re.search(r"^ app$", said, re.MULTILINE)
    pgpass = Path(env["HOME"], ".pgpass")
    pgpass.write_text(pgpass.read_text().replace("db.internal", "127.0.0.1"))
    status, said = await sh(by_service, env)
    assert (status, "no password supplied" in said) == (2, True), said


async def test_a_wrong_name_is_refused(env: dict[str, str]) -> None:
    (command,) = checked("test_a_wrong_name_is_refused")
    status, said = await sh(command, env | {"PGPASSWORD": PASSWORD})
    assert status == 2
    assert re.search(
        r'certificate for "db\.internal" .*does not match host name "127\.0\.0\.1"', said
    )
