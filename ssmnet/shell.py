"""A shell or a command at hand: standard input and output, joined to a session's stream.

What is typed goes to the remote as it is, and signals become the keys that they stand for. What the
remote says comes out as it comes, also after the session's end, for as long as somebody reads it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from . import terminal
from .errors import Error, HandshakeError, SessionClosed
from .escapes import HELP, Action, Escapes
from .patience import Interrupts, Silence
from .protocol.events import SessionReady
from .protocol.handshake import SessionType
from .runner import finish, unless
from .screen import Screen
from .session import CLOSED, INCOMPLETE, Session
from .shell_ends import Far, Near
from .signals import INTERRUPT, take_keys

# What a terminal's user types to end the input.
END_OF_INPUT = b"\x04"
# A shell that changes its terminal's mode at the wrong moment loses what ends the input. While it
# is silent that is sent again: after so many seconds, then after twice as many, so many times.
END_AGAIN_AFTER = 1.0
END_AGAIN_TIMES = 5
# How long the remote may be silent after the end of the input, in seconds.
QUIET_TIMEOUT = 300.0
# How long an agent may take to begin a command, in seconds.
COMMAND_BEGINS = 1.0
LOST_MEANWHILE = (
    "the connection was lost meanwhile: what the command says may not be whole,"
    " and its exit status is not to be believed"
)
# How long a command's session may go on in silence after the command has ended, in seconds.
EXIT_TIMEOUT = 10.0
# How long what has come may take to be read when the session is left, in seconds.
LEAVE_TIMEOUT = 1.0
# What is pasted is taken so far, in bytes, when the remote does not: an escape may come after it.
PASTE_LIMIT = 4 * 1024 * 1024

_STDIN, _STDOUT, _STDERR = range(3)
# Exit statuses: of one that was given up, of one whose output can't be written or that nobody
# reads, as after SIGPIPE, and after a signal.
LEFT, UNWRITTEN, UNREAD, INTERRUPTED = 255, 1, 141, 130

_T = TypeVar("_T")


class Left(SessionClosed):
    """The session was left from here; ``status`` is the exit status that this makes.

    The reason is empty where there is nothing to say.
    """

    def __init__(self, reason: str, status: int) -> None:
        super().__init__(reason)
        self.status = status


class Shell:
    """Joins standard input and output to ``session``, which is not open yet.

    ``errors`` keeps the remote's standard error apart, where the agent does. ``escapes`` looks for
    ``~.`` and the like in what is typed on a terminal. ``greet`` is told the session's message for
    the user, and ``warn`` what may be wrong with a command's output. ``decode`` gets the remote's
    output and returns what it means. ``quiet_timeout`` bounds, in seconds, how long the remote may
    say nothing after the end of an input that is no terminal. ``farewell`` is told why it has
    ended, and gives the last line of the output. ``stop`` ends it all.
    """

    def __init__(
        self,
        session: Session,
        stop: asyncio.Event,
        *,
        errors: bool = False,
        escapes: bool = True,
        greet: Callable[[str], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
        decode: Callable[[bytes], bytes] | None = None,
        quiet_timeout: float = QUIET_TIMEOUT,
        farewell: Callable[[Error], str] = lambda _: "",
    ) -> None:
        self._session = session
        self._stop = stop
        self._greet = greet
        self._warn = warn
        self._warned = False
        self._decode = decode
        self._quiet_timeout = quiet_timeout
        self._farewell = farewell
        self._loop = asyncio.get_running_loop()
        self._has_terminal = terminal.is_terminal()
        self._escapes = Escapes() if escapes and self._has_terminal else None
        self._screen: Screen | None = None
        self._near = Near(self)
        self._far = Far(self, self._near)
        self._near_errors = Near(self) if errors else None
        self.session_type = ""
        """What kind of session it is, once it has begun."""
        self.interrupts = Interrupts()
        self._silence = Silence(lambda: sum(near.unread for near in self._outputs))
        self._connected_at = self._loop.time()
        self._has_said = False
        self._interruptions = 0
        self._is_whole = True
        self._leaving = asyncio.Event()
        self._left: SessionClosed = Left("", LEFT)
        self._waiting: asyncio.Task[None] | None = None
        self._undo = contextlib.ExitStack()

    @property
    def may_lack_output(self) -> bool:
        """Whether a command's session lost its WebSocket meanwhile.

        The agent drops what such a command says while we are away, and tells nobody.
        """
        cut = self._far.interruptions != self._interruptions
        return cut and self.session_type == SessionType.NON_INTERACTIVE_COMMANDS

    async def run(self) -> Error:
        """Open the session, carry it to its end and return why it ended. It is closed then.

        Raises Error when it does not begin.
        """
        self._session.on_ready = self.begin
        try:
            opened = await self._unless_left(self._session.open())
        except BaseException as error:
            if isinstance(error, Error) and self.session_type:
                return await self.finish(error)  # it was short
            self._abort()
            raise
        return await self.finish(None if opened is not None else self._left)

    def begin(self, ready: SessionReady) -> None:
        """The session is there: it gets its streams before anything of it can be lost."""
        if ready.session_type == SessionType.PORT:
            raise HandshakeError("this session leads to a port, not to a shell or a command")
        self.session_type = ready.session_type
        self._session.on_exit_code = self._exited
        self._session.on_resumed = self._resumed
        self._session.set_size(*terminal.size())
        if ready.customer_message:
            self._greet(ready.customer_message)
        take_keys(self.press, suspend=self._has_input)
        self._near.open(_STDIN if self._has_input else None, _STDOUT)
        if self._has_input and terminal.is_terminal(_STDOUT):
            self._screen = Screen()
        if self._near_errors is not None:
            self._near_errors.open(None, _STDERR)
            self._session.create_error_stream(Far(self, self._near_errors))
        self._session.create_stream(self._far)

    async def finish(self, ended: Error | None = None) -> Error:
        """Wait until the session, which has begun, is over, unless it has ``ended`` already.

        It is closed then, and all that it said has been read. Return why.
        """
        try:
            if ended is None:
                ended = await self._unless_left(self._session.wait_ended())
        finally:
            self._give_back()
            try:
                await finish(self._session.close(drain=0.0))
                is_over = ended is not None or not isinstance(self._left, Left)
                ended = self._reason(ended)
                if self.may_lack_output and self._session.exit_code is not None:
                    self._tell_of_loss()
                self._near.write(self._farewell(ended).encode(errors="replace"))
                await self._flush(None if is_over else LEAVE_TIMEOUT)
            finally:
                self._abort()
        # Somebody may have had enough of what was still to be read.
        return self._left if self._leaving.is_set() else ended

    def _reason(self, ended: Error | None) -> Error:
        if ended is None or self._leaving.is_set():
            return self._left
        if isinstance(ended, SessionClosed) and ended.reason == CLOSED and not self._is_whole:
            return SessionClosed(INCOMPLETE, output=ended.output)
        return ended

    # What happens at this end.

    def connected(self, far: Far) -> None:
        """A stream is open, so that what is typed can be sent."""
        if far is not self._far or far.transport is None:
            return
        self._silence.broken()
        self._connected_at = self._loop.time()
        self._interruptions = far.interruptions
        if not self._has_input:
            return
        if self._has_terminal:
            far.transport.set_write_buffer_limits(PASTE_LIMIT)
            self._undo.enter_context(terminal.raw_mode())
            self._undo.enter_context(terminal.size_changes(self._session.set_size))
        self._near.resume_reading()

    def disconnected(self, error: Exception | None) -> None:
        """There is no stream any more. None says that all has come."""
        self._is_whole = self._is_whole and error is None
        if self._session.ended is None:
            self.leave(f"cannot go on: {type(error).__name__}")

    def heard(self, far: Far, near: Near, data: bytes) -> None:
        """The remote says this."""
        self._silence.broken()
        self.interrupts.heard(data)
        self._has_said = True
        if self._leaving.is_set():
            return
        if far is self._far:
            if self._screen is not None:
                self._screen.feed(data)
            if self._decode is not None:
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
                self._near.write(b"\r\n")
                self.leave("ended by ~.")
            else:
                self._near.write(b"\r\n" + HELP.replace("\n", "\r\n").encode())

    def input_ended(self) -> None:
        """Nothing more will be typed. A terminal that says so is gone."""
        if self._has_terminal:
            self.leave("the terminal is gone")
        else:
            self._wait(self._end_input())

    def output_lost(self, error: Exception) -> None:
        """Nobody reads what the remote says, or it can't be written."""
        if isinstance(error, ConnectionError):
            self.leave("", UNREAD)
        else:
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            self.leave(f"standard input or output failed: {reason}", UNWRITTEN)

    def press(self, key: bytes) -> None:
        """A signal came that stands for this key."""
        if self._far.transport is None or self._leaving.is_set() or self._session.ended is not None:
            if key == INTERRUPT:
                self._stop.set()
            return
        if key == INTERRUPT and self.interrupts.sent(self._loop.time(), converses=self._has_input):
            self.leave("interrupted", INTERRUPTED)
        if self._has_input or self._has_said:
            self._far.write(key)
        else:
            # An agent that gets a key before it has begun the command hears nothing any more.
            begun_at = self._connected_at + COMMAND_BEGINS
            self._loop.call_at(max(begun_at, self._loop.time()), self._far.write, key)

    def leave(self, reason: str, status: int = LEFT) -> None:
        """End the session from here."""
        self._leave(Left(reason, status))

    # How it begins and ends.

    def _leave(self, left: SessionClosed) -> None:
        if not self._leaving.is_set():
            self._left = left
            self._leaving.set()
            self._near.close_input()

    @property
    def _has_input(self) -> bool:
        """Whether what is typed or piped reaches the remote; some commands have no input."""
        return self.session_type != SessionType.NON_INTERACTIVE_COMMANDS

    @property
    def _outputs(self) -> list[Near]:
        return [self._near, self._near_errors] if self._near_errors else [self._near]

    def _exited(self, _: int) -> None:
        """The command has ended."""
        self._silence.broken()
        self._wait(self._close_overdue())

    def _resumed(self) -> None:
        """The session goes on, and so may a command."""
        if self.may_lack_output:
            self._tell_of_loss()
            if self._session.exit_code is None:
                self._silence.broken()
                self._wait(self._leave_silent())

    def _tell_of_loss(self) -> None:
        if not self._warned:
            self._warned = True
            self._warn(LOST_MEANWHILE)

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Have ``work`` wait for the end, in the place of what has waited before."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._loop.create_task(work)

    async def _leave_silent(self) -> None:
        """Its agent reads no more of a command that has said something meanwhile: it may hang."""
        await self._silence.last(self._quiet_timeout)
        self.leave(f"the command was silent for {self._quiet_timeout:g} s after the interruption")

    async def _close_overdue(self) -> None:
        """A command's last words come before the session's end, or never."""
        await self._silence.last(EXIT_TIMEOUT)
        self._leave(SessionClosed(CLOSED))

    async def _end_input(self) -> None:
        """End the remote's input, too, and leave when that leads to nothing."""
        far = self._far
        if not far.at_line_start:
            # A shell runs a last line without its end, too. Others see the first ^D as that end.
            shell = self.session_type == SessionType.STANDARD_STREAM
            far.write(b"\n" if shell else END_OF_INPUT)
        far.write(END_OF_INPUT)
        self._silence.broken()
        for times in range(END_AGAIN_TIMES):
            delay = END_AGAIN_AFTER * 2**times
            if delay < self._quiet_timeout:
                await self._silence.last(delay)
                far.write(END_OF_INPUT)
        await self._silence.last(self._quiet_timeout)
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

    def _give_back(self) -> None:
        """Leave the terminal as it was found. What is typed from now on is for others."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._near.close_input()
        self._undo.close()
        if self._screen is not None:
            self._near.write(self._screen.reset())

    async def _flush(self, patience: float | None) -> None:
        """Wait until all that has come from the remote is read, as long as somebody wants it."""
        for near in self._outputs:
            near.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                for near in self._outputs:
                    if not await unless(self._stop, near.lost.wait()):
                        self.leave("stopped", INTERRUPTED)

    def _abort(self) -> None:
        self._undo.close()
        for near in self._outputs:
            near.abort()
