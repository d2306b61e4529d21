import hmac
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials

from ssmnet.loopback import sigv4
from ssmnet.loopback.sigv4 import Credentials, Request, SignatureError, verify

KEY_ID, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(KEY_ID, SECRET)
REGION = "us-east-1"
# The moment of the public test suite.
NOW = datetime(2015, 8, 30, 12, 36, 0, tzinfo=UTC).timestamp()
DATE = "20150830T123600Z"


def authorization(signature: str, signed: str = "host;x-amz-date") -> str:
    return (
        f"AWS4-HMAC-SHA256 Credential={KEY_ID}/20150830/us-east-1/service/aws4_request, "
        f"SignedHeaders={signed}, Signature={signature}"
    )


def public_vector(
    signature: str,
    *,
    method: str = "GET",
    path: str = "/",
    query: str = "",
    headers: list[tuple[str, str]] | None = None,
    signed: str = "host;x-amz-date",
    body: bytes = b"",
) -> Request:
    common = [("Host", "example.amazonaws.com"), ("X-Amz-Date", DATE)]
    value = authorization(signature, signed)
    all_headers = [*common, *(headers or []), ("Authorization", value)]
    return Request(method, path, query, all_headers, body)


def check(request: Request, *, now: float = NOW, service: str = "service") -> None:
    verify(request, CREDENTIALS, region=REGION, service=service, now=now)


# Signatures of the public aws-sig-v4-test-suite.
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
PUBLIC = {
    "get-vanilla": public_vector(VANILLA),
    "normalize-path/get-relative": public_vector(VANILLA, path="/example/.."),
    "normalize-path/get-slash": public_vector(VANILLA, path="//"),
    "normalize-path/get-slash-dot-slash": public_vector(VANILLA, path="/./"),
    "get-vanilla-query-order-key-case": public_vector(
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        query="Param2=value2&Param1=value1",
    ),
    "get-utf8": public_vector(
        "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85", path="/ሴ"
    ),
    "get-header-value-trim": public_vector(
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        headers=[("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        signed="host;my-header1;my-header2;x-amz-date",
    ),
    "post-vanilla": public_vector(
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b", method="POST"
    ),
    "post-x-www-form-urlencoded": public_vector(
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        method="POST",
        headers=[("Content-Type", "application/x-www-form-urlencoded")],
        signed="content-type;host;x-amz-date",
        body=b"Param1=value1",
    ),
}


@pytest.mark.parametrize("name", PUBLIC)
def test_public_vectors(name: str) -> None:
    check(PUBLIC[name])


def signed_by_botocore(
    method: str = "POST",
    url: str = "http://127.0.0.1:8080/",
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    service: str = "ssm",
    secret: str = SECRET,
    presigned: bool = False,
    token: str | None = None,
) -> Request:
    request = AWSRequest(method, url, data=body, headers=headers or {})
    signer = SigV4QueryAuth if presigned else SigV4Auth
    signer(BotoCredentials(KEY_ID, secret, token), service, REGION).add_auth(request)
    prepared = request.prepare()
    path, _, query = prepared.url.split("8080", 1)[1].partition("?")
    items = [(name, _text(value)) for name, value in prepared.headers.items()]
    return Request(method, path, query, [*items, ("Host", "127.0.0.1:8080")], body)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def now() -> float:
    return datetime.now(UTC).timestamp()


CALL = {"X-Amz-Target": "AmazonSSM.StartSession", "Content-Type": "application/x-amz-json-1.1"}
CHANNEL = "http://127.0.0.1:8080/v1/data-channel/"


@pytest.mark.parametrize(
    "sign",  # when the test runs: a signature is good for five minutes
    [
        partial(signed_by_botocore, body=b'{"Target":"i-1"}', headers=CALL),
        partial(signed_by_botocore, "GET", CHANNEL + "u-0a1?role=publish_subscribe&cell-number=AR"),
        partial(signed_by_botocore, "GET", CHANNEL + "a.b%40c%20d?role=r&cell-number=AA%2BB%3D&a"),
        partial(signed_by_botocore, "GET", CHANNEL + "x?role=r", presigned=True),
    ],
    ids=["call", "websocket", "encoded", "presigned"],
)
def test_accepts_what_botocore_signs(sign: Callable[[], Request]) -> None:
    check(sign(), now=now(), service="ssm")


def refusal(request: Request, **kwargs: object) -> str:
    with pytest.raises(SignatureError) as caught:
        check(request, **kwargs)  # type: ignore[arg-type]
    return caught.value.code


def changed(request: Request, **fields: object) -> Request:
    values = {name: getattr(request, name) for name in ("method", "path", "query", "headers")}
    return Request(**(values | {"body": request.body} | fields))


@pytest.mark.parametrize(
    "fields",
    [{"method": "PUT"}, {"path": "/x"}, {"query": "a=b"}, {"body": b"{}"}],
    ids=["method", "path", "query", "body"],
)
def test_whatever_is_signed_cannot_change(fields: dict[str, object]) -> None:
    assert refusal(changed(PUBLIC["get-vanilla"], **fields)) == "InvalidSignatureException"


def test_a_changed_signed_header_is_refused() -> None:
    headers = [
        (name, "AmazonSSM.TerminateSession" if name == "X-Amz-Target" else value)
        for name, value in signed_by_botocore(headers=CALL).headers
    ]
    request = Request("POST", "/", "", headers)
    assert refusal(request, now=now(), service="ssm") == "InvalidSignatureException"


def test_an_unsigned_amz_header_is_refused() -> None:
    vanilla = PUBLIC["get-vanilla"]
    headers = [*vanilla.headers, ("X-Amz-Target", "AmazonSSM.StartSession")]
    assert refusal(changed(vanilla, headers=headers)) == "InvalidSignatureException"


def test_another_secret_service_or_region_is_refused() -> None:
    wrong = signed_by_botocore(secret="other")
    assert refusal(wrong, now=now(), service="ssm") == "InvalidSignatureException"
    other = signed_by_botocore(service="ssmmessages")
    assert refusal(other, now=now(), service="ssm") == "InvalidSignatureException"
    with pytest.raises(SignatureError):
        verify(PUBLIC["get-vanilla"], CREDENTIALS, region="eu-west-1", service="service", now=NOW)


def test_an_unknown_key_or_a_session_token_is_an_unrecognized_client() -> None:
    code = "UnrecognizedClientException"
    headers = [("Host", "h"), ("X-Amz-Date", DATE), ("Authorization", authorization("0" * 64))]
    unknown = [(name, value.replace(KEY_ID, "AKIDOTHER")) for name, value in headers]
    assert refusal(Request("GET", "/", "", unknown)) == code
    assert refusal(signed_by_botocore(token="t"), now=now(), service="ssm") == code
    presigned = signed_by_botocore("GET", CHANNEL, presigned=True, token="t")
    assert refusal(presigned, now=now(), service="ssm") == code


def test_no_signature_at_all() -> None:
    request = Request("GET", "/", "", [("Host", "h")])
    assert refusal(request) == "MissingAuthenticationTokenException"
    assert not sigv4.is_signed(request)
    assert sigv4.is_signed(PUBLIC["get-vanilla"])
    assert sigv4.is_signed(signed_by_botocore("GET", CHANNEL, presigned=True))


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", "Bearer x"), ("X-Amz-Date", DATE)],
        [("Authorization", authorization(VANILLA))],
        [("Authorization", authorization(VANILLA)), ("X-Amz-Date", "today")],
        [
            ("Authorization", authorization(VANILLA).replace("20150830", "20159999")),
            ("X-Amz-Date", "20159999T123600Z"),
        ],
    ],
    ids=["scheme", "no date", "no such form", "no such day"],
)
def test_malformed_authorization(headers: list[tuple[str, str]]) -> None:
    request = Request("GET", "/", "", [("Host", "example.amazonaws.com"), *headers])
    assert refusal(request) == "IncompleteSignatureException"


@pytest.mark.parametrize(
    "query",
    [
        "X-Amz-Signature=0",
        f"X-Amz-Signature=0&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={DATE}",
        f"X-Amz-Signature=0&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={DATE}"
        "&X-Amz-Expires=99999999",
    ],
)
def test_malformed_presigned_query(query: str) -> None:
    assert refusal(Request("GET", "/", query, [])) == "IncompleteSignatureException"


@pytest.mark.parametrize(
    ("offset", "good"), [(299, True), (-299, True), (301, False), (-301, False)]
)
def test_clock_skew(offset: int, good: bool) -> None:
    if good:
        check(PUBLIC["get-vanilla"], now=NOW + offset)
    else:
        assert refusal(PUBLIC["get-vanilla"], now=NOW + offset) == "InvalidSignatureException"


def test_a_presigned_url_lives_as_long_as_it_says() -> None:
    request = signed_by_botocore("GET", CHANNEL, presigned=True)
    check(request, now=now() + 3590, service="ssm")
    assert refusal(request, now=now() + 3610, service="ssm") == "InvalidSignatureException"


def test_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare_digest(a: bytes, b: bytes) -> bool:
        compared.extend((a, b))
        return hmac.compare_digest(a, b)

    watched = SimpleNamespace(compare_digest=compare_digest, digest=hmac.digest)
    monkeypatch.setattr(sigv4, "hmac", watched)
    check(PUBLIC["get-vanilla"])
    assert compared[-2:] == [VANILLA.encode()] * 2


def test_canonical_forms() -> None:
    assert sigv4.canonical_path("/a%20b/../c/./d/") == "/c/d/"
    assert sigv4.canonical_path("/a%20b") == "/a%2520b"
    assert sigv4.canonical_path("") == "/"
    assert sigv4.canonical_query([("b", ""), ("a", "2"), ("a", "1"), ("%7e", "x y")]) == (
        "a=1&a=2&b=&~=x%20y"
    )
