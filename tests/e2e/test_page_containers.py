"""docs/howto/containers.md: what the containers run is run here, without them."""

import json
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from ssmnet.loopback import Loopback
from ssmnet.session import DRAIN_TIMEOUT, TERMINATE_CALL_TIMEOUT, TERMINATE_TIMEOUT

from .page_blocks import ROOT, read_blocks
from .processes import Program, run, started

if sys.platform == "win32":
    pytest.skip("the lines are for a POSIX shell", allow_module_level=True)

BLOCKS = read_blocks((ROOT / "docs/howto/containers.md").read_text("utf-8"))
MANAGE = '#!/bin/sh\necho "$1 at $SSMNET_HOST:$SSMNET_PORT"\n'
LONGEST_END = DRAIN_TIMEOUT + TERMINATE_TIMEOUT + TERMINATE_CALL_TIMEOUT


@pytest.fixture
def env(aws_env: dict[str, str]) -> Iterator[dict[str, str]]:
    """With a folder for sockets where no other test's ``ssmnet up`` is found; its path is short."""
    with TemporaryDirectory(prefix="ssmnet-run-") as folder:
        yield aws_env | {"XDG_RUNTIME_DIR": folder}


def text_of(name: str) -> str:
    """The block that this test checks."""
    place = f"tests/e2e/test_page_containers.py::{name}"
    (block,) = [block for block in BLOCKS if block.directives.get("checked by") == place]
    return block.text


def write_config(folder: Path, port: str) -> Path:
    (file,) = [block for block in BLOCKS if block.directives.get("file") == "ssmnet.toml"]
    path = folder / "ssmnet.toml"
    path.write_text(file.text.replace("remote = 5432", f"remote = {port}\nlocal = 0"), "utf-8")
    return path


@asynccontextmanager
async def tunnel(
    command: Sequence[str], env: dict[str, str], folder: Path
) -> AsyncIterator[tuple[Program, dict[str, str]]]:
    """The container ``tunnel``, as a process. SIGTERM has to end it in good order."""
    async with Loopback(names={"db.internal": "127.0.0.1"}) as far:
        config = write_config(folder, far.endpoint_url.rpartition(":")[2])
        env = env | far.environment | {"SSMNET_CONFIG": str(config)}
        async with started(*command, "--output", "json", env=env) as program:
            yield program, env
            assert (await program.end(signal.SIGTERM)).status == 0
        assert far.sessions_started == 1
        assert far.sessions == 0


async def is_healthy(command: Sequence[str], env: dict[str, str]) -> bool:
    done = await run(*command, env=env)
    return done.status == 0


async def check_health(tunneled: Sequence[str], probe: Sequence[str], *args: Any) -> None:
    """The probe fails until the forward is up."""
    env, folder = args
    assert not await is_healthy(probe, env)
    async with tunnel(tunneled, env, folder) as (program, inside):
        await program.out_line('"listening"')
        assert await is_healthy(probe, inside)


async def test_compose(env: dict[str, str], tmp_path: Path) -> None:
    services = yaml.safe_load(text_of("test_compose"))["services"]
    it, app = services["tunnel"], services["app"]
    assert it["environment"]["SSMNET_CONFIG"] == it["volumes"][0].split(":")[1]
    kind, probe = it["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    assert int(it["stop_grace_period"].removesuffix("s")) > LONGEST_END
    command = [it["entrypoint"], *shlex.split(it["command"])]
    await check_health(command, ("sh", "-c", probe), env, tmp_path)
    assert app["network_mode"] == "service:tunnel"
    assert app["depends_on"] == {"tunnel": {"condition": "service_healthy"}}


async def test_kubernetes(env: dict[str, str], tmp_path: Path) -> None:
    pod = yaml.safe_load(text_of("test_kubernetes"))["spec"]["template"]["spec"]
    (it,) = pod["initContainers"]
    assert it["restartPolicy"] == "Always"
    assert pod["terminationGracePeriodSeconds"] > LONGEST_END
    mounted = {mount["name"] for mount in it["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    probe = it["startupProbe"]["exec"]["command"]
    await check_health([*it["command"], *it["args"]], probe, env, tmp_path)


async def test_one_container(env: dict[str, str], tmp_path: Path) -> None:
    lines = dict(line.split(maxsplit=1) for line in text_of("test_one_container").splitlines())
    manage = tmp_path / "manage.py"
    manage.write_text(MANAGE)
    manage.chmod(0o755)
    command = json.loads(lines["ENTRYPOINT"]) + json.loads(lines["CMD"])
    async with Loopback(names={"db.internal": "127.0.0.1"}) as far:
        write_config(tmp_path, far.endpoint_url.rpartition(":")[2])
        inside = ("sh", "-c", 'cd "$0" && exec "$@"', tmp_path, *command)
        done = await run(*inside, env=env | far.environment)
    assert done.status == 0, done
    assert done.out.startswith("runserver at 127.0.0.1:")
