"""Session: one SSM session, over as many WebSockets as its life needs.

Its Driver moves the bytes; here it is opened, resumed on a new WebSocket when one is lost, probed
and ended. Streams notice nothing of a resume but the wait. What talks to AWS is handed in: the
session knows no credentials.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable
from random import Random, SystemRandom

from . import events
from .access import Access, Grant
from .driver import READ_LIMIT, STALL_TIMEOUT, Driver
from .errors import (
    REFUSED,
    AccessDenied,
    ConnectError,
    DestinationRefused,
    Error,
    HandshakeError,
    LocalProtocolError,
    RemoteProtocolError,
    SessionClosed,
    UsageError,
    one_line,
)
from .message_socket import MessageSocket
from .protocol.events import ChannelEnded, DataKeyNeeded, Event, ExitCode, SessionReady
from .protocol.handshake import encryption_context
from .protocol.reconnect import BackOff, Resumption, is_stalled
from .stream_url import is_presigned
from .transport import StreamTransport

logger = logging.getLogger("ssmnet.session")

# How long the agent may take to confirm the end of a session before AWS is asked to end it.
TERMINATE_TIMEOUT = 2.0
# Above the data channel's own deadline, which does not pass while there is no WebSocket.
OPEN_TIMEOUT = 30.0
CONNECT_TRIES = 3
TERMINATE_CALL_TIMEOUT = 5.0
# How long what was written may take to arrive when the session is closed.
DRAIN_TIMEOUT = 5.0
PROBE_TIMEOUT = 15.0
# A gateway that does not like our token closes the WebSocket within this time.
SETTLING_TIME = 1.0
# So many WebSockets in a row may bring what can't be read, and nothing else that was missing.
MAX_BROKEN = 3
# The agent waits 15 s for what needs the key.
DATA_KEY_TIMEOUT = 12.0
# The reason of a session that the far end has closed, which says why in ``output`` or not at all.
CLOSED = "the session was closed"
INCOMPLETE = "the session was closed before all that the target had sent has come"
# The reason of one that AWS has ended while its WebSocket was away.
TIMED_OUT = "the session is over: AWS does not resume it"


class Session:
    """One SSM session that AWS has granted. ``open`` it, make streams, ``close`` it.

    ``target`` is whom the session is with, which KMS wants to know. ``shell`` says that it may be a
    shell or a command, not only a port: those may begin without a handshake.

    ``resume_timeout`` bounds how long one interruption may last; None for no bound. ``on_event`` is
    told of interruptions. ``keep_alive`` has something sent whenever nothing was for so long, so
    that AWS does not end a session that is idle. ``stall_timeout`` bounds how long a stream that
    nobody reads may hold up the others. All in seconds. ``read_limit`` bounds the bytes that are
    kept for such streams before that.

    ``clock``, ``wall_clock`` and ``random`` are all that it knows of time and chance. ``on_ready``
    may be set, and is called as soon as the session has begun: what makes streams there misses
    nothing, however soon the session ends. ``on_unused`` likewise, whenever the last stream is
    closed, ``on_resumed`` after an interruption, and ``on_exit_code`` when a command has ended.
    ``exit_code`` is that, where it was told.
    """

    def __init__(
        self,
        access: Access,
        grant: Grant,
        *,
        target: str = "",
        shell: bool = False,
        resume_timeout: float | None = None,
        on_event: Callable[[events.Event], None] = lambda _: None,
        keep_alive: float | None = None,
        read_limit: int = READ_LIMIT,
        stall_timeout: float = STALL_TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        random = random or SystemRandom()
        self._access = access
        self._grant = grant
        self._target = target
        self._stream_url = grant.stream_url
        self._on_event = on_event
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._driver = Driver(
            grant.session_id,
            self,
            shell=shell,
            keep_alive=keep_alive,
            read_limit=read_limit,
            stall_timeout=stall_timeout,
            clock=clock,
            wall_clock=wall_clock,
            random=random,
        )
        self._back_off = BackOff(random.random)
        self._resumption = Resumption(random.random, timeout=resume_timeout)
        self._resuming: asyncio.Task[None] | None = None
        self._last_websocket: MessageSocket | None = None
        self._broken = 0, 0  # messages received, and WebSockets broken since
        self._terminating: asyncio.Task[None] | None = None
        self._getting_key: asyncio.Task[None] | None = None
        self.on_ready: Callable[[SessionReady], None] = lambda _: None
        self.on_unused: Callable[[Session], None] = lambda _: None
        self.on_resumed: Callable[[], None] = lambda: None
        self.on_exit_code: Callable[[int], None] = lambda _: None
        self.exit_code: int | None = None
        self.opened_at = clock()
        self._over = False  # at the far end, too
        self._ready: asyncio.Future[SessionReady] = self._loop.create_future()
        self._ended: asyncio.Future[Error] = self._loop.create_future()

    async def open(self) -> SessionReady:
        """Connect and shake hands.

        Raises ConnectError, HandshakeError, RemoteProtocolError or SessionClosed; the session is
        terminated then.
        """
        try:
            await self._connect_first()
            await asyncio.wait(
                (self._ready, self._ended), timeout=OPEN_TIMEOUT, return_when=FIRST_COMPLETED
            )
            if self._ended.done():
                raise self._ended.result()
            if not self._ready.done():
                raise HandshakeError(f"the session did not begin within {OPEN_TIMEOUT:g} s")
        except BaseException:
            await self.close()
            raise
        return self._ready.result()

    @property
    def session_id(self) -> str:
        """AWS's name for the session."""
        return self._grant.session_id

    @property
    def multiplexed(self) -> bool:
        """Whether it takes many connections at a time; known once it is open."""
        return self._driver.channel.handshake.multiplexes

    @property
    def idle(self) -> bool:
        """Whether all that was written has been sent and acknowledged."""
        return self._driver.channel.idle

    @property
    def round_trip_time(self) -> float | None:
        """The smoothed time to an acknowledgement in seconds; None before the first."""
        return self._driver.channel.round_trip_time

    @property
    def retransmissions(self) -> int:
        """How many messages went out again."""
        return self._driver.channel.retransmissions

    @property
    def messages(self) -> int:
        """How many messages have come and gone, but for acknowledgements and repetitions."""
        channel = self._driver.channel
        return channel.sent + channel.received

    @property
    def streams(self) -> int:
        """How many streams are open, or wait to be."""
        return self._driver.streams

    @property
    def refusals(self) -> int:
        """How many connections the destination has refused since it last said anything."""
        port = self._driver.channel.port
        return 0 if port is None else port.refusals

    @property
    def stalled(self) -> bool:
        """Whether nothing gets through, though the WebSocket is there: better use another."""
        return is_stalled(self._driver.stalled_for, self.round_trip_time)

    @property
    def interrupted(self) -> bool:
        """Whether it waits for a new WebSocket."""
        return self._driver.websocket is None

    @property
    def has_room(self) -> bool:
        """Whether a stream that is opened now can send something at once."""
        return self._driver.has_room

    def call_when_roomy(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called once, as soon as there is room; instead of another before."""
        self._driver.call_when_roomy(callback)

    @property
    def ended(self) -> Error | None:
        """Why the session is over; None while it is not."""
        return self._ended.result() if self._ended.done() else None

    async def wait_ended(self) -> Error:
        """Wait until the session is over, for whatever reason."""
        return await asyncio.shield(self._ended)

    def create_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """A stream to the session's destination; ``connection_made`` is called once it is open.

        That is at once on a multiplexed session; others have one connection at a time, and shells
        and commands have one in all. Raises the session's end when it is over.
        """
        self._check_begun()
        return self._driver.create_stream(protocol)

    def create_error_stream(self, protocol: asyncio.Protocol) -> StreamTransport:
        """The standard error of a command, which can be read only. Create it before the stream.

        Without it, or where the agent does not keep it apart, it comes in the other stream.
        """
        self._check_begun()
        return self._driver.create_error_stream(protocol)

    def set_size(self, columns: int, rows: int) -> None:
        """Tell a shell the size of its terminal in characters, now or when it begins."""
        self._driver.set_size(columns, rows)

    async def probe(self, timeout: float = PROBE_TIMEOUT) -> bool:  # noqa: ASYNC109 - raises
        """Whether the destination accepts connections; it sees one that is closed at once.

        False where the session can't tell: without multiplexing. Raises DestinationRefused, and
        ConnectError when there is no answer within ``timeout`` seconds.
        """
        self._check_begun()
        probe = self._driver.create_probe()
        if probe is None:
            return False
        stream, answered = probe
        await asyncio.wait((answered, self._ended), timeout=timeout, return_when=FIRST_COMPLETED)
        if self._ended.done():
            raise self._ended.result()
        if not answered.done():
            raise ConnectError(f"the target has not reached the destination within {timeout:g} s")
        if stream.refused:
            raise DestinationRefused(REFUSED)
        return True

    async def close(self, *, drain: float = DRAIN_TIMEOUT) -> None:
        """End the session: by the agent if it answers, or else by AWS.

        What was written before is given ``drain`` seconds to arrive.
        """
        if not self._ended.done():
            await self._drain(drain)
            if self._driver.websocket is not None and self._driver.channel.terminate():
                self._driver.flush()
                await asyncio.wait((self._ended,), timeout=TERMINATE_TIMEOUT)
        self._end(SessionClosed("closed"))
        if not self._over:
            self._over = True
            self._terminating = self._loop.create_task(self._terminate())
        if self._terminating is not None:
            await asyncio.shield(self._terminating)
        if self._last_websocket is not None:
            await self._last_websocket.wait_closed()

    # The driver calls these.

    def channel_event(self, event: Event) -> None:
        """The data channel has something to tell."""
        match event:
            case SessionReady():
                logger.info(
                    "session %s: %s, agent %s",
                    self.session_id,
                    event.session_type,
                    event.agent_version or "without a handshake",
                )
                self._ready.set_result(event)
                try:
                    self.on_ready(event)
                except Error as error:
                    self._end(error)
                except Exception as error:
                    logger.exception("session %s: cannot begin", self.session_id)
                    self._end(HandshakeError(f"the session cannot begin: {one_line(error)}"))
            case DataKeyNeeded():
                self._getting_key = self._loop.create_task(self._get_data_key(event))
            case ExitCode() if self.exit_code is None:
                self.exit_code = event.code
                self.on_exit_code(event.code)
            case ChannelEnded():
                self._over = True
                reason = INCOMPLETE if self._driver.channel.has_gap else CLOSED
                self._end(SessionClosed(reason, output=event.output))

    def channel_failed(self, error: Error) -> None:
        """The session can't go on."""
        self._end(error)

    def websocket_lost(self, reason: str, *, broken: bool = False) -> None:
        """The WebSocket is gone; the session may not be."""
        logger.info("session %s: WebSocket lost: %s", self.session_id, reason)
        if self._ended.done():
            return
        if broken and self._breaks_again():
            self._end(RemoteProtocolError(f"{reason}, again and again"))
            return
        if is_presigned(self._stream_url):
            # Whoever made it has the credentials, and does not share them.
            self._end(SessionClosed(f"{reason}; a session with a presigned URL is not resumed"))
        else:
            if self._resuming is not None:
                self._resuming.cancel()
            self._tell_interruption(reason)
            heard = self._driver.heard.is_set()
            delay = self._resumption.lost(heard=heard, now=self._clock())
            self._resuming = self._loop.create_task(self._resume(delay))

    def _breaks_again(self) -> bool:
        """Whether the far end has sent what can't be read so often that it is no accident."""
        received = self._driver.channel.received
        known, self._broken = self._broken, (received, 1)
        if known[0] == received:
            self._broken = received, known[1] + 1
        return self._broken[1] >= MAX_BROKEN

    def streams_gone(self) -> None:
        """The last stream is closed."""
        self.on_unused(self)

    def _check_begun(self) -> None:
        if self._ended.done():
            raise self._ended.result()
        if not self._driver.channel.ready:
            raise LocalProtocolError("the session has not begun yet")

    async def _connect_first(self) -> None:
        """A gateway that has just heard of the session may need a moment."""
        for _ in range(CONNECT_TRIES - 1):
            try:
                return await self._connect(self._grant)
            except ConnectError as error:
                logger.info("session %s: %s; trying again", self.session_id, error)
                await asyncio.sleep(self._back_off.next_delay())
        return await self._connect(self._grant)

    async def _connect(self, grant: Grant) -> None:
        self._stream_url = grant.stream_url or self._stream_url
        logger.debug("session %s: connecting", self.session_id)
        websocket = await self._access.connect(self._stream_url, self._driver)
        self._last_websocket = websocket
        if self._ended.done():
            websocket.abort()
            raise self._ended.result()
        self._resumption.connected(self._clock())
        self._driver.use(websocket, grant.token_value)

    async def _resume(self, delay: float | None) -> None:
        """Connect again, as long as AWS has the session."""
        resumption = self._resumption
        try:
            while delay is not None:
                await asyncio.sleep(delay)
                if await self._try_to_resume():
                    return await self._settle()
                delay = resumption.failed(self._clock())
            waited = resumption.lasted(self._clock())
            raise SessionClosed(f"could not resume within {waited:.0f} s", resumable=True)
        except Error as error:
            self._end(error)
        except Exception as error:
            # Whatever it is, nobody would notice that nothing is tried any more.
            logger.exception("session %s: cannot resume", self.session_id)
            self._end(SessionClosed(f"cannot resume: {type(error).__name__}"))

    async def _settle(self) -> None:
        """Tell that the session goes on, unless this WebSocket is soon gone, too.

        The gateway says nothing of a token that it takes, only of one that it does not.
        """
        lasted = self._resumption.lasted(self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_TIME):
                await self._driver.heard.wait()
        self._resumption.settled()
        self._on_event(events.Resumed(self.session_id, lasted))
        self.on_resumed()

    def _tell_interruption(self, cause: str) -> None:
        """Once for each cause in a row: the tries are many."""
        if self._resumption.is_news(cause):
            self._on_event(events.Resuming(self.session_id, cause))

    async def _try_to_resume(self) -> bool:
        try:
            grant = await self._access.resume_session(self.session_id)
            if grant is not None:
                await self._connect(grant)
                return True
        except AccessDenied as error:
            # Policies that allow sessions to be started, but not resumed, are common.
            raise SessionClosed(str(error)) from error
        except (ConnectError, UsageError) as error:
            # A settings file that can't be used may be one that somebody is just writing.
            self._tell_interruption(str(error))
            return False
        self._over = True
        raise SessionClosed(TIMED_OUT)

    def _end(self, error: Error) -> None:
        if self._ended.done():
            return
        logger.info("session %s: ended: %s", self.session_id, error)
        self._ended.set_result(error)
        for task in (self._resuming, self._getting_key):
            if task is not None and task is not asyncio.current_task():
                task.cancel()
        self._driver.close(error)

    async def _get_data_key(self, needed: DataKeyNeeded) -> None:
        context = encryption_context(self.session_id, self._target, needed.challenge)
        try:
            async with asyncio.timeout(DATA_KEY_TIMEOUT):
                key = await self._access.generate_data_key(needed.key_id, context)
            self._driver.data_key_received(key.plaintext, key.encrypted)
        except TimeoutError:
            waited = f"within {DATA_KEY_TIMEOUT:g} s"
            self._end(HandshakeError(f"KMS has given no data key of {needed.key_id} {waited}"))
        except Error as error:
            self._end(error)
        except Exception as error:
            # Whatever it is, nobody would notice that the session does not begin.
            logger.exception("session %s: cannot get a data key", self.session_id)
            self._end(HandshakeError(f"cannot get a data key: {type(error).__name__}"))

    async def _terminate(self) -> None:
        try:
            async with asyncio.timeout(TERMINATE_CALL_TIMEOUT):
                await self._access.terminate_session(self.session_id)
        except (Error, TimeoutError) as error:
            why = str(error) or f"AWS did not answer within {TERMINATE_CALL_TIMEOUT:g} s"
            logger.warning("session %s: cannot terminate it: %s", self.session_id, why)

    async def _drain(self, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await self._driver.drain().wait()
        except TimeoutError:
            if patience:
                logger.warning("session %s: closed before all had arrived", self.session_id)
