"""``ssmnet.attach``: a session that somebody else has started, with what its grant says."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from . import arguments
from .aws import Client, StartedSession
from .credentials import Source, look_up, region_of
from .errors import Error, HandshakeError
from .event_stream import Announcer, EventStream
from .events import Closed, Event, Listening
from .forward import Listener
from .forwards import Request
from .listening import Listeners, TunnelListener
from .outlet import Dialling
from .process import RemoteShell, check_size
from .protocol.events import SessionReady
from .protocol.handshake import SessionType
from .runner import finish, unless
from .service import Service
from .session import DRAIN_TIMEOUT, Session
from .snapshot import State
from .starting import Starting
from .streams import LIMIT, Connections, Security
from .target import RESUME_TIMEOUT

P = TypeVar("P", bound=asyncio.Protocol)

_REGION = re.compile(r"wss://[a-z0-9.-]*?ssmmessages(?:-fips)?\.([a-z]{2,}(?:-[a-z0-9]+)+)\.")


def attach(
    session_id: str,
    stream_url: str,
    token: str,
    *,
    region: str | None = None,
    profile: str | None = None,
    credentials: Source | None = None,
    endpoint_url: str | None = None,
    messages_endpoint_url: str | None = None,
    target: str = "",
    size: tuple[int, int] = (80, 24),
    keep_alive: float | None = None,
    resume_timeout: float | None = RESUME_TIMEOUT,
    on_event: Callable[[Event], object] | None = None,
) -> Starting[AttachedSession]:
    """Open a session that was started elsewhere, with what StartSession answered there.

    To be awaited, or used with ``async with``; its end ends the session. ``region`` is by default
    that of ``stream_url``. ``target`` is whom the session is with, for one that KMS encrypts.
    ``size`` is that of a shell's terminal: columns and rows. For the others see ``connect``.
    Without credentials that may resume it, a session that has lost its connection ends after
    ``resume_timeout``.

    Raises UsageError, RemoteProtocolError for a URL that is not AWS's, ConnectError, HandshakeError
    and SessionClosed.
    """
    arguments.check_periods(keep_alive=keep_alive)
    arguments.check_times(resume_timeout=resume_timeout)
    check_size(size)
    found = _REGION.match(stream_url)
    region = region or region_of(credentials) or (found[1] if found else None)

    async def start() -> AttachedSession:
        client = Client(
            profile=profile,
            region=region,
            endpoint_url=endpoint_url,
            messages_endpoint_url=messages_endpoint_url,
            credentials=None if credentials is None else look_up(credentials),
        )
        grant = StartedSession(session_id, token, client.stream_url(stream_url))
        announcer = Announcer(on_event)
        session = Session(  # noqa: S604 - it may be one, there
            client,
            grant,
            target=target,
            shell=True,
            keep_alive=keep_alive,
            resume_timeout=resume_timeout,
            on_event=announcer.tell,
        )
        attached = AttachedSession(client, session, announcer, size)
        await attached._open()
        return attached

    return Starting(start)


class AttachedSession:
    """One session, to a port, a shell or an interactive command. Made by ``ssmnet.attach``.

    ``session_type`` says which, as the agent calls it. A shell is ``shell``; the other methods are
    those of a port session, and raise HandshakeError for others.
    """

    def __init__(
        self, client: Client, session: Session, announcer: Announcer, size: tuple[int, int]
    ) -> None:
        self._client = client
        self._session = session
        self._announcer = announcer
        numbers = count(1)
        self._streams = Connections(announcer.tell, numbers)
        self._listeners = Listeners(announcer.tell, numbers)
        self._closing: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._shell = RemoteShell(session, size)
        self.session_type = ""
        session.on_ready = self._begin

    async def _open(self) -> None:
        """Open it, once. Raises ConnectError, HandshakeError and SessionClosed."""
        if self._closing is None:
            await self._shell.open(streams=lambda: self.session_type != SessionType.PORT)
            self._watching = asyncio.create_task(self._watch())

    @property
    def session_id(self) -> str:
        """AWS's name for it."""
        return self._session.session_id

    @property
    def shell(self) -> RemoteShell:
        """The shell or interactive command. Raises HandshakeError where it is none."""
        if self.session_type == SessionType.PORT:
            raise HandshakeError("this session leads to a port, not to a shell or a command")
        return self._shell

    async def open_connection(
        self,
        *,
        limit: int = LIMIT,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the session's destination; for the arguments see Target's.

        TLS needs ``server_hostname``, since the session does not tell where it leads. Raises
        HandshakeError for a session that leads to no port, SessionClosed and ssl.SSLError. Where
        nobody listens there, TLS raises DestinationRefused, and without TLS the first read does.
        """
        security = Security(ssl, server_hostname, None, None)
        return await self._streams.open(self._dial, self.session_id, "", security, limit)

    async def create_connection(
        self,
        protocol_factory: Callable[[], P],
        *,
        ssl: ssl.SSLContext | bool | None = None,
        server_hostname: str | None = None,
    ) -> tuple[asyncio.Transport, P]:
        """As open_connection, for a protocol of one's own. Raises the same."""
        security = Security(ssl, server_hostname, None, None)
        where = self.session_id, ""
        return await self._streams.create(self._dial, protocol_factory, *where, security)

    def forward(
        self, *, local_port: int = 0, bind: str | Sequence[str] | None = None
    ) -> Starting[TunnelListener]:
        """Listen on a local port that leads to the session's destination; see Target.forward.

        Raises UsageError, ListenError, and HandshakeError for a session that leads to no port.
        """

        port, where = arguments.number(local_port), arguments.addresses(bind)

        async def start() -> TunnelListener:
            self._check_port()
            return await self._listeners.start(
                lambda tell: _OneSession(self._client, self._session, port, where, tell)
            )

        return Starting(start)

    def events(self) -> EventStream:
        """An async iterator of the events from now on, until the session is closed."""
        return self._announcer.subscribe()

    async def wait_ended(self) -> Error:
        """Wait until the session is over, and return why."""
        return await self._session.wait_ended()

    def close(self) -> None:
        """End the session, and all that uses it. See wait_closed."""
        self._close(DRAIN_TIMEOUT)

    async def wait_closed(self) -> None:
        """Wait until nothing is left of it, after ``close``."""
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
            self._closing = asyncio.get_running_loop().create_task(self._end(drain))

    async def _end(self, drain: float) -> None:
        await self._listeners.close()
        drain = drain if self.session_type == SessionType.PORT else 0.0
        await self._streams.close(drain, self._session.close)
        if self._watching is not None:
            await self._watching

    async def _watch(self) -> None:
        """Tell of its end, whoever ended it; nothing is told after that."""
        error = await self._session.wait_ended()
        self._announcer.tell(Closed(self.session_id, str(error)))
        self._announcer.close()

    def _begin(self, ready: SessionReady) -> None:
        self.session_type = ready.session_type
        if ready.session_type != SessionType.PORT:
            self._shell.begin(ready)

    def _check_port(self) -> None:
        if self.session_type != SessionType.PORT:
            raise HandshakeError(f"this is a {self.session_type} session, not one for a port")

    async def _dial(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        self._check_port()
        dialling = Dialling(protocol)
        transport = self._session.create_stream(dialling)
        try:
            return await dialling.wait_opened()
        except BaseException:
            transport.abort()
            raise


class _OneSession(Service):
    """A listener on one session, which no other follows."""

    kind = "forward"

    def __init__(
        self,
        client: Client,
        session: Session,
        port: int,
        bind: Sequence[str],
        on_event: Callable[[Event], None],
    ) -> None:
        super().__init__(client, Request(""), session.session_id, on_event)
        self._session = session
        self._port = port
        self._bind = bind

    async def run(self, stop: asyncio.Event) -> bool:
        """As Service.run."""
        listener = Listener(self._session.create_stream, self.destination, self.tell, self.numbers)
        self._servers = [listener]
        ended: Error | None = None
        try:
            await listener.listen_tcp(self._bind, self._port)
            self._is_open = True
            where = listener.address, listener.port, self._session.session_id
            self.tell(Listening(*where, self.target, self.destination))
            ended = await unless(stop, self._session.wait_ended())
        finally:
            await finish(self._close(_nothing))
        if ended is None:  # or else it is told for all of the session
            self.tell(Closed(self._session.session_id, "stopped"))
        return ended is None

    @property
    def state(self) -> State:
        """As Service.state."""
        if not self._is_open:
            return State.STARTING
        return State.RESUMING if self._session.interrupted else State.UP


async def _nothing(*, drain: float) -> None:
    """The session is somebody else's to close."""
