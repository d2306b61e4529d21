"""Sessions to a target: what is asked of AWS to start one, and the session itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .aws import Client
from .errors import HandshakeError
from .protocol.handshake import SessionType
from .session import Session

PORT_DOCUMENT = "AWS-StartPortForwardingSession"
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
) -> Session:
    """Start a session that forwards to ``port`` of ``host``, or of the target itself.

    ``parameters`` come on top, for a ``document`` of one's own. Raises ConnectError and its kinds,
    HandshakeError, SessionClosed or UsageError; nothing is left behind then.
    """
    given = {"portNumber": [str(port)]} if port is not None else {}
    if host is not None:
        given["host"] = [host]
    grant = await client.start_session(
        target,
        document or (PORT_DOCUMENT if host is None else REMOTE_HOST_DOCUMENT),
        given | dict(parameters or {}),
        reason,
    )
    session = Session(client, grant)
    ready = await session.open()
    if ready.session_type != SessionType.PORT:
        await session.close()
        raise HandshakeError(
            f"document {document} starts a {ready.session_type} session, not a port session"
        )
    return session
