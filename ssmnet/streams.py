"""Connections for applications, with asyncio's own arguments: as streams, or for a protocol."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from .bridge import HANDSHAKE_TIMEOUT, Bridges

P = TypeVar("P", bound=asyncio.Protocol)

Dial = Callable[[asyncio.Protocol], Awaitable[asyncio.Transport]]
# As asyncio.open_connection's, in bytes.
LIMIT = 64 * 1024


class Security:
    """The TLS arguments of ``loop.create_connection``, checked as there. Raises ValueError."""

    def __init__(
        self,
        ssl: ssl.SSLContext | bool | None,
        server_hostname: str | None,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None,
    ) -> None:
        if not ssl:
            for name, value in (
                ("server_hostname", server_hostname),
                ("ssl_handshake_timeout", ssl_handshake_timeout),
                ("ssl_shutdown_timeout", ssl_shutdown_timeout),
            ):
                if value is not None:
                    raise ValueError(f"{name} is only meaningful with ssl")
        self.ssl = ssl
        self.server_hostname = server_hostname
        given = ssl_handshake_timeout
        self.handshake_timeout = HANDSHAKE_TIMEOUT if given is None else given
        self.shutdown_timeout = ssl_shutdown_timeout


async def create_connection(
    dial: Dial, bridges: Bridges, factory: Callable[[], P], host: str, security: Security
) -> tuple[asyncio.Transport, P]:
    """A connection of ``factory``'s protocol, by TLS if ``security`` says so.

    Raises TypeError for a protocol that is no asyncio.Protocol, and what ``dial`` raises.
    """
    if security.ssl:
        return await bridges.create_connection(
            dial,
            lambda: _checked(factory()),
            ssl=security.ssl,
            server_hostname=host if security.server_hostname is None else security.server_hostname,
            ssl_handshake_timeout=security.handshake_timeout,
            ssl_shutdown_timeout=security.shutdown_timeout,
        )
    protocol = _checked(factory())
    return await dial(protocol), protocol


async def open_connection(
    dial: Dial, bridges: Bridges, host: str, security: Security, limit: int = LIMIT
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As asyncio.open_connection."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await create_connection(dial, bridges, lambda: protocol, host, security)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def _checked(protocol: P) -> P:
    if not isinstance(protocol, asyncio.Protocol):
        raise TypeError(f"a tunnel needs an asyncio.Protocol, not {type(protocol).__name__}")
    return protocol
