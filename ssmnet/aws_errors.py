"""What went wrong at AWS, told as ssmnet's own errors: one line, and what to do.

The one seam between botocore's exceptions and ours. It knows them by the names of their classes
and codes, so that nothing of botocore is imported here and its versions do not matter.
"""

import contextlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .errors import (
    AccessDenied,
    CredentialsError,
    Error,
    ServiceError,
    TargetNotConnected,
    UsageError,
)

_MAX_TEXT = 400
# Of a proxy's URL the user and the password, of a presigned one what makes it one.
_SECRET = re.compile(
    r"(?<=://)[^\s\"'<>]*@|(?<=Signature=)\w+|(?i:(?<=x-amz-security-token)[=:])[^\s\"'&]+"
)

_DENIED = {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired"}
_REJECTED = {
    "AuthFailure",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "MissingAuthenticationTokenException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
_THROTTLED = {
    "BandwidthLimitExceeded",
    "LimitExceededException",
    "RequestLimitExceeded",
    "RequestThrottled",
    "RequestThrottledException",
    "SlowDown",
    "ThrottledException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_BAD_REQUEST = {
    "InvalidDocument",
    "InvalidDocumentVersion",
    "InvalidParameters",
    "ValidationException",
}
_SSO = {"SSOError", "TokenRetrievalError", "NoAuthTokenError"}
_CONFIGURATION = {
    "ConfigNotFound",
    "ConfigParseError",
    "InvalidRegionError",
    "ParamValidationError",
}
# The request cannot have been carried out, or is harmless to repeat.
_UNREACHED = {"EndpointConnectionError", "ConnectTimeoutError", "ConnectionClosedError"}
_NETWORK = _UNREACHED | {"ConnectionError", "HTTPClientError"}


class Call(NamedTuple):
    """What was asked of AWS, for the text of an error."""

    action: str = "AWS"
    """As in IAM: ``ssm:StartSession``."""
    target: str = ""
    region: str = ""
    endpoint: str = ""
    profile: str | None = None


@contextlib.contextmanager
def explained(explanation: Callable[[Exception], Error]) -> Iterator[None]:
    """Raise what ``explanation`` makes of errors that are not ssmnet's own."""
    try:
        yield
    except Error:
        raise
    except Exception as error:
        raise explanation(error) from error


def explain(error: BaseException, call: Call) -> Error:
    """Return what to raise for ``error`` of an API call or of the settings that it needs."""
    names = _names(error)
    text = one_line(str(error))
    if error_code(error):
        return _explain_answer(error, call)
    if "ProfileNotFound" in names:
        return UsageError(f"{text}; `aws configure list-profiles` shows those there are")
    if names & _CONFIGURATION or text.startswith("Invalid endpoint"):
        return UsageError(text)
    if "SSLError" in names:
        return ServiceError(f"cannot trust {call.endpoint}: {text}; is AWS_CA_BUNDLE to be set?")
    if "ProxyConnectionError" in names:
        return ServiceError(f"{text}; check HTTPS_PROXY")
    if isinstance(error, TimeoutError) or "ReadTimeoutError" in names:
        return ServiceError(f"no answer to {call.action} from {call.endpoint} in time")
    if names & _NETWORK:
        return ServiceError(
            f"{text}; check the network, region {call.region}, HTTPS_PROXY and AWS_CA_BUNDLE"
        )
    return ServiceError(f"{call.action} failed: {type(error).__name__}: {text}")


def explain_credentials(error: BaseException, profile: str | None) -> Error:
    """Return what to raise for ``error`` of looking for credentials."""
    names = _names(error)
    text = one_line(str(error))
    whose = f"profile {one_line(profile)}" if profile else "the default profile"
    if names & ({"ProfileNotFound"} | _CONFIGURATION):
        return explain(error, Call(profile=profile))
    if isinstance(error, TimeoutError):
        return CredentialsError(f"the look-up of credentials for {whose} took too long")
    if "LoginError" in names:
        return CredentialsError(f"{text} Log in with `{login_command(profile, 'login')}`")
    if names & _SSO or error_code(error) in _EXPIRED | {"UnauthorizedException"}:
        login = login_command(profile)
        return CredentialsError(f"the login of {whose} is missing or expired: run `{login}`")
    return CredentialsError(f"no credentials for {whose}: {text}")


def login_command(profile: str | None, command: str = "sso login") -> str:
    """Return the shell command that logs ``profile`` in."""
    return f"aws {command} --profile {shlex.quote(profile)}" if profile else f"aws {command}"


def retries(error: BaseException) -> int:
    """Return how often a call may be repeated after ``error``: 0, a few times, or on and on."""
    if error_code(error) in _THROTTLED:
        return sys.maxsize
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status >= 500 or _names(error) & _UNREACHED:
        return 2
    return 0


def error_code(error: BaseException | None) -> str:
    """Return AWS's code of an error that it answered, or an empty string."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def one_line(text: str) -> str:
    """Return foreign text as one printable line of bounded length, without secrets of URLs."""
    public = _SECRET.sub("***", text[: 20 * _MAX_TEXT])
    printable = "".join(c if c.isprintable() else " " for c in public[: 4 * _MAX_TEXT])
    return " ".join(printable.split())[:_MAX_TEXT]


def _explain_answer(error: BaseException, call: Call) -> Error:
    response = getattr(error, "response", {}).get("Error", {})
    code = one_line(str(response.get("Code", "")))
    said = one_line(str(response.get("Message") or "")).rstrip(".") or "no message"
    about = f"{call.action} on {call.target}" if call.target else call.action
    if code == "TargetNotConnected":
        return TargetNotConnected(
            f"{call.target} is not connected in {call.region}:"
            " its agent is offline, or the id or the region is wrong"
        )
    if code in _DENIED:
        return AccessDenied(f"{about} is not allowed: {said}")
    if code in _EXPIRED:
        login = login_command(call.profile)
        return CredentialsError(f"the credentials have expired: renew them, or run `{login}`")
    if code in _REJECTED:
        # What follows may repeat the request, with signature and session token.
        reason = said.partition(". ")[0]
        return CredentialsError(f"AWS rejects the credentials: {reason}; check them and the clock")
    if code in _THROTTLED:
        return ServiceError(f"AWS throttles {about}: {said}; start fewer at once, or later")
    if code in _BAD_REQUEST:
        return UsageError(f"{about} is not valid: {code}: {said}")
    return ServiceError(f"{about} failed: {code}: {said}")


def _names(error: BaseException) -> set[str]:
    return {cls.__name__ for cls in type(error).__mro__}
