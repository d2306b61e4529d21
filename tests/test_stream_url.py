"""Where a data channel may be opened, and above all where not."""

import json
import re
from importlib.resources import files
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from ssmnet.errors import RemoteProtocolError, UsageError
from ssmnet.stream_url import (
    check_endpoint,
    check_region,
    check_stream_url,
    is_presigned,
    move_stream_url,
)

REGION = "eu-west-1"
PATH = "/v1/data-channel/alice-0123456789abcdef0?role=publish_subscribe&cell-number=AAEA%2Bx%3D"
HOST = "ssmmessages.eu-west-1.amazonaws.com"


@pytest.mark.parametrize(
    ("host", "region"),
    [
        (HOST, REGION),
        (f"{HOST}:443", REGION),
        ("SSMMessages.EU-West-1.AmazonAWS.com", REGION),
        ("ssmmessages-fips.us-east-1.amazonaws.com", "us-east-1"),
        ("ssmmessages.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("ssmmessages.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("ssmmessages.eu-west-1.api.aws", REGION),
        ("ssmmessages-fips.us-east-1.api.aws", "us-east-1"),
        ("vpce-0a1b2c3d-4e5f.ssmmessages.eu-west-1.vpce.amazonaws.com", REGION),
        ("vpce-0a1b2c3d-4e5f-eu-west-1a.ssmmessages.eu-west-1.vpce.amazonaws.com", REGION),
        ("vpce-0a1b.ssmmessages-fips.us-east-1.vpce.amazonaws.com", "us-east-1"),
        ("vpce-0a1b.ssmmessages.cn-north-1.vpce.amazonaws.com.cn", "cn-north-1"),
    ],
)
def test_the_endpoints_of_aws_are_accepted(host: str, region: str) -> None:
    check_stream_url(f"wss://{host}{PATH}", region)


def test_every_partition_that_botocore_knows_is_accepted() -> None:
    partitions = json.loads((files("botocore") / "data" / "partitions.json").read_text())
    # The partitions that botocore has no regions of yet are left out.
    for partition in filter(lambda p: len(p["regions"]) > 1, partitions["partitions"]):
        region = next(r for r in partition["regions"] if not r.endswith("global"))
        for name in ("dnsSuffix", "dualStackDnsSuffix"):
            suffix = partition["outputs"][name]
            check_stream_url(f"wss://ssmmessages.{region}.{suffix}{PATH}", region)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "wss://",
        "wss:///v1",
        HOST + PATH,
        f"//{HOST}{PATH}",
        f"ws://{HOST}{PATH}",
        f"ws://{HOST}:443{PATH}",
        f"https://{HOST}{PATH}",
        f"WSS://{HOST}{PATH}",
        f"wss:{HOST}{PATH}",
        f" wss://{HOST}{PATH}",
        f"wss://{HOST}{PATH} ",
        f"wss://{HOST}{PATH}\n",
        f"wss://{HOST}{PATH}#fragment",
        f"wss://{HOST}#@evil.net{PATH}",
        f"wss://{HOST}\\@evil.net{PATH}",
        f"wss://user@{HOST}{PATH}",
        f"wss://user:secret@{HOST}{PATH}",
        f"wss://{HOST}@evil.net{PATH}",
        f"wss://{HOST}:443@evil.net{PATH}",
        f"wss://{HOST}.{PATH}",
        f"wss://{HOST}.evil.net{PATH}",
        f"wss://{HOST}%2eevil.net{PATH}",
        f"wss://{HOST}:444{PATH}",
        f"wss://{HOST}:80{PATH}",
        f"wss://{HOST}:0{PATH}",
        f"wss://{HOST}:{PATH}",
        f"wss://{HOST}:443443{PATH}",
        f"wss://{HOST}:+443{PATH}",
        f"wss://{HOST}:٤٤٣{PATH}",
        f"wss://evil-{HOST}{PATH}",
        f"wss://evil.{HOST}{PATH}",
        f"wss://x.vpce.{HOST}{PATH}",
        f"wss://evil.net/{HOST}{PATH}",
        f"wss://evil.net?{HOST}{PATH}",
        "wss://ssm.eu-west-1.amazonaws.com" + PATH,
        "wss://ssmmessages-evil.eu-west-1.amazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-2.amazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-1.evil.net" + PATH,
        "wss://ssmmessages.eu-west-1.amazonaws.com.evil.net" + PATH,
        "wss://ssmmessages.eu-west-1.evilamazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-1.s3.amazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-1.elb.amazonaws.com" + PATH,
        "wss://ssmmessages.amazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-1amazonaws.com" + PATH,
        "wss://\u017f\u017fmmessages.eu-west-1.amazonaws.com" + PATH,
        "wss://ssmmessages。eu-west-1.amazonaws.com" + PATH,
        "wss://vpce-1.ssmmessages.eu-west-1.amazonaws.com" + PATH,
        "wss://vpce-1.vpce-svc-2.eu-west-1.vpce.amazonaws.com" + PATH,
        "wss://vpce-1.evil.ssmmessages.eu-west-1.vpce.amazonaws.com" + PATH,
        "wss://evil.ssmmessages.eu-west-1.vpce.amazonaws.com" + PATH,
        "wss://ssmmessages.eu-west-1.vpce.amazonaws.com" + PATH,
        "wss://127.0.0.1" + PATH,
        "wss://[::1]" + PATH,
        "wss://localhost" + PATH,
        "wss://169.254.169.254" + PATH,
        "wss://[fd00:ec2::254]" + PATH,
        "wss://[::1" + PATH,
        "wss://[]" + PATH,
        "wss://[v1.x]" + PATH,
        "wss://[::1%25lo]" + PATH,
        f"wss://{HOST}{PATH}&x=\x00",
        f"wss://{HOST}{PATH}&x=é",
        f"wss://{HOST}{PATH}&x={'A' * 8192}",
    ],
)
def test_everything_else_is_refused(url: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_stream_url(url, REGION)


def test_the_refusal_names_host_and_way_out_but_no_query() -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        check_stream_url("wss://evil.net:8443/v1?X-Amz-Signature=c0ffee", REGION)
    assert "'evil.net:8443'" in str(refused.value)
    assert "AWS_ENDPOINT_URL_SSMMESSAGES" in str(refused.value)
    assert "c0ffee" not in str(refused.value)


@pytest.mark.parametrize(
    "region", ["", ".", "eu", "eu-west-1.evil.net", "EU-WEST-1", "eu-w\n", "é"]
)
def test_a_region_that_is_none_is_refused(region: str) -> None:
    with pytest.raises(UsageError):
        check_region(region)
    with pytest.raises(UsageError):
        check_stream_url(f"wss://ssmmessages.{region}.amazonaws.com{PATH}", region)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("wss://gateway.corp.example/x", "https://gateway.corp.example"),
        ("wss://gateway.corp.example/x", "wss://GATEWAY.corp.example/ignored"),
        ("wss://gateway.corp.example:8443/x", "https://gateway.corp.example:8443"),
        ("wss://gateway.corp.example/x", "https://gateway.corp.example:8443"),
        ("wss://10.0.0.7/x", "https://10.0.0.7"),
        ("wss://[fd00::7]/x", "https://[fd00::7]"),
        ("ws://127.0.0.1:4001/x", "http://127.0.0.1:4000"),
        ("ws://[::1]:4001/x", "http://localhost:4000"),
        ("ws://localhost:4001/x", "ws://127.0.0.1:4000"),
        ("wss://localhost:4001/x", "https://127.0.0.1:4000"),
    ],
)
def test_the_host_of_a_configured_endpoint_is_accepted(url: str, endpoint: str) -> None:
    check_stream_url(url, REGION, endpoints=[endpoint])
    with pytest.raises(RemoteProtocolError):
        check_stream_url(url, REGION)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("wss://other.corp.example/x", "https://gateway.corp.example"),
        ("wss://gateway.corp.example:9999/x", "https://gateway.corp.example:8443"),
        ("wss://a.gateway.corp.example/x", "https://gateway.corp.example"),
        ("wss://gateway.corp.example.evil.net/x", "https://gateway.corp.example"),
        ("ws://gateway.corp.example/x", "https://gateway.corp.example"),
        ("ws://10.0.0.7/x", "https://10.0.0.7"),
        ("ws://10.0.0.7:443/x", "https://10.0.0.7"),
        ("ws://10.0.0.7:8080/x", "http://10.0.0.7:8080"),
        ("ws://127.0.0.1/x", "https://10.0.0.7"),
        ("ws://localhost.evil.net/x", "http://localhost:4000"),
        ("ws://127.0.0.1.evil.net/x", "http://127.0.0.1:4000"),
    ],
)
def test_an_endpoint_trusts_itself_only(url: str, endpoint: str) -> None:
    with pytest.raises(RemoteProtocolError):
        check_stream_url(url, REGION, endpoints=[endpoint])


def test_loopback_may_be_allowed_without_an_endpoint() -> None:
    check_stream_url("ws://127.0.0.1:1/x", REGION, allow_loopback=True)
    with pytest.raises(RemoteProtocolError):
        check_stream_url("ws://128.0.0.1:1/x", REGION, allow_loopback=True)


@pytest.mark.parametrize(
    "endpoint",
    ["", "host", "ftp://host", "https://", "https://u:p@host", "https://host:0", "https://h st"],
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError):
        check_endpoint(endpoint)
    with pytest.raises(UsageError):
        check_stream_url("wss://x.example/x", REGION, endpoints=[endpoint])


def test_only_loopback_endpoints_may_be_plain() -> None:
    check_endpoint("http://127.0.0.1:4000")
    check_endpoint("https://gateway.corp.example")
    with pytest.raises(UsageError, match="https"):
        check_endpoint("http://gateway.corp.example")


@pytest.mark.parametrize(
    ("endpoint", "moved"),
    [
        ("https://vpce-1.ssmmessages.eu-west-1.vpce.amazonaws.com", "wss://vpce-1.ssmmessages."),
        ("https://gw.example:8443/ignored?x", f"wss://gw.example:8443{PATH}"),
        ("http://127.0.0.1:4000", f"ws://127.0.0.1:4000{PATH}"),
        ("ws://[::1]:4000", f"ws://[::1]:4000{PATH}"),
    ],
)
def test_moving_replaces_scheme_host_and_port_only(endpoint: str, moved: str) -> None:
    url = move_stream_url(f"wss://{HOST}:443{PATH}", endpoint)
    assert url.startswith(moved)
    assert url.endswith(PATH)
    check_stream_url(url, REGION, endpoints=[endpoint])


def test_what_is_no_stream_url_is_not_moved() -> None:
    with pytest.raises(RemoteProtocolError):
        move_stream_url(f"https://u@{HOST}{PATH}", "https://gw.example")


@pytest.mark.parametrize(
    ("url", "presigned"),
    [
        (f"wss://{HOST}{PATH}", False),
        (f"wss://{HOST}{PATH}&X-Amz-Signature=00&X-Amz-Date=1", True),
        (f"wss://{HOST}{PATH}&x-amz-signature=", True),
        (f"wss://{HOST}/v1?X%2DAmz-Signature=00", True),
        (f"wss://{HOST}/v1/X-Amz-Signature=00?role=X-Amz-Signature", False),
    ],
)
def test_presigned_urls_are_known(url: str, presigned: bool) -> None:
    assert is_presigned(url) is presigned


# What an attacker may write, and what parsers are known to disagree about.
SCHEMES = ["wss://", "ws://", "https://", "//"]
SYNTAX = ["443", "%2e", "user:pw", "X-Amz-Date=1", *"/\\@:#?%[].- \t\n\x00é。"]
NAMES = [HOST, "ssmmessages", REGION, "amazonaws.com", "vpce-1", ".vpce."]
HOSTS = ["::1", "127.0.0.1", "localhost", "evil.net"]
PIECES = st.sampled_from(SCHEMES + SYNTAX + NAMES + HOSTS)
URLS = st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=60)


@given(URLS | URLS.map(lambda text: f"wss://{text}") | URLS.map(lambda text: f"wss://{HOST}{text}"))
@example(f"wss://{HOST}{PATH}")
def test_what_is_accepted_leads_to_aws_for_every_parser(url: str) -> None:
    try:
        check_stream_url(url, REGION)
    except RemoteProtocolError:
        return
    allowed = re.compile(
        r"(vpce-[0-9a-z-]+\.)?ssmmessages(-fips)?\.eu-west-1\.(vpce\.)?(amazonaws\.com|api\.aws)"
    )
    for parsed in (urlsplit(url), URL(url, encoded=True), URL(url)):
        host = parsed.hostname if not isinstance(parsed, URL) else parsed.host
        assert parsed.scheme == "wss"
        assert allowed.fullmatch(host or "")
        assert parsed.port in (None, 443)
        assert not parsed.username if not isinstance(parsed, URL) else not parsed.user
        assert not parsed.fragment
    assert str(URL(url, encoded=True)).isascii()


@given(URLS | URLS.map(lambda text: f"ws://{text}"))
@example("ws://[::1]:8080/x")
@example("ws://127.255.0.1/x")
def test_plain_is_accepted_to_this_machine_only(url: str) -> None:
    try:
        check_stream_url(url, REGION, allow_loopback=True)
    except RemoteProtocolError:
        return
    if url.startswith("ws://"):
        host = URL(url, encoded=True).host or ""
        assert host == "localhost" or host == "::1" or host.startswith("127.")


@given(URLS, st.sampled_from(["https://gw.example:8443", "http://127.0.0.1:4000"]))
@example(f"wss://{HOST}{PATH}", "https://gw.example:8443")
def test_what_was_moved_is_accepted(url: str, endpoint: str) -> None:
    try:
        moved = move_stream_url(url, endpoint)
    except RemoteProtocolError:
        return
    check_stream_url(moved, REGION, endpoints=[endpoint])
    was, now = URL(url, encoded=True), URL(moved, encoded=True)
    assert (was.raw_path, was.raw_query_string) == (now.raw_path, now.raw_query_string)
