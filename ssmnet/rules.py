"""Rules: which destinations are allowed, and which target leads there.

A pattern is a host, and optionally ports after a colon::

    10.1.0.0/16   192.0.2.7   fd00::/8        addresses
    *.prod.internal   db?.x   *               names; * alone is every name and every address
    *.internal:443   10.0.0.0/8:5432-5439     with ports
    [fd00::]/8:22                             IPv6 with ports needs brackets

Rules are held against the host as it was asked for. Names are looked up at the far end, so nobody
here knows the address of a name: ``--deny 10.0.0.0/8`` does not keep anyone from a name that leads
to 10.0.0.1, and ``--deny db.internal`` not from its address. To be strict, allow what is needed.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

import msgspec

from .destination import Destination
from .errors import DestinationForbidden, UsageError

ALL_PORTS = range(65536)

# What stands between the brackets, the prefix's length, and the ports.
_BRACKETS = re.compile(r"\[([^][]*)\](/[0-9]{1,3})?(?::(.*))?")
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_NAME = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*")
_GLOB = re.compile(r"[a-z0-9_*?-]+(\.[a-z0-9_*?-]+)*")
# A name whose last label is a number is an address to some resolvers: 127.1, 0x7f.1, 2130706433.
_ENDS_AS_NUMBER = re.compile(r"(.*\.)?([0-9]+|0x[0-9a-f]*)")
_VIA = re.compile(r"(\S+)\s+via\s+(\S+)")
# Where a network's gateway stands for IPv4: RFC 6052.
_NAT64 = IPv6Network("64:ff9b::/96")

Address = IPv4Address | IPv6Address


class Pattern(msgspec.Struct, frozen=True):
    """Hosts and ports. One of ``network`` and ``glob`` is given; both None is every host."""

    text: str
    network: IPv4Network | IPv6Network | None
    glob: str | None
    ports: range

    def fits(self, host: str | Address, port: int) -> bool:
        """Whether it fits a host as ``read_host`` gives it."""
        if port not in self.ports:
            return False
        if self.network is not None:
            return not isinstance(host, str) and host in self.network
        if self.glob is not None:
            return isinstance(host, str) and fnmatchcase(host, self.glob)
        return True


class Route(msgspec.Struct, frozen=True):
    """Destinations that are reached through ``target``."""

    pattern: Pattern
    target: str


class Rules:
    """What is allowed, and through which target. Raises UsageError for a pattern or route.

    ``deny`` wins over ``allow``; where ``allow`` is given, all else is denied. Of ``routes``
    (``PATTERN via TARGET``) the first that fits wins, and ``default_target`` is for the rest.
    """

    def __init__(
        self,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        routes: Sequence[str] = (),
        default_target: str | None = None,
    ) -> None:
        self.allow = tuple(parse_pattern(text) for text in allow)
        self.deny = tuple(parse_pattern(text) for text in deny)
        self.routes = tuple(parse_route(text) for text in routes)
        self.default_target = default_target

    def target_of(self, destination: Destination) -> str:
        """The target that leads to ``destination``. Raises DestinationForbidden."""
        host = read_host(destination.host)
        port = destination.port
        if not 0 < port < 65536:
            raise DestinationForbidden(f"{port} is no port of a destination")
        for pattern in self.deny:
            if any(pattern.fits(reading, port) for reading in _readings(host)):
                raise DestinationForbidden(f"{destination} is denied by the rule {pattern.text}")
        if self.allow and not any(pattern.fits(host, port) for pattern in self.allow):
            allowed = ", ".join(pattern.text for pattern in self.allow)
            raise DestinationForbidden(f"{destination} is not in what is allowed: {allowed}")
        for route in self.routes:
            if route.pattern.fits(host, port):
                return route.target
        if self.default_target is None:
            raise DestinationForbidden(f"no route leads to {destination}, and no target is default")
        return self.default_target


def read_host(host: str) -> str | Address:
    """Read a destination's host: a name in lower case without the last dot, or an address.

    An IPv4 address within IPv6 is read as IPv4. What programs read in different ways is refused, as
    are addresses that mean "this host" to some: raises DestinationForbidden.
    """
    name = host.lower().removesuffix(".")
    address = _parse_address(name)
    if address is not None:
        if address.is_unspecified:
            raise DestinationForbidden(f"{name} is no address of a destination")
        return address
    if len(name) > 253 or not _NAME.fullmatch(name):
        raise DestinationForbidden(f"{host[:100]!a} is no name of a host")
    if _ENDS_AS_NUMBER.fullmatch(name):
        raise DestinationForbidden(f"{name} may be an address or not: write it as 127.0.0.1")
    return name


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern. Raises UsageError."""
    host, ports = _split(text)
    if host == "*":
        return Pattern(text, None, None, ports)
    if re.fullmatch(r"[0-9.]+(/.*)?", host) or ":" in host:
        return Pattern(text, _parse_network(text, host), None, ports)
    glob = host.lower().removesuffix(".")
    if not _GLOB.fullmatch(glob):
        raise UsageError(f"{text!a} is no pattern: a host is a name with * and ?, or 10.0.0.0/8")
    if re.search(r"[0-9]", glob) and re.fullmatch(r"[0-9*?.]+|.*\.[0-9*?]*[0-9][0-9*?]*", glob):
        raise UsageError(f"{text!a} is no pattern: addresses are written as 10.0.0.0/8")
    return Pattern(text, None, glob, ports)


def parse_route(text: str) -> Route:
    """Parse ``PATTERN via TARGET``. Raises UsageError."""
    match = _VIA.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!a} is no route; one looks like '*.prod.internal via i-0123'")
    return Route(parse_pattern(match[1]), match[2])


def _split(text: str) -> tuple[str, range]:
    """Split a pattern into its host, without brackets, and its ports."""
    if match := _BRACKETS.fullmatch(text):
        address, prefix, ports = match.groups()
        if ":" not in address:
            raise UsageError(f"{text!a} is no pattern: brackets are for IPv6 addresses")
        return address + (prefix or ""), _parse_ports(text, ports)
    if text.count(":") > 1:
        return text, ALL_PORTS
    host, colon, ports = text.partition(":")
    return host, _parse_ports(text, ports if colon else None)


def _parse_ports(text: str, ports: str | None) -> range:
    if ports is None:
        return ALL_PORTS
    match = _PORTS.fullmatch(ports)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 0 < first <= last < 65536:
        raise UsageError(f"{text!a} is no pattern: ports are written as 443 or 5432-5439")
    return range(first, last + 1)


def _parse_network(text: str, network: str) -> IPv4Network | IPv6Network:
    # Strict, since ip_network would also read a netmask in place of the length, and a zone.
    if re.fullmatch(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", network):
        with contextlib.suppress(ValueError):
            found = ip_network(network, strict=False)
            if "/" in network and ip_address(network.partition("/")[0]) != found.network_address:
                raise UsageError(f"{text!a} is no pattern: write {found}, if that is meant")
            if not _is_mapped(found):
                return found
    raise UsageError(f"{text!a} is no pattern: addresses are written as 10.0.0.0/8 or fd00::/8")


def _is_mapped(network: IPv4Network | IPv6Network) -> bool:
    """Whether it is IPv4 within IPv6: an address is never held against such a one."""
    return network.version == 6 and network.network_address.ipv4_mapped is not None


def _parse_address(text: str) -> Address | None:
    if "%" in text:
        return None  # a zone of the far end's
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _readings(host: str | Address) -> tuple[str | Address, ...]:
    """The host, and the IPv4 address behind it where a gateway makes IPv4 of IPv6."""
    if isinstance(host, IPv6Address):
        if host in _NAT64:
            return host, IPv4Address(int(host) & 0xFFFFFFFF)
        if host.sixtofour is not None:
            return host, host.sixtofour
    return (host,)
