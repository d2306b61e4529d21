"""``ssmnet loopback`` as a user starts it."""

import sys
from pathlib import Path

import pytest
import trustme

from ssmnet.loopback import Loopback
from tests.io.far_client import FarClient

from .conftest import HttpServer
from .processes import SSMNET, FarEnd, far_end_running, run, started


@pytest.mark.skipif(sys.platform == "win32", reason="the lines are for a Unix shell")
async def test_its_lines_prepare_a_shell(far_end: FarEnd, aws_env: dict[str, str]) -> None:
    in_the_way = {"AWS_PROFILE": "mine", "AWS_SESSION_TOKEN": "mine", "AWS_CA_BUNDLE": "/mine"}
    script = "\n".join([*far_end.lines, "env"])
    done = await run("/bin/sh", "-ec", script, env=aws_env | in_the_way)
    assert done.status == 0, done.err
    found = dict(line.split("=", 1) for line in done.out.splitlines())
    assert far_end.exports.items() <= found.items()
    assert not in_the_way.keys() & found.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="the lines are for a Unix shell")
async def test_the_faults_of_its_help(far_end: FarEnd, aws_env: dict[str, str], curl: str) -> None:
    told = (await run(SSMNET, "loopback", "--help", env=aws_env)).out
    faults = told[told.index("fault()") : told.index("Options:")]
    assert faults.count("fault ") == 9
    done = await run("/bin/sh", "-ec", "\n".join([*far_end.lines, faults]), env=aws_env)
    assert (done.status, done.out) == (0, ""), done.err
    # One of them was that.
    async with FarClient(Exported(far_end)) as client:
        status, answer = await client.call("ResumeSession", SessionId="any")
        assert (status, answer["__type"]) == (400, "ThrottlingException")
    wrong = faults[: faults.index("fault cut_clients")] + "fault eat_clients"
    done = await run("/bin/sh", "-ec", "\n".join([*far_end.lines, wrong]), env=aws_env)
    assert done.out.startswith("there is no such fault, only ")


class Exported(Loopback):
    """The far end in another process, by its exports."""

    def __init__(self, far_end: FarEnd) -> None:
        self.access_key_id = far_end.exports["AWS_ACCESS_KEY_ID"]
        self.secret_access_key = far_end.exports["AWS_SECRET_ACCESS_KEY"]
        self._url = far_end.exports["AWS_ENDPOINT_URL_SSM"]

    @property
    def endpoint_url(self) -> str:
        return self._url


@pytest.mark.parametrize(
    ("far_end", "output"),
    [
        (("--idle-timeout", "0.5"), "The session timed out due to inactivity."),
        (("--max-duration", "0.5"), "The session has reached its maximum duration."),
        (("--agent-away", "0.5"), ""),
    ],
    indirect=["far_end"],
)
async def test_limits_of_a_session(far_end: FarEnd, output: str) -> None:
    async with FarClient(Exported(far_end)) as client:
        await client.ready("AWS-StartPortForwardingSession", portNumber="1")
        if not output:
            await far_end.fault("kill_agents")
        assert await client.until_closed() == output


@pytest.mark.parametrize("option", ["--idle-timeout", "--max-duration", "--agent-away"])
async def test_limits_that_are_none(aws_env: dict[str, str], option: str) -> None:
    done = await run(SSMNET, "loopback", option, "0", env=aws_env)
    assert done.status == 2
    assert done.err == "error: '0' is not a duration such as 90s, 15m or 8h\n"


async def test_with_a_certificate_all_goes_over_tls(
    aws_env: dict[str, str], http_server: HttpServer, curl: str, tmp_path: Path
) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    # The issuer is in the file, too: clients are told to trust what is in it.
    for part in (*issued.cert_chain_pems, authority.cert_pem):
        part.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    options = ("--tls-cert", str(certificate), "--tls-key", str(key))
    async with far_end_running(aws_env, *options) as far_end:
        assert far_end.exports["AWS_ENDPOINT_URL_SSM"].startswith("https://localhost:")
        env = aws_env | far_end.exports
        remote = str(http_server.port)
        command = (SSMNET, "forward", "-t", far_end.target, "--remote", remote)
        async with started(*command, env=env) as program:
            url = f"http://127.0.0.1:{await program.port()}/"
            got = await run(curl, "-sSf", "-o", tmp_path / "got", url, env=aws_env)
            assert got.status == 0, got.err
        assert (tmp_path / "got").read_bytes() == http_server.data
        # Who does not trust the certificate gets nowhere.
        env["AWS_CA_BUNDLE"] = env["SSL_CERT_FILE"] = str(tmp_path / "other.pem")
        trustme.CA().cert_pem.write_to_path(env["AWS_CA_BUNDLE"])
        done = await run(*command, env=env)
        assert done.status == 1
        assert done.err.startswith("error: cannot trust https://localhost:")
