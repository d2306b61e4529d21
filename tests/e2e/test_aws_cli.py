"""The real AWS CLI forwards ports with our session-manager-plugin, on a terminal."""

import asyncio
import hashlib
import re
import sys
from pathlib import Path

import pytest

from .aws_cli import AwsCli, Parameters
from .conftest import HttpServer
from .processes import run
from .terminals import FORKS, on_terminal

if sys.platform == "win32":
    pytest.skip("the AWS CLI is ended with Ctrl-C here", allow_module_level=True)

pytestmark = FORKS

DOCUMENTS: dict[str, Parameters] = {
    "AWS-StartPortForwardingSession": {},
    "AWS-StartPortForwardingSessionToRemoteHost": {"host": ["localhost"]},
}


@pytest.mark.parametrize("document", DOCUMENTS)
async def test_curl_reads_through_a_port_that_the_aws_cli_forwards(
    each_aws_cli: AwsCli,
    far_env: dict[str, str],
    http_server: HttpServer,
    curl: str,
    tmp_path: Path,
    document: str,
) -> None:
    parameters = {"portNumber": [str(http_server.port)], "localPortNumber": ["0"]}
    command = each_aws_cli.start_session(far_env, document, {**parameters, **DOCUMENTS[document]})
    with on_terminal(*command, env=far_env) as terminal:
        session_id = terminal.expect(r"\r\nStarting session with SessionId: (\S+)\r\n")[1]
        port = terminal.expect(rf"Port (\d+) opened for sessionId {session_id}\.\r\n")[1]
        terminal.expect(r"Waiting for connections\.\.\.\r\n")

        download = tmp_path / "download"
        got = await run(curl, "-sSf", "-o", download, f"http://localhost:{port}/", env=far_env)
        assert got.status == 0, got.err
        assert hashlib.sha256(download.read_bytes()).hexdigest() == http_server.digest
        terminal.expect(rf"\r\nConnection accepted for session \[{session_id}\]\r\n")

        terminal.send("\x03")
        assert terminal.end() == (
            0,
            "^CTerminate signal received, exiting.\r\n"
            f"\r\n\r\nExiting session with sessionId: {session_id}.\r\n\r\n",
        )
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", int(port))


async def test_an_error_of_the_api_is_the_aws_cli_s_own(
    each_aws_cli: AwsCli, far_env: dict[str, str]
) -> None:
    command = each_aws_cli.start_session(far_env, "Mine", {"portNumber": ["80"]})
    done = await run(*command, env=far_env)
    assert done.status != 0
    assert re.search(r"InvalidDocument.*Document with name Mine does not exist", done.err)
