"""A WebSocket over two Paths: the client's face of it, and the gateway's.

It behaves as one that rides on TCP: what a half-dead network holds comes later or is lost with the
connection, who does not read is not told that the far end is gone, and whoever writes more than the
network takes is asked to pause.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from math import ceil
from typing import Protocol

from ..alarm import Alarm
from ..message_socket import Handler
from .link import Path
from .transcript import ACKNOWLEDGE, Transcript, is_intact, kind_and_number

# What one read brings.
READ_SIZE = 64 * 1024
HIGH_WATER = 64 * 1024
LOW_WATER = 16 * 1024
CLOSE_TIMEOUT = 5.0
# Messages arrive in bursts: whatever comes within this time comes together.
GRAIN = 0.0005

PING = b"ping"
PONG = b"pong"
CLOSE = b"close"


class Server(Protocol):
    """Who gets what the gateway's end receives."""

    def received(self, websocket: SimulatedWebSocket, messages: list[bytes]) -> None:
        """Messages of the client: the text that opens the data channel, pings, binary ones."""

    def closed(self, websocket: SimulatedWebSocket) -> None:
        """The client has closed it."""

    def flow(self, websocket: SimulatedWebSocket, full: bool) -> None:
        """What goes to the client piles up, or no longer does."""


class Observer(Protocol):
    """Who looks at what the client does."""

    def client_gets(self, handler: Handler, kind: str, number: int) -> None:
        """The client is about to take in a message."""

    def client_wrote(self, handler: Handler, messages: list[tuple[str, int, bytes]]) -> None:
        """The client has written these in one go: type, number and bytes of each."""

    def client_answers(self, handler: Handler, number: int) -> None:
        """The client is about to write the acknowledgement of a message."""

    def check_answers(self, handler: Handler) -> None:
        """The client has had the time to acknowledge all that it got."""

    def client_read(self, handler: Handler, websocket: SimulatedWebSocket) -> None:
        """The client has taken in one burst."""


class SimulatedWebSocket:
    """``there`` leads to the gateway, ``back`` to the client; both begin to be used now.

    Of each direction ``buffer`` bytes are taken over by the network before anybody has to wait.
    ``spoil`` makes of a message what will arrive.
    """

    def __init__(
        self,
        handler: Handler,
        server: Server,
        there: Path,
        back: Path,
        *,
        buffer: int,
        spoil: Callable[[bytes], bytes],
        observer: Observer,
        transcript: Transcript,
    ) -> None:
        self.heard = True
        self.reading_paused = False
        self.there = there
        self.back = back
        # Whether the client thinks that it has a connection.
        self.open = True
        self._buffer = buffer
        self._spoil = spoil
        self._handler = handler
        self._server = server
        self._observer = observer
        self._transcript = transcript
        self._loop = asyncio.get_running_loop()
        self._server_open = True
        self._broken: str | None = None
        self._writing_paused = False
        self._full = False
        self._inbox: deque[bytes] = deque()
        self._inbox_size = 0
        self._reads = 0
        self._reading_soon = False
        self._alarm = Alarm(self._move)
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # The client's face.

    @property
    def write_buffer_size(self) -> int:
        """How many bytes wait to be written."""
        return max(0, self.there.under_way - self._buffer)

    def write(self, messages: list[bytes]) -> None:
        """Send binary messages."""
        if not self.open:
            return
        seen = [(*kind_and_number(data), data) for data in messages]
        for kind, number, _ in seen:
            if kind == ACKNOWLEDGE:
                self._observer.client_answers(self._handler, number)
        if self._broken is not None:
            self._loop.call_soon(self._lose)
            return
        for message in seen:
            self._send(self.there, ">", *message)
        self._observer.client_wrote(self._handler, seen)
        self._wrote()

    def write_text(self, text: str) -> None:
        """Send one text message."""
        self._write_surely("text", text.encode())

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._write_surely("ping", PING)

    def pause_reading(self) -> None:
        """Stop reading."""
        if not self.reading_paused:
            self._transcript.event("the client stops reading")
        self.reading_paused = True

    def resume_reading(self) -> None:
        """Go on reading."""
        if self.reading_paused:
            self._transcript.event("the client goes on reading")
            self.reading_paused = False
            self._read_soon()

    def close(self) -> None:
        """Close after what was written; the handler hears no more."""
        if self.open:
            self._transcript.event("the client closes the WebSocket")
            self._write_surely("close", CLOSE)
            self._end(CLOSE_TIMEOUT if self.write_buffer_size else 0.0)

    def abort(self) -> None:
        """Drop the connection at once; the handler hears no more."""
        if self.open:
            self._transcript.event("the client aborts the WebSocket")
            self.there.send(CLOSE, self._loop.time(), sure=True)
            self._end(0.0)
            self._arm()

    async def wait_closed(self) -> None:
        """Wait until the connection is gone."""
        await asyncio.shield(self._closed)

    # The gateway's face.

    def send(self, messages: list[bytes], *, sure: bool = False) -> None:
        """Send messages to the client; ``sure`` ones never get lost, as a message would."""
        if not self._server_open:
            return
        for data in messages:
            kind, number = kind_and_number(data)
            if sure:
                self._transcript.message("<", kind, number, len(data))
                self.back.send(data, self._loop.time(), sure=True)
            else:
                self._send(self.back, "<", kind, number, data)
        self._watch_flow()
        self._arm()

    def finish(self, reason: str) -> None:
        """Close it in order: the client gets what was sent before."""
        if self._server_open:
            self._transcript.event(f"the gateway closes the WebSocket: {reason}")
            self._server_open = False
            self.there.cut()
            self.back.send(CLOSE + reason.encode(), self._loop.time(), sure=True)
            self._arm()

    def cut(self, reason: str) -> None:
        """Cut it: what is on its way is lost, and both ends notice."""
        self._broken = reason
        # Who neither reads nor has anything to write does not hear of it before it does.
        unheard = self.reading_paused and not self.write_buffer_size
        self.there.cut()
        self.back.cut()
        self._inbox.clear()
        self._inbox_size = 0
        if not unheard:
            self._lose()
        self.stop()

    def hold(self, *, there: bool, back: bool) -> None:
        """Let nothing pass any more, and nobody notice: a network that is half-dead."""
        if there:
            self.there.stop()
        if back:
            self.back.stop()

    def go_on(self) -> None:
        """The network lives again: what it held arrives."""
        now = self._loop.time()
        self.there.go_on(now)
        self.back.go_on(now)
        self._arm()

    def stop(self) -> None:
        """Do nothing more."""
        self._server_open = False
        self._alarm.cancel()

    # Between them.

    def _send(self, path: Path, direction: str, kind: str, number: int, data: bytes) -> None:
        lost = path.lost
        path.send(self._spoil(data), self._loop.time())
        self._transcript.message(
            direction if path.lost == lost else f"{direction} LOST", kind, number, len(data)
        )

    def _write_surely(self, kind: str, data: bytes) -> None:
        if not self.open:
            return
        if self._broken is not None:
            self._loop.call_soon(self._lose)
            return
        self._transcript.message(">", kind, 0, len(data))
        self.there.send(data, self._loop.time(), sure=True)
        self._wrote()

    def _wrote(self) -> None:
        if not self._writing_paused and self.write_buffer_size > HIGH_WATER:
            self._writing_paused = True
            self._handler.pause_writing()
        self._arm()

    def _arm(self) -> None:
        times = [
            time for path in (self.there, self.back) if (time := path.next_event()) is not None
        ]
        if times:
            self._alarm.set(max(min(times), ceil(min(times) / GRAIN) * GRAIN))

    def _move(self) -> None:
        """Whatever has arrived at either end."""
        now = self._alarm.due
        messages = self.there.arrived(now)
        if messages and self._server_open:
            self._server.received(self, [data for data in messages if data != CLOSE])
            if CLOSE in messages:
                self._server_open = False
                self._server.closed(self)
        for data in self.back.arrived(now):
            self._inbox.append(data)
            self._inbox_size += len(data)
        self._read()
        if self._writing_paused and self.write_buffer_size <= LOW_WATER and self.open:
            self._writing_paused = False
            self._handler.resume_writing()
        self._watch_flow()
        self._arm()

    def _watch_flow(self) -> None:
        size = self.back.under_way + self._inbox_size
        full = size > (LOW_WATER if self._full else self._buffer)
        if full is not self._full:
            self._full = full
            if self._server_open:
                self._server.flow(self, full)

    def _read_soon(self) -> None:
        if not self._reading_soon:
            self._reading_soon = True
            self._loop.call_soon(self._read_now)

    def _read_now(self) -> None:
        self._reading_soon = False
        if self._broken is not None and not self._inbox:
            self._lose()
        self._read()
        self._watch_flow()
        self._arm()

    def _read(self) -> None:
        """What one read of the socket brings; the rest in the next turn of the loop."""
        if self.reading_paused or not self.open or not self._inbox:
            return
        self.heard = True
        size = 0
        reason: bytes | None = None
        messages: list[bytes] = []
        while self._inbox and size < READ_SIZE and reason is None:
            data = self._inbox.popleft()
            size += len(data)
            if data.startswith(CLOSE):
                reason = data[len(CLOSE) :]
            elif data != PONG:
                self._note(data)
                messages.append(data)
        self._inbox_size -= size
        if messages:
            self._handler.messages_received(messages)
        if self.open:
            self._observer.client_read(self._handler, self)
            self._reads += 1
            self._loop.call_soon(self._check_answers, self._reads)
        if reason is not None and self.open:
            self._broken = reason.decode()
            self._lose()
        elif self._inbox:
            self._read_soon()

    def _note(self, data: bytes) -> None:
        kind, number = kind_and_number(data)
        if not is_intact(data):
            self._transcript.message("  < SPOILED", kind, number, len(data))
            return
        self._transcript.message("  <", kind, number, len(data))
        self._observer.client_gets(self._handler, kind, number)

    def _check_answers(self, reads: int) -> None:
        if self.open and reads == self._reads:
            self._observer.check_answers(self._handler)

    def _lose(self) -> None:
        if self.open:
            self._transcript.event(f"the client hears that its WebSocket is gone: {self._broken}")
            self._end(0.0)
            self._handler.connection_lost(self._broken or "")

    def _end(self, delay: float) -> None:
        self.open = False
        self._inbox.clear()
        self._inbox_size = 0
        self._loop.call_later(delay, self._set_closed)

    def _set_closed(self) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
