"""Forwarder pairs two transports; Server keeps such pairs, and Listener makes them.

All that carries bytes here is an asyncio transport, so one Forwarder joins any two of them: an
accepted TCP connection or unix socket, a stream of a session, a pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Protocol, cast

from .acceptor import Acceptor
from .errors import Error
from .events import Connected, Disconnected, Event

# After one side's end of input, its answer may still come. When no byte has moved for this long,
# the connection is taken for done; see docs/explanation/design.md.
QUIET_TIME = 5.0
# While it is known that some are on their way, or moved lately.
LOOK_AGAIN_TIME = 1.0
# Where the next connection can't begin before this one has ended.
SHORT_QUIET_TIME = 0.5
# Where everything is to end.
HURRIED_QUIET_TIME = 0.05

# Closes with a reset instead of FIN: (on, 0 seconds).
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class Peer(asyncio.Protocol):
    """One side of a Forwarder: what it receives is written to the other side."""

    __slots__ = ("_early", "_forwarder", "ended", "lost", "other", "received", "transport")

    other: Peer

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder = forwarder
        self._early = b""
        self.transport: asyncio.Transport | None = None
        self.received = 0
        self.ended = False
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Read only once both sides are there."""
        self.transport = cast(asyncio.Transport, transport)
        if self.other.transport is None:
            self.transport.pause_reading()
        else:
            self.other.transport.resume_reading()
            self.transport.write(self.other._early)
            self.other._early = b""

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.received += len(data)
        if self.other.transport is not None:
            self.other.transport.write(data)
        elif self.transport is not None:
            # uvloop, and asyncio up to 3.11.2, begin to read after connection_made, paused or not;
            # and the latter heeds no second pause without a resume before.
            self._early += data
            self.transport.resume_reading()
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Nothing more comes from this side; the other may have more to say."""
        self.ended = True
        other = self.other.transport
        if other is not None and other.can_write_eof():
            other.write_eof()
        else:
            self._forwarder.wait_for_quiet()
        return not self.other.ended

    def pause_writing(self) -> None:
        """This side takes no more for now."""
        if self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side takes more again."""
        if self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """An orderly end is passed on after what was written; a loss at once, and as a loss."""
        self._forwarder.lose(self, exc)


class Dialled(Protocol):
    """What ``dial`` has begun: a transport, or what becomes one."""

    def abort(self) -> None:
        """Drop it."""


class Forwarder:
    """Two peers, each of which gets what the other receives. ``left`` is the one that asked.

    ``destination`` is where the right one leads, for people. ``dialled`` is aborted when there is
    no use any more for a right one that is not there yet.
    """

    __slots__ = (
        "_hurried",
        "_moved",
        "_on_end",
        "_timer",
        "destination",
        "dialled",
        "error",
        "left",
        "number",
        "right",
    )

    def __init__(
        self, number: int, on_end: Callable[[Forwarder], None], destination: str = ""
    ) -> None:
        self.set_peers(Peer(self), Peer(self))
        self.number = number
        self.destination = destination
        self.dialled: Dialled | None = None
        self.error: Exception | None = None
        self._on_end = on_end
        self._timer: asyncio.TimerHandle | None = None
        self._moved: tuple[int, int, int] | None = None
        self._hurried = False

    def set_peers(self, left: Peer, right: Peer) -> None:
        """Have others, before either has a transport."""
        self.left, self.right = left, right
        left.other, right.other = right, left

    def wait_for_quiet(self) -> None:
        """One side's end can't be passed on: close both when no byte has moved for a while."""
        right = self.right.transport
        interruptions = 0 if right is None else right.get_extra_info("interruptions", 0)
        moved = (self.left.received, self.right.received, interruptions)
        if (self._hurried or moved == self._moved) and self.close_if_quiet():
            return
        self._moved = moved if self._is_quiet() else None
        quiet_time = QUIET_TIME if self._moved else LOOK_AGAIN_TIME
        if self._hurried:
            quiet_time = HURRIED_QUIET_TIME
        elif right is not None and right.get_extra_info("exclusive", False):
            quiet_time = SHORT_QUIET_TIME
        self._timer = asyncio.get_running_loop().call_later(quiet_time, self.wait_for_quiet)

    def hurry(self) -> None:
        """From now on, close both sides as soon as they are quiet."""
        self._hurried = True
        if self._timer is not None:
            self._timer.cancel()
            self.wait_for_quiet()

    def close_if_quiet(self) -> bool:
        """Close both sides if one has ended its input and all has arrived; whether so."""
        left, right = self.left.transport, self.right.transport
        if left is None or right is None or not (self.left.ended or self.right.ended):
            return False
        if not self._is_quiet():
            return False
        left.close()
        right.close()
        return True

    def end(self) -> None:
        """There is no time to wait for quiet.

        Who has ended its input gets no answer any more, but its session sees to it that all that it
        wrote arrives.
        """
        left, right = self.left.transport, self.right.transport
        if left is None or right is None or not self.left.ended or self.right.lost:
            self.abort()
        elif left.get_write_buffer_size() or right.get_extra_info("acknowledged") is None:
            # Closing would wait for a peer that may never read.
            self.abort()
        else:
            left.close()
            right.close()

    def _is_quiet(self) -> bool:
        """Whether all that was written has arrived, and an answer would."""
        return all(
            peer.transport is not None
            and not peer.transport.get_write_buffer_size()
            and peer.transport.get_extra_info("acknowledged", True)
            for peer in (self.left, self.right)
        )

    def lose(self, peer: Peer, error: Exception | None) -> None:
        """One side is gone: so is the other, now or as soon as it has what was written."""
        if peer.lost:
            return
        self.error = self.error or error
        peer.lost = True
        other = peer.other
        if other.lost or other.transport is None:
            # One that is not there yet will not be waited for, though its own loss may be told.
            other.lost = True
            self._end()
        elif error is None:
            other.transport.close()
        else:
            reset(other.transport)

    def abort(self) -> None:
        """Drop both sides at once."""
        self.error = self.error or ConnectionAbortedError("the forward was closed")
        for peer in (self.left, self.right):
            if peer.transport is not None and not peer.lost:
                reset(peer.transport)

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.right.transport is None and self.dialled is not None:
            self.dialled.abort()
        self._on_end(self)


def reset(transport: asyncio.Transport) -> None:
    """Drop a transport; a TCP peer sees a reset, which can't be taken for a clean end."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(
            OSError, ValueError
        ):  # uvloop raises the latter where it is closed
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


class Server(Acceptor):
    """Accepts connections, and keeps the forwarder of each until it is over.

    ``numbers`` gives each its number, where several have one count; ``accepted`` counts them;
    ``sent`` and ``received`` are bytes, of all so far.
    """

    def __init__(
        self,
        make: Callable[[], asyncio.Protocol],
        on_event: Callable[[Event], None],
        numbers: Iterator[int] | None = None,
    ) -> None:
        super().__init__(make)
        self._numbers = numbers or count(1)
        self._on_event = on_event
        self._forwarders: set[Forwarder] = set()
        self._on_end = self._ended  # one for all of them: it takes as much as half a Forwarder
        self._empty = asyncio.Event()
        self._empty.set()
        self.accepted = 0
        self._sent = 0  # of those that are over
        self._received = 0

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._forwarders)

    @property
    def sent(self) -> int:
        """How many bytes the clients have sent."""
        return self._sent + sum(forwarder.left.received for forwarder in self._forwarders)

    @property
    def received(self) -> int:
        """How many bytes have come for them."""
        return self._received + sum(forwarder.right.received for forwarder in self._forwarders)

    def begin(self, peer: str, destination: str) -> Forwarder:
        """A forwarder, without transports, for a connection from ``peer``."""
        self.accepted += 1
        forwarder = Forwarder(next(self._numbers), self._on_end, destination)
        self._forwarders.add(forwarder)
        self._empty.clear()
        self._on_event(Connected(forwarder.number, peer, destination))
        return forwarder

    async def wait_closed(self, timeout: float) -> bool:  # noqa: ASYNC109 - then it acts
        """Wait for open connections to end; whether there is something left to arrive.

        Those that do not end within ``timeout`` seconds are dropped, but for what was written by
        one that has closed already.
        """
        forwarders = tuple(self._forwarders)
        for forwarder in forwarders:
            forwarder.hurry()
        try:
            async with asyncio.timeout(timeout):
                await self._empty.wait()
        except TimeoutError:
            for forwarder in tuple(self._forwarders):
                forwarder.end()
            # Their transports tell them of it in the loop's next turn.
            await self._empty.wait()
        return not forwarders or any(forwarder.error is None for forwarder in forwarders)

    def _ended(self, forwarder: Forwarder) -> None:
        self._forwarders.remove(forwarder)
        if not self._forwarders:
            self._empty.set()
        sent, received = forwarder.left.received, forwarder.right.received
        self._sent += sent
        self._received += received
        ended = forwarder.number, forwarder.destination, sent, received
        self._on_event(disconnected(*ended, forwarder.error))


def disconnected(
    number: int, destination: str, sent: int, received: int, error: Exception | None
) -> Disconnected:
    """The event of a connection's end, which was orderly if there is no ``error``."""
    cause = "" if error is None else type(error).__name__
    return Disconnected(number, destination, sent, received, str(error or "") or cause, cause)


class _Accepted(asyncio.Protocol):
    """A connection that was accepted just now."""

    def __init__(self, accept: Callable[[asyncio.Transport], None]) -> None:
        self._accept = accept

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Hand it over."""
        self._accept(cast(asyncio.Transport, transport))


class Listener(Server):
    """Accepts connections and joins each to what ``dial`` makes. See listen_tcp, listen_unix.

    ``dial`` gets the protocol for the other side, whose ``connection_made`` may come later, or
    ``connection_lost`` instead. It raises ssmnet's errors, which reset the connection.
    """

    def __init__(
        self,
        dial: Callable[[asyncio.Protocol], Dialled],
        destination: str,
        on_event: Callable[[Event], None],
        numbers: Iterator[int] | None = None,
    ) -> None:
        super().__init__(partial(_Accepted, self._accept), on_event, numbers)
        self._dial = dial
        self.destination = destination

    def _accept(self, transport: asyncio.Transport) -> None:
        forwarder = self.begin(peer_name(transport), self.destination)
        transport.set_protocol(forwarder.left)
        forwarder.left.connection_made(transport)
        try:
            forwarder.dialled = self._dial(forwarder.right)
        except Error as error:
            forwarder.error = error
            reset(transport)


def peer_name(transport: asyncio.Transport) -> str:
    """Who is at the other end, as ``address:port``; empty for a unix socket."""
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
