"""Commands and shells of a target for applications: nothing here is of this process's own terminal.

The agent tells the exit status of a command, and keeps its error output apart; of a shell it does
neither.
"""

from __future__ import annotations

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Callable
from types import TracebackType
from typing import Self

from .errors import Error, HandshakeError, SessionClosed, UsageError
from .execute import Base64Decoder, last_words, without_status
from .patience import Silence
from .protocol.events import SessionReady
from .protocol.handshake import SessionType
from .runner import finish
from .session import CLOSED, Session
from .shell import EXIT_TIMEOUT, LOST_MEANWHILE, QUIET_TIMEOUT
from .streams import LIMIT

# What a command may say on each of its two outputs, in bytes.
OUTPUT_LIMIT = 64 * 1024 * 1024


class Command:
    """The command that ``session``, which is not open yet, was started for.

    ``base64`` says that its output is encoded so. ``limit`` bounds each of its outputs, in bytes.
    """

    def __init__(
        self, session: Session, *, base64: bool = False, limit: int = OUTPUT_LIMIT
    ) -> None:
        self._session = session
        self._base64 = base64
        self._limit = limit
        self._news = asyncio.Event()
        self._began = False
        self._lost = False
        self._silence = Silence(lambda: 0)
        self._out = _Output(self)
        self._err = _Output(self)
        session.on_ready = self._begin
        session.on_exit_code = lambda _: self._news.set()
        session.on_resumed = self._resumed

    async def run(self) -> tuple[int, bytes, bytes]:
        """Carry it to its end: the exit status and both outputs. No session is left.

        A command that a signal has ended has a negative status. Raises HandshakeError, and
        SessionClosed when what has come is not all, RemoteProtocolError for output that can't be
        decoded.
        """
        try:
            try:
                await self._session.open()
            except SessionClosed:
                if not self._began:
                    raise  # or else it was short
            await self._until_over()
        finally:
            await finish(self._session.close(drain=0.0))
        return self._result()

    def heard(self, output: _Output) -> None:
        """It has said something."""
        self._silence.broken()
        if len(output.data) > self._limit:
            self._news.set()

    def _begin(self, ready: SessionReady) -> None:
        """The streams are there before anything can be lost."""
        if ready.session_type != SessionType.NON_INTERACTIVE_COMMANDS:
            raise HandshakeError(f"this is a {ready.session_type} session, not one of a command")
        self._began = True
        self._session.create_error_stream(self._err)
        self._session.create_stream(self._out)

    def _resumed(self) -> None:
        """The agent drops what a command says while we are away, and tells nobody."""
        self._lost = True
        self._silence.broken()
        self._news.set()

    async def _until_over(self) -> None:
        ended = asyncio.ensure_future(self._session.wait_ended())
        watching = asyncio.ensure_future(self._watch())
        try:
            await asyncio.wait((ended, watching), return_when=FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            ended.cancel()
            watching.cancel()

    async def _watch(self) -> None:
        """Last words come before the session's end, or never."""
        while True:
            await self._news.wait()
            self._news.clear()
            if max(len(self._out.data), len(self._err.data)) > self._limit:
                raise Error(f"the command has said more than {self._limit} bytes")
            if self._session.exit_code is not None:
                return await self._silence.last(EXIT_TIMEOUT)
            if self._lost:
                # It may hang, and its end may have been told while we were away.
                await self._silence.last(QUIET_TIMEOUT)
                raise SessionClosed(LOST_MEANWHILE)

    def _result(self) -> tuple[int, bytes, bytes]:
        code, ended = self._session.exit_code, self._session.ended
        if code is None:
            raise without_status(ended or SessionClosed("closed"))
        if self._lost or self._out.interruptions > 1:
            raise SessionClosed(LOST_MEANWHILE)
        out = bytes(self._out.data)
        if self._base64 and not (code and not out):
            decoder = Base64Decoder()
            out = decoder.feed(out)
            if not code:
                decoder.end()
        return code, out, bytes(self._err.data)


class _Output(asyncio.Protocol):
    """Keeps what comes."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self._transport: asyncio.BaseTransport | None = None
        self.data = bytearray()

    @property
    def interruptions(self) -> int:
        """How many WebSockets there have been, from 1."""
        if self._transport is None:
            return 0
        return int(self._transport.get_extra_info("interruptions"))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """There is nothing to send."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep it."""
        self.data += data
        self._command.heard(self)


class RemoteShell:
    """A shell or an interactive command on a terminal of the target's, from start to end.

    ``stdin`` and ``stdout`` are asyncio's streams, of bytes; what it writes to its standard error
    comes on ``stdout``, too. It has no exit status. Keys are bytes: ``b"\\x03"`` is ^C, and
    ``b"\\x04"`` is ^D, which ends the input. Leaving ``async with`` ends it.
    """

    def __init__(self, session: Session, size: tuple[int, int], limit: int = LIMIT) -> None:
        loop = asyncio.get_running_loop()
        self._session = session
        self._size = size
        self._loop = loop
        self._ready: SessionReady | None = None
        self._closing: asyncio.Task[None] | None = None
        self.stdout = asyncio.StreamReader(limit=limit, loop=loop)
        self._protocol = _ShellProtocol(self.stdout, loop)
        self.stdin: asyncio.StreamWriter
        session.on_ready = self.begin

    async def open(self, streams: Callable[[], bool] = lambda: True) -> None:
        """Open the session, which has ``streams`` if it is a shell's.

        Raises HandshakeError, SessionClosed and ConnectError.
        """
        try:
            try:
                await self._session.open()
            except SessionClosed:
                if self._ready is None:
                    raise  # or else it was short
            if streams():
                await self._protocol.opened.wait()
        except BaseException:
            await finish(self._session.close(drain=0.0))
            raise

    def begin(self, ready: SessionReady) -> None:
        """The session is there: it gets its stream before anything of it can be lost."""
        if ready.session_type == SessionType.PORT:
            raise HandshakeError("this session leads to a port, not to a shell or a command")
        self._ready = ready
        self.resize(*self._size)
        transport = self._session.create_stream(self._protocol)
        self.stdin = asyncio.StreamWriter(transport, self._protocol, self.stdout, self._loop)

    @property
    def session_id(self) -> str:
        """AWS's name for the session."""
        return self._session.session_id

    @property
    def greeting(self) -> str:
        """What the session's document has for its users; mostly empty."""
        return "" if self._ready is None else self._ready.customer_message

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has so many characters from now on. Raises UsageError."""
        check_size((columns, rows))
        self._session.set_size(columns, rows)

    async def wait(self) -> None:
        """Wait until it has ended by itself. Raises SessionClosed when something else ended it.

        Somebody has to read ``stdout`` meanwhile.
        """
        ended = await self._session.wait_ended()
        if not isinstance(ended, SessionClosed) or ended.reason != CLOSED:
            raise ended
        if ended.output:
            raise SessionClosed(CLOSED, output=last_words(ended.output))

    def close(self) -> None:
        """End it. See wait_closed."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._session.close(drain=0.0))

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
        self.close()
        await finish(self.wait_closed())


class _ShellProtocol(asyncio.StreamReaderProtocol):
    """asyncio's own, that tells when the stream is open."""

    def __init__(self, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self.opened = asyncio.Event()
        self._kept = reader  # the base may let go of it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.opened.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.opened.set()


def check_size(size: tuple[int, int]) -> None:
    """Raise UsageError for what is no size of a terminal."""
    if len(size) != 2 or not all(isinstance(part, int) and part > 0 for part in size):
        raise UsageError(f"a terminal's size is columns and rows, not {size!r}")
