"""HttpClient: the protocol of an HTTP proxy's clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from .destination import Destination
from .errors import ConnectError, DestinationRefused
from .forward import Forwarder, Peer
from .greeting import GONE, LINGER_TIME, Greetings, ProxyClient
from .http_request import Failure, HttpRequest
from .protocol.socks import Outcome

_FAILURES = {
    Outcome.REFUSED: Failure.REFUSED,
    Outcome.NOT_FOUND: Failure.NOT_FOUND,
    Outcome.FORBIDDEN: Failure.FORBIDDEN,
    Outcome.TIMED_OUT: Failure.TIMED_OUT,
}


class HttpClient(ProxyClient):
    """One client. ``check_password`` is as HttpRequest has it.

    ``pac`` gives the text of the PAC file for a browser that reaches this machine at a host.
    """

    def __init__(
        self,
        greetings: Greetings,
        check_password: Callable[[str, str], bool] | None = None,
        pac: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(greetings)
        self._request = HttpRequest(check_password, pac and partial(self._pac, pac))

    def receive(self, data: bytes) -> None:
        """Read more of the head of a request."""
        request = self._request
        request.receive(data)
        if request.error:
            self.refuse(request.error, request.data_for_client())
        elif request.over:
            self._part(request.data_for_client())
        elif request.destination is not None:
            self.dial(Destination(*request.destination))

    def reply(self, outcome: Outcome, error: str) -> bytes:
        """Why there is no destination. That there is one, only the request can tell."""
        if outcome is not Outcome.GRANTED:
            self._request.fail(_FAILURES.get(outcome, Failure.UNAVAILABLE), error)
        return self._request.data_for_client()

    def prepare(self, forwarder: Forwarder) -> None:
        """All goes through the request."""
        request = self._request
        forwarder.set_peers(_ClientSide(forwarder, request), _FarSide(forwarder, request))

    def _pac(self, pac: Callable[[str], str]) -> str:
        return pac(self._open_transport.get_extra_info("sockname")[0])


class _Side(Peer):
    """A side of one request and its answer, which all bytes go through until there is a tunnel."""

    __slots__ = ("_request",)

    def __init__(self, forwarder: Forwarder, request: HttpRequest) -> None:
        super().__init__(forwarder)
        self._request = request

    def _flush(self) -> None:
        """Send both sides what the request has for them, and end what is over."""
        request, forwarder = self._request, self._forwarder
        client, far = forwarder.left.transport, forwarder.right.transport
        if client is None or far is None or client.is_closing():
            return
        if (data := request.data_for_destination()) and not far.is_closing():
            far.write(data)
        if data := request.data_for_client():
            client.write(data)
        if request.error:
            forwarder.error = forwarder.error or ConnectError(request.error)
        if request.is_broken:
            forwarder.abort()
        elif request.over:
            self._linger(client)
        elif request.is_tunnel:
            client.resume_reading()
        elif not request.wants_data:
            client.pause_reading()

    def _linger(self, client: asyncio.Transport) -> None:
        """Close when the client does, or has had the time to.

        Closing while it sends would reset the connection, and it might never see the answer.
        """
        left, right = self._forwarder.left, self._forwarder.right
        if right.transport is not None:
            right.transport.pause_reading()
        if isinstance(left, _ClientSide) and left.timer is None:
            left.timer = asyncio.get_running_loop().call_later(LINGER_TIME, client.close)
            client.resume_reading()
            with contextlib.suppress(OSError):
                client.write_eof()


class _ClientSide(_Side):
    __slots__ = ("timer",)

    def __init__(self, forwarder: Forwarder, request: HttpRequest) -> None:
        super().__init__(forwarder, request)
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        early, self.other._early = self.other._early, b""
        super().connection_made(transport)
        self._request.connected()
        self._flush()
        if early:
            self.other.received -= len(early)  # counted when it came
            self.other.data_received(early)

    def data_received(self, data: bytes) -> None:
        if self._request.is_tunnel:
            super().data_received(data)
            return
        self.received += len(data)
        self._request.receive(data)
        self._flush()

    def eof_received(self) -> bool:
        if self._request.is_tunnel:
            return super().eof_received()
        if not self._request.over:
            # It has gone: nobody who wants an answer closes half of a connection.
            self._forwarder.lose(self, ConnectError(GONE))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)


class _FarSide(_Side):
    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        if self._request.is_tunnel or self.other.transport is None:
            super().data_received(data)
            return
        self.received += len(data)
        self._request.receive_response(data)
        self._flush()

    def eof_received(self) -> bool:
        if self._request.is_tunnel:
            return super().eof_received()
        if self.other.transport is not None:
            self._request.receive_response(b"")
            self._flush()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        request = self._request
        if request.is_tunnel or self.other.transport is None or self.other.lost:
            super().connection_lost(exc)
            return
        # The client is to get the rest of its answer; its own end is the forwarder's.
        self.lost = True
        if exc is None:
            request.receive_response(b"")
        elif isinstance(exc, DestinationRefused):
            request.fail(Failure.REFUSED, str(exc))
        else:
            request.fail(Failure.CUT_OFF, "the connection to the destination was lost")
        self._flush()
