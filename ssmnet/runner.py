"""Runs the command line's coroutines: the event loop, the signals and the limits of a process."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from asyncio import FIRST_COMPLETED
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

from .signals import STOP_SIGNALS

_T = TypeVar("_T")

# Programs that are ended together pass the signal on: that is one wish, told twice.
SECOND_SIGNAL_AFTER = 0.3


def run(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``main`` on the fastest loop there is; its argument is set when it is to stop.

    The first SIGINT, SIGTERM or SIGHUP asks for that; a second, later one ends the process at once.
    """
    _open_standard_files()
    _raise_file_limit()
    # What it warns of is raised too. Without any handler, Python would print it with a traceback.
    logging.getLogger("aiobotocore").addHandler(logging.NullHandler())
    factory = _loop_factory()
    if not gc.isenabled():
        # What was imported stays, and need not be looked through again and again.
        gc.freeze()
        gc.enable()
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(_with_signals(main))


def see_no_aws_but(environment: Mapping[str, str]) -> None:
    """Lead this process to the AWS of ``environment`` alone, past the user's own settings."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(environment)
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    # Either name may be the one that counts.
    os.environ.update(NO_PROXY="*", no_proxy="*")


async def unless(stop: asyncio.Event, awaitable: Coroutine[Any, Any, _T]) -> _T | None:
    """What ``awaitable`` gives; None, with it cancelled, when ``stop`` is set before."""
    task = asyncio.ensure_future(awaitable)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((task, stopping), return_when=FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        stopping.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait((task,))


async def finish(closing: Coroutine[Any, Any, None]) -> None:
    """Carry ``closing`` to its end, and only then be cancelled."""
    task = asyncio.ensure_future(closing)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


async def _with_signals(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    asked_at: float | None = None  # by a signal: ``stop`` may be set for another reason

    def on_signal(number: int) -> None:
        nonlocal asked_at
        if asked_at is None:
            asked_at = time.monotonic()
            stop.set()
        elif time.monotonic() - asked_at > SECOND_SIGNAL_AFTER:
            # Nothing is written any more that could be lost: whoever asks twice wants it now.
            from .terminal import restore

            restore()
            os._exit(128 + number)

    for number in STOP_SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
            # As under nohup. The AWS CLI's child finds SIGINT ignored, but is meant to have it.
            continue
        if sys.platform == "win32":
            # This loop has no signal handlers of its own.
            signal.signal(number, lambda got, _: loop.call_soon_threadsafe(on_signal, got))
        else:
            loop.add_signal_handler(number, on_signal, number)
    return await main(stop)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


def _open_standard_files() -> None:
    """What a caller has closed is opened again: uvloop aborts when it is given such a number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


def _raise_file_limit() -> None:
    """Each connection takes a descriptor, and the usual soft limit is low."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard and sys.platform != "darwin":
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
