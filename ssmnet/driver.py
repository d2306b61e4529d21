"""Driver: joins a DataChannel to a WebSocket, the event loop and the streams' transports.

Messages go in from the WebSocket and out to it in batches, streams get what has come for them once
a burst, and one timer serves all. Which WebSocket that is changes with each resume; the session
decides.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from random import Random, SystemRandom
from typing import Any, Protocol
from uuid import UUID

from .errors import ConnectError, Error
from .message_socket import MessageSocket
from .protocol.channel import BURST, DataChannel
from .protocol.events import Event
from .protocol.port import PortStream
from .protocol.reconnect import Liveness, Verdict
from .protocol.smux import Multiplexer, MuxStream
from .reading import ReadingGate, SlowReaders
from .transport import StreamTransport

# Acknowledgements that the gateway does not read pile up here; then we stop reading, too.
WRITE_LIMIT = 4 * 1024 * 1024
# More than these are answered at once: the event loop may read many times before its next turn.
FEW_MESSAGES = 32
# How long a new stream waits for a WebSocket, when the last one is lost.
AWAY_TIMEOUT = 30.0
# What is kept for protocols that are paused before the session stops reading altogether. The
# answers to others, which come between a slow reader's bytes, get through meanwhile.
READ_LIMIT = 4 * 1024 * 1024
# How long a stream whose reader takes nothing may keep all others of its session waiting.
STALL_TIMEOUT = 300.0


class Owner(Protocol):
    """Who is told what becomes of the session."""

    def channel_event(self, event: Event) -> None:
        """The data channel has something to tell."""

    def channel_failed(self, error: Error) -> None:
        """The session can't go on."""

    def websocket_lost(self, reason: str, *, broken: bool = False) -> None:
        """There is no WebSocket any more; ``broken``: what came over it was none of its kind."""

    def streams_gone(self) -> None:
        """The last stream is closed."""


class Driver:
    """Drives the data channel of the session ``session_id`` until ``close``.

    ``clock`` and ``wall_clock`` give seconds; only the second runs on while the machine sleeps.
    ``shell`` says that the session may be one. ``keep_alive`` (seconds) makes it look used to
    whoever would end an idle one. Beyond ``read_limit`` (bytes) of what no protocol takes, nothing
    more is read.
    ``stall_timeout`` (seconds) bounds how long a stream that nobody reads may hold up the others.
    """

    def __init__(
        self,
        session_id: str,
        owner: Owner,
        *,
        shell: bool = False,
        keep_alive: float | None = None,
        read_limit: int = READ_LIMIT,
        stall_timeout: float = STALL_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        self.session_id = session_id
        self._random = random or SystemRandom()
        self.channel = DataChannel(
            client_id=self._uuid(),
            seed=self._random.randbytes(16),
            nonce=lambda: self._random.randbytes(12),
            wall_clock=lambda: int(wall_clock() * 1000),
            shell=shell,
            keep_alive=keep_alive,
        )
        self.websocket: MessageSocket | None = None
        self.heard = asyncio.Event()  # that a message has come over the present WebSocket
        self._drained = asyncio.Event()
        self._websockets = 0
        self._owner = owner
        self._clock = clock
        self._wall_clock = wall_clock
        self._loop = asyncio.get_running_loop()
        self._liveness = Liveness(0.0, 0.0)
        self._connected_at = 0.0
        self._closed = False
        self._busy = False
        self._flush_due = False
        self._reading = ReadingGate(clock, self._pause_reading, self._resume_reading)
        self._slow_readers = SlowReaders(
            self._reading, clock, limit=read_limit, patience=stall_timeout
        )
        self._unwritten = 0
        self._draining = False
        self._when_roomy: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._transports: dict[MuxStream | PortStream, StreamTransport] = {}
        self._waiting: deque[StreamTransport] = deque()
        self._probes: dict[MuxStream, asyncio.Future[None]] = {}

    def use(self, websocket: MessageSocket, token: str) -> None:
        """Go on over ``websocket``, a new one, with the token that opens the data channel."""
        now = self._clock()
        self.websocket = websocket
        self._websockets += 1
        self.heard.clear()
        self._connected_at = now
        self._liveness = Liveness(now, self._wall_clock())
        self.channel.writable = True
        websocket.write_text(self.channel.open(token, self._uuid(), now))
        if not self._reading.is_open:
            websocket.pause_reading()
        self.flush()

    @property
    def has_room(self) -> bool:
        """Whether a stream that is opened now can send something at once, and be answered."""
        return self.is_undisturbed and self.channel.has_room

    def call_when_roomy(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, as soon as there is room; instead of another before."""
        self._when_roomy = callback

    @property
    def streams(self) -> int:
        """How many streams are open, or wait to be."""
        return len(self._transports) + len(self._waiting)

    @property
    def stalled_for(self) -> float:
        """For how many seconds nothing has got through, though the WebSocket is there.

        The far end acknowledges nothing; or we do not read, because a stream's reader is slow.
        """
        if self.websocket is None:
            return 0.0
        now = self._clock()
        unacknowledged = min(self.channel.stalled_for(now), now - self._connected_at)
        return max(self._reading.held_for, unacknowledged if self._reading.is_open else 0.0)

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """A stream, whose protocol hears of it once it is open."""
        transport = StreamTransport(self, protocol)
        self._waiting.append(transport)
        if self.websocket is None:
            self._loop.call_later(AWAY_TIMEOUT, self._give_up_waiting, transport)
        self.flush()
        return transport

    def create_error_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """The stream of a command's standard error, open at once."""
        transport = StreamTransport(self, protocol)
        stream = self.channel.open_error_stream()
        self._transports[stream] = transport
        transport.open(stream)
        return transport

    def set_size(self, columns: int, rows: int) -> None:
        """Tell a shell the size of its terminal, in characters."""
        self.channel.set_size(columns, rows, self._clock())
        self.flush()

    def data_key_received(self, data_key: bytes, encrypted: bytes) -> None:
        """The answer to DataKeyNeeded. Raises HandshakeError."""
        self.channel.data_key_received(data_key, encrypted)
        self.flush()

    def create_probe(self) -> tuple[MuxStream, asyncio.Future[None]] | None:
        """A stream that ends at once, and when the agent has answered that; None if it can't."""
        port = self.channel.port
        if not isinstance(port, Multiplexer):
            return None
        stream = port.open_stream()
        # The agent answers no opening, but it does answer the end of one.
        answered = self._probes[stream] = self._loop.create_future()
        stream.close()
        self.flush()
        return stream, answered

    def flush(self) -> None:
        """Send what may be sent. The driver does so by itself; streams call this after writes."""
        if self._busy or self.websocket is None:
            return
        self._busy, self._flush_due = True, False
        try:
            if self._when_roomy is not None and self.has_room:
                # Before the others take the room again.
                callback, self._when_roomy = self._when_roomy, None
                callback()
            # A stream that opens may be given at once what came before, and write in turn.
            self._open_waiting()
            self._deliver()
            while self._send():
                self._open_waiting()
        finally:
            self._busy = False
        if self._draining and self.channel.delivered:
            self._drained.set()
        self._arm_timer()

    def drain(self) -> asyncio.Event:
        """What is set when all that was written has arrived where it was to go, or never will."""
        self._draining = True
        if self.channel.delivered:
            self._drained.set()
        return self._drained

    def close(self, error: Error) -> None:
        """Close the WebSocket and every stream, whose protocols are told ``error``."""
        self._closed = True
        self._when_roomy = None
        self._drained.set()
        if self._timer is not None:
            self._timer.cancel()
        self._slow_readers.close()
        if self.websocket is not None:
            self.websocket.close()
            self.websocket = None
        self.channel.end()
        transports = (*self._transports.values(), *self._waiting)
        self._transports.clear()
        self._waiting.clear()
        for transport in transports:
            transport.lose(error)

    # The streams' transports call these.

    @property
    def sent(self) -> int:
        """How many messages have been sent."""
        return self.channel.sent

    @property
    def acknowledged(self) -> int:
        """How many of them, from the first on, are known to have arrived."""
        return self.channel.acknowledged

    @property
    def is_undisturbed(self) -> bool:
        """Whether what the agent sends now gets through at once."""
        return self.websocket is not None and self._reading.is_open and not self.channel.has_gap

    @property
    def interruptions(self) -> int:
        """How many WebSockets there have been."""
        return self._websockets

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """As the event loop's."""
        self._loop.call_soon(callback, *args)

    def unread_changed(self, transport: StreamTransport, change: int) -> None:
        """So many bytes more are kept for a protocol that is paused, or fewer."""
        self._slow_readers.changed(transport, change)

    def stream_closed(
        self, transport: StreamTransport, stream: MuxStream | PortStream | None
    ) -> None:
        """A transport has closed its stream, or will not need one any more."""
        if stream is None:
            self._waiting.remove(transport)
        else:
            self._transports.pop(stream, None)
        self.flush()
        if not self.streams and not self._closed:
            self._owner.streams_gone()

    # The WebSocket calls these.

    def messages_received(self, messages: list[bytes]) -> None:
        """Messages have come."""
        receive = self.channel.receive_message
        try:
            for message in messages:
                receive(message)
        except Error as error:
            self._owner.channel_failed(error)
        self.heard.set()
        self.channel.burst_ended(self._clock())
        # Before the events: what came before the end of the session counts.
        if len(messages) > FEW_MESSAGES:
            self.flush()
        else:
            self._busy = True
            try:
                self._deliver()
            finally:
                self._busy = False
            self._flush_soon()
        self._tell_events()
        websocket = self.websocket
        if websocket is not None and websocket.write_buffer_size > WRITE_LIMIT:
            self._reading.hold(websocket)

    def pause_writing(self) -> None:
        """The WebSocket's buffer is full."""
        self.channel.writable = False

    def resume_writing(self) -> None:
        """The WebSocket's buffer has room again."""
        self.channel.writable = True
        self._reading.allow(self.websocket)
        self.flush()

    def connection_lost(self, reason: str, *, broken: bool = False) -> None:
        """The WebSocket is gone; the session may not be."""
        self._reading.forget(self.websocket)
        self.websocket = None
        self.channel.interrupted()
        self._owner.websocket_lost(reason, broken=broken)

    def _pause_reading(self) -> None:
        if self.websocket is not None:
            self.websocket.pause_reading()

    def _resume_reading(self) -> None:
        if self.websocket is not None:
            now = self._clock()
            self._liveness.postpone(now, self._wall_clock())
            self.channel.reading_resumed(now)
            self.websocket.resume_reading()
            self._arm_timer()
            if self._when_roomy is not None:
                self._loop.call_soon(self.flush)

    def _give_up_waiting(self, transport: StreamTransport) -> None:
        if self.websocket is None and transport in self._waiting:
            self._waiting.remove(transport)
            transport.lose(ConnectError(f"no connection to the gateway for {AWAY_TIMEOUT:g} s"))

    def _flush_soon(self) -> None:
        """Answers that are written meanwhile go out with the acknowledgements of the questions."""
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_if_due)

    def _flush_if_due(self) -> None:
        if self._flush_due:
            self._flush_due = False
            self.flush()

    def _open_waiting(self) -> None:
        """What had waited for a reader comes with the stream, and may not be what it should."""
        try:
            while self._waiting and (stream := self.channel.open_stream()) is not None:
                transport = self._waiting.popleft()
                self._transports[stream] = transport
                if isinstance(stream, PortStream) and not stream.exclusive:
                    self._slow_readers.patience = math.inf  # it holds up nobody but itself
                transport.open(stream)
        except Error as error:
            self._owner.channel_failed(error)

    def _tell_events(self) -> None:
        """What one of them leads to may bring others."""
        while events := self.channel.events():
            for event in events:
                self._owner.channel_event(event)

    def _deliver(self) -> None:
        if self.channel.port is None:
            return
        for stream in self.channel.port.touched():
            if (transport := self._transports.get(stream)) is not None:
                transport.deliver()
            elif isinstance(stream, MuxStream) and stream in self._probes:
                self._answer_probe(stream)

    def _answer_probe(self, stream: MuxStream) -> None:
        if stream.closed_by_peer and not (answered := self._probes.pop(stream)).done():
            answered.set_result(None)

    def _send(self) -> bool:
        """Send, and let streams with room in their queues write again; whether any did."""
        now = self._clock()
        more = True
        while more and self.websocket is not None:
            messages = self.channel.data_to_send(now)
            if messages:
                self.websocket.write(messages)
            more = len(messages) >= BURST
        relieved = self.channel.port.relieved() if self.channel.port is not None else ()
        for stream in relieved:
            if (transport := self._transports.get(stream)) is not None:
                transport.relieve()
        return bool(relieved)

    def _arm_timer(self) -> None:
        """Keep one timer. It may fire early and is set again then: deadlines mostly move on."""
        due = self._next_due()
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        # Not call_at: uvloop's own clock counts milliseconds, too coarse for a round trip.
        self._timer = self._loop.call_later(max(0.0, due - self._clock()), self._on_timer)

    def _next_due(self) -> float | None:
        due = self.channel.get_timer()
        if self.websocket is None or not self._reading.is_open:
            # What we wait for may come with the next WebSocket, or has come and was not read. Both
            # set the timer. Only the handshake has a deadline that does not stand still.
            due = None if self.channel.ready else due
        if not self._watches_liveness():
            return due
        return self._liveness.due if due is None else min(due, self._liveness.due)

    def _watches_liveness(self) -> bool:
        """Not while a stream keeps us from reading. A gateway that does not read may be dead."""
        websocket = self.websocket
        return websocket is not None and (
            self._reading.is_open or self._reading.held_only_by(websocket)
        )

    def _on_timer(self) -> None:
        self._timer = None
        now = self._clock()
        if (due := self._next_due()) is not None and due <= now:
            try:
                if self._reading.is_open or not self.channel.ready:
                    self.channel.handle_timer(now)
            except Error as error:
                self._owner.channel_failed(error)
            self._tell_events()
            self._check_liveness(now)
        self.flush()
        self._arm_timer()

    def _check_liveness(self, now: float) -> None:
        websocket = self.websocket
        if websocket is None or not self._watches_liveness() or now < self._liveness.due:
            return
        heard, websocket.heard = websocket.heard, False
        unwritten, self._unwritten = self._unwritten, websocket.write_buffer_size
        if not self._reading.is_open:
            heard = self._unwritten < unwritten
        match self._liveness.check(heard, now, self._wall_clock()):
            case Verdict.ASK:
                websocket.ping()
            case Verdict.LOST:
                websocket.abort()
                self.connection_lost("the gateway has gone silent")

    def _uuid(self) -> str:
        return str(UUID(bytes=self._random.randbytes(16), version=4))
