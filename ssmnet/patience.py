"""How long a shell or a command is waited for that says nothing, or that no ^C ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# A key that interrupts and to which nothing comes for so long, in seconds, has reached nobody. That
# the remote's terminal echoes it says nothing.
INTERRUPT_TIMEOUT = 1.0
INTERRUPT_ECHO = b"^C"


class Silence:
    """Since when the remote has said nothing, with all that it had said before read.

    ``unread`` tells how many bytes its reader has not taken.
    """

    def __init__(self, unread: Callable[[], int]) -> None:
        self._unread = unread
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    def broken(self) -> None:
        """Something was said, or done that it may answer."""
        self._since = self._loop.time()

    async def last(self, seconds: float) -> None:
        """Wait until it has lasted so long."""
        was_unread = False
        while True:
            unread = self._unread() > 0
            if unread or was_unread:
                # It was read at some time since then.
                self.broken()
            was_unread = unread
            left = seconds - (self._loop.time() - self._since)
            if left <= 0:
                return
            await asyncio.sleep(left)


class Interrupts:
    """Each ^C that the remote was sent."""

    def __init__(self) -> None:
        self.any = False
        """Whether there was one."""
        self._at = 0.0
        self._answered = True

    def heard(self, data: bytes) -> None:
        """The remote has said this."""
        # The echo may come in two pieces.
        self._answered = self._answered or data.strip() not in INTERRUPT_ECHO

    def sent(self, now: float, *, converses: bool) -> bool:
        """One more is sent; whether those before it have led to nothing.

        What ``converses`` may go on and be right to: what it says is an answer. A command that is
        interrupted ends, whatever it says.
        """
        futile = False
        if not self.any or (converses and self._answered):
            self._at = now
        else:
            futile = now - self._at >= INTERRUPT_TIMEOUT
        self.any = True
        self._answered = False
        return futile
