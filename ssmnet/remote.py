"""Target: what an application reaches through one instance or task, without a local port or with.

Nothing is started before it is needed: each destination gets its session with the first connection,
each forward when it is opened.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import count
from subprocess import CompletedProcess
from types import TracebackType
from typing import Any, Self, TypeVar

from msgspec.structs import replace

from . import arguments
from .aws import Client
from .commands import Commands
from .destination import Destination
from .dialer import IDLE_TIME, MAX_SESSIONS, Dialer
from .errors import SessionClosed, UsageError
from .event_stream import Announcer, EventStream
from .events import Event
from .forwards import Request
from .listening import Listeners, OpenProxy, TunnelListener
from .process import OUTPUT_LIMIT, RemoteShell, check_size
from .proxy import SOCKS
from .runner import finish
from .service import ForwardService, Service
from .session import DRAIN_TIMEOUT, Session
from .starting import Starting
from .statistics import Statistics, statistics
from .streams import LIMIT, Connections, Security
from .tally import Tally
from .target import open_port_session

P = TypeVar("P", bound=asyncio.Protocol)


class Target:
    """An instance or task through which connections go. Made by ``ssmnet.connect``.

    Up to ``max_sessions`` destinations of ``open_connection`` and ``create_connection`` have a
    session at a time, each for ``idle_time`` seconds after its last connection.

    Its methods are for the event loop that it was made in, and raise UsageError in others.
    """

    def __init__(
        self,
        client: Client,
        request: Request,
        *,
        max_sessions: int = MAX_SESSIONS,
        idle_time: float = IDLE_TIME,
        on_event: Callable[[Event], object] | None = None,
        on_closed: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """``request`` holds what all its sessions have in common. For the others see ``connect``.

        ``on_closed`` is called when all else has ended.
        """
        self._client = client
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._announcer = Announcer(on_event)
        self._tally = Tally()
        self._dialer = Dialer(
            self._start_session,
            self._tell,
            max_sessions=max_sessions,
            width=request.sessions,
            idle_time=idle_time,
            max_age=request.max_session_age,
        )
        numbers = count(1)
        self._streams = Connections(self._tell, numbers)
        self._listeners = Listeners(self._announcer.tell, numbers)
        self._commands = Commands(client, request, self._tell)
        self._on_closed = on_closed
        self._closing: asyncio.Task[None] | None = None

    @property
    def target(self) -> str:
        """Its name, such as ``i-0123456789abcdef0``."""
        return self._request.target

    # Connections without a local port.

    async def open_connection(
        self,
        host: str | None,
        port: int,
        *,
        limit: int = LIMIT,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to ``port`` of ``host``, as ``asyncio.open_connection`` does.

        The target looks up the name; ``host`` None is the target itself. With ``ssl`` the
        certificate is checked against ``server_hostname``, or else ``host``. ``limit`` is in bytes.

        Raises DestinationRefused, DestinationNotFound, DestinationForbidden, the other kinds of
        ConnectError, SessionClosed, and ssl.SSLError.
        """
        security = Security(ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        destination = arguments.destination(host, port)
        where = str(destination), destination.host
        return await self._streams.open(self._dial(destination), *where, security, limit)

    async def create_connection(
        self,
        protocol_factory: Callable[[], P],
        host: str | None,
        port: int,
        *,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> tuple[asyncio.Transport, P]:
        """Connect a protocol to ``port`` of ``host``, as ``loop.create_connection`` does.

        For the arguments and errors see ``open_connection``. The protocol is an asyncio.Protocol.
        Without TLS its transport has no ``write_eof``: the agent would close both directions.
        """
        security = Security(ssl, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout)
        destination = arguments.destination(host, port)
        dial, where = self._dial(destination), (str(destination), destination.host)
        return await self._streams.create(dial, protocol_factory, *where, security)

    # Local ports.

    def forward(
        self,
        port: int | None,
        *,
        host: str | None = None,
        local_port: int = 0,
        local_path: str | None = None,
        bind: str | Sequence[str] | None = None,
        sessions: int | None = None,
        check: bool = False,
        max_restarts: int | None = None,
        document: str | None = None,
        parameters: Mapping[str, Sequence[str]] | None = None,
    ) -> Starting[TunnelListener]:
        """Listen on a local port that leads to ``port`` of ``host``, or of the target itself.

        ``local_port`` 0 takes a free one; ``local_path`` makes a unix socket instead. ``bind`` are
        addresses to listen on, by default 127.0.0.1 and ::1, on one port. Up to ``sessions`` share
        the connections. ``check`` fails unless the destination accepts a connection.
        ``max_restarts`` bounds how many sessions may follow one that is over; None for no bound. A
        ``document`` of one's own, with ``parameters``, may name the port itself: ``port`` is None.

        Raises UsageError, ListenError, DestinationRefused, and the other kinds of ConnectError.
        """
        forward = arguments.forward(port, host, local_port, local_path, bind)
        sessions = self._request.sessions if sessions is None else sessions
        arguments.check_counts(sessions=sessions)
        request = replace(
            self._request,
            sessions=sessions,
            check=check,
            max_restarts=max_restarts,
            document=document,
            parameters=arguments.check_document(document, parameters),
        )
        return self._starting(lambda tell: ForwardService(self._client, request, forward, tell))

    def proxy(
        self,
        port: int = 0,
        *,
        kind: str = SOCKS,
        bind: str | Sequence[str] | None = None,
        credentials: tuple[str, str] | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        max_sessions: int = MAX_SESSIONS,
        idle_time: float = IDLE_TIME,
    ) -> Starting[TunnelListener]:
        """Listen on a local port as a proxy whose destinations the target reaches.

        ``kind`` is ``"socks"`` (4, 4a and 5) or ``"http"``. ``port`` 0 takes a free one.
        ``credentials`` are the user name and password that clients need. ``allow`` and ``deny`` are
        patterns such as ``*.internal:443`` and ``10.0.0.0/8``. For the others see Target.

        Raises UsageError and ListenError. Whether the target is there shows with the first client.
        """
        rules = allow, deny
        proxy = arguments.proxy(kind, port, bind, rules, max_sessions, idle_time, self._request)
        return self._starting(lambda tell: OpenProxy(self._client, proxy, tell, credentials))

    # Commands and shells.

    async def run(
        self,
        *args: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as subprocess.run's
        base64: bool = False,
        limit: int = OUTPUT_LIMIT,
    ) -> CompletedProcess[bytes]:
        """Run a command to its end, without a shell: its ``returncode``, ``stdout``, ``stderr``.

        As ``subprocess.run``; one that a signal has ended has a negative ``returncode``. Agents
        drop bytes of output that is no UTF-8 text: ``base64`` has the target encode it, which needs
        its ``sh`` and ``base64``, and tells a signal as ``sh`` does: 128 and its number. After
        ``timeout`` seconds it is ended, with TimeoutError. Output of more than ``limit`` bytes
        raises Error.

        Raises ConnectError and its kinds, HandshakeError where the target can't run commands, and
        SessionClosed when the end was not told, or output was lost with a connection.
        """
        self._check_open()
        return await self._commands.run(args, timeout=timeout, base64=base64, limit=limit)

    def shell(
        self,
        *args: str,
        size: tuple[int, int] = (80, 24),
        limit: int = LIMIT,
        document: str | None = None,
        parameters: Mapping[str, Sequence[str]] | None = None,
    ) -> Starting[RemoteShell]:
        """Start a shell, or the command ``args``, on a terminal of ``size``: columns and rows.

        ``limit`` is that of the stream of its output, in bytes. ``document`` is one of your own.
        Raises ConnectError and its kinds, HandshakeError, SessionClosed and UsageError.
        """
        if args and document is not None:
            raise UsageError("a document has a command of its own")
        check_size(size)
        arguments.check_document(document, parameters)

        async def start() -> RemoteShell:
            self._check_open()
            return await self._commands.shell(
                args, size=size, limit=limit, document=document, parameters=parameters
            )

        return Starting(start)

    # What happens.

    def events(self) -> EventStream:
        """An async iterator of the events from now on, until the target is closed."""
        return self._announcer.subscribe()

    def statistics(self) -> Statistics:
        """How it is at this moment."""
        return statistics(
            self.target, self._dialer, self._streams, self._tally, self._listeners.statistics()
        )

    # The end.

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._closing is not None

    def close(self) -> None:
        """End all connections, listeners and sessions. See wait_closed.

        Raises UsageError in another event loop.
        """
        self._close(DRAIN_TIMEOUT)

    async def wait_closed(self) -> None:
        """Wait until all has ended after ``close``; nothing is left of it then."""
        if self._closing is not None:
            await asyncio.wait((self._closing,))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close(DRAIN_TIMEOUT if exc_type is None else 0.0)
        await finish(self.wait_closed())

    def _close(self, drain: float) -> None:
        if self._closing is None:
            self._check_loop()
            self._closing = self._loop.create_task(self._end(drain))

    async def _end(self, drain: float) -> None:
        await asyncio.gather(
            self._streams.close(drain, self._dialer.close),
            self._commands.close(),
            self._listeners.close(),
        )
        self._announcer.close()
        if self._on_closed is not None:
            await self._on_closed()

    # How things come about.

    def _starting(
        self, make: Callable[[Callable[[Event], None]], Service]
    ) -> Starting[TunnelListener]:
        async def start() -> TunnelListener:
            self._check_open()
            return await self._listeners.start(make)

        return Starting(start)

    def _dial(
        self, destination: Destination
    ) -> Callable[[asyncio.Protocol], Coroutine[Any, Any, asyncio.Transport]]:
        self._check_open()

        async def dial(protocol: asyncio.Protocol) -> asyncio.Transport:
            return await self._dialer.connect(protocol, destination)

        return dial

    async def _start_session(self, destination: Destination) -> Session:
        request = self._request
        return await open_port_session(
            self._client,
            request.target,
            # Fewer rights will do for the target's own ports: another document leads there.
            host=None if destination.host == "localhost" else destination.host,
            port=destination.port,
            reason=request.reason,
            resume_timeout=request.resume_timeout,
            keep_alive=request.keep_alive,
            on_event=self._tell,
        )

    def _tell(self, event: Event) -> None:
        self._tally.add(event)
        self._announcer.tell(event)

    def _check_open(self) -> None:
        self._check_loop()
        if self._closing is not None:
            raise SessionClosed("the target is closed")

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError("the target belongs to another event loop")
