"""Connections for applications, with asyncio's own arguments: as streams, or for a protocol."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, TypeVar, cast

from .bridge import HANDSHAKE_TIMEOUT, Bridges
from .events import Connected, Event
from .forward import disconnected
from .transport import StreamTransport

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
        for name, seconds in (
            ("ssl_handshake_timeout", ssl_handshake_timeout),
            ("ssl_shutdown_timeout", ssl_shutdown_timeout),
        ):
            if seconds is not None and seconds <= 0:
                raise ValueError(f"{name} should be a positive number, got {seconds}")
        self.ssl = ssl
        self.server_hostname = server_hostname
        given = ssl_handshake_timeout
        self.handshake_timeout = HANDSHAKE_TIMEOUT if given is None else given
        self.shutdown_timeout = ssl_shutdown_timeout


class Connections:
    """The connections of one owner, with ``numbers``, counted and told to ``tell``.

    ``sent`` and ``received`` are bytes, of all so far; with TLS as they are in the tunnel.
    """

    def __init__(self, tell: Callable[[Event], None], numbers: Iterator[int]) -> None:
        self._tell = tell
        self._numbers = numbers
        self._bridges = Bridges()
        self._open: dict[StreamTransport, None] = {}
        self._sent = 0  # of those that are over
        self._received = 0

    @property
    def sent(self) -> int:
        """How many bytes were written."""
        return self._sent + sum(transport.sent for transport in self._open)

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return self._received + sum(transport.received for transport in self._open)

    async def create(
        self,
        dial: Dial,
        factory: Callable[[], P],
        destination: str,
        host: str,
        security: Security,
    ) -> tuple[asyncio.Transport, P]:
        """Connect ``factory``'s protocol to ``host``, by TLS if ``security`` says so.

        ``destination`` is what it is called. Raises TypeError for a protocol that is no
        asyncio.Protocol, and what ``dial`` raises.
        """

        async def counted(protocol: asyncio.Protocol) -> asyncio.Transport:
            return await dial(_Opening(protocol, lambda opened: self._opened(opened, destination)))

        if security.ssl:
            named = security.server_hostname
            return await self._bridges.create_connection(
                counted,
                lambda: _checked(factory()),
                ssl=security.ssl,
                server_hostname=host if named is None else named,
                ssl_handshake_timeout=security.handshake_timeout,
                ssl_shutdown_timeout=security.shutdown_timeout,
            )
        protocol = _checked(factory())
        return await counted(protocol), protocol

    async def open(
        self, dial: Dial, destination: str, host: str, security: Security, limit: int = LIMIT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As asyncio.open_connection; for the others see create."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await self.create(dial, lambda: protocol, destination, host, security)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def close(
        self, drain: float, close_sessions: Callable[..., Coroutine[Any, Any, None]]
    ) -> None:
        """End all: what was written has ``drain`` seconds to arrive."""
        await self._bridges.close(drain)
        await close_sessions(drain=drain)
        await asyncio.sleep(0)  # protocols are told in the loop's next turn

    def _opened(self, transport: StreamTransport, destination: str) -> None:
        number = next(self._numbers)
        self._open[transport] = None
        transport.on_lost = lambda error: self._lost(transport, number, destination, error)
        self._tell(Connected(number, "", destination))

    def _lost(
        self, transport: StreamTransport, number: int, destination: str, error: Exception | None
    ) -> None:
        transport.on_lost = None
        self._open.pop(transport, None)
        sent, received = transport.sent, transport.received
        self._sent += sent
        self._received += received
        self._tell(disconnected(number, destination, sent, received, error))


class _Opening(asyncio.Protocol):
    """Hands its transport on to ``protocol``, and is not in its way then."""

    def __init__(
        self, protocol: asyncio.Protocol, opened: Callable[[StreamTransport], None]
    ) -> None:
        self._protocol = protocol
        self._opened = opened

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        transport.set_protocol(self._protocol)
        self._opened(cast(StreamTransport, transport))
        self._protocol.connection_made(transport)


def _checked(protocol: P) -> P:
    if not isinstance(protocol, asyncio.Protocol):
        raise TypeError(f"a tunnel needs an asyncio.Protocol, not {type(protocol).__name__}")
    return protocol
