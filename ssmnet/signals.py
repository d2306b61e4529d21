"""The signals that ask a process to end, and who takes them when. Imports little, to be early."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

STOP_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    if hasattr(signal, name)
]

INTERRUPT = b"\x03"  # the key ^C
# The keys that signals stand for.
_KEYS = {"SIGINT": INTERRUPT, "SIGQUIT": b"\x1c", "SIGTSTP": b"\x1a"}


def exit_on_interrupt() -> None:
    """Have Ctrl-C end the process at once, without a word, until ``interrupt_as_usual``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # as it is unless ignored
        signal.signal(signal.SIGINT, _exit)


def interrupt_as_usual() -> None:
    """Have Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(number: int, _: object) -> None:
    os._exit(128 + number)


def hold_signals() -> None:
    """Let signals wait for ``take_signals``. Nothing on Windows, where that can't be done."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def take_signals(stop: asyncio.Event) -> None:
    """Have the signals that waited, and those that come, set ``stop``, and no more than that.

    A second one is no reason to leave the session behind: callers that are interrupted together
    with us pass that on. The end takes a few seconds at most.
    """
    if sys.platform != "win32":
        import asyncio

        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def take_keys(press: Callable[[bytes], None], *, suspend: bool) -> None:
    """Have signals that stand for keys press those: ^C, ^\\ and, where ``suspend``, ^Z."""
    import asyncio

    loop = asyncio.get_running_loop()
    for name, key in _KEYS.items():
        number = getattr(signal, name, None)
        if number is None or (name == "SIGTSTP" and not suspend):
            continue
        if sys.platform == "win32":
            signal.signal(number, lambda *_, key=key: loop.call_soon_threadsafe(press, key))
        else:
            loop.add_signal_handler(number, press, key)


def ignore_signals() -> None:
    """Nothing is left to be ended but the process, whose exit code says how the session went."""
    if sys.platform != "win32":
        import asyncio

        for number in STOP_SIGNALS:
            # Or else the loop, when it is closed, gives it back its default: to kill us.
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
