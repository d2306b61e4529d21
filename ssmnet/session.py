"""Session: one SSM session, over as many WebSockets as its life needs.

It drives a DataChannel: messages in from the WebSocket, batches out to it, one timer. When the
WebSocket is lost the session resumes on a new one, and its streams notice nothing but the wait.
What talks to AWS is handed in: the session knows no credentials.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
import uuid
from asyncio import FIRST_COMPLETED
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .errors import ConnectError, DestinationRefused, Error, LocalProtocolError, SessionClosed
from .protocol.channel import DataChannel
from .protocol.events import ChannelEnded, SessionReady
from .protocol.port import PortStream
from .protocol.reconnect import BackOff
from .protocol.smux import MuxStream
from .transport import StreamTransport
from .websocket import Handler, WebSocket

logger = logging.getLogger("ssmnet.session")

# How long the agent may take to confirm the end of a session before AWS is asked to end it.
TERMINATE_TIMEOUT = 2.0
TERMINATE_CALL_TIMEOUT = 10.0
# How long what was written may take to arrive when the session is closed.
DRAIN_TIMEOUT = 5.0
PROBE_TIMEOUT = 15.0
# Acknowledgements that the gateway does not read pile up here; then we stop reading, too.
WRITE_LIMIT = 4 * 1024 * 1024


class Grant(Protocol):
    """What AWS gives for opening a session's data channel."""

    @property
    def session_id(self) -> str:
        """The session's name."""

    @property
    def token_value(self) -> str:
        """A secret that opens the data channel."""

    @property
    def stream_url(self) -> str:
        """Where the data channel is."""


class Access(Protocol):
    """What a session needs of AWS."""

    async def connect(self, stream_url: str, handler: Handler) -> WebSocket:
        """Open a WebSocket to a data channel. Raises ConnectError."""

    async def resume_session(self, session_id: str) -> Grant | None:
        """A fresh grant; None when the session is over. Raises ConnectError."""

    async def terminate_session(self, session_id: str) -> None:
        """End the session. Raises ConnectError."""


class Session:
    """One SSM session that AWS has granted. ``open`` it, make streams, ``close`` it.

    ``resume_timeout`` (seconds) bounds how long one interruption may last; None for no bound.
    """

    def __init__(
        self, access: Access, grant: Grant, *, resume_timeout: float | None = None
    ) -> None:
        self._access = access
        self._session_id = grant.session_id
        self._grant = grant
        self._stream_url = grant.stream_url
        self._resume_timeout = resume_timeout
        self._loop = asyncio.get_running_loop()
        self._channel = DataChannel(
            client_id=str(uuid.uuid4()),
            seed=os.urandom(16),
            wall_clock=lambda: time.time_ns() // 1_000_000,
        )
        self._websocket: WebSocket | None = None
        self._holding: set[object] = set()
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._transports: dict[MuxStream | PortStream, StreamTransport] = {}
        self._waiting: deque[StreamTransport] = deque()
        self._probes: dict[MuxStream | PortStream, asyncio.Future[None]] = {}
        self._back_off = BackOff(random.random)
        self._heard = True
        self._resuming: asyncio.Task[None] | None = None
        self._over = False  # at the far end, too
        self._ready: asyncio.Future[SessionReady] = self._loop.create_future()
        self._ended: asyncio.Future[Error] = self._loop.create_future()
        self._drained = asyncio.Event()

    async def open(self) -> SessionReady:
        """Connect and shake hands.

        Raises ConnectError, HandshakeError, RemoteProtocolError or SessionClosed; the session is
        terminated then.
        """
        try:
            await self._connect(self._grant)
            await asyncio.wait((self._ready, self._ended), return_when=FIRST_COMPLETED)
            if self._ended.done():
                raise self._ended.result()
        except BaseException:
            await self.close()
            raise
        return self._ready.result()

    @property
    def session_id(self) -> str:
        """AWS's name for the session."""
        return self._session_id

    @property
    def idle(self) -> bool:
        """Whether all that was written has been sent and acknowledged."""
        return self._channel.idle

    @property
    def round_trip_time(self) -> float | None:
        """The smoothed time to an acknowledgement in seconds; None before the first."""
        return self._channel.round_trip_time

    @property
    def ended(self) -> Error | None:
        """Why the session is over; None while it is not."""
        return self._ended.result() if self._ended.done() else None

    async def wait_ended(self) -> Error:
        """Wait until the session is over, for whatever reason."""
        return await asyncio.shield(self._ended)

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """A stream to the session's destination; ``connection_made`` is called once it is open.

        That is at once on a multiplexed session; others have one connection at a time. Raises the
        session's end when it is over.
        """
        if self._ended.done():
            raise self._ended.result()
        if self._channel.port is None:
            raise LocalProtocolError("the session has no port to open streams to")
        transport = StreamTransport(self, protocol)
        self._waiting.append(transport)
        self.flush()
        return transport

    async def probe(self, timeout: float = PROBE_TIMEOUT) -> bool:  # noqa: ASYNC109 - see below
        """Whether the destination accepts connections; it sees one that is closed at once.

        False where the session can't tell: without multiplexing. Raises DestinationRefused, and
        ConnectError when there is no answer within ``timeout`` seconds.
        """
        stream = self._channel.open_stream()
        if not isinstance(stream, MuxStream):
            return False
        # The agent answers no opening, but it does answer the end of one.
        answer = self._probes[stream] = self._loop.create_future()
        stream.close()
        self.flush()
        await asyncio.wait((answer, self._ended), timeout=timeout, return_when=FIRST_COMPLETED)
        self._probes.pop(stream, None)
        if self._ended.done():
            raise self._ended.result()
        if not answer.done():
            raise ConnectError(f"the target has not reached the destination within {timeout:g} s")
        if stream.refused:
            raise DestinationRefused("the target could not connect to the destination")
        return True

    async def close(self) -> None:
        """End the session: by the agent if it answers, or else by AWS.

        What was written before is sent first, within a few seconds.
        """
        if not self._ended.done() and self._websocket is not None:
            await self._drain()
            if self._channel.terminate():
                self.flush()
                await asyncio.wait((self._ended,), timeout=TERMINATE_TIMEOUT)
        websocket = self._websocket
        self._end(SessionClosed("closed"))
        if not self._over:
            await self._terminate()
        if websocket is not None:
            await websocket.wait_closed()

    def flush(self) -> None:
        """Send what may be sent. The session does so by itself; streams call this after writes."""
        if self._busy or self._websocket is None:
            return
        self._busy = True
        try:
            self._open_waiting()
            self._deliver()
            self._send()
        finally:
            self._busy = False
        self._arm_timer()

    # The streams' transports call these.

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        """As the event loop's."""
        self._loop.call_soon(callback, *args)

    def hold_reading(self, holder: object) -> None:
        """Stop reading until ``holder`` allows it again: it can take no more."""
        self._holding.add(holder)
        if self._websocket is not None:
            self._websocket.pause_reading()

    def allow_reading(self, holder: object) -> None:
        """``holder`` can take more."""
        if holder not in self._holding:
            return
        self._holding.discard(holder)
        if not self._holding and self._websocket is not None:
            self._channel.reading_resumed(time.monotonic())
            self._websocket.resume_reading()
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
            self._channel.receive_message(data)
        except Error as error:
            self._end(error)

    def burst_ended(self) -> None:
        """All messages of one read have come."""
        self._heard = True
        self._channel.burst_ended(time.monotonic())
        for event in self._channel.events():
            if isinstance(event, SessionReady):
                self._ready.set_result(event)
            elif isinstance(event, ChannelEnded):
                self._over = True
                self._end(SessionClosed("the session was closed", output=event.output))
        self.flush()
        if self._channel.idle:
            self._drained.set()
        websocket = self._websocket
        if websocket is not None and websocket.write_buffer_size > WRITE_LIMIT:
            self.hold_reading(websocket)

    def pause_writing(self) -> None:
        """The WebSocket's buffer is full."""
        self._channel.writable = False

    def resume_writing(self) -> None:
        """The WebSocket's buffer has room again."""
        self._channel.writable = True
        self.allow_reading(self._websocket)
        self.flush()

    def connection_lost(self, reason: str) -> None:
        """The WebSocket is gone; the session may not be."""
        logger.info("session %s: WebSocket lost: %s", self._session_id, reason)
        self._holding.discard(self._websocket)
        self._websocket = None
        if not self._ended.done():
            self._resuming = self._loop.create_task(self._resume())

    async def _connect(self, grant: Grant) -> None:
        self._stream_url = grant.stream_url or self._stream_url
        websocket = await self._access.connect(self._stream_url, self)
        self._websocket = websocket
        self._channel.writable = True
        self._heard = False
        now = time.monotonic()
        websocket.write_text(self._channel.open(grant.token_value, str(uuid.uuid4()), now))
        if self._holding:
            websocket.pause_reading()
        self.flush()

    async def _resume(self) -> None:
        """Connect again, as long as AWS has the session."""
        started = time.monotonic()
        if self._heard:
            self._back_off = BackOff(random.random)
        else:
            await asyncio.sleep(self._back_off.next_delay())
        try:
            while not await self._try_to_resume():
                waited = time.monotonic() - started
                if self._resume_timeout is not None and waited > self._resume_timeout:
                    raise SessionClosed(f"could not resume within {waited:.0f} s", resumable=True)
                await asyncio.sleep(self._back_off.next_delay())
        except Error as error:
            self._end(error)

    async def _try_to_resume(self) -> bool:
        try:
            grant = await self._access.resume_session(self._session_id)
            if grant is not None:
                await self._connect(grant)
                return True
        except ConnectError as error:
            logger.info("session %s: cannot resume yet: %s", self._session_id, error)
            return False
        self._over = True
        raise SessionClosed("the session is over: AWS does not resume it")

    def _end(self, error: Error) -> None:
        if self._ended.done():
            return
        self._ended.set_result(error)
        self._drained.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._resuming is not None and self._resuming is not asyncio.current_task():
            self._resuming.cancel()
        if self._websocket is not None:
            self._websocket.close()
            self._websocket = None
        transports = (*self._transports.values(), *self._waiting)
        self._transports.clear()
        self._waiting.clear()
        for transport in transports:
            transport.lose(error)

    async def _terminate(self) -> None:
        self._over = True
        try:
            async with asyncio.timeout(TERMINATE_CALL_TIMEOUT):
                await self._access.terminate_session(self._session_id)
        except (Error, TimeoutError) as error:
            logger.warning("session %s: cannot terminate it: %s", self._session_id, error)

    async def _drain(self) -> None:
        self._drained.clear()
        if not self._channel.idle:
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT):
                    await self._drained.wait()
            except TimeoutError:
                logger.info("session %s: closed before all was acknowledged", self._session_id)

    def _open_waiting(self) -> None:
        while self._waiting:
            stream = self._channel.open_stream()
            if stream is None:
                return
            transport = self._waiting.popleft()
            self._transports[stream] = transport
            transport.open(stream)

    def _deliver(self) -> None:
        if self._channel.port is None:
            return
        for stream in self._channel.port.touched():
            if (transport := self._transports.get(stream)) is not None:
                self._deliver_to(transport)
            elif stream.closed_by_peer and (probe := self._probes.pop(stream, None)) is not None:
                probe.set_result(None)

    def _deliver_to(self, transport: StreamTransport) -> None:
        try:
            transport.deliver()
        except Exception as error:  # of a protocol that we know nothing of
            self._loop.call_exception_handler(
                {"message": "a stream's protocol failed", "exception": error}
            )
            transport.abort()

    def _send(self) -> None:
        channel, websocket = self._channel, self._websocket
        now = time.monotonic()
        while websocket is not None:
            messages = channel.data_to_send(now)
            if messages:
                websocket.write(messages)
            elif not self._relieve():
                return

    def _relieve(self) -> bool:
        """Let the streams with room in their queues write again; whether there were any."""
        relieved = self._channel.port.relieved() if self._channel.port is not None else ()
        for stream in relieved:
            transport = self._transports.get(stream)
            if transport is not None:
                transport.relieve()
        return bool(relieved)

    def _arm_timer(self) -> None:
        """Keep one timer. It may fire early and is set again then: deadlines mostly move on."""
        due = self._channel.get_timer()
        if due is None or self._ended.done():
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
        websocket = self._websocket
        if websocket is None or websocket.reading_paused:
            # What we wait for may have come and not been read; reading again, or a new
            # connection, sets the timer.
            return
        now = time.monotonic()
        try:
            if (due := self._channel.get_timer()) is not None and due <= now:
                self._channel.handle_timer(now)
        except Error as error:
            self._end(error)
        self.flush()
