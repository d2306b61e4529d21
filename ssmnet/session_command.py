"""What the commands that carry one session of their own have in common: how it is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple

from .command import reach, run_command
from .errors import Error, UsageError
from .status import TellLongInterruptions, tell, tell_traceback

if TYPE_CHECKING:
    import asyncio

    from .session import Session

INTERRUPTED = 130


class Where(NamedTuple):
    """Through what to reach whom; for ``ask`` see ``command.reach``."""

    target: str
    profile: str | None
    region: str | None
    endpoint_url: str | None
    ask: Callable[[str], str] | None = None


class What(NamedTuple):
    """What session to start; ``shell`` says that it may be one. See ``target.start_session``."""

    document: str | None
    parameters: dict[str, list[str]] | None
    reason: str | None
    keep_alive: float | None
    shell: bool


def run_session(
    where: Where,
    what: What,
    run: Callable[[Session, asyncio.Event, float | None], Coroutine[Any, Any, int]],
    failed: int = 1,
    timeout: float | None = None,
) -> int:
    """Start a session and have ``run`` carry it; the exit status, ``failed`` after an error.

    ``run`` is told how much of ``timeout`` is left.
    """
    import asyncio

    from .execute import TIMED_OUT
    from .runner import unless
    from .target import start_session

    async def main(stop: asyncio.Event) -> int:
        async with reach(*where) as (client, target):
            start = start_session(
                client,
                target,
                document=what.document,
                parameters=what.parameters,
                reason=what.reason,
                shell=what.shell,
                keep_alive=what.keep_alive,
                on_event=TellLongInterruptions(),
            )
            try:
                async with asyncio.timeout(timeout) as limit:
                    session = await unless(stop, start)
            except TimeoutError:
                tell(f"there was no session after {timeout:g} s")
                return TIMED_OUT
            if session is None:
                return INTERRUPTED
            client.stop_asking()
            deadline, now = limit.when(), asyncio.get_running_loop().time()
            return await run(session, stop, deadline and max(0.0, deadline - now))

    try:
        return run_command(main)
    except UsageError:
        raise
    except Error as error:
        if failed == 1:
            raise
        if os.environ.get("SSMNET_DEBUG"):
            tell_traceback(error)
        tell(f"error: {error}")
        return failed
