"""A session's byte stream on stdin and stdout, as ssh's ProxyCommand has it.

The session is this process's own and ends with it. What has come from the target is delivered,
however the session ended; what has gone there is given time to arrive, unless nobody waits for it.
"""

from __future__ import annotations

import asyncio

from .errors import DestinationRefused, Error, HandshakeError, SessionClosed
from .forward import Forwarder, Peer
from .protocol.events import SessionReady
from .protocol.handshake import SessionType
from .runner import finish, unless
from .session import DRAIN_TIMEOUT, Session
from .stdio import open_stdio

DOCUMENT = "AWS-StartSSHSession"
# Exit statuses. A stream that was cut off must not look whole to a script.
DONE = 0
READER_GONE = 1
INTERRUPTED = 130
# How long what was read from stdin may take to arrive, in seconds, when stdout's reader is gone.
READER_GONE_DRAIN_TIME = 1.0


async def run_ssh_proxy(session: Session, stop: asyncio.Event) -> int:
    """Join stdin and stdout to the stream of ``session`` until one ends, or ``stop`` is set.

    The session is not open yet. Gives the exit status: 0 when the connection has ended in good
    order. Raises Error when it could not be made, or was lost. No session is left behind.
    """
    pair = Pair(session)
    try:
        open_stdio(pair.left)
        if await unless(stop, pair.run()) is None:
            return INTERRUPTED
        return pair.status()
    finally:
        await pair.close()


class Pair(Forwarder):
    """stdin and stdout on the left, the session's stream on the right."""

    def __init__(self, session: Session) -> None:
        super().__init__(1, lambda _: self._done.set())
        self._done = asyncio.Event()
        self._first_lost: Peer | None = None
        self._session_error: Exception | None = None
        self._session = session
        session.on_ready = self.begin

    async def run(self) -> bool:
        """Open the session and carry until both sides are closed; True. Raises Error."""
        try:
            await unless(self._done, self._session.open())
        except SessionClosed:
            # It was short, or never began.
            if self.right.transport is None:
                raise
        await self.wait()
        return True

    async def wait(self) -> None:
        """Wait until both sides are closed."""
        await self._done.wait()

    async def close(self) -> None:
        """Close both sides, if they are not, and the session."""
        drain = 0.0
        if self._done.is_set():
            drain = DRAIN_TIMEOUT if self.left.ended else READER_GONE_DRAIN_TIME
        self.abort()
        await finish(self._session.close(drain=drain))

    def lose(self, peer: Peer, error: Exception | None) -> None:
        """One side is gone. What has come from the session is worth delivering all the same."""
        self._first_lost = self._first_lost or peer
        if peer is self.right:
            self._session_error, error = error, None
        super().lose(peer, error)

    def status(self) -> int:
        """The exit status, after the end. Raises Error."""
        if self._first_lost is self.right:
            ended = self._session.ended
            if self._session_error is not None:
                raise self._session_error
            if isinstance(ended, SessionClosed) and ended.output:
                raise ended  # all of the stream has come, but there is more to say
            if not self.right.received and not self.left.ended:
                # Agents say no more of it where nobody listens.
                raise DestinationRefused("the target closed the connection before a byte had come")
            return DONE
        if isinstance(self.error, OSError) and not isinstance(self.error, ConnectionError):
            raise Error(f"cannot write to stdout: {self.error.strerror}") from self.error
        return DONE if self.left.ended else READER_GONE

    def begin(self, ready: SessionReady) -> None:
        """The session is there: it gets its stream before anything of it can be lost."""
        if ready.session_type != SessionType.PORT:
            raise HandshakeError(f"this is a {ready.session_type} session, not one for a port")
        if self.left.transport is None:
            open_stdio(self.left)
        self._session.create_stream(self.right)
