"""The policies of docs/howto/iam.md allow what the commands call, and nothing else.

Real commands are run against a far end that denies and remembers, as IAM does.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ssmnet.loopback import Loopback
from tests.e2e.aws_cli import find_aws_cli
from tests.e2e.processes import SSMNET, FarEnd, run, started
from tests.e2e.terminals import FORKS, on_terminal

if sys.platform == "win32":
    pytest.skip("the far end has no shells there", allow_module_level=True)

pytestmark = pytest.mark.long  # together

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/howto/iam.md").read_text("utf-8")
START, RESUME, TERMINATE = "StartSession", "ResumeSession", "TerminateSession"
SESSION = {"ssm:StartSession", "ssm:ResumeSession", "ssm:TerminateSession"}
OPEN = "ssmmessages:OpenDataChannel"
CHECKED = {"BoolIfExists": {"ssm:SessionDocumentAccessCheck": "true"}}
INSTANCE, TASK = "arn:aws:ec2:eu-west-1:111122223333:instance/", "task/web/*"
# The rest of a command line, for a document of the table.
COMMANDS = {
    "ssmnet forward --remote 80": ("forward", "-t", "{}", "--remote", "80"),
    "ssmnet forward --host db.internal --remote 5432": (
        *("forward", "-t", "{}", "--host", "db.internal", "--remote", "5432"),
    ),
    "ssmnet exec": ("exec", "{}", "--", "true"),
    "ssmnet exec --tty": ("exec", "{}", "--tty", "--", "true"),
    "ssmnet shell": ("shell", "{}"),
    "ssmnet ssh-proxy": ("ssh-proxy", "{}"),
}
PROXY = "ssmnet proxy"
ENCRYPTED = "This session is encrypted using AWS KMS.\n"


class Policy:
    """What IAM allows, and what it was asked for. None allows all."""

    def __init__(self, allowed: set[str] | None = None) -> None:
        self.asked: set[str] = set()
        self._allowed = allowed

    def __contains__(self, action: object) -> bool:
        """Whether it is denied."""
        assert isinstance(action, str)
        self.asked.add(action)
        return self._allowed is not None and action not in self._allowed


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(SSMNET.parent), os.environ["PATH"]])
    return {"PATH": path, "HOME": str(tmp_path), "AWS_PAGER": ""}


def blocks(heading: str) -> list[Any]:
    """What the JSON below a heading says."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        json.loads(text)
        for text in re.findall(r"^```json\n(.+?)^```", section, re.DOTALL | re.MULTILINE)
    ]


def statements(policy: dict[str, Any]) -> dict[str, dict[str, Any]]:
    assert policy["Version"] == "2012-10-17"
    return {statement.get("Sid", ""): statement for statement in policy["Statement"]}


def listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def actions(policy: dict[str, Any]) -> set[str]:
    return {one for statement in policy["Statement"] for one in listed(statement["Action"])}


def rows(*header: str) -> Iterator[list[str]]:
    """The cells of a table, as they are in backticks."""
    lines = iter(PAGE.splitlines())
    assert any(line == f"| {' | '.join(header)} |" for line in lines), header
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            return
        yield [re.findall(r"`([^`]+)`", cell)[0] for cell in line.split("|")[1:-1] if "`" in cell]


def documents(*commands: str) -> set[str]:
    return {document for command, document in rows("command", "document") if command in commands}


def arn(document: str) -> str:
    account = "111122223333" if document == "SSM-SessionManagerRunShell" else ""
    return f"arn:aws:ssm:eu-west-1:{account}:document/{document}"


# The tables.


@asynccontextmanager
async def refusing() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """An API that denies everything; the bodies of what it was asked."""
    asked: list[dict[str, Any]] = []

    async def deny(request: web.Request) -> web.Response:
        asked.append(json.loads(await request.read()))
        body = {"__type": "AccessDeniedException", "message": "no"}
        return web.json_response(body, status=400, content_type="application/x-amz-json-1.1")

    app = web.Application()
    app.router.add_post("/", deny)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}", asked
    finally:
        await runner.cleanup()


def test_each_command_of_the_table_is_run() -> None:
    assert {row[0] for row in rows("command", "document")} == {*COMMANDS, PROXY}


@pytest.mark.parametrize("command", COMMANDS)
async def test_a_command_asks_for_its_document(env: dict[str, str], command: str) -> None:
    line = [word.format(FarEnd.target) for word in COMMANDS[command]]
    async with refusing() as (url, asked):
        keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "none"}
        settings = keys | {"AWS_ENDPOINT_URL_SSM": url, "AWS_REGION": "eu-west-1"}
        done = await run(SSMNET, *line, env=env | settings)
    assert "ssm:StartSession on i-0123456789abcdef0 is not allowed" in done.err, done
    assert done.status == (255 if line[0] == "exec" else 1)
    assert [call["Target"] for call in asked] == [FarEnd.target]
    default = "SSM-SessionManagerRunShell"
    assert {call.get("DocumentName", default) for call in asked} == documents(command)


async def test_a_proxy_asks_for_its_document(env: dict[str, str]) -> None:
    async with refusing() as (url, asked):
        keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "none"}
        settings = env | keys | {"AWS_ENDPOINT_URL_SSM": url, "AWS_REGION": "eu-west-1"}
        command = (SSMNET, "proxy", "-t", FarEnd.target, "--http", "0")
        async with started(*command, env=settings) as proxy:
            port = (await proxy.err_line(r"Listening on \S+:(\d+), HTTP"))[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"CONNECT site.internal:443 HTTP/1.1\r\nHost: site.internal\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
            writer.close()
    assert {call["DocumentName"] for call in asked} == documents(PROXY)


async def called(
    env: dict[str, str], line: Sequence[str], allowed: set[str], kms: bool = False
) -> set[str]:
    """What a command that has to end well calls, with only that allowed."""
    policy = Policy(allowed)
    async with Loopback(denied=policy, kms=kms) as far:
        words = [word.format(FarEnd.target) for word in line]
        done = await run(SSMNET, *words, env=env | far.environment)
        assert (done.status, done.err) == (0, ENCRYPTED if kms else "")
        assert far.sessions == 0
    return policy.asked


@pytest.mark.parametrize("command", ["ssmnet exec", "ssmnet shell"])
async def test_a_session_without_trouble_is_one_call(env: dict[str, str], command: str) -> None:
    assert await called(env, COMMANDS[command], {START}) == {START}
    # The agent calls Decrypt with rights of its own.
    encrypted = {START, "GenerateDataKey", "Decrypt"}
    assert await called(env, COMMANDS[command], encrypted, kms=True) == encrypted


async def test_a_lost_websocket_is_another_call(env: dict[str, str]) -> None:
    policy = Policy({START, RESUME})
    async with Loopback(denied=policy) as far:
        command = (SSMNET, "forward", "-t", FarEnd.target, "--remote", "80", "--output", "json")
        async with started(*command, env=env | far.environment) as forward:
            await forward.out_line('"listening"')
            far.cut_clients()
            await forward.out_line('"resumed"')
        assert far.sessions == 0
    assert policy.asked == {START, RESUME}


async def test_a_session_that_can_not_resume_is_terminated(env: dict[str, str]) -> None:
    policy = Policy({START, TERMINATE})
    async with Loopback(denied=policy) as far:
        command = (SSMNET, "forward", "-t", FarEnd.target, "--remote", "80")
        async with started(*command, env=env | far.environment) as forward:
            await forward.port()
            far.cut_clients()
            await forward.err_line("ssm:ResumeSession is not allowed")
            await forward.err_line("started after")
        assert far.sessions == 0
    assert policy.asked == {START, RESUME, TERMINATE}


async def test_the_websocket_has_to_be_signed(env: dict[str, str]) -> None:
    async with Loopback() as far:
        settings = env | far.environment | {"SSM_PLUGIN_SKIP_CLIENT_CONFIGURE": "true"}
        done = await run(SSMNET, "exec", FarEnd.target, "--", "true", env=settings)
    assert "the gateway refused the WebSocket with status 403" in PAGE
    assert done.err == "error: the gateway refused the WebSocket with status 403\n"


async def test_what_is_said_of_a_denial(env: dict[str, str]) -> None:
    async with Loopback(denied={START}) as far:
        done = await run(SSMNET, "exec", FarEnd.target, "--", "true", env=env | far.environment)
    assert (done.status, done.err) == (
        255,
        re.findall(r"^```text\n(.+?)^```", PAGE, re.DOTALL | re.MULTILINE)[0],
    )


@FORKS
async def test_a_target_that_is_not_named_is_looked_for(env: dict[str, str]) -> None:
    policy = Policy({"DescribeInstanceInformation"})
    async with Loopback(denied=policy) as far:
        command = (str(SSMNET), "forward", "--remote", "80")
        with on_terminal(*command, env=env | far.environment) as terminal:
            await asyncio.to_thread(terminal.expect, "Target: $")
            terminal.send("\x03")
            status, _ = await asyncio.to_thread(terminal.end)
    assert status != 0
    assert policy.asked == {"DescribeInstanceInformation"}


def test_the_table_of_calls_is_whole() -> None:
    told = {row[0] for row in rows("API action", "called")}
    assert told == SESSION | {OPEN, "kms:GenerateDataKey", "ssm:DescribeInstanceInformation"}


# The policies.


def test_ports_of_tagged_instances() -> None:
    (policy,) = blocks("Ports of hosts behind tagged instances")
    assert actions(policy) == SESSION | {OPEN}
    told = statements(policy)
    ports = [command for command in COMMANDS if "forward" in command]
    assert set(told["Documents"]["Resource"]) == set(map(arn, documents(*ports, PROXY)))
    assert told["Targets"]["Resource"].startswith(INSTANCE)
    assert set(told["Targets"]["Condition"]) == {"StringEquals", "BoolIfExists"}
    starting = [one for one in told.values() if "ssm:StartSession" in listed(one["Action"])]
    assert len(starting) == 2
    for statement in starting:
        assert CHECKED.items() <= statement["Condition"].items()
    assert "${aws:userid}" in json.dumps(told["OwnSessions"]["Condition"])


def test_commands_and_shells() -> None:
    allowed, _ = blocks("Commands and shells")
    commands = [command for command in COMMANDS if re.search("exec|shell", command)]
    assert allowed == list(map(arn, dict.fromkeys(ordered(commands))))


def ordered(commands: list[str]) -> Iterator[str]:
    yield from (row[1] for row in rows("command", "document") if row[0] in commands)


def test_encrypted_sessions() -> None:
    _, statement = blocks("Commands and shells")
    assert statement["Action"] == "kms:GenerateDataKey"
    assert list(statement["Condition"]["Null"]) == ["kms:EncryptionContext:aws:ssm:SessionId"]


async def test_containers_of_ecs(env: dict[str, str]) -> None:
    (policy,) = blocks("Containers of ECS")
    told = statements(policy)
    assert told["Ports"]["Action"] == "ssm:StartSession"
    assert told["Ports"]["Resource"].endswith(TASK)
    assert told["Ports"]["Condition"] == CHECKED
    allowed = {action.removeprefix("ecs:") for action in told["ExecuteCommand"]["Action"]}
    iam = Policy(allowed)
    cli = find_aws_cli(2)
    async with Loopback(denied=iam) as far:
        settings = env | far.environment
        line = ("execute-command", "--cluster", far.cluster, "--task", far.task)
        command = cli.command(settings, "ecs", *line, "--interactive", "--command", "echo hello")
        done = await run(*command, env=settings)
    assert (done.status, done.err) == (0, "")
    assert "hello" in done.out
    assert iam.asked == allowed


def test_the_other_end() -> None:
    (policy,) = blocks("The other end")
    channels = {f"{do}{what}Channel" for do in ("Create", "Open") for what in ("Control", "Data")}
    expected = {f"ssmmessages:{channel}" for channel in channels}
    assert actions(policy) == expected | {"ssm:UpdateInstanceInformation"}
