"""The plugin's port sessions: where it listens, and what it says of connections."""

from __future__ import annotations

import re
from collections.abc import Callable

from .errors import REFUSED, Error, ListenError, UsageError
from .events import Connected, Disconnected, Event
from .forward import Listener
from .protocol.events import SessionReady
from .session import Session

_ACCEPTED = "\nConnection accepted for session [{}]"
_ACCEPTED_BASIC = "Connection accepted for session {}."
_REFUSED = "\nConnection to destination port failed, check SSM Agent logs."

Say = Callable[[str], None]


async def forward_port(session: Session, ready: SessionReady, say: Say) -> Error:
    """Listen for connections to a port session until it ends; why it did. Raises Error."""
    if ready.customer_message:
        say(ready.customer_message)
    properties = ready.properties
    listener = Listener(
        session.create_stream,
        properties.get("portNumber", ""),
        lambda event: _tell(event, session, say),
    )
    try:
        await _listen(listener, properties, session, say)
        return await session.wait_ended()
    finally:
        listener.close()
        await listener.wait_closed(0)


async def _listen(
    listener: Listener, properties: dict[str, str], session: Session, say: Say
) -> None:
    """Listen where the session's document says, and say so."""
    if properties.get("localConnectionType") == "unix":
        path = properties.get("localUnixSocket", "")
        if not path or "\0" in path:
            raise UsageError("localUnixSocket is not the path of a socket")
        await listener.listen_unix(path)
        opened = f"Unix socket {path} opened for sessionId {session.session_id}."
    else:
        await _listen_on_localhost(listener, _local_port(properties.get("localPortNumber") or "0"))
        opened = f"Port {listener.port} opened for sessionId {session.session_id}."
    say(f"{opened}\nWaiting for connections..." if session.multiplexed else opened)


async def _listen_on_localhost(listener: Listener, port: int) -> None:
    try:
        await listener.listen_tcp(port=port)
    except ListenError:
        # The reference takes the first address of localhost alone, so that is enough.
        await listener.listen_tcp(("127.0.0.1",), port)


def _local_port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise UsageError(f"localPortNumber {text[:20]!r} is not a port: a number from 0 to 65535")
    return int(text)


def _tell(event: Event, session: Session, say: Say) -> None:
    """Say what the reference client says of connections: not much."""
    if isinstance(event, Connected) and event.connection == 1:
        accepted = _ACCEPTED if session.multiplexed else _ACCEPTED_BASIC
        say(accepted.format(session.session_id))
    elif isinstance(event, Disconnected) and event.error == REFUSED:
        say(_REFUSED)
