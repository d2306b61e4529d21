"""What the plugin prints of shells and commands, to the byte: the reference client's lines.

Programs parse them. Those of ports are in ``test_plugin.py``, those without a session in
``tests/test_plugin.py``.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from ssmnet.aws import Client, StartedSession
from ssmnet.loopback import Loopback

from .processes import TIMEOUT

if sys.platform == "win32":
    pytest.skip("the far end has no shells there", allow_module_level=True)

INTERACTIVE = "AWS-StartInteractiveCommand"
NON_INTERACTIVE = "AWS-StartNonInteractiveCommand"
RAW = "AWS-StartSSHSession"
VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"

STARTING = "\nStarting session with SessionId: {id}\n"
EXITING = "\n\nExiting session with sessionId: {id}.\n\n"
ENCRYPTED = "This session is encrypted using AWS KMS.\n"
PROMPT = "# " if os.geteuid() == 0 else "$ "


class Plugin:
    """A running plugin, with pipes to it."""

    def __init__(
        self, process: asyncio.subprocess.Process, loopback: Loopback, session_id: str
    ) -> None:
        self.process = process
        self.loopback = loopback
        self.session_id = session_id
        self.said = b""

    async def until(self, text: str) -> None:
        """Wait until it has said what ends with ``text``."""
        assert self.process.stdout is not None
        async with asyncio.timeout(TIMEOUT):
            while not self.said.endswith(text.encode()):
                byte = await self.process.stdout.read(1)
                assert byte, self.said
                self.said += byte

    def type(self, keys: str) -> None:
        """Send it input."""
        assert self.process.stdin is not None
        self.process.stdin.write(keys.encode())

    async def end(self) -> str:
        """Wait for the end, with its input still open; all that it said."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with asyncio.timeout(TIMEOUT):
            self.said += await self.process.stdout.read()
            assert await self.process.stderr.read() == b""
            await self.process.wait()
        return self.said.decode()


Act = Callable[[Plugin], Awaitable[None]]


class Situation(NamedTuple):
    """A session, what happens to it, and what is said between the first line and the last."""

    said: str
    end: str = EXITING
    document: str | None = None
    parameters: Mapping[str, str] = {}
    act: Act | None = None
    options: Mapping[str, Any] = {}


def command(
    document: str, line: str, said: str, end: str = EXITING, **parameters: str
) -> Situation:
    return Situation(said, end, document, {"command": line, **parameters})


def separate(line: str, said: str, **parameters: str) -> Situation:
    return command(NON_INTERACTIVE, line, said, separateOutputStream="True", **parameters)


def types(keys: str) -> Act:
    async def act(plugin: Plugin) -> None:
        await plugin.until(PROMPT)
        plugin.type(keys)

    return act


def is_ended(output: str) -> Act:
    async def act(plugin: Plugin) -> None:
        await plugin.until(PROMPT)
        plugin.loopback.end_sessions(output)

    return act


async def ends_while_the_client_is_away(plugin: Plugin) -> None:
    await plugin.until(PROMPT)
    plugin.loopback.cut_clients()
    plugin.loopback.end_sessions()


async def is_interrupted(plugin: Plugin) -> None:
    await plugin.until("begun\n")
    plugin.process.send_signal(signal.SIGINT)


SITUATIONS = {
    "a shell that exits": Situation(f"{PROMPT}exit 3\r\n", act=types("exit 3\n")),
    "a shell that is ended": Situation(PROMPT, act=is_ended("")),
    "a shell that is ended with a reason": Situation(
        PROMPT, "\n\nSessionId: {id} : A\nB\n\n", act=is_ended("A\nB")
    ),
    "a shell that AWS does not resume": Situation(
        PROMPT, "Session: {id} timed out.\n", act=ends_while_the_client_is_away
    ),
    "an encrypted shell": Situation(
        f"{ENCRYPTED}{PROMPT}exit\r\n", act=types("exit\n"), options={"kms": True}
    ),
    "a command on a terminal": command(
        INTERACTIVE, "sh -c 'echo out; echo err >&2; exit 7'", "out\r\nerr\r\n"
    ),
    "a silent command": command(INTERACTIVE, "true", ""),
    "a command without one": command(
        NON_INTERACTIVE, "sh -c 'echo out; echo err >&2; printf tail; exit 7'", "out\nerr\ntail"
    ),
    "output": separate("sh -c 'printf out; exit 7'", "outEXIT_CODE: 7"),
    "errors": separate("sh -c 'printf err >&2'", "errEXIT_CODE: 0"),
    "a command that is killed": separate("sh -c 'kill -9 $$'", "EXIT_CODE: -1"),
    "a command that is none": separate(
        "/no/such/thing", "EXIT_CODE: 1fork/exec /no/such/thing: no such file or directory"
    ),
    "Ctrl-C": separate("sh -c 'echo begun; exec sleep 1000'", "begun\nEXIT_CODE: 1")._replace(
        act=is_interrupted
    ),
    "a prefix that won't do": command(
        NON_INTERACTIVE,
        "true",
        "",
        "\n\nSessionId: {id} : invalid stdoutSeparatorPrefix OUT>\n\n",
        separateOutputStream="True",
        stdOutSeparatorPrefix="OUT>",
    ),
}


def response_of(grant: StartedSession) -> dict[str, str]:
    return {
        "SessionId": grant.session_id,
        "TokenValue": grant.token_value,
        "StreamUrl": grant.stream_url,
    }


@asynccontextmanager
async def plugin_running(
    loopback: Loopback,
    env: Mapping[str, str],
    session_id: str,
    *arguments: str,
    stdin: int = asyncio.subprocess.PIPE,
) -> AsyncIterator[Plugin]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ssmnet.plugin", *arguments),
        env={**env, **loopback.environment},
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Plugin(process, loopback, session_id)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


Start = Callable[..., Awaitable[StartedSession]]


@pytest.fixture
def start_session(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Start a session at a loopback."""

    async def start(
        loopback: Loopback, document: str | None, parameters: Mapping[str, str]
    ) -> StartedSession:
        for name, value in loopback.environment.items():
            monkeypatch.setenv(name, value)
        client = Client(region=loopback.region, endpoint_url=loopback.endpoint_url)
        lists = {name: [value] for name, value in parameters.items()}
        return await client.start_session(loopback.target, document, lists)

    return start


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS.keys())
async def test_the_lines_are_those_of_the_reference(
    situation: Situation, aws_env: dict[str, str], start_session: Start
) -> None:
    async with Loopback(**situation.options) as loopback:
        grant = await start_session(loopback, situation.document, situation.parameters)
        request = {
            "Target": loopback.target,
            "DocumentName": situation.document,
            "Parameters": situation.parameters or None,
        }
        env = aws_env | {VARIABLE: json.dumps(response_of(grant))}
        arguments = (VARIABLE, loopback.region, "StartSession", "", json.dumps(request))
        async with plugin_running(
            loopback, env, grant.session_id, *arguments, loopback.endpoint_url
        ) as plugin:
            if situation.act is not None:
                await situation.act(plugin)
            said = await plugin.end()
        lines = STARTING + situation.said.replace("{", "{{").replace("}", "}}") + situation.end
        assert said == lines.format(id=grant.session_id)
        assert plugin.process.returncode == 0
        assert loopback.sessions == 0


async def test_a_raw_stream_has_standard_output_to_itself(
    aws_env: dict[str, str], start_session: Start
) -> None:
    """The reference writes its lines into the data, which is no good to any program but ssh."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\nhello\n")
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = str(server.sockets[0].getsockname()[1])
    async with server, Loopback() as loopback:
        grant = await start_session(loopback, RAW, {"portNumber": port})
        request = json.dumps({"Target": loopback.target, "DocumentName": RAW})
        env = aws_env | {VARIABLE: json.dumps(response_of(grant))}
        arguments = (VARIABLE, loopback.region, "StartSession", "", request, loopback.endpoint_url)
        async with plugin_running(loopback, env, grant.session_id, *arguments) as plugin:
            await plugin.until("hello\n")
            plugin.type("\n")
            assert await plugin.end() == "\nhello\n\n"
        assert plugin.process.returncode == 0
        assert loopback.sessions == 0


async def test_a_command_needs_no_input(aws_env: dict[str, str], start_session: Start) -> None:
    """Cron and CI have none; the reference gives up with "EOF"."""
    async with Loopback() as loopback:
        grant = await start_session(loopback, NON_INTERACTIVE, {"command": "echo out"})
        env = aws_env | {VARIABLE: json.dumps(response_of(grant))}
        arguments = (VARIABLE, loopback.region, "StartSession", "", "{}", loopback.endpoint_url)
        async with plugin_running(
            loopback, env, grant.session_id, *arguments, stdin=asyncio.subprocess.DEVNULL
        ) as plugin:
            said = await plugin.end()
        assert said == (STARTING + "out\n" + EXITING).format(id=grant.session_id)
        assert plugin.process.returncode == 0


async def test_an_old_caller_passes_three_arguments(
    aws_env: dict[str, str], start_session: Start
) -> None:
    async with Loopback() as loopback:
        grant = await start_session(loopback, None, {})
        arguments = (json.dumps(response_of(grant)), loopback.region, "StartSession")
        async with plugin_running(loopback, aws_env, grant.session_id, *arguments) as plugin:
            await types("exit\n")(plugin)
            said = await plugin.end()
        assert said == (STARTING + f"{PROMPT}exit\r\n" + EXITING).format(id=grant.session_id)
        assert plugin.process.returncode == 0


async def test_ecs_writes_the_names_in_its_own_way_and_is_not_ssm(
    aws_env: dict[str, str], start_session: Start
) -> None:
    """Its endpoint is what the AWS CLI passes there, and nobody resumes a session at ECS."""
    async with Loopback() as loopback:
        grant = await start_session(loopback, None, {})
        response = {name[0].lower() + name[1:]: text for name, text in response_of(grant).items()}
        request = json.dumps({"Target": loopback.ecs_target})
        arguments = (json.dumps(response), loopback.region, "StartSession", "", request)
        async with plugin_running(
            loopback, aws_env, grant.session_id, *arguments, "http://127.0.0.1:1"
        ) as plugin:
            await plugin.until(PROMPT)
            loopback.cut_clients()
            plugin.type("exit\n")
            said = await plugin.end()
        assert said == (STARTING + f"{PROMPT}exit\r\n" + EXITING).format(id=grant.session_id)
        assert plugin.process.returncode == 0
