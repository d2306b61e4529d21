"""Sessions to a target: what is asked of AWS to start one, and the session itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from .aws import Client, StartedSession
from .driver import STALL_TIMEOUT
from .errors import Error, HandshakeError
from .events import Event
from .protocol.handshake import SessionType
from .session import Session

PORT_DOCUMENT = "AWS-StartPortForwardingSession"
# How long a start that is not wanted any more is waited for, so that it can be undone.
UNDO_TIMEOUT = 3.0
_undoing: set[asyncio.Future[None]] = set()
# How long one interruption of a session may last that no other can take the place of.
RESUME_TIMEOUT = 600.0
REMOTE_HOST_DOCUMENT = "AWS-StartPortForwardingSessionToRemoteHost"


async def open_port_session(
    client: Client,
    target: str,
    *,
    port: int | None,
    host: str | None = None,
    document: str | None = None,
    parameters: Mapping[str, Sequence[str]] | None = None,
    reason: str | None = None,
    resume_timeout: float | None = None,
    keep_alive: float | None = None,
    stall_timeout: float = STALL_TIMEOUT,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Session:
    """Start a session that forwards to ``port`` of ``host``, or of the target itself.

    ``parameters`` come on top, for a ``document`` of one's own. For ``resume_timeout``,
    ``keep_alive`` and ``stall_timeout`` see Session. Raises ConnectError and its kinds,
    HandshakeError, SessionClosed or UsageError; nothing is left behind then.
    """
    given = {"portNumber": [str(port)]} if port is not None else {}
    if host is not None:
        given["host"] = [host]
    session = await start_session(
        client,
        target,
        document=document or (PORT_DOCUMENT if host is None else REMOTE_HOST_DOCUMENT),
        parameters=given | dict(parameters or {}),
        reason=reason,
        resume_timeout=resume_timeout,
        keep_alive=keep_alive,
        stall_timeout=stall_timeout,
        on_event=on_event,
    )
    ready = await session.open()
    if ready.session_type != SessionType.PORT:
        await session.close()
        raise HandshakeError(
            f"document {document} starts a {ready.session_type} session, not a port session"
        )
    return session


async def start_session(
    client: Client,
    target: str,
    *,
    document: str | None = None,
    parameters: Mapping[str, Sequence[str]] | None = None,
    reason: str | None = None,
    shell: bool = False,
    resume_timeout: float | None = RESUME_TIMEOUT,
    keep_alive: float | None = None,
    stall_timeout: float = STALL_TIMEOUT,
    on_event: Callable[[Event], None] = lambda _: None,
) -> Session:
    """Have AWS start a session, which is to be opened; a document of None means a shell.

    For what follows ``reason`` see Session. Raises ConnectError and its kinds or UsageError.
    """
    grant = await _start(client, target, document, parameters, reason)
    return Session(
        client,
        grant,
        target=target,
        shell=shell,
        resume_timeout=resume_timeout,
        keep_alive=keep_alive,
        stall_timeout=stall_timeout,
        on_event=on_event,
    )


async def _start(
    client: Client,
    target: str,
    document: str | None,
    parameters: Mapping[str, Sequence[str]] | None,
    reason: str | None,
) -> StartedSession:
    starting = asyncio.ensure_future(client.start_session(target, document, parameters, reason))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # AWS may be starting it all the same, and would keep it until its idle timeout.
        undoing = asyncio.ensure_future(_undo(client, starting))
        _undoing.add(undoing)  # a loop keeps no task alive
        undoing.add_done_callback(_undoing.discard)
        await asyncio.wait((undoing,), timeout=UNDO_TIMEOUT)
        raise


async def _undo(client: Client, starting: asyncio.Future[StartedSession]) -> None:
    with contextlib.suppress(Error):
        await client.terminate_session((await starting).session_id)
