"""``ssmnet.connect``: from whom and whose credentials to a Target."""

from __future__ import annotations

from collections.abc import Callable

from .aws import Client
from .credentials import Source, look_up, region_of
from .dialer import IDLE_TIME, MAX_SESSIONS
from .errors import UsageError
from .events import Event
from .forwards import Request
from .remote import Target
from .starting import Starting


def connect(
    target: str,
    *,
    profile: str | None = None,
    region: str | None = None,
    credentials: Source | None = None,
    endpoint_url: str | None = None,
    messages_endpoint_url: str | None = None,
    reason: str | None = None,
    sessions: int = 1,
    max_sessions: int = MAX_SESSIONS,
    idle_time: float = IDLE_TIME,
    keep_alive: float | None = None,
    resume_timeout: float | None = None,
    max_session_age: float | None = None,
    on_event: Callable[[Event], object] | None = None,
) -> Starting[Target]:
    """Reach ``target``: ``i-...``, ``mi-...`` or ``ecs:cluster_task_runtime``.

    To be awaited, or used with ``async with``. Region and credentials are looked up then; the first
    session is started by the first connection or forward.

    ``profile`` is one of ``~/.aws/config``; without it, AWS's usual settings count.
    ``credentials`` come instead of that: Credentials, a callable that returns them or an awaitable
    of them, or an aiobotocore session. They are asked for again whenever a session is started or
    resumed. ``endpoint_url`` is that of the SSM API, and ``messages_endpoint_url`` that of data
    channels. ``reason`` is put down for each session.

    Up to ``sessions`` share the connections to one destination, and ``max_sessions`` destinations
    have a session at a time. Times are in seconds: ``idle_time`` is how long a session without
    connections is kept. ``keep_alive`` has something sent whenever nothing was for so long, so
    that AWS does not end a session as idle. ``resume_timeout`` bounds how long one interruption may
    last, and ``max_session_age`` how long a session gets new connections; None for no bound.

    ``on_event`` is called with each event, in the event loop: it must not block.

    Raises UsageError, and CredentialsError.
    """
    if not target:
        raise UsageError("no target: it is an instance such as i-0123456789abcdef0")
    if profile is not None and credentials is not None:
        raise UsageError("a profile has credentials of its own: give one of the two")
    request = Request(
        target,
        reason=reason,
        sessions=sessions,
        keep_alive=keep_alive,
        resume_timeout=resume_timeout,
        max_session_age=max_session_age,
    )

    async def start() -> Target:
        client = Client(
            profile=profile,
            region=region or region_of(credentials),
            endpoint_url=endpoint_url,
            messages_endpoint_url=messages_endpoint_url,
            credentials=None if credentials is None else look_up(credentials),
        )
        await client.check()
        return Target(
            client,
            request,
            max_sessions=max_sessions,
            idle_time=idle_time,
            on_event=on_event,
        )

    return Starting(start)
