"""The signer against AWS's published signatures, and against the loopback's own judge."""

import calendar
import string
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

from ssmnet.loopback.sigv4 import Credentials as Accepted
from ssmnet.loopback.sigv4 import Request, verify
from ssmnet.sigv4 import sign

NOW = calendar.timegm((2015, 8, 30, 12, 36, 0))
UNRESERVED = f"-._~{string.digits}{string.ascii_uppercase}{string.ascii_lowercase}"
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"


class Keys(NamedTuple):
    access_key: str = "AKIDEXAMPLE"
    secret_key: str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    token: str | None = None


# AWS's Signature Version 4 test suite, "v4" of aws-signing-test-suite in awslabs/aws-c-auth:
# each GET that has no headers but these, normalized.
@pytest.mark.parametrize(
    ("target", "signature"),
    [
        ("", VANILLA),
        ("/", VANILLA),
        ("/example/..", VANILLA),
        ("/example1/example2/../..", VANILLA),
        ("/./", VANILLA),
        ("//", VANILLA),
        ("/./example", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
        ("//example//", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        ("/example space/", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        (f"/{UNRESERVED}", "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"),
        ("/\u1234", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ("/?Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
        (
            "/?Param-3=Value3&Param=Value2&%E1%88%B4=Value1",
            "371d3713e185cc334048618a97f809c9ffe339c62934c032af5a0e595648fcac",
        ),
        (
            "/?Param2=value2&Param1=value1",
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            f"/?{UNRESERVED}={UNRESERVED}",
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        ("/?\u1234=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
    ],
)
def test_published_signatures(target: str, signature: str) -> None:
    url = f"https://example.amazonaws.com{target}"
    assert sign(url, Keys(), "us-east-1", "service", now=NOW) == {
        "X-Amz-Date": "20150830T123600Z",
        "Authorization": "AWS4-HMAC-SHA256 "
        "Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders=host;x-amz-date, Signature={signature}",
    }


def test_the_published_signature_with_a_session_token() -> None:
    token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267"
    url = "https://example.amazonaws.com/"
    headers = sign(url, Keys(token=token), "us-east-1", "service", now=NOW)
    assert headers["X-Amz-Security-Token"] == token
    assert headers["Authorization"].endswith(
        "SignedHeaders=host;x-amz-date;x-amz-security-token, "
        "Signature=07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8"
    )


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("wss://h.example", "h.example"),
        ("wss://h.example:443", "h.example"),
        ("wss://h.example:80", "h.example:80"),
        ("ws://127.0.0.1:80", "127.0.0.1"),
        ("ws://127.0.0.1:443", "127.0.0.1:443"),
        ("ws://[::1]:8080", "[::1]:8080"),
        ("ws://[::1]", "[::1]"),
        ("ws://LocalHost:1", "LocalHost:1"),
    ],
)
def test_the_loopback_takes_it_with_the_host_that_clients_send(origin: str, host: str) -> None:
    url = f"{origin}/v1/a@b-0a%2Cb?b=2&a=1&a=&c=%7E%20~/=&d=%ff%C3%A9"
    headers = sign(url, Keys(), "eu-west-1", "ssmmessages", now=NOW)
    parts = urlsplit(url)
    request = Request("GET", parts.path, parts.query, [("Host", host), *headers.items()])
    accepted = Accepted(Keys().access_key, Keys().secret_key)
    verify(request, accepted, service="ssmmessages", region="eu-west-1", now=NOW)
