"""The calls to AWS, against a server on this machine that answers as AWS does."""

import asyncio
import base64
import contextlib
import functools
import hashlib
import hmac
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote

import aiohttp
import botocore.exceptions
import pytest
import trustme
from aiohttp import web
from yarl import URL

from ssmnet.aws import Client, StartedSession
from ssmnet.aws_credentials import Credentials, environment_credentials
from ssmnet.aws_errors import Call, explain, explain_credentials
from ssmnet.errors import (
    AccessDenied,
    ConnectError,
    CredentialsError,
    Error,
    RemoteProtocolError,
    ServiceError,
    TargetNotConnected,
    UsageError,
)
from ssmnet.loopback import Loopback

REGION = "eu-west-1"
TARGET = "i-0123456789abcdef0"
SESSION = "alice-0123456789abcdef0"
TOKEN = "AAEAAToken+not/for/logs="
PATH = f"/v1/data-channel/{SESSION}?role=publish_subscribe&cell-number=AAEA%2Bb%2Fc%3D"
STREAM_URL = f"wss://ssmmessages.{REGION}.amazonaws.com{PATH}"
STARTED = {"SessionId": SESSION, "TokenValue": TOKEN, "StreamUrl": STREAM_URL}

Answer = tuple[int, dict[str, Any]]


def error(code: str, message: str | None = "what AWS says", status: int = 400) -> Answer:
    return status, {"__type": f"com.amazonaws.ssm#{code}", "message": message}


class Service:
    """Answers in AWS JSON 1.1 what it was given, the last answer again and again."""

    def __init__(self) -> None:
        self.url = ""
        self.answers: list[Answer] = [(200, STARTED)]
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.keys: list[str] = []
        """Access key of each request, and of its session token if it had one."""
        self.released = asyncio.Event()
        self.hold_from = sys.maxsize
        """Number of the request from which on nothing is answered."""

    async def handle(self, request: web.Request) -> web.Response:
        action = request.headers["X-Amz-Target"].removeprefix("AmazonSSM.")
        self.requests.append((action, await request.json()))
        key = request.headers["Authorization"].split("Credential=")[1].split("/")[0]
        self.keys.append(key + request.headers.get("X-Amz-Security-Token", ""))
        if len(self.requests) >= self.hold_from:
            await self.released.wait()
        status, body = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.json_response(body, status=status, content_type="application/x-amz-json-1.1")


@contextlib.asynccontextmanager
async def serving(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        port = runner.addresses[0][1]
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with serving(service.handle) as service.url:
        yield service
        service.released.set()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("AWS_", "SSM_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return tmp_path


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-env")


def client(service: Service, **arguments: Any) -> Client:
    return Client(**{"region": REGION, "endpoint_url": service.url, **arguments})


def write_credentials(home: Path, key: str, profile: str = "default") -> None:
    text = f"[{profile}]\naws_access_key_id = {key}\naws_secret_access_key = secret-{key}\n"
    (home / "credentials").write_text(text)


def write_config(home: Path, *lines: str, profile: str = "default") -> None:
    section = "default" if profile == "default" else f"profile {profile}"
    (home / "config").write_text("\n".join([f"[{section}]", *lines, ""]))


# -- the calls


@pytest.mark.usefixtures("keys")
async def test_start_session(service: Service) -> None:
    started = await client(service).start_session(
        TARGET, "AWS-StartPortForwardingSession", {"portNumber": ["22"]}, "a test"
    )
    assert started == StartedSession(SESSION, TOKEN, STREAM_URL)
    assert service.requests == [
        (
            "StartSession",
            {
                "Target": TARGET,
                "DocumentName": "AWS-StartPortForwardingSession",
                "Parameters": {"portNumber": ["22"]},
                "Reason": "a test",
            },
        )
    ]


@pytest.mark.usefixtures("keys")
async def test_a_shell_needs_the_target_only(service: Service) -> None:
    await client(service).start_session(TARGET)
    assert service.requests == [("StartSession", {"Target": TARGET})]


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("missing", ["SessionId", "TokenValue"])
async def test_an_answer_without_a_session_is_an_error(service: Service, missing: str) -> None:
    service.answers = [(200, {**STARTED, missing: ""})]
    with pytest.raises(ServiceError, match="without a session") as raised:
        await client(service).start_session(TARGET)
    assert TOKEN not in str(raised.value)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("url", ["wss://evil.example/x", "", f"ws{STREAM_URL[3:]}"])
async def test_a_stream_url_elsewhere_is_refused(service: Service, url: str) -> None:
    service.answers = [(200, {**STARTED, "StreamUrl": url})]
    aws = client(service)
    with pytest.raises(RemoteProtocolError):
        await aws.start_session(TARGET)
    with pytest.raises(RemoteProtocolError):
        await aws.upgrade_headers(url)


@pytest.mark.usefixtures("keys")
async def test_resume_session(service: Service) -> None:
    fresh = STREAM_URL.replace("AAEA", "BBBB")
    service.answers = [(200, {**STARTED, "TokenValue": "new", "StreamUrl": fresh})]
    resumed = await client(service).resume_session(SESSION)
    assert resumed == StartedSession(SESSION, "new", fresh)
    assert service.requests == [("ResumeSession", {"SessionId": SESSION})]


@pytest.mark.usefixtures("keys")
async def test_resume_without_a_url_leaves_it_empty(service: Service) -> None:
    service.answers = [(200, {"SessionId": SESSION, "TokenValue": "new"})]
    assert await client(service).resume_session(SESSION) == StartedSession(SESSION, "new", "")


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    "answer",
    [
        (200, {"SessionId": SESSION}),
        (200, {"SessionId": SESSION, "TokenValue": "", "StreamUrl": STREAM_URL}),
        (200, {"SessionId": SESSION, "TokenValue": None}),
        error("DoesNotExistException"),
    ],
)
async def test_a_session_that_is_over_resumes_as_none(service: Service, answer: Answer) -> None:
    service.answers = [answer]
    assert await client(service).resume_session(SESSION) is None


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("answer", [(200, {"SessionId": SESSION}), error("DoesNotExistException")])
async def test_terminate_session(service: Service, answer: Answer) -> None:
    service.answers = [answer]
    await client(service).terminate_session(SESSION)
    assert service.requests == [("TerminateSession", {"SessionId": SESSION})]


@pytest.mark.usefixtures("keys")
async def test_terminate_session_tells_other_errors(service: Service) -> None:
    service.answers = [error("AccessDeniedException")]
    with pytest.raises(AccessDenied, match="ssm:TerminateSession"):
        await client(service).terminate_session(SESSION)


@pytest.mark.usefixtures("keys")
async def test_online_targets_reads_every_page(service: Service) -> None:
    first = {"InstanceId": "i-1", "ComputerName": "web", "PlatformName": "Amazon Linux"}
    second = {"InstanceId": "mi-2", "Name": "db", "ComputerName": "x", "PlatformType": "Linux"}
    service.answers = [
        (200, {"InstanceInformationList": [first], "NextToken": "more"}),
        (200, {"InstanceInformationList": [second, {"InstanceId": "i-3"}]}),
    ]
    found = await client(service).online_targets()
    assert [(t.instance_id, t.name, t.platform) for t in found] == [
        ("i-1", "web", "Amazon Linux"),
        ("mi-2", "db", "Linux"),
        ("i-3", "", ""),
    ]
    filters = [{"Key": "PingStatus", "Values": ["Online"]}]
    assert [request for _, request in service.requests] == [
        {"Filters": filters, "MaxResults": 50},
        {"Filters": filters, "MaxResults": 50, "NextToken": "more"},
    ]


# -- errors


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (error("TargetNotConnected"), TargetNotConnected, [TARGET, REGION, "offline"]),
        (error("AccessDeniedException"), AccessDenied, ["ssm:StartSession", "what AWS says"]),
        (error("ExpiredTokenException"), CredentialsError, ["aws sso login --profile 'a b'"]),
        (error("RequestExpired"), CredentialsError, ["expired"]),
        (error("UnrecognizedClientException"), CredentialsError, ["what AWS says", "clock"]),
        (error("InvalidSignatureException"), CredentialsError, ["what AWS says", "clock"]),
        (error("InvalidDocument"), UsageError, ["InvalidDocument", "what AWS says"]),
        (error("InvalidParameters"), UsageError, ["ssm:StartSession"]),
        (error("ValidationException"), UsageError, ["what AWS says"]),
        (error("Odd"), ServiceError, ["ssm:StartSession", "Odd", "what AWS says"]),
        (error("Odd", None), ServiceError, ["Odd", "no message"]),
        (error("Odd", "two\n lines\x1b[2J" + "x" * 999), ServiceError, ["two lines [2Jx"]),
        ((400, {}), ServiceError, ["ssm:StartSession"]),
    ],
)
async def test_an_error_is_told_in_a_line(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    home: Path,
    answer: Answer,
    expected: type[Error],
    words: list[str],
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "a b")
    write_config(home, profile='"a b"')
    service.answers = [answer]
    with pytest.raises(expected) as raised:
        await client(service).start_session(TARGET)
    text = str(raised.value)
    assert type(raised.value) is expected
    assert text.isprintable()
    assert len(text) < 600
    assert all(word in text for word in words), text
    assert raised.value.__cause__ is not None
    assert len(service.requests) == 1


@pytest.mark.usefixtures("keys")
async def test_throttling_is_waited_out(service: Service) -> None:
    throttled = error("ThrottlingException", "Rate exceeded")
    service.answers = [throttled, throttled, throttled, (200, STARTED)]
    began = time.monotonic()
    started = await client(service).start_session(TARGET)
    assert started.session_id == SESSION
    assert len(service.requests) == 4
    assert time.monotonic() - began > 0.25 + 0.5 + 1


@pytest.mark.usefixtures("keys")
async def test_throttling_for_good_is_an_error_at_the_deadline(service: Service) -> None:
    service.answers = [error("ThrottlingException", "Rate exceeded")]
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"throttles ssm:StartSession .*Rate exceeded"):
        await client(service, request_timeout=2).start_session(TARGET)
    assert time.monotonic() - began < 5
    assert len(service.requests) > 1


@pytest.mark.usefixtures("keys")
async def test_throttling_is_told_though_the_last_attempt_hung(service: Service) -> None:
    service.answers = [error("ThrottlingException", "Rate exceeded")]
    service.hold_from = 2
    with pytest.raises(ServiceError, match=r"throttles ssm:StartSession"):
        await client(service, request_timeout=2).start_session(TARGET)
    assert len(service.requests) == 2


@pytest.mark.usefixtures("keys")
async def test_a_fault_of_the_server_is_tried_three_times(service: Service) -> None:
    fault = error("InternalServerError", status=500)
    service.answers = [fault, fault, (200, STARTED)]
    assert (await client(service).start_session(TARGET)).token_value == TOKEN
    service.answers = [fault]
    with pytest.raises(ServiceError, match="InternalServerError"):
        await client(service).start_session(TARGET)
    assert len(service.requests) == 6


@pytest.mark.usefixtures("keys")
async def test_a_server_that_hangs_meets_the_deadline(service: Service) -> None:
    service.hold_from = 1
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"no answer to ssm:StartSession from http://127"):
        await client(service, request_timeout=0.5).start_session(TARGET)
    assert time.monotonic() - began < 3
    assert len(service.requests) == 1, "it may have been carried out"


@pytest.mark.usefixtures("keys")
async def test_nobody_at_the_endpoint() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(ServiceError, match=rf"{url}.*check the network"):
            await Client(region=REGION, endpoint_url=url).start_session(TARGET)


@pytest.mark.usefixtures("keys")
async def test_a_request_that_botocore_refuses_is_a_usage_error(service: Service) -> None:
    with pytest.raises(UsageError, match="Target"):
        await client(service).start_session("")
    assert service.requests == []


async def test_nothing_secret_is_shown(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    started = StartedSession(SESSION, TOKEN, STREAM_URL + "&X-Amz-Signature=c0ffee")
    shown = [repr(started), str(started), str(started.__rich_repr__()), f"{[started]}"]
    assert all(SESSION in text for text in shown)
    keys = Credentials("AKID", TOKEN, "c0ffee")
    shown += [repr(keys), str(keys), str(keys.__rich_repr__()), f"{[keys]}"]
    assert not any(TOKEN in text or "c0ffee" in text for text in shown)


@pytest.mark.usefixtures("keys")
async def test_an_answer_that_is_not_awss_is_an_error() -> None:
    async def login_page(request: web.Request) -> web.Response:
        return web.Response(text=f"<html>{TOKEN}</html>", content_type="text/html")

    async with serving(login_page) as url:
        with pytest.raises(ServiceError) as raised:
            await Client(region=REGION, endpoint_url=url).start_session(TARGET)
    assert TOKEN not in str(raised.value)


def test_errors_of_a_login_say_so() -> None:
    refresh = getattr(botocore.exceptions, "LoginRefreshRequired", None)
    if refresh is None:
        pytest.skip("this botocore knows no aws login")
    told = explain_credentials(refresh(), "x")
    assert isinstance(told, CredentialsError)
    assert "`aws login --profile x`" in str(told)


def test_what_is_not_known_names_its_class() -> None:
    told = explain(
        botocore.exceptions.ChecksumError(
            checksum_type="x", expected_checksum="y", actual_checksum="z"
        ),
        Call("ssm:StartSession"),
    )
    assert isinstance(told, ServiceError)
    assert "ssm:StartSession failed: ChecksumError" in str(told)


# -- region, profile, endpoint


@pytest.mark.usefixtures("keys")
async def test_no_region(service: Service) -> None:
    with pytest.raises(UsageError, match=r"--region .*AWS_REGION"):
        await client(service, region=None).start_session(TARGET)


async def test_region_from_argument_environment_and_profile(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(home, "region = eu-north-1", profile="x")
    assert Client(profile="x").region == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-1")
    assert Client().region == "eu-south-1"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert Client(profile="x").region == "eu-central-1"
    assert Client(profile="x", region=REGION).region == REGION
    with pytest.raises(UsageError, match="not an AWS region"):
        _ = Client(region="eu-west-1.evil.net").region


async def test_an_unknown_profile(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"nobody.*list-profiles"):
        await client(service, profile="nobody").start_session(TARGET)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match=r"nobody.*list-profiles"):
        _ = Client().region


@pytest.mark.usefixtures("keys")
async def test_a_config_file_that_cannot_be_read(service: Service, home: Path) -> None:
    (home / "config").write_text("no section\n")
    with pytest.raises(UsageError, match="config"):
        await client(service).start_session(TARGET)


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SSM"])
async def test_the_endpoint_from_the_environment(
    service: Service, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, service.url)
    local = f"ws://127.0.0.1:1{PATH}"
    service.answers = [(200, {**STARTED, "StreamUrl": local})]
    aws = Client(region=REGION)
    assert (await aws.start_session(TARGET)).stream_url == local
    assert "Authorization" in await aws.upgrade_headers(local)


async def test_the_endpoint_from_the_profile(service: Service, home: Path) -> None:
    write_credentials(home, "AKIDX", "x")
    write_config(home, f"endpoint_url = {service.url}", profile="x")
    await Client(profile="x", region=REGION).start_session(TARGET)
    assert service.keys == ["AKIDX"]


@pytest.mark.usefixtures("keys")
async def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="https"):
        Client(endpoint_url="nonsense")
    with pytest.raises(UsageError, match="https"):
        Client(messages_endpoint_url="http://10.0.0.1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSM", "nonsense")
    with pytest.raises(UsageError, match="nonsense"):
        await Client(region=REGION).start_session(TARGET)


@pytest.mark.usefixtures("keys")
async def test_the_messages_endpoint_replaces_the_host(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    private = "https://ssmmessages.corp.example:8443"
    started = await client(service, messages_endpoint_url=private).start_session(TARGET)
    assert started.stream_url == f"wss://ssmmessages.corp.example:8443{PATH}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_SSMMESSAGES", private)
    aws = client(service)
    resumed = await aws.resume_session(SESSION)
    assert resumed is not None
    assert resumed.stream_url == started.stream_url
    assert "Authorization" in await aws.upgrade_headers(resumed.stream_url)


# -- credentials


async def test_no_credentials(service: Service) -> None:
    with pytest.raises(CredentialsError, match=r"no AWS credentials: run `aws sso login`"):
        await client(service).start_session(TARGET)
    assert service.requests == []


LONG_AGO, IN_A_CENTURY = "2020-01-01T00:00:00Z", "2120-01-01T00:00:00+00:00"


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "AKIDENV"),
        ({"AWS_SESSION_TOKEN": "-t"}, "AKIDENV-t"),
        ({"AWS_SECURITY_TOKEN": "-old"}, "AKIDENV-old"),
        ({"AWS_SECURITY_TOKEN": "-old", "AWS_SESSION_TOKEN": "-t"}, "AKIDENV-old"),
        ({"AWS_SECURITY_TOKEN": "", "AWS_SESSION_TOKEN": "-t"}, "AKIDENV-t"),
        ({"AWS_CREDENTIAL_EXPIRATION": IN_A_CENTURY}, "AKIDENV"),
        ({"AWS_CREDENTIAL_EXPIRATION": "Jan 1 2120 00:00 UTC"}, "AKIDENV"),
        ({"AWS_ACCESS_KEY_ID": ""}, "AKIDX"),
        ({"AWS_PROFILE": "default"}, "AKIDENV"),
    ],
)
async def test_credentials_of_the_environment(
    service: Service,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    expected: str,
) -> None:
    """Whether botocore reads them or we do is all the same."""
    write_credentials(home, "AKIDX")
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    await client(service).start_session(TARGET)
    assert service.keys == [expected]
    headers = await Client(region=REGION).upgrade_headers(STREAM_URL)
    key = headers["Authorization"].split("Credential=")[1].split("/")[0]
    assert key + headers.get("X-Amz-Security-Token", "") == expected


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", ""),
        ("AWS_CREDENTIAL_EXPIRATION", LONG_AGO),
        ("AWS_CREDENTIAL_EXPIRATION", "2120-01-01T00:00:00"),
        ("AWS_CREDENTIAL_EXPIRATION", "soon"),
    ],
)
async def test_credentials_of_the_environment_that_are_no_use(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    write_credentials(home, "AKIDX")
    monkeypatch.setenv(name, value)
    with pytest.raises(CredentialsError, match="default profile") as raised:
        await client(service).start_session(TARGET)
    assert "secret-env" not in str(raised.value)
    assert service.requests == []


@pytest.mark.usefixtures("keys")
async def test_a_profile_comes_before_the_environment(service: Service, home: Path) -> None:
    write_credentials(home, "AKIDX", "x")
    await client(service, profile="x").start_session(TARGET)
    assert service.keys == ["AKIDX"]


@pytest.mark.usefixtures("keys")
async def test_a_resume_and_its_signature_use_what_is_in_the_environment_now(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = client(service)
    await aws.start_session(TARGET)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDNEW")
    await aws.resume_session(SESSION)
    headers = await aws.upgrade_headers(STREAM_URL)
    assert service.keys == ["AKIDENV", "AKIDNEW"]
    assert "Credential=AKIDNEW/" in headers["Authorization"]


async def test_the_profile_is_used(service: Service, home: Path) -> None:
    write_credentials(home, "AKIDX", "x")
    await client(service, profile="x").start_session(TARGET)
    assert service.keys == ["AKIDX"]


async def test_a_resume_and_its_signature_use_what_is_in_the_files_now(
    service: Service, home: Path
) -> None:
    aws = client(service)
    write_credentials(home, "AKIDOLD")
    await aws.start_session(TARGET)
    write_credentials(home, "AKIDNEW")
    await aws.resume_session(SESSION)
    headers = await aws.upgrade_headers(STREAM_URL)
    assert service.keys == ["AKIDOLD", "AKIDNEW"]
    assert "Credential=AKIDNEW/" in headers["Authorization"]


async def test_refused_credentials_are_looked_up_again(service: Service, home: Path) -> None:
    aws = client(service)
    write_credentials(home, "AKIDOLD")
    service.answers = [error("ExpiredTokenException"), (200, STARTED)]
    with pytest.raises(CredentialsError):
        await aws.start_session(TARGET)
    write_credentials(home, "AKIDNEW")
    await aws.start_session(TARGET)
    assert service.keys == ["AKIDOLD", "AKIDNEW"]


def credential_process(home: Path, output: str, seconds: float = 0) -> None:
    """Configure a process that notes its id in ``home / "runs"`` and prints ``output``."""
    program = home / "process.py"
    program.write_text(
        f"import os, time\nopen({str(home / 'runs')!r}, 'a').write(f'{{os.getpid()}}\\n')\n"
        f"time.sleep({seconds})\nprint({output!r})\n"
    )
    write_config(home, f'credential_process = "{sys.executable}" "{program}"')


async def test_a_credential_process_runs_once_for_a_burst(service: Service, home: Path) -> None:
    output = {"Version": 1, "AccessKeyId": "AKIDP", "SecretAccessKey": "s", "SessionToken": "-tok"}
    credential_process(home, json.dumps({**output, "Expiration": "2999-01-01T00:00:00Z"}))
    aws = client(service)
    await asyncio.gather(*(aws.start_session(TARGET) for _ in range(4)))
    assert (await aws.upgrade_headers(STREAM_URL))["X-Amz-Security-Token"] == "-tok"
    assert service.keys == ["AKIDP-tok"] * 4
    assert len((home / "runs").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "output",
    [
        "no JSON",
        json.dumps({"Version": 1, "AccessKeyId": "a"}),
        json.dumps(
            {
                "Version": 1,
                "AccessKeyId": "a",
                "SecretAccessKey": "s3cr3t",
                "SessionToken": "t",
                "Expiration": "2020-01-01T00:00:00Z",
            }
        ),
    ],
)
async def test_a_credential_process_that_is_no_use(
    service: Service, home: Path, output: str
) -> None:
    credential_process(home, output)
    with pytest.raises(CredentialsError, match="default profile") as raised:
        await client(service).start_session(TARGET)
    assert "s3cr3t" not in str(raised.value)


async def test_a_slow_credential_process_meets_the_deadline(service: Service, home: Path) -> None:
    credential_process(home, "{}", seconds=30)
    began = time.monotonic()
    with pytest.raises(CredentialsError, match="took too long"):
        await client(service, credentials_timeout=2).start_session(TARGET)
    assert time.monotonic() - began < 10
    if sys.platform != "win32":
        with pytest.raises(ProcessLookupError):
            os.kill(int((home / "runs").read_text()), 0)


ROLE = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleResult><Credentials><AccessKeyId>AKIDROLE</AccessKeyId>
<SecretAccessKey>role-secret</SecretAccessKey><SessionToken>-role</SessionToken>
<Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>R:s</AssumedRoleId>
</AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"""
DENIED = """<ErrorResponse><Error><Type>Sender</Type><Code>AccessDenied</Code>
<Message>not allowed to assume</Message></Error></ErrorResponse>"""


async def test_a_role_with_mfa_asks_once_and_only_when_it_may(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    posts: list[dict[str, str]] = []

    def code(prompt: str) -> str:
        asked.append(prompt)
        time.sleep(1.2)  # as a user types: longer than the deadline of the look-up
        return "123456"

    async def sts(request: web.Request) -> web.Response:
        posts.append({k: str(v) for k, v in (await request.post()).items()})
        return web.Response(text=ROLE, content_type="text/xml")

    write_credentials(home, "AKIDUSER", "user")
    role = ["role_arn = arn:aws:iam::1:role/r", "source_profile = user"]
    write_config(home, *role, "mfa_serial = arn:aws:iam::1:mfa/u", profile="ops")
    async with serving(sts) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        silent = client(service, profile="ops")
        with pytest.raises(CredentialsError, match=r"MFA.*aws sts .* --profile ops"):
            await silent.start_session(TARGET)
        aws = client(service, profile="ops", mfa_code=code, credentials_timeout=1.0)
        with pytest.raises(CredentialsError, match="MFA"):
            await aws.resume_session(SESSION)
        assert (asked, posts) == ([], [])
        await aws.start_session(TARGET)
        await aws.resume_session(SESSION)
        await silent.start_session(TARGET)
    assert service.keys == ["AKIDROLE-role"] * 3
    assert len(asked) == 1
    assert [post["TokenCode"] for post in posts] == ["123456"]


async def test_a_role_that_may_not_be_assumed(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def sts(request: web.Request) -> web.Response:
        return web.Response(status=403, text=DENIED, content_type="text/xml")

    write_credentials(home, "AKIDUSER", "user")
    write_config(home, "role_arn = arn:aws:iam::1:role/r", "source_profile = user", profile="ops")
    async with serving(sts) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        with pytest.raises(CredentialsError, match=r"profile ops: .*not allowed to assume"):
            await client(service, profile="ops").start_session(TARGET)


def sso_token(token: str, expires: str) -> str:
    return json.dumps({"accessToken": token, "expiresAt": expires, "region": REGION})


@pytest.mark.parametrize("form", ["profile", "session"])
async def test_sso_says_how_to_log_in_and_then_goes_on(
    service: Service, home: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    async def portal(request: web.Request) -> web.Response:
        if request.headers.get("x-amz-sso_bearer_token") != "sso-secret":
            headers = {"x-amzn-ErrorType": "UnauthorizedException"}
            return web.json_response({"message": "expired"}, status=401, headers=headers)
        role = {"accessKeyId": "AKIDSSO", "secretAccessKey": "s", "sessionToken": "-sso"}
        return web.json_response({"roleCredentials": {**role, "expiration": 32472144000000}})

    start = "https://corp.example/start"
    cache = home / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    # botocore finds that folder once, when it is imported: another home wants another process.
    program = (
        "from ssmnet.aws import Client\n"
        "from ssmnet.runner import run\n"
        f"aws = Client(profile='corp', region={REGION!r}, endpoint_url={service.url!r})\n"
        f"print(run(lambda _: aws.start_session({TARGET!r})))\n"
    )

    async def run() -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, stdout=-1, stderr=-1
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert b"Refreshing temporary credentials" not in err
        return out.decode() or err.decode().splitlines()[-1]

    async with serving(portal) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", url)
        account = ["sso_account_id = 1", "sso_role_name = r"]
        sso = [f"sso_region = {REGION}", f"sso_start_url = {start}"]
        if form == "session":
            sso = ["sso_session = login", "[sso-session login]", *sso]
        write_config(home, *account, *sso, profile="corp")
        login = "CredentialsError: the login of profile corp is missing or expired"
        assert login in await run()
        key = "login" if form == "session" else start
        token = cache / f"{hashlib.sha1(key.encode()).hexdigest()}.json"
        for expires in ("2020-01-01T00:00:00Z", "2999-01-01T00:00:00Z"):
            token.write_text(sso_token("revoked", expires))
            said = await run()
            assert login in said
            assert "`aws sso login --profile corp`" in said
        token.write_text(sso_token("sso-secret", "2999-01-01T00:00:00Z"))
        assert SESSION in await run()
    assert service.keys == ["AKIDSSO-sso"]


async def test_the_metadata_service_of_an_instance(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def metadata(request: web.Request) -> web.Response:
        if request.path == "/latest/api/token":
            return web.Response(text="imds-token")
        if not request.path.endswith("/role"):
            return web.Response(text="role")
        keys = {"AccessKeyId": "AKIDI", "SecretAccessKey": "s", "Token": "-imds"}
        return web.json_response({**keys, "Expiration": "2999-01-01T00:00:00Z", "Code": "Success"})

    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    async with serving(metadata) as url:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        await client(service).start_session(TARGET)
    assert service.keys == ["AKIDI-imds"]


@pytest.mark.skipif(sys.platform != "linux", reason="how a full backlog behaves is Linux's")
async def test_a_metadata_service_that_is_not_there_holds_nothing_up(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with contextlib.ExitStack() as stack:
        # With its backlog full, it drops what comes, as the network does where there is none.
        dead = stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))
        dead.listen(0)
        stack.enter_context(socket.create_connection(dead.getsockname()))
        address = f"http://127.0.0.1:{dead.getsockname()[1]}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        aws = client(service)
        _ = aws._botocore  # the import's time is not meant
        began = time.monotonic()
        assert await aws.upgrade_headers(STREAM_URL) == {}
        assert 0.4 < time.monotonic() - began < 1.8


# -- the signature of the upgrade


def sigv4(method: str, target: str, headers: dict[str, str], secret: str) -> str:
    """Recompute the signature of an Authorization header from what went over the wire."""
    fields = dict(
        part.strip().split("=", 1)
        for part in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(",")
    )
    path, _, query = target.partition("?")
    enc = functools.partial(quote, safe="-_.~")
    pairs = sorted((enc(k), enc(v)) for k, v in parse_qsl(query, keep_blank_values=True))
    names = fields["SignedHeaders"].split(";")
    canonical = [method, quote(path, safe="/-_.~"), "&".join(f"{k}={v}" for k, v in pairs)]
    canonical += [f"{name}:{headers[name].strip()}" for name in names]
    canonical += ["", fields["SignedHeaders"], hashlib.sha256(b"").hexdigest()]
    scope = fields["Credential"].split("/", 1)[1]
    digest = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in [*scope.split("/"), text]:
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()


@pytest.mark.parametrize(
    ("target", "extra", "scope", "signed", "signature"),
    [
        # AWS's Signature Version 4 test suite: get-vanilla, get-vanilla-query-order-key-case.
        (
            "/",
            {"host": "example.amazonaws.com"},
            "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
            "host;x-amz-date",
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "/?Param2=value2&Param1=value1",
            {"host": "example.amazonaws.com"},
            "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request",
            "host;x-amz-date",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        # The ListUsers example of the IAM documentation.
        (
            "/?Action=ListUsers&Version=2010-05-08",
            {
                "host": "iam.amazonaws.com",
                "content-type": "application/x-www-form-urlencoded; charset=utf-8",
            },
            "AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request",
            "content-type;host;x-amz-date",
            "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
        ),
    ],
)
def test_this_files_own_signer_meets_the_published_vectors(
    target: str, extra: dict[str, str], scope: str, signed: str, signature: str
) -> None:
    headers = {
        **extra,
        "x-amz-date": "20150830T123600Z",
        "authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={signed}, Signature=",
    }
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    assert sigv4("GET", target, headers, secret) == signature


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("token", ["", "session-token"])
@pytest.mark.parametrize(
    "path",
    [
        PATH,
        "/v1/data-channel/alice@corp.example-0a%2Cb?role=publish_subscribe&cell-number=a/b=",
        "/v1/data-channel/x?b=2&a=1&a=&c=%7E%20~",
        "/v1/data-channel/x",
    ],
)
async def test_the_upgrade_is_signed_as_it_goes_over_the_wire(
    monkeypatch: pytest.MonkeyPatch, path: str, token: str
) -> None:
    if token:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    seen: list[tuple[str, str, dict[str, str]]] = []

    async def gateway(request: web.Request) -> web.WebSocketResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen.append((request.method, request.raw_path, headers))
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        await ws.close()
        return ws

    async with serving(gateway) as url, aiohttp.ClientSession() as http:
        aws = Client(region=REGION, endpoint_url=url)
        target = f"ws{url.removeprefix('http')}{path}".replace("127.0.0.1", "LocalHost")
        headers = await aws.upgrade_headers(target)
        async with http.ws_connect(URL(target, encoded=True), headers=headers):
            pass
    [(method, raw_path, on_the_wire)] = seen
    assert raw_path == path
    authorization = on_the_wire["authorization"]
    date = on_the_wire["x-amz-date"][:8]
    assert f"Credential=AKIDENV/{date}/{REGION}/ssmmessages/aws4_request" in authorization
    names = "host;x-amz-date;x-amz-security-token" if token else "host;x-amz-date"
    assert f"SignedHeaders={names}," in authorization
    assert on_the_wire.get("x-amz-security-token", "") == token
    signature = authorization.rsplit("Signature=", 1)[1]
    assert sigv4(method, raw_path, on_the_wire, "secret-env") == signature


@pytest.mark.usefixtures("keys")
async def test_the_default_port_is_not_signed() -> None:
    aws = Client(region=REGION)
    url = STREAM_URL.replace(".com/", ".com:443/")
    headers = {k.lower(): v for k, v in (await aws.upgrade_headers(url)).items()}
    headers["host"] = f"ssmmessages.{REGION}.amazonaws.com"
    signature = headers["authorization"].rsplit("Signature=", 1)[1]
    assert sigv4("GET", PATH, headers, "secret-env") == signature


async def test_an_upgrade_without_credentials_is_not_signed(
    service: Service, caplog: pytest.LogCaptureFixture, home: Path
) -> None:
    caplog.set_level(logging.INFO, "ssmnet")
    assert await client(service).upgrade_headers(STREAM_URL) == {}
    assert "not signed: no AWS credentials" in caplog.text
    assert await client(service, profile="nobody").upgrade_headers(STREAM_URL) == {}
    assert "nobody" in caplog.text


@pytest.mark.usefixtures("keys")
async def test_an_upgrade_that_is_presigned_or_not_to_be_signed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "ssmnet")
    aws = Client(region=REGION)
    assert await aws.upgrade_headers(STREAM_URL + "&X-Amz-Signature=00") == {}
    assert await aws.upgrade_headers(STREAM_URL) != {}
    monkeypatch.setenv("SSM_PLUGIN_SKIP_CLIENT_CONFIGURE", "true")
    assert await aws.upgrade_headers(STREAM_URL) == {}
    assert "SSM_PLUGIN_SKIP_CLIENT_CONFIGURE" in caplog.text


async def test_the_loopback_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Loopback() as loopback, aiohttp.ClientSession() as http:
        for name, value in loopback.environment.items():
            monkeypatch.setenv(name, value)
        aws = Client()
        assert [target.instance_id for target in await aws.online_targets()] == [loopback.target]
        with pytest.raises(TargetNotConnected):
            await aws.start_session("i-00000000000000000")
        started = await aws.start_session(
            loopback.target, "AWS-StartPortForwardingSession", {"portNumber": ["9"]}
        )
        url = URL(started.stream_url, encoded=True)
        headers = await aws.upgrade_headers(started.stream_url)
        async with http.ws_connect(url, headers=headers):
            pass
        signed = headers["Authorization"]
        wrong = {**headers, "Authorization": signed[:-1] + ("1" if signed[-1] == "0" else "0")}
        for refused in ({}, wrong):
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await http.ws_connect(url, headers=refused)
        resumed = await aws.resume_session(started.session_id)
        assert resumed is not None
        assert resumed.session_id == started.session_id
        await aws.terminate_session(started.session_id)
        assert await aws.resume_session(started.session_id) is None
        await aws.terminate_session(started.session_id)


# -- TLS and proxies


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    return context


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("where", ["environment", "profile"])
async def test_a_ca_bundle_is_trusted_by_calls_and_websocket(
    authority: trustme.CA,
    tls: ssl.SSLContext,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    service = Service()
    async with serving(service.handle, tls) as url, aiohttp.ClientSession() as http:
        stranger = Client(region=REGION, endpoint_url=url)
        with pytest.raises(ServiceError, match=r"cannot trust .*AWS_CA_BUNDLE"):
            await stranger.start_session(TARGET)
        with pytest.raises(aiohttp.ClientSSLError):
            await http.get(url, ssl=stranger.ssl_context)
        authority.cert_pem.write_to_path(str(home / "ca.pem"))
        if where == "environment":
            monkeypatch.setenv("AWS_CA_BUNDLE", str(home / "ca.pem"))
        else:
            write_config(home, f"ca_bundle = {home / 'ca.pem'}")
        aws = Client(region=REGION, endpoint_url=url)
        assert (await aws.start_session(TARGET)).session_id == SESSION
        sent = {"X-Amz-Target": "x", "Authorization": "Credential=x/"}
        async with http.post(url, ssl=aws.ssl_context, json={}, headers=sent) as answer:
            assert answer.status == 200


async def test_a_ca_bundle_that_cannot_be_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "bad.pem").write_text("no certificate")
    for name in ("missing.pem", "bad.pem"):
        monkeypatch.setenv("AWS_CA_BUNDLE", str(home / name))
        with pytest.raises(UsageError, match=name):
            _ = Client().ssl_context


async def test_without_a_bundle_public_cas_are_trusted() -> None:
    context = Client(region=REGION).ssl_context
    assert context.cert_store_stats()["x509_ca"] > 50
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@pytest.mark.skipif(sys.platform == "win32", reason="there the system's store is no file")
async def test_without_a_store_of_the_system_public_cas_are_trusted_too(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(home))
    assert ssl.create_default_context().cert_store_stats()["x509_ca"] == 0
    assert Client(region=REGION).ssl_context.cert_store_stats()["x509_ca"] > 50


@pytest.mark.usefixtures("keys")
async def test_calls_go_through_https_proxy(
    authority: trustme.CA, tls: ssl.SSLContext, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        port = int(head.split()[1].rpartition(b":")[2])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(relay(reader, far_writer), relay(far_reader, writer))

    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(home / "ca.pem"))
    service = Service()
    async with serving(service.handle, tls) as url:
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        password = base64.b64encode(b"user:pass").decode()
        port = server.sockets[0].getsockname()[1]
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:pass@127.0.0.1:{port}")
        await Client(region=REGION, endpoint_url=url).start_session(TARGET)
        server.close()
        await server.wait_closed()
        assert len(asked) == 1
        assert f"CONNECT {url.removeprefix('https://')}".encode() in asked[0]
        assert password.encode() in asked[0]
        with pytest.raises(ServiceError, match="HTTPS_PROXY") as raised:
            await Client(region=REGION, endpoint_url=url).start_session(TARGET)
        assert "pass" not in str(raised.value)


class Listener:
    """What a WebSocket tells, here nothing of interest."""

    def messages_received(self, messages: list[bytes]) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...

    def connection_lost(self, reason: str, *, broken: bool = False) -> None: ...


async def accept(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for _ in ws:
        pass
    return ws


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("where", ["environment", "profile", "the profile of the environment"])
async def test_the_websocket_trusts_what_it_is_told_to(
    authority: trustme.CA,
    tls: ssl.SSLContext,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    async with serving(accept, tls) as url:
        target = f"wss{url.removeprefix('https')}{PATH}"
        with pytest.raises(ConnectError, match="certificate"):
            await Client(region=REGION, endpoint_url=url).connect(target, Listener())
        if where == "environment":
            monkeypatch.setenv("AWS_CA_BUNDLE", str(home / "ca.pem"))
        else:
            profile = "default" if where == "profile" else "x"
            monkeypatch.setenv("AWS_PROFILE", profile)
            write_config(home, f"ca_bundle = {home / 'ca.pem'}", profile=profile)
        websocket = await Client(region=REGION, endpoint_url=url).connect(target, Listener())
        websocket.close()
        await websocket.wait_closed()


@pytest.mark.skipif(sys.platform == "win32", reason="there the system's store is no file")
async def test_the_websocket_trusts_the_system_s_store_as_it_is_now(
    authority: trustme.CA, tls: ssl.SSLContext, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aiohttp has read the store once and for all, when it was imported."""
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "ca.pem"))
    async with serving(accept, tls) as url:
        target = f"wss{url.removeprefix('https')}{PATH}"
        websocket = await Client(region=REGION, endpoint_url=url).connect(target, Listener())
        websocket.close()
        await websocket.wait_closed()


def hashed_name(certificate: Path) -> str:
    """Its name in a folder of certificates."""
    command = ("openssl", "x509", "-noout", "-hash", "-in", str(certificate))
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30)
    return f"{done.stdout.strip()}.0"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="it names the files of the folder")
@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("store", "imported"), [("file", "False"), ("folder", "False"), ("none", "True")]
)
async def test_where_the_system_keeps_its_cas(
    authority: trustme.CA,
    tls: ssl.SSLContext,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: str,
    imported: str,
) -> None:
    """In a file, in a folder, or nowhere: then botocore's are trusted, which do not know ours."""
    (home / "store").mkdir()
    monkeypatch.setenv("SSL_CERT_DIR", str(home / "store"))
    monkeypatch.setenv("SSL_CERT_FILE", str(home / "store.pem"))
    authority.cert_pem.write_to_path(str(home / "ca.pem"))
    if store == "file":
        (home / "ca.pem").rename(home / "store.pem")
    elif store == "folder":
        (home / "ca.pem").rename(home / "store" / hashed_name(home / "ca.pem"))
    async with serving(accept, tls) as url:
        target = f"wss{url.removeprefix('https')}{PATH}"
        program = (
            "import asyncio, sys, ssmnet.aws as a\n"
            f"client = a.Client(region={REGION!r}, endpoint_url={url!r})\n"
            "async def main():\n"
            "    try:\n"
            f"        (await client.connect({target!r}, None)).abort()\n"
            "    except a.Error as error:\n"
            "        return type(error).__name__\n"
            "print(asyncio.run(main()), 'botocore' in sys.modules)"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=-1)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.decode().split() == ["ConnectError" if store == "none" else "None", imported]


# -- cost


@pytest.mark.parametrize("profile", ["", "x"])
async def test_nothing_of_botocore_is_imported_before_it_is_needed(
    home: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    """A session that was started elsewhere is opened without, given keys of the environment."""
    write_credentials(home, "AKIDX", "x")
    write_config(home, "output = json", profile="x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-env")
    async with serving(accept) as url:
        target = f"ws{url.removeprefix('http')}{PATH}"
        program = (
            "import asyncio, sys, ssmnet.aws as a\n"
            f"client = a.Client(profile={profile!r}, region={REGION!r}, endpoint_url={url!r})\n"
            "async def main():\n"
            f"    headers = await client.upgrade_headers(client.stream_url({target!r}))\n"
            f"    websocket = await client.connect({target!r}, None)\n"
            "    websocket.abort()\n"
            "    print(headers['Authorization'].split('/')[0])\n"
            "asyncio.run(main())\n"
            "print([m for m in sys.modules if m.startswith(('botocore', 'aiobotocore'))][:1])"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=-1)
        out, _ = await asyncio.wait_for(process.communicate(), 30)
    signed_by, imported = out.decode().splitlines()
    assert signed_by.endswith("=AKIDX" if profile else "=AKIDENV")
    assert imported == ("['aiobotocore']" if profile else "[]")


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
)
@pytest.mark.parametrize("text", ["cl\u00e9", "\udcff"])
def test_credentials_of_the_environment_that_no_key_can_be(name: str, text: str) -> None:
    environment = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", name: text}
    with pytest.raises(CredentialsError) as raised:
        environment_credentials(environment)
    assert text not in str(raised.value)
