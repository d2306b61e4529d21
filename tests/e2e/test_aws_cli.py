"""The real AWS CLI, with our session-manager-plugin, against the loopback far end."""

import asyncio
import hashlib
import re
import signal
import sys
from pathlib import Path

import pytest

from .conftest import Command, HttpServer
from .processes import FarEnd, run, started

if sys.platform == "win32":
    pytest.skip("the AWS CLI is ended with Ctrl-C here", allow_module_level=True)

DOCUMENTS = {
    "AWS-StartPortForwardingSession": "portNumber={port},localPortNumber=0",
    "AWS-StartPortForwardingSessionToRemoteHost": (
        "host=localhost,portNumber={port},localPortNumber=0"
    ),
}


def start_session(aws_cli: Path, document: str, parameters: str) -> Command:
    command: Command = [aws_cli, "ssm", "start-session", "--target", FarEnd.target]
    return [*command, "--document-name", document, "--parameters", parameters]


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_curl_reads_through_a_port_that_the_aws_cli_forwards(
    aws_cli: Path,
    far_env: dict[str, str],
    http_server: HttpServer,
    curl: str,
    tmp_path: Path,
    document: str,
) -> None:
    command = start_session(aws_cli, document, DOCUMENTS[document].format(port=http_server.port))
    async with started(*command, env=far_env) as session:
        await session.out_line(r"^Starting session with SessionId: \S+$")
        opened = await session.out_line(r"^Port (\d+) opened for sessionId (\S+)\.$")
        await session.out_line(r"^Waiting for connections\.\.\.$")

        download = tmp_path / "download"
        got = await run(curl, "-sSf", "-o", download, f"http://localhost:{opened[1]}/", env=far_env)
        assert got.status == 0, got.err
        assert hashlib.sha256(download.read_bytes()).hexdigest() == http_server.digest
        await session.out_line(rf"^Connection accepted for session \[{opened[2]}\]$")

        done = await session.end(signal.SIGINT)
    assert done.status == 0, done
    assert done.err == ""
    assert f"Exiting session with sessionId: {opened[2]}." in done.out
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(opened[1]))


async def test_an_error_of_the_api_is_the_aws_cli_s_own(
    aws_cli: Path, far_env: dict[str, str]
) -> None:
    command = start_session(aws_cli, "Mine", "portNumber=80")
    done = await run(*command, env=far_env)
    assert done.status != 0
    assert re.search(r"InvalidDocument.*Document with name Mine does not exist", done.err)
