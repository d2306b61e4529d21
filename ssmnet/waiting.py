"""Waiting: a connection for which there is no session yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .errors import ConnectError, Error
from .session import Session
from .transport import StreamTransport


class Waiting:
    """Waits at most ``timeout`` seconds. ``abort`` it when it is not needed any more.

    ``forget`` is called when it waits no longer, unless it is by ``use`` or ``fail``.
    """

    def __init__(
        self, protocol: asyncio.Protocol, forget: Callable[[Waiting], None], timeout: float
    ) -> None:
        self.protocol = protocol
        self._forget = forget
        self._timeout = timeout
        self._transport: StreamTransport | None = None
        self._timer = asyncio.get_running_loop().call_later(timeout, self._expire)

    def use(self, session: Session) -> None:
        """There is a session."""
        self._timer.cancel()
        try:
            self._transport = session.create_stream(self.protocol)
        except Error as error:
            self.protocol.connection_lost(error)

    def fail(self, error: Error) -> None:
        """There will be none."""
        self._timer.cancel()
        self.protocol.connection_lost(error)

    def abort(self) -> None:
        """The connection is gone."""
        self._timer.cancel()
        self._forget(self)
        if self._transport is not None:
            self._transport.abort()

    def _expire(self) -> None:
        self._forget(self)
        self.fail(ConnectError(f"there was no session within {self._timeout:g} s"))
