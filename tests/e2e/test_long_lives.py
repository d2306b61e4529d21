"""What a forward goes through in a long life: idle times, and credentials that expire."""

import json
import sys
from pathlib import Path

import aiohttp
import pytest

from .conftest import HttpServer, Start
from .processes import SSMNET, FarEnd, started


@pytest.mark.parametrize("far_end", [["--idle-timeout", "1s"]], indirect=True)
async def test_a_session_that_is_kept_alive_is_not_idle(forward: Start) -> None:
    common = ("--local", "0", "--remote", "1", "--output", "json")
    kept = await forward(*common, "--keep-alive", "0.3s")
    for _ in range(2):  # 2 s at least
        left = await forward(*common, "--no-restart")
        await left.out_line('"event":"closed".*inactivity')
        assert (await left.wait()).status == 1
    done = await kept.end()
    assert (done.status, done.err) == (0, "")
    told = [json.loads(line)["event"] for line in done.out.splitlines()]
    assert told == ["listening", "closed"]


async def test_credentials_that_expire_are_waited_for(
    far_env: dict[str, str], far_end: FarEnd, http_server: HttpServer, tmp_path: Path
) -> None:
    """The listener stays, one line says what to do, and all goes on when that is done."""
    credentials = tmp_path / "credentials.json"
    answer = {
        "Version": 1,
        "AccessKeyId": far_env["AWS_ACCESS_KEY_ID"],
        "SecretAccessKey": far_env["AWS_SECRET_ACCESS_KEY"],
    }
    credentials.write_text(json.dumps(answer))
    program = tmp_path / "program.py"
    program.write_text(f"print(open({str(credentials)!r}).read())")
    Path(far_env["AWS_CONFIG_FILE"]).write_text(
        f"[profile work]\nregion = us-east-1\ncredential_process = {sys.executable} {program}\n"
    )
    env = far_env | {"AWS_PROFILE": "work"}
    del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
    command = (SSMNET, "forward", "-t", far_end.target, "--remote", str(http_server.port))
    async with started(*command, "--output", "json", env=env) as forward:
        port = json.loads((await forward.out_line("listening")).string)["port"]
        credentials.unlink()
        await far_end.fault("cut_clients")
        cause = await forward.out_line('"event":"resuming".*credential')
        assert "work" in cause.string
        credentials.write_text(json.dumps(answer))
        await forward.out_line('"event":"resumed"')
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/") as got:
            assert await got.read() == http_server.data
