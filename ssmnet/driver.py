"""Driver: joins a DataChannel to a WebSocket, the event loop and the streams' transports.

Messages go in from the WebSocket and out to it in batches, streams get what has come for them once
a burst, and one timer serves all. Which WebSocket that is changes with each resume; the session
decides.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .errors import ConnectError, Error
from .protocol.channel import DataChannel
from .protocol.events import Event
from .protocol.port import PortStream
from .protocol.smux import Multiplexer, MuxStream
from .transport import StreamTransport
from .websocket import WebSocket

# Acknowledgements that the gateway does not read pile up here; then we stop reading, too.
WRITE_LIMIT = 4 * 1024 * 1024
# How long a new stream waits for a WebSocket, when the last one is lost.
AWAY_TIMEOUT = 30.0


class Owner(Protocol):
    """Who is told what becomes of the session."""

    def channel_event(self, event: Event) -> None:
        """The data channel has something to tell."""

    def channel_failed(self, error: Error) -> None:
        """The session can't go on."""

    def websocket_lost(self, reason: str) -> None:
        """There is no WebSocket any more."""


class Driver:
    """Drives the data channel of the session ``session_id`` until ``close``."""

    def __init__(self, session_id: str, owner: Owner) -> None:
        self.session_id = session_id
        self.channel = DataChannel(
            client_id=str(uuid.uuid4()),
            seed=os.urandom(16),
            wall_clock=lambda: time.time_ns() // 1_000_000,
        )
        self.websocket: WebSocket | None = None
        self.heard = False  # on the present WebSocket
        self.drained = asyncio.Event()
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._busy = False
        self._holding: set[object] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._transports: dict[MuxStream | PortStream, StreamTransport] = {}
        self._waiting: deque[StreamTransport] = deque()
        self._probes: dict[MuxStream, asyncio.Future[None]] = {}

    def use(self, websocket: WebSocket, token: str) -> None:
        """Go on over ``websocket``, a new one, with the token that opens the data channel."""
        self.websocket = websocket
        self.heard = False
        self.channel.writable = True
        first = self.channel.open(token, str(uuid.uuid4()), time.monotonic())
        websocket.write_text(first)
        if self._holding:
            websocket.pause_reading()
        self.flush()

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """A stream, whose protocol hears of it once it is open."""
        transport = StreamTransport(self, protocol)
        self._waiting.append(transport)
        if self.websocket is None:
            self._loop.call_later(AWAY_TIMEOUT, self._give_up_waiting, transport)
        self.flush()
        return transport

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
        self._busy = True
        try:
            # A stream that opens may be given at once what came before, and write in turn.
            while self._open_waiting() | self._deliver() | self._send():
                pass
        finally:
            self._busy = False
        self._arm_timer()

    def close(self, error: Error) -> None:
        """Close the WebSocket and every stream, whose protocols are told ``error``."""
        self._closed = True
        self.drained.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.websocket is not None:
            self.websocket.close()
            self.websocket = None
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

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """As the event loop's."""
        self._loop.call_soon(callback, *args)

    def hold_reading(self, holder: object) -> None:
        """Stop reading until ``holder`` allows it again: it can take no more."""
        self._holding.add(holder)
        if self.websocket is not None:
            self.websocket.pause_reading()

    def allow_reading(self, holder: object) -> None:
        """``holder`` can take more."""
        if holder not in self._holding:
            return
        self._holding.discard(holder)
        if not self._holding and self.websocket is not None:
            self.channel.reading_resumed(time.monotonic())
            self.websocket.resume_reading()
            self._arm_timer()

    def stream_closed(
        self, transport: StreamTransport, stream: MuxStream | PortStream | None
    ) -> None:
        """A transport has closed its stream, or will not need one any more."""
        if stream is None:
            self._waiting.remove(transport)
        else:
            self._transports.pop(stream, None)
        self.flush()

    # The WebSocket calls these.

    def message_received(self, data: memoryview) -> None:
        """A message has come."""
        try:
            self.channel.receive_message(data)
        except Error as error:
            self._owner.channel_failed(error)

    def burst_ended(self) -> None:
        """All messages of one read have come."""
        self.heard = True
        self.channel.burst_ended(time.monotonic())
        # Before the events: what came before the end of the session counts.
        self.flush()
        for event in self.channel.events():
            self._owner.channel_event(event)
        if self.channel.idle:
            self.drained.set()
        websocket = self.websocket
        if websocket is not None and websocket.write_buffer_size > WRITE_LIMIT:
            self.hold_reading(websocket)

    def pause_writing(self) -> None:
        """The WebSocket's buffer is full."""
        self.channel.writable = False

    def resume_writing(self) -> None:
        """The WebSocket's buffer has room again."""
        self.channel.writable = True
        self.allow_reading(self.websocket)
        self.flush()

    def connection_lost(self, reason: str) -> None:
        """The WebSocket is gone; the session may not be."""
        self._holding.discard(self.websocket)
        self.websocket = None
        self._owner.websocket_lost(reason)

    def _give_up_waiting(self, transport: StreamTransport) -> None:
        if self.websocket is None and transport in self._waiting:
            self._waiting.remove(transport)
            transport.lose(ConnectError(f"no connection to the gateway for {AWAY_TIMEOUT:g} s"))

    def _open_waiting(self) -> bool:
        opened = False
        while self._waiting and (stream := self.channel.open_stream()) is not None:
            transport = self._waiting.popleft()
            self._transports[stream] = transport
            transport.open(stream)
            opened = True
        return opened

    def _deliver(self) -> bool:
        touched = self.channel.port.touched() if self.channel.port is not None else ()
        for stream in touched:
            if (transport := self._transports.get(stream)) is not None:
                transport.deliver()
            elif isinstance(stream, MuxStream) and stream in self._probes:
                self._answer_probe(stream)
        return bool(touched)

    def _answer_probe(self, stream: MuxStream) -> None:
        if stream.closed_by_peer and not (answered := self._probes.pop(stream)).done():
            answered.set_result(None)

    def _send(self) -> bool:
        """Send, and let streams with room in their queues write again; whether any did."""
        now = time.monotonic()
        while self.websocket is not None and (messages := self.channel.data_to_send(now)):
            self.websocket.write(messages)
        relieved = self.channel.port.relieved() if self.channel.port is not None else ()
        for stream in relieved:
            if (transport := self._transports.get(stream)) is not None:
                transport.relieve()
        return bool(relieved)

    def _arm_timer(self) -> None:
        """Keep one timer. It may fire early and is set again then: deadlines mostly move on."""
        due = self.channel.get_timer()
        if due is None or self._closed:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        # Not call_at: uvloop's own clock counts milliseconds, too coarse for a round trip.
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self.channel.ready and (self.websocket is None or self.websocket.reading_paused):
            # What we wait for may have come and not been read; reading again, or a new
            # WebSocket, sets the timer.
            return
        now = time.monotonic()
        try:
            if (due := self.channel.get_timer()) is not None and due <= now:
                self.channel.handle_timer(now)
        except Error as error:
            self._owner.channel_failed(error)
        self.flush()
        self._arm_timer()
