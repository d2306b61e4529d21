"""Destination: a host and port that a target is asked to connect to."""

from __future__ import annotations

import msgspec


class Destination(msgspec.Struct, frozen=True):
    """``host`` is a name, which the target looks up, or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"
