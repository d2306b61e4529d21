"""What the clients of every proxy have in common, until a Forwarder takes over.

A ProxyClient is the protocol of an accepted connection. Its subclass reads the request and calls
``dial``; when the destination is reached, or can't be, the client is told so, and not before.
Greetings holds the clients of one proxy that are not so far, and their bounds: a client has a
deadline for its request; of too many without one the oldest is dropped, so that those who say
nothing can't keep out those who do. (Not accepting any more would do just that.)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol, cast

from .destination import Destination
from .errors import (
    ConnectError,
    DestinationForbidden,
    DestinationNotFound,
    DestinationRefused,
    Error,
)
from .forward import Forwarder, Peer, peer_name, reset
from .protocol.socks import Outcome

logger = logging.getLogger("ssmnet.greeting")

# How long a client may take to say where it wants to go.
GREETING_TIMEOUT = 10.0
# How long it is then waited for: a session may have to be started, and AWS throttles that.
DIAL_TIMEOUT = 60.0
# So many come in one turn of the event loop, before any of them can be read.
MAX_GREETING = 2000
MAX_DIALLING = 2000
# What is read of a client whose destination is not reached yet, but for the last piece. Not less:
# that a client has gone away is only known by reading.
MAX_KEPT_SIZE = 64 * 1024
# How long a client that was refused may take to read why.
LINGER_TIME = 2.0

GONE = "the client went away"
CLOSED = "the proxy was closed"


class TimedOut(ConnectError):
    """The destination was not reached in time."""


class Dialer(Protocol):
    """Who reaches destinations; see dialer.Dialer."""

    async def connect(
        self, protocol: asyncio.Protocol, destination: Destination
    ) -> asyncio.Transport:
        """The transport of a connection, of which ``protocol`` has been told. Raises Error."""


class ProxyClient(asyncio.Protocol):
    """One client. A subclass has ``receive`` and ``reply``, and calls ``answer``, then ``dial`` or
    ``refuse``, once.
    """

    def __init__(self, greetings: Greetings) -> None:
        self._greetings = greetings
        self._transport: asyncio.Transport | None = None
        self._forwarder: Forwarder | None = None
        self._task: asyncio.Task[None] | None = None
        self._first = b""
        self._kept = b""
        self._heard = False
        self._paused = False
        self._ended = False
        self._refused = False

    # For the subclass to have.

    def receive(self, data: bytes) -> None:
        """Read more of the request, which must have a bound."""
        raise NotImplementedError

    def reply(self, outcome: Outcome, error: str) -> bytes:
        """What to tell the client of its destination. ``error`` is one line, or empty."""
        raise NotImplementedError

    def prepare(self, forwarder: Forwarder) -> None:
        """Before it is dialled: put peers of one's own into ``forwarder``, by ``set_peers``."""

    # For the subclass to call.

    def answer(self, data: bytes) -> None:
        """Tell the client something before its request is whole."""
        self._open_transport.write(data)

    def dial(self, destination: Destination, rest: bytes = b"") -> None:
        """The request is whole: connect, ``reply``, send ``rest`` as it is, and join both sides."""
        forwarder = self._begin(str(destination))
        if self._greetings.is_full:
            self._give_up(forwarder, ConnectError("too many clients wait for their destinations"))
            return
        self._forwarder = forwarder
        self._first = rest
        self.prepare(forwarder)
        self._task = asyncio.create_task(self._connect(forwarder, destination))
        self._greetings.dialling(self, self._task)

    def refuse(self, error: str, answer: bytes = b"") -> None:
        """Send the last ``answer`` and end. ``error`` is for the event; one line, no secrets."""
        forwarder = self._begin("")
        forwarder.lose(forwarder.left, ConnectError(error))
        self._part(answer)

    # The loop calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The time runs."""
        self._transport = cast(asyncio.Transport, transport)
        timeout = self._greetings.timeout
        self._greetings.wait(self, timeout, f"the client made no request within {timeout:g} s")

    def data_received(self, data: bytes) -> None:
        """A part of the request, or more than that, which has to wait."""
        if self._refused:
            return
        if self._forwarder is not None:
            self._keep(data)
            return
        self._heard = True
        self.receive(data)

    def eof_received(self) -> bool:
        """The client has gone: nobody who wants an answer closes half of a connection."""
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, and its request with it."""
        self._greetings.forget(self)
        self._stop_dialling(exc or ConnectError(GONE))

    # Greetings calls this.

    def drop(self, error: str) -> None:
        """It takes too long, or there is no place for it. One that said nothing is not told of."""
        self._greetings.forget(self)
        if not self._stop_dialling(ConnectError(error)) and self._heard and not self._refused:
            forwarder = self._begin("")
            forwarder.lose(forwarder.left, ConnectError(error))
        self._refused = True
        reset(self._open_transport)

    @property
    def _open_transport(self) -> asyncio.Transport:
        assert self._transport is not None  # noqa: S101 - for mypy
        return self._transport

    def _begin(self, destination: str) -> Forwarder:
        return self._greetings.begin(peer_name(self._open_transport), destination)

    def _stop_dialling(self, error: Exception) -> bool:
        """Whether it was dialling."""
        forwarder, self._forwarder = self._forwarder, None
        if forwarder is None or self._task is None:
            return False
        self._task.cancel()
        forwarder.lose(forwarder.left, error)
        return True

    def _keep(self, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > MAX_KEPT_SIZE:
            self._paused = True
            self._open_transport.pause_reading()

    async def _connect(self, forwarder: Forwarder, destination: Destination) -> None:
        error = await self._greetings.connect(forwarder.right, destination)
        if error is None and forwarder.right.lost:
            error = forwarder.error or ConnectError("the connection was lost at once")
        self._forwarder = None
        self._greetings.forget(self)
        if error is None:
            self._join(forwarder)
        else:
            self._give_up(forwarder, error)

    def _give_up(self, forwarder: Forwarder, error: Exception) -> None:
        forwarder.lose(forwarder.right, error)
        self._part(self.reply(outcome_of(error), str(error)))

    def _join(self, forwarder: Forwarder) -> None:
        """Leave the client to the forwarder."""
        transport, left = self._open_transport, forwarder.left
        transport.write(self.reply(Outcome.GRANTED, ""))
        transport.set_protocol(left)
        left.connection_made(transport)
        if self._paused:
            transport.resume_reading()
        if self._first:
            Peer.data_received(left, self._first)
        if self._kept:
            left.data_received(self._kept)
        self._first = self._kept = b""

    def _part(self, answer: bytes) -> None:
        """Send the last answer and close; at once, but for a client that is still sending.

        Closing while there is something to read would reset the connection, and the client might
        never see the answer.
        """
        self._refused = True
        self._first = self._kept = b""
        transport = self._open_transport
        if not answer:
            reset(transport)
            return
        transport.write(answer)
        if self._ended or not transport.can_write_eof():
            transport.close()
        else:
            with contextlib.suppress(OSError):
                transport.write_eof()
            if self._paused:
                transport.resume_reading()
        self._greetings.wait(self, LINGER_TIME, GONE)


class Greetings:
    """The clients of one proxy that are not joined to their destinations yet.

    ``begin`` is forward.Server's. ``timeout`` is how long a client may take for its request, and
    ``dial_timeout`` how long ``dialer`` may take then, in seconds. Of more than ``max_greeting``
    without a request the oldest is dropped; when ``max_dialling`` have one, the next are told that
    it failed.
    """

    def __init__(
        self,
        dialer: Dialer,
        begin: Callable[[str, str], Forwarder],
        *,
        timeout: float = GREETING_TIMEOUT,
        dial_timeout: float = DIAL_TIMEOUT,
        max_greeting: int = MAX_GREETING,
        max_dialling: int = MAX_DIALLING,
    ) -> None:
        self.begin = begin
        self.timeout = timeout
        self._dialer = dialer
        self._dial_timeout = dial_timeout
        self._max_greeting = max_greeting
        self._max_dialling = max_dialling
        self._waiting: dict[ProxyClient, asyncio.TimerHandle] = {}  # the oldest first
        self._dialling: dict[ProxyClient, asyncio.Task[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._closed = False

    @property
    def is_full(self) -> bool:
        """Whether no more can wait for their destinations."""
        return len(self._dialling) >= self._max_dialling

    def wait(self, client: ProxyClient, seconds: float, error: str) -> None:
        """Drop ``client`` after so many ``seconds``, or when there are too many."""
        self.forget(client)
        if self._closed:
            client.drop(CLOSED)
            return
        if len(self._waiting) >= self._max_greeting:
            next(iter(self._waiting)).drop("too many clients made no request")
        self._waiting[client] = self._loop.call_later(seconds, client.drop, error)

    def dialling(self, client: ProxyClient, task: asyncio.Task[None]) -> None:
        """The client has made its request, and ``task`` connects it."""
        self.forget(client)
        self._dialling[client] = task

    def forget(self, client: ProxyClient) -> None:
        """The client is gone, or has its destination."""
        self._dialling.pop(client, None)
        timer = self._waiting.pop(client, None)
        if timer is not None:
            timer.cancel()

    async def connect(
        self, protocol: asyncio.Protocol, destination: Destination
    ) -> Exception | None:
        """Reach ``destination``; why not, or None."""
        try:
            async with asyncio.timeout(self._dial_timeout):
                await self._dialer.connect(protocol, destination)
        except Error as error:
            return error
        except TimeoutError:
            return TimedOut(f"the destination was not reached in {self._dial_timeout:g} s")
        except Exception as error:
            # The client would wait for its answer in vain.
            logger.exception("cannot connect")
            return ConnectError(f"cannot connect: {type(error).__name__}")
        return None

    async def close(self) -> None:
        """Drop all, and whoever was accepted just now."""
        self._closed = True
        tasks = tuple(self._dialling.values())
        for client in (*self._waiting, *self._dialling):
            client.drop(CLOSED)
        if tasks:
            await asyncio.wait(tasks)


def outcome_of(error: Exception) -> Outcome:
    """What an error of ``connect`` means to a client."""
    if isinstance(error, DestinationRefused):
        return Outcome.REFUSED
    if isinstance(error, DestinationNotFound):
        return Outcome.NOT_FOUND
    if isinstance(error, DestinationForbidden):
        return Outcome.FORBIDDEN
    if isinstance(error, TimedOut):
        return Outcome.TIMED_OUT
    return Outcome.FAILED
