"""NonInteractiveCommands: a command without a terminal, and with nothing to read."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Mapping

from ..protocol.message import PayloadType
from .byte_queue import Buffer
from .documents import is_true
from .events import STDERR, STDOUT, Signal, Spawn, Wiring
from .kind import Emit, End, Send
from .program import ERROR_TITLE, Program
from .pump import Pump
from .words import UnfinishedError, split_words

_INTERRUPT, _QUIT = 0x03, 0x1C
_SIGQUIT = 3  # by number: not every system has the name
_FAILED = 1
_PREFIX = re.compile(r"[0-9a-zA-Z\r\n_:-]{0,30}")


class Command(Program):
    """A command, run without a shell.

    With the property ``separateOutputStream`` its output comes as it is written, standard error
    apart, and its exit code at the end; without, all in one and only after its end.

    The real agent's vices, which ``ideal`` switches off: it reads output as text; it signals the
    command but nothing that this started, takes no more input until the command has ended, and says
    1 when the signal killed it; of separated output that comes while the client is away it keeps
    the first message, reads no more of that stream, and says nothing of it.

    ``error_delay`` is how long it waits until it says why there is no process, in seconds.
    """

    def __init__(
        self,
        properties: Mapping[str, str],
        *,
        send: Send,
        emit: Emit,
        end: End,
        is_away: Callable[[], bool],
        setup_time: float,
        error_delay: float,
        ideal: bool,
    ) -> None:
        self._separate = is_true(properties.get("separateOutputStream", ""))
        self._prefixes = {
            "stdoutSeparatorPrefix": properties.get("stdOutSeparatorPrefix", ""),
            "stderrSeparatorPrefix": properties.get("stdErrSeparatorPrefix", ""),
        }
        self._ideal = ideal
        super().__init__(
            self._make_pumps(emit), send=send, emit=emit, end=end, setup_time=setup_time
        )
        self.paced = not self._separate
        self.heeds_pause = ideal or not self._separate
        self._is_away = is_away
        self._command = properties["command"]
        self._error_delay = error_delay
        self._signalled = False
        self._exit_code: int | None = None
        # Why there is no process, to be said after a while, and what ends the session then.
        self._failure: tuple[str, str] | None = None
        self._over = False

    def start(self, now: float) -> None:
        """The session begins. Input is taken at once, though there is nobody to read it."""
        self.ready = True
        for name, prefix in self._prefixes.items():
            if self._separate and not _PREFIX.fullmatch(prefix):
                self._end(f"invalid {name} {prefix}")
                return
        super().start(now)

    def receive(self, payload_type: int, payload: Buffer) -> None:
        """Control characters become signals; anything else means nothing to a command."""
        if payload_type != PayloadType.OUTPUT or not self._running or self._exit_code is not None:
            return
        for byte in bytes(payload):
            if byte in (_INTERRUPT, _QUIT):
                number = int(signal.SIGINT) if byte == _INTERRUPT else _SIGQUIT
                self._emit(Signal(number, group=self._ideal))
                self._signalled = True
                return

    @property
    def blocked(self) -> bool:
        """Whether the agent waits for the command that it has signalled."""
        return self._signalled and self._exit_code is None and not self._ideal

    def spawned(self, now: float) -> None:  # noqa: ARG002
        """The process runs."""
        self.announces_end = True

    def spawn_failed(self, reason: str, now: float) -> None:
        """There is no process, and will be none."""
        self.announces_end = True
        if self._separate:
            self._last_words.append(_exit_code(_FAILED))
        self._fail(reason, "", now + self._error_delay)

    def exited(self, code: int) -> None:
        """The process has ended."""
        killed = self._signalled and code < 0 and not self._ideal
        self._exit_code = _FAILED if killed else code
        self._finish_if_done()

    def _make_pumps(self, emit: Emit) -> list[Pump]:
        if not self._separate:
            return [Pump(STDOUT, PayloadType.OUTPUT, emit, ideal=self._ideal)]
        out, err = (prefix.encode() for prefix in self._prefixes.values())
        return [
            Pump(STDOUT, PayloadType.OUTPUT, emit, prefix=out, ideal=self._ideal),
            Pump(STDERR, PayloadType.STDERR, emit, prefix=err, ideal=self._ideal),
        ]

    def _begin(self, now: float) -> None:
        try:
            words = split_words(self._command)
        except UnfinishedError as error:
            text = f"Unable to start command: Failed to parse commands input: {error}\n\n"
            self._fail(text, ERROR_TITLE + text, now + 3 * self._error_delay)
            return
        if words:
            wiring = Wiring.PIPES if self._separate else Wiring.FILE
            self._start_process(Spawn(tuple(words), wiring))
        else:
            self._end(f"{ERROR_TITLE}Unable to start command: there is only a comment")

    def _fail(self, text: str, output: str, due: float) -> None:
        self._running = False
        self._failure = (text, output)
        self._schedule(due, self._say_failure)

    def _say_failure(self, now: float) -> None:  # noqa: ARG002
        if self._failure is not None:
            self._last_words.append((PayloadType.STDERR, self._failure[0].encode()))
            self._over = True

    @property
    def _loses_output(self) -> bool:
        return not self.heeds_pause and self._is_away()

    def _taken(self, pump: Pump) -> None:
        if self._loses_output:
            pump.give_up()

    def _finish_if_done(self) -> None:
        if not self._over and self._exit_code is not None and self._drained:
            self._over = True
            if self._separate and not self._loses_output:
                self._last_words.append(_exit_code(self._exit_code))
        if self._over and not self._last_words:
            self._end(self._failure[1] if self._failure else "")


def _exit_code(code: int) -> tuple[PayloadType, bytes]:
    return PayloadType.EXIT_CODE, f"EXIT_CODE: {code}".encode()
