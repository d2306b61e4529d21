"""A shell or a command at hand: standard input and output, joined to a session's stream.

What is typed goes to the remote as it is, and signals become the keys that they stand for. What the
remote says comes out as it comes, also after the session's end, for as long as somebody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from . import terminal
from .errors import Error, HandshakeError, SessionClosed
from .escapes import HELP, Action, Escapes
from .protocol.events import SessionReady
from .protocol.handshake import SessionType
from .runner import finish, unless
from .session import Session
from .signals import INTERRUPT, take_keys
from .stdio import Stdio

# What a terminal's user types to end the input.
END_OF_INPUT = b"\x04"
# A shell that changes its terminal's mode at the wrong moment loses what ends the input. While it
# is silent that is sent again: after so many seconds, then after twice as many, so many times.
END_AGAIN_AFTER = 1.0
END_AGAIN_TIMES = 5
# How long the remote may be silent after the end of the input, in seconds.
QUIET_TIMEOUT = 300.0
# A key that interrupts and to which nothing comes for so long, in seconds, has reached nobody.
INTERRUPT_TIMEOUT = 1.0

# How long a command's session may go on after the command has ended, in seconds.
EXIT_TIMEOUT = 10.0

_STDIN, _STDOUT, _STDERR = range(3)
# Exit statuses: of one that was given up, of one whose output can't be written, after a signal.
LEFT, UNREAD, INTERRUPTED = 255, 1, 130

_T = TypeVar("_T")


class Left(SessionClosed):
    """The session was left from here; ``status`` is the exit status that this makes."""

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Shell:
    """Joins standard input and output to ``session``, which is not open yet.

    ``errors`` keeps the remote's standard error apart, where the agent does. ``escapes`` looks for
    ``~.`` and the like in what is typed on a terminal. ``greet`` is told the session's message for
    the user. ``decode`` gets the remote's output and returns what it means. ``quiet_timeout``
    bounds, in seconds, how long the remote may say nothing after the end of an input that is no
    terminal. ``stop`` ends it all.
    """

    def __init__(
        self,
        session: Session,
        stop: asyncio.Event,
        *,
        errors: bool = False,
        escapes: bool = True,
        greet: Callable[[str], None] = lambda _: None,
        decode: Callable[[bytes], bytes] | None = None,
        quiet_timeout: float = QUIET_TIMEOUT,
    ) -> None:
        self._session = session
        self._stop = stop
        self._greet = greet
        self._decode = decode
        self._quiet_timeout = quiet_timeout
        self._loop = asyncio.get_running_loop()
        self._has_terminal = terminal.is_terminal()
        self._escapes = Escapes() if escapes and self._has_terminal else None
        self._near = _Near(self)
        self._far = _Far(self, self._near)
        self._near_errors = _Near(self) if errors else None
        self.session_type = ""
        """What kind of session it is, once it has begun."""
        self._interrupted_at: float | None = None
        self._leaving = asyncio.Event()
        self._left = Left("", LEFT)
        self._ending: asyncio.Task[None] | None = None
        self._undo = contextlib.ExitStack()

    async def run(self) -> Error:
        """Open the session, carry it to its end and return why it ended. It is closed then.

        Raises Error when it does not begin.
        """
        self._session.on_ready = self.begin
        try:
            opened = await self._unless_left(self._session.open())
        except SessionClosed as error:
            if self._far.transport is None:
                raise
            return await self.finish(error)  # it was short
        except BaseException:
            self._abort()
            raise
        return await self.finish(None if opened is not None else self._left)

    def begin(self, ready: SessionReady) -> None:
        """The session is there: it gets its streams before anything of it can be lost."""
        if ready.session_type == SessionType.PORT:
            raise HandshakeError("this session leads to a port, not to a shell or a command")
        self.session_type = ready.session_type
        self._session.on_exit_code = self._exited
        self._session.set_size(*terminal.size())
        if ready.customer_message:
            self._greet(ready.customer_message)
        suspends = self.session_type != SessionType.NON_INTERACTIVE_COMMANDS
        take_keys(self.press, suspend=suspends)
        self._near.open(_STDIN, _STDOUT)
        if self._near_errors is not None:
            self._near_errors.open(None, _STDERR)
            self._session.create_error_stream(_Far(self, self._near_errors))
        self._session.create_stream(self._far)

    async def finish(self, ended: Error | None = None) -> Error:
        """Wait until the session, which has begun, is over, unless it has ``ended`` already.

        It is closed then, and all that it said has been read. Return why.
        """
        try:
            if ended is None:
                ended = await self._unless_left(self._session.wait_ended())
        finally:
            self._undo.close()
            await finish(self._session.close(drain=0.0))
            if ended is not None:
                await self._flush()
            self._abort()
        return ended or self._left

    # What happens at this end.

    def connected(self, far: _Far) -> None:
        """A stream is open, so that what is typed can be sent."""
        if far is not self._far:
            return
        if self.session_type == SessionType.NON_INTERACTIVE_COMMANDS:
            return  # those have no input
        if self._has_terminal:
            self._undo.enter_context(terminal.raw_mode())
            self._undo.enter_context(terminal.size_changes(self._session.set_size))
        self._near.resume_reading()

    def heard(self, far: _Far, near: _Near, data: bytes) -> None:
        """The remote says this."""
        if self._decode is not None and far is self._far:
            try:
                data = self._decode(data)
            except Error as error:
                self.leave(str(error))
                return
        near.write(data)

    def typed(self, data: bytes) -> None:
        """This was typed, or piped."""
        if self._escapes is None:
            self._far.write(data)
            return
        for part in self._escapes.feed(data):
            if isinstance(part, bytes):
                self._far.write(part)
            elif part is Action.END:
                self.leave("ended by ~.")
            else:
                self._near.write(b"\r\n" + HELP.replace("\n", "\r\n").encode())

    def input_ended(self) -> None:
        """Nothing more will be typed. A terminal that says so is gone."""
        if self._has_terminal:
            self.leave("the terminal is gone")
        else:
            self._ending = self._loop.create_task(self._end_input())

    def output_lost(self, error: Exception | None) -> None:
        """Nobody reads what the remote says, or it can't be written."""
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            self.leave(f"cannot write its output: {error.strerror}", UNREAD)
        else:
            self.leave("nobody reads its output", UNREAD)

    def press(self, key: bytes) -> None:
        """A signal came that stands for this key."""
        if self._far.transport is None or self._session.ended is not None:
            if key == INTERRUPT:
                self._stop.set()
            return
        now = self._loop.time()
        if key == INTERRUPT:
            if self._interrupted_at is None or self._interrupted_at < self._far.heard_at:
                self._interrupted_at = now
            elif now - self._interrupted_at >= INTERRUPT_TIMEOUT:
                self.leave("interrupted", INTERRUPTED)
        self._far.write(key)

    def leave(self, reason: str, status: int = LEFT) -> None:
        """End the session from here."""
        if not self._leaving.is_set():
            self._left = Left(reason, status)
            self._leaving.set()

    # How it begins and ends.

    @property
    def _outputs(self) -> list[_Near]:
        return [self._near, self._near_errors] if self._near_errors else [self._near]

    def _exited(self, _: int) -> None:
        """The command has ended. Its last words come before the session's end, or never."""
        self._loop.call_later(EXIT_TIMEOUT, self.leave, "the command has ended")

    async def _end_input(self) -> None:
        """End the remote's input, too, and leave when that leads to nothing."""
        far = self._far
        if not far.at_line_start:
            # A shell runs a last line without its end, too. Others see the first ^D as that end.
            shell = self.session_type == SessionType.STANDARD_STREAM
            far.write(b"\n" if shell else END_OF_INPUT)
        far.write(END_OF_INPUT)
        delay, times = END_AGAIN_AFTER, 0
        while (quiet := self._loop.time() - far.heard_at) < self._quiet_timeout:
            await asyncio.sleep(min(delay, self._quiet_timeout - quiet))
            if times < END_AGAIN_TIMES and self._loop.time() - far.heard_at >= delay:
                far.write(END_OF_INPUT)
                delay, times = 2 * delay, times + 1
        self.leave(f"it was silent for {self._quiet_timeout:g} s after the end of the input")

    async def _unless_left(self, work: Coroutine[Any, Any, _T]) -> _T | None:
        """What ``work`` gives; None, with it cancelled, when the session is left before."""
        stopping = self._loop.create_task(self._leave_on_stop())
        try:
            return await unless(self._leaving, work)
        finally:
            stopping.cancel()

    async def _leave_on_stop(self) -> None:
        await self._stop.wait()
        self.leave("stopped", INTERRUPTED)

    async def _flush(self) -> None:
        """Wait until all that has come from the remote is read, as long as somebody wants it."""
        for near in self._outputs:
            near.close()
        for near in self._outputs:
            await unless(self._stop, near.lost.wait())

    def _abort(self) -> None:
        self._undo.close()
        if self._ending is not None:
            self._ending.cancel()
        for near in self._outputs:
            near.abort()


class _Near(asyncio.Protocol):
    """Standard input and output, or standard error."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._stdio: Stdio | None = None
        self.source: asyncio.Transport | None = None
        """Where what is written comes from."""
        self.lost = asyncio.Event()
        self.lost.set()

    def open(self, source: int | None, sink: int) -> None:
        """Take these descriptors. Nothing is read before it can be sent."""
        self._stdio = Stdio(self, source, sink)
        self.lost.clear()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self._shell.typed(data)

    def eof_received(self) -> bool:
        """The output goes on."""
        self._shell.input_ended()
        return True

    def pause_writing(self) -> None:
        """The reader is slow."""
        if self.source is not None:
            self.source.pause_reading()

    def resume_writing(self) -> None:
        """The reader takes more again."""
        if self.source is not None:
            self.source.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The reader is gone, or has all."""
        self._stdio = None
        self.lost.set()
        self._shell.output_lost(exc)

    def write(self, data: bytes) -> None:
        """Write it."""
        if self._stdio is not None:
            self._stdio.write(data)

    def pause_reading(self) -> None:
        """Read nothing for now."""
        if self._stdio is not None:
            self._stdio.pause_reading()

    def resume_reading(self) -> None:
        """Read."""
        if self._stdio is not None:
            self._stdio.resume_reading()

    def close(self) -> None:
        """End when all has been read."""
        if self._stdio is not None:
            self._stdio.close()

    def abort(self) -> None:
        """End now."""
        if self._stdio is not None:
            self._stdio.abort()


class _Far(asyncio.Protocol):
    """The session's stream, or that of its standard error; ``near`` gets what comes."""

    def __init__(self, shell: Shell, near: _Near) -> None:
        self._shell = shell
        self._near = near
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.at_line_start = True  # is what was written last
        self.heard_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The session has a stream for us."""
        self.transport = self._near.source = cast(asyncio.Transport, transport)
        self.heard_at = self._loop.time()
        self._shell.connected(self)

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.heard_at = self._loop.time()
        self._shell.heard(self, self._near, data)

    def pause_writing(self) -> None:
        """The session takes no more for now."""
        self._near.pause_reading()

    def resume_writing(self) -> None:
        """The session takes more again."""
        self._near.resume_reading()

    def write(self, data: bytes) -> None:
        """Send it."""
        if self.transport is not None:
            self.at_line_start = data[-1:] in b"\r\n"
            self.transport.write(data)
