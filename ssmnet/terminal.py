"""The terminal: whether there is one, its size, and raw mode, which is always undone again.

The one seam to the system's terminals: termios here, console.py on Windows. All of it is harmless
where there is no terminal, or where it has vanished.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator

if sys.platform == "win32":
    from . import console
else:
    import termios

# Columns and rows to tell the far end where there is no terminal; AWS's plugin tells the same.
DEFAULT_SIZE = (300, 100)

_INPUT = 0
# Windows tells nobody of a new size: it is asked for this often, in seconds.
_ASK_AGAIN_AFTER = 0.5

# Whether raw mode is to be on: in the background, it waits until we are in the foreground.
_wanted = False


def is_terminal(descriptor: int = _INPUT) -> bool:
    """Whether a terminal is there: standard input's unless told otherwise."""
    return os.isatty(descriptor)


def size() -> tuple[int, int]:
    """Columns and rows of the terminal on stdout, stdin or stderr; DEFAULT_SIZE without one."""
    for descriptor in (1, 0, 2):
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(descriptor)
            # Terminals that nobody has given a size, as a serial line, say 0.
            if columns and rows:
                return columns, rows
    return DEFAULT_SIZE


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Have every key given to us as it is typed, ^C and ^Z too, and none of it echoed.

    What was typed already is kept. Nothing happens where standard input is no terminal.
    """
    global _wanted
    _wanted = True
    _enter()
    try:
        yield
    finally:
        restore()


def restore() -> None:
    """Undo ``raw_mode``, at any time and any number of times: as before ``os._exit``.

    A shell that has taken the terminal back has done so itself.
    """
    global _saved, _wanted
    _wanted = False
    if _saved is None:
        return
    saved, _saved = _saved, None
    if sys.platform == "win32":
        console.restore(saved)
    elif _is_ours():
        _set(saved)


@contextlib.contextmanager
def size_changes(changed: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``changed(columns, rows)`` whenever the size is another one. Needs a running loop.

    When the process goes on after it was stopped, or comes to the foreground, raw mode is taken up
    again, too: a shell has used the terminal meanwhile.
    """
    known = size()

    def look() -> None:
        nonlocal known
        now = size()
        if now != known:
            known = now
            changed(*now)

    def go_on() -> None:
        if _wanted:
            _enter()
        look()

    if sys.platform == "win32":
        with _asked_for(look):
            yield
        return
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, look)
    loop.add_signal_handler(signal.SIGCONT, go_on)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        loop.remove_signal_handler(signal.SIGCONT)


@contextlib.contextmanager
def _asked_for(look: Callable[[], None]) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    timer: asyncio.TimerHandle

    def ask() -> None:
        nonlocal timer
        look()
        timer = loop.call_later(_ASK_AGAIN_AFTER, ask)

    timer = loop.call_later(_ASK_AGAIN_AFTER, ask)
    try:
        yield
    finally:
        timer.cancel()


if sys.platform == "win32":
    # The console's modes as they were, while they are changed.
    _saved: console.Modes | None = None

    def _enter() -> None:
        global _saved
        if _saved is None and is_terminal():
            _saved = console.enter_raw()

else:
    # The terminal's attributes as they were, while they are changed.
    _saved: termios._AttrReturn | None = None

    def _enter() -> None:
        global _saved
        if is_terminal() and _is_ours():
            with contextlib.suppress(termios.error):
                _saved = _saved or termios.tcgetattr(_INPUT)
                _set(_raw(_saved))

    def _is_ours() -> bool:
        """Whether we run in the foreground: a change from the background would stop us."""
        try:
            return os.tcgetpgrp(_INPUT) == os.getpgrp()
        except OSError:
            return True  # not the terminal that controls us: nobody else's either, or it is gone

    def _set(attributes: termios._AttrReturn) -> None:
        # Neither TCSAFLUSH, which drops what was typed ahead, nor TCSADRAIN, which waits for a
        # terminal that may be held by ^S or gone.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(_INPUT, termios.TCSANOW, attributes)

    def _raw(attributes: termios._AttrReturn) -> termios._AttrReturn:
        """The attributes that OpenSSH gives a terminal."""
        iflag, oflag, cflag, lflag, ispeed, ospeed, characters = attributes
        iflag |= termios.IGNPAR
        iflag &= ~(termios.ISTRIP | termios.INLCR | termios.IGNCR | termios.ICRNL)
        iflag &= ~(termios.IXON | termios.IXANY | termios.IXOFF)
        lflag &= ~(termios.ISIG | termios.ICANON | termios.IEXTEN)
        lflag &= ~(termios.ECHO | termios.ECHOE | termios.ECHOK | termios.ECHONL)
        oflag &= ~termios.OPOST
        characters = list(characters)
        characters[termios.VMIN], characters[termios.VTIME] = 1, 0
        return [iflag, oflag, cflag, lflag, ispeed, ospeed, characters]


atexit.register(restore)
