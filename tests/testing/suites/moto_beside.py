"""moto for the rest of AWS, the loopback for Systems Manager, in one test."""

from collections.abc import Iterator

import boto3  # type: ignore[import-untyped]
import pytest
from aiobotocore.session import get_session
from moto import mock_aws
from moto.server import ThreadedMotoServer

import ssmnet
from ssmnet.testing import SsmLoopback

TARGET = "i-0123456789abcdef0"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    yield
    server.stop()


@pytest.mark.parametrize("aws_first", [True, False])
def test_boto3_and_a_server(request: pytest.FixtureRequest, aws_first: bool) -> None:
    for fixture in ("aws", "ssm_loopback")[:: 1 if aws_first else -1]:
        request.getfixturevalue(fixture)
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="reports")
    with ssmnet.blocking.connect(TARGET) as target:
        s3.put_object(Bucket="reports", Key="one", Body=target.run("echo", "a").stdout)
    assert s3.get_object(Bucket="reports", Key="one")["Body"].read() == b"a\n"


async def test_aiobotocore_and_a_server(aws: None, ssm_loopback: SsmLoopback) -> None:
    async with get_session().create_client("s3") as s3, ssmnet.connect(TARGET) as target:
        await s3.create_bucket(Bucket="reports-of-today")
        said = (await target.run("echo", "a")).stdout
        await s3.put_object(Bucket="reports-of-today", Key="one", Body=said)
        found = await s3.get_object(Bucket="reports-of-today", Key="one")
        assert await found["Body"].read() == b"a\n"


@mock_aws(config={"core": {"mock_credentials": False}})
def test_boto3_and_moto_in_this_process(ssm_loopback: SsmLoopback) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(Bucket="reports")
    with ssmnet.blocking.connect(TARGET) as target:
        assert target.run("echo", "a").stdout == b"a\n"
    (instance,) = boto3.client("ssm").describe_instance_information()["InstanceInformationList"]
    assert instance["InstanceId"] == ssm_loopback.target
    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["reports"]


@mock_aws
def test_credentials_of_moto_do_not_do(ssm_loopback: SsmLoopback) -> None:
    with pytest.raises(ssmnet.CredentialsError), ssmnet.blocking.connect(TARGET) as target:
        target.run("true")
