"""Destination: a host and port that a target is asked to connect to."""

from __future__ import annotations

import ipaddress

import msgspec


class Destination(msgspec.Struct, frozen=True):
    """``host`` is a name, which the target looks up, or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{in_url(self.host)}:{self.port}"


def in_url(host: str) -> str:
    """The host as it stands before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def is_address(host: str) -> bool:
    """Whether it is an address, which nobody has to look up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
