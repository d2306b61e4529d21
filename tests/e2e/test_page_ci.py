"""docs/howto/ci.md: the jobs parse, and what they run is run here."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml  # type: ignore[import-untyped]
from aiohttp import web

from ssmnet.loopback import Loopback

from .page_blocks import ROOT, read_blocks
from .processes import Done, run

if sys.platform == "win32":
    pytest.skip("the jobs are for a POSIX shell", allow_module_level=True)

BLOCKS = read_blocks((ROOT / "docs/howto/ci.md").read_text("utf-8"))
MANAGE = '#!/bin/sh\necho "$1 at $SSMNET_DB_HOST:$SSMNET_DB_PORT"\n'
ROLE = "arn:aws:iam::111122223333:role/migrations"


def job_of(name: str) -> dict[Any, Any]:
    """What the YAML says that this test checks."""
    place = f"tests/e2e/test_page_ci.py::{name}"
    (block,) = [block for block in BLOCKS if block.directives.get("checked by") == place]
    found: dict[Any, Any] = yaml.safe_load(block.text)
    return found


@asynccontextmanager
async def database(tmp_path: Path) -> AsyncIterator[Loopback]:
    """A far end for the page's ssmnet.toml, and a ``manage.py``. Somebody answers at its port."""
    async with Loopback(names={"db.internal": "127.0.0.1"}) as far:
        port = far.endpoint_url.rpartition(":")[2]
        (file,) = [block for block in BLOCKS if block.directives.get("file") == "ssmnet.toml"]
        (tmp_path / "ssmnet.toml").write_text(file.text.replace("5432", port), "utf-8")
        manage = tmp_path / "manage.py"
        manage.write_text(MANAGE)
        manage.chmod(0o755)
        yield far
        assert far.sessions_started == 1
        assert far.sessions == 0


async def sh(line: str, folder: Path, env: Mapping[str, str]) -> Done:
    """A line of a job, as one whose ssmnet comes from this environment."""
    line = line.replace("uvx ssmnet ", "ssmnet ")
    return await run("sh", "-euc", f'cd "$0"; {line}', folder, env=env)


async def test_github(aws_env: dict[str, str], tmp_path: Path) -> None:
    workflow = job_of("test_github")
    assert workflow["permissions"]["id-token"] == "write"  # or there is no token for AWS
    steps = workflow["jobs"]["migrate"]["steps"]
    (credentials,) = [step for step in steps if "configure-aws-credentials" in step.get("uses", "")]
    assert credentials["with"]["role-to-assume"] == ROLE
    (line,) = [step["run"] for step in steps if "run" in step]
    async with database(tmp_path) as far:
        done = await sh(line, tmp_path, aws_env | far.environment)
    assert done.status == 0, done
    assert done.out.startswith("migrate at 127.0.0.1:")


async def test_gitlab(aws_env: dict[str, str], tmp_path: Path) -> None:
    job = job_of("test_gitlab")["migrate"]
    variables = dict(job["variables"])
    assert variables["AWS_ROLE_ARN"] == ROLE
    assert list(job["id_tokens"]) == ["AWS_TOKEN"]
    assert variables["UV_CACHE_DIR"] == f"$CI_PROJECT_DIR/{job['cache']['paths'][0]}"
    variables["AWS_WEB_IDENTITY_TOKEN_FILE"] = str(tmp_path / "aws-token")
    given = {"AWS_TOKEN": "a token of GitLab", "AWS_EC2_METADATA_DISABLED": "true"}
    async with database(tmp_path) as far, token_service(far) as (url, asked):
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION")
        found = {n: v for n, v in (aws_env | far.environment).items() if n not in keys}
        env = found | variables | given | {"AWS_ENDPOINT_URL_STS": url, "AWS_REGION": far.region}
        for line in job["script"]:
            done = await sh(line, tmp_path, env)
            assert done.status == 0, done
    assert done.out.startswith("migrate at 127.0.0.1:")
    assert asked[0]["Action"] == ["AssumeRoleWithWebIdentity"]
    assert asked[0]["WebIdentityToken"] == ["a token of GitLab"]
    assert asked[0]["RoleArn"] == [ROLE]


@asynccontextmanager
async def token_service(far: Loopback) -> AsyncIterator[tuple[str, list[dict[str, list[str]]]]]:
    """STS's AssumeRoleWithWebIdentity, which gives the keys of ``far``; what it was asked."""
    asked: list[dict[str, list[str]]] = []

    async def assume(request: web.Request) -> web.Response:
        asked.append(parse_qs(await request.text()))
        action = "AssumeRoleWithWebIdentity"
        return web.Response(
            content_type="text/xml",
            text=f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
            f"<{action}Result><Credentials><AccessKeyId>{far.access_key_id}</AccessKeyId>"
            f"<SecretAccessKey>{far.secret_access_key}</SecretAccessKey>"
            "<SessionToken></SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration>"
            "</Credentials><AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:job</AssumedRoleId>"
            f"<Arn>{ROLE}</Arn></AssumedRoleUser></{action}Result></{action}Response>",
        )

    app = web.Application()
    app.router.add_post("/", assume)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()
