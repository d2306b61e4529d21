"""TLS inside a tunnel, without a local port.

``loop.start_tls`` takes no transport that is not the loop's own, and on uvloop never. So the loop
has one end of a socket pair for its own TLS, and a Forwarder joins the other end to the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar, cast

from .errors import SessionClosed
from .forward import Forwarder, Peer

P = TypeVar("P", bound=asyncio.Protocol)

# How long what was written may take to get out of the socket pair when all is to end, in seconds.
DRAIN_TIME = 3.0
HANDSHAKE_TIMEOUT = 60.0  # seconds; as asyncio's


class Bridges:
    """The connections with TLS of one owner, until each is over."""

    def __init__(self) -> None:
        self._open: dict[Forwarder, asyncio.BaseTransport | None] = {}
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._open)

    async def create_connection(
        self,
        dial: Callable[[asyncio.Protocol], Awaitable[object]],
        factory: Callable[[], P],
        *,
        ssl: ssl.SSLContext | bool,
        server_hostname: str,
        ssl_handshake_timeout: float = HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, P]:
        """A TLS client on what ``dial`` connects its protocol to.

        The arguments are those of ``loop.create_connection``. Raises what ``dial`` raises,
        ssl.SSLError and its kinds, and ConnectionError when the other side leaves meanwhile.
        A protocol that is put in the place of the first by ``set_protocol`` is not told why the
        tunnel was lost: to it that is an end as any other.
        """
        forwarder = Forwarder(0, self._ended)
        forwarder.set_peers(_NearEnd(forwarder), Peer(forwarder))
        self._open[forwarder] = None
        self._empty.clear()
        near: socket.socket | None = None
        try:
            near = await _join(forwarder)
            await dial(forwarder.right)
            guard = _Guard(factory(), forwarder)
            async with _deadline(ssl_handshake_timeout):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: guard,
                    sock=near,
                    ssl=ssl,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                )
        except BaseException as error:
            cause = forwarder.error
            if near is not None:
                near.close()
            self._drop(forwarder)
            if cause is not None and isinstance(error, ConnectionError):
                raise cause from error
            raise
        if forwarder in self._open:
            self._open[forwarder] = transport
        return transport, cast(P, guard.protocol)

    async def close(self, drain: float = DRAIN_TIME) -> None:
        """Close all connections: what was written has ``drain`` seconds, and with 0 none."""
        closed = SessionClosed("the target is closed")
        for forwarder, transport in tuple(self._open.items()):
            if transport is not None and transport.is_closing():
                continue
            forwarder.error = forwarder.error or closed
            if transport is not None and drain:
                transport.close()
            else:
                self._drop(forwarder)
        try:
            async with asyncio.timeout(drain):
                await self._empty.wait()
        except TimeoutError:
            for forwarder in tuple(self._open):
                forwarder.error = forwarder.error or closed
                self._drop(forwarder)
            await self._empty.wait()

    def _drop(self, forwarder: Forwarder) -> None:
        forwarder.abort()
        if forwarder.left.transport is None:
            self._ended(forwarder)

    def _ended(self, forwarder: Forwarder) -> None:
        self._open.pop(forwarder, None)
        if not self._open:
            self._empty.set()


@contextlib.asynccontextmanager
async def _deadline(seconds: float) -> AsyncIterator[None]:
    """The loop's own, which uvloop does not heed on a socket pair."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise ConnectionAbortedError(f"the TLS handshake took more than {seconds:g} s") from error


async def _join(forwarder: Forwarder) -> socket.socket:
    """Give the left peer one end of a socket pair, and return the other."""
    near, far = socket.socketpair()
    try:
        near.setblocking(False)
        far.setblocking(False)
        await asyncio.get_running_loop().create_connection(lambda: forwarder.left, sock=far)
    except BaseException:
        near.close()
        far.close()
        # uvloop does not tell a protocol of a transport that nobody got.
        forwarder.lose(forwarder.left, None)
        raise
    return near


class _NearEnd(Peer):
    """The end of a socket pair whose other end is ours, too."""

    __slots__ = ()

    def eof_received(self) -> bool:
        """TLS closes nothing by halves: there is nobody any more who could read an answer."""
        self.ended = True
        return False


class _Guard(asyncio.Protocol):
    """Stands before a protocol, so that a tunnel that is lost does not look like an orderly end.

    A socket pair knows no reset, and asyncio's TLS takes any end for a good one.
    """

    def __init__(self, protocol: asyncio.Protocol, forwarder: Forwarder) -> None:
        self.protocol = protocol
        self._forwarder = forwarder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.protocol, name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass it on."""
        self.protocol.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on, if it is one."""
        return None if self._forwarder.error is not None else self.protocol.eof_received()

    def pause_writing(self) -> None:
        """Pass it on."""
        self.protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self.protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on, with what has happened to the tunnel."""
        self.protocol.connection_lost(exc or self._forwarder.error)
