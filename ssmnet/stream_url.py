"""Which hosts a data channel may be opened to.

The upgrade request is signed and the first message holds the session's token, so a StreamUrl that
names a wrong host would hand both to a stranger. Only ``wss`` to the ``ssmmessages`` endpoints of
the session's own region is accepted, or to an endpoint that the user configured; ``ws`` only to
this machine.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import parse_qsl

from .errors import RemoteProtocolError, UsageError

# A StreamUrl has some 400 characters, a presigned one with a session token a few thousand.
_MAX_LENGTH = 8192

# One strict pattern instead of a URL parser: what it lets through, every parser reads alike.
# It has no room for user information, escapes in the host, backslashes, blanks or fragments.
_URL = re.compile(
    r"(?P<scheme>[a-z]{2,5})://"
    r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9.-]{1,253})"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>(?:[/?][A-Za-z0-9._~:/?@!$&'()*+,;=%-]*)?)"
)
_REGION = re.compile(r"[a-z]{2,}(-[a-z0-9]+)+")
_PORTS = {"wss": 443, "https": 443, "ws": 80, "http": 80}
_SCHEMES = {"wss": "wss", "https": "wss", "ws": "ws", "http": "ws"}

# The DNS suffixes of AWS's partitions, as in botocore's partitions.json: IPv4, then dual-stack.
_SUFFIXES = frozenset(
    {
        *("amazonaws.com", "api.aws"),
        *("amazonaws.com.cn", "api.amazonwebservices.com.cn"),
        *("amazonaws.eu", "api.amazonwebservices.eu"),
        *("c2s.ic.gov", "api.aws.ic.gov"),
        *("sc2s.sgov.gov", "api.aws.scloud"),
        *("cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
        *("csp.hci.ic.gov", "api.aws.hci.ic.gov"),
    }
)
_SERVICES = frozenset({"ssmmessages", "ssmmessages-fips"})


class _Parts(NamedTuple):
    scheme: str
    host: str
    """Lower case; an IPv6 address keeps its brackets."""
    port: int
    authority: str
    """Host and port as they were written."""
    rest: str
    """Path and query."""


def check_region(region: str) -> None:
    """Raise UsageError unless ``region`` looks like a region: it becomes part of host names."""
    if len(region) > 40 or not _REGION.fullmatch(region):
        raise UsageError(f"{_shown(region)} is not an AWS region; one looks like eu-west-1")


def check_endpoint(endpoint: str) -> None:
    """Raise UsageError unless ``endpoint`` is a URL that a user may configure.

    It has the scheme ``https``, ``wss``, or, only for this machine, ``http`` or ``ws``.
    """
    parts = _endpoint(endpoint)
    if _SCHEMES[parts.scheme] == "ws" and not _is_loopback(parts.host):
        raise UsageError(f"endpoint {_shown(endpoint)} must be https: only loopback may be plain")


def check_stream_url(
    url: str, region: str, *, endpoints: Iterable[str] = (), allow_loopback: bool = False
) -> None:
    """Raise RemoteProtocolError unless a session of ``region`` may be opened at ``url``.

    ``endpoints`` are the URLs of endpoints that the user configured: their hosts are trusted too,
    on their own port or 443. ``ws``, and any port of this machine, need ``allow_loopback`` or an
    endpoint on this machine. Raises UsageError for a bad region or endpoint.
    """
    check_region(region)
    parts = _stream_url(url)
    configured = [_endpoint(endpoint) for endpoint in endpoints]
    if _is_loopback(parts.host):
        trusted = allow_loopback or any(_is_loopback(e.host) for e in configured)
    elif parts.scheme == "ws":
        raise RemoteProtocolError(f"refused StreamUrl: no TLS to {_shown(parts.authority)}")
    else:
        trusted = parts.port == 443 and _is_aws_host(parts.host, region)
        trusted |= any(parts.host == e.host and parts.port in (443, e.port) for e in configured)
    if not trusted:
        raise RemoteProtocolError(
            f"refused StreamUrl: {_shown(parts.authority)} is not ssmmessages of {region};"
            " if it is your own endpoint, set AWS_ENDPOINT_URL_SSMMESSAGES"
        )


def move_stream_url(url: str, endpoint: str) -> str:
    """Return ``url`` with scheme, host and port of ``endpoint``; path and query stay."""
    target = _endpoint(endpoint)
    return f"{_SCHEMES[target.scheme]}://{target.authority}{_stream_url(url).rest}"


def is_presigned(url: str) -> bool:
    """Say whether ``url`` carries its own signature, as ``X-Amz-`` parameters."""
    _, _, query = url.partition("?")
    names = (name.lower() for name, _ in parse_qsl(query, keep_blank_values=True))
    return any(name.startswith("x-amz-") for name in names)


def _stream_url(url: str) -> _Parts:
    parts = _parse(url)
    if parts is None or parts.scheme not in ("wss", "ws"):
        # Nothing of it is shown: its query may hold a signature.
        raise RemoteProtocolError("refused StreamUrl: it is not a plain wss:// URL")
    return parts


def _endpoint(url: str) -> _Parts:
    parts = _parse(url)
    if parts is None or parts.scheme not in _SCHEMES:
        raise UsageError("an endpoint URL looks like https://host or https://host:port")
    return parts


def _parse(url: str) -> _Parts | None:
    if len(url) > _MAX_LENGTH or not (match := _URL.fullmatch(url)):
        return None
    scheme, host, port, rest = match.groups()
    number = int(port) if port else _PORTS.get(scheme, 0)
    if not 0 < number < 65536 or (host[0] == "[" and _address(host) is None):
        return None
    return _Parts(scheme, host.lower(), number, f"{host}:{port}" if port else host, rest)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_aws_host(host: str, region: str) -> bool:
    name, _, suffix = host.partition(f".{region}.")
    if name in _SERVICES:
        return suffix in _SUFFIXES
    # An interface endpoint in a VPC: vpce-0123-abcd.ssmmessages.eu-west-1.vpce.amazonaws.com
    endpoint, _, service = name.partition(".")
    return (
        re.fullmatch(r"vpce-[0-9a-z-]+", endpoint) is not None
        and service in _SERVICES
        and suffix.startswith("vpce.")
        and suffix.removeprefix("vpce.") in _SUFFIXES
    )


def _shown(text: str) -> str:
    return ascii(text[:100])
