"""``ssmnet.connect``: from whom and whose credentials to a Target."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from msgspec.structs import replace

from .arguments import check_counts, check_periods, check_times
from .aws import Client
from .aws_credentials import Credentials
from .credentials import Source, look_up, region_of
from .dialer import IDLE_TIME, MAX_SESSIONS
from .errors import UsageError
from .events import Event
from .forwards import Request
from .remote import Target
from .starting import Starting

if TYPE_CHECKING:
    from .loopback import Loopback

LOOPBACK = "loopback"


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

    Or ``"loopback"``: a far end in this event loop, without AWS, for as long as the Target lives.
    Its agent connects to what this machine reaches, and runs commands here. Region, credentials and
    endpoints are not looked at then.

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
    if not isinstance(target, str) or not target:
        raise UsageError("no target: it is an instance such as i-0123456789abcdef0")
    if profile is not None and credentials is not None:
        raise UsageError("a profile has credentials of its own: give one of the two")
    check_counts(sessions=sessions, max_sessions=max_sessions)
    check_times(idle_time=idle_time, resume_timeout=resume_timeout)
    check_periods(keep_alive=keep_alive, max_session_age=max_session_age)
    request = Request(
        target,
        reason=reason,
        sessions=sessions,
        keep_alive=keep_alive,
        resume_timeout=resume_timeout,
        max_session_age=max_session_age,
    )

    async def start() -> Target:
        async with AsyncExitStack() as stack:
            name = target
            if target == LOOPBACK:
                far_end = await stack.enter_async_context(_far_end())
                name, client = far_end.target, _client_of(far_end)
            else:
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
                replace(request, target=name),
                max_sessions=max_sessions,
                idle_time=idle_time,
                on_event=on_event,
                on_closed=stack.pop_all().aclose,
            )
        raise AssertionError  # for mypy: a stack may suppress errors, and this one does not

    return Starting(start)


def _far_end() -> Loopback:
    from .loopback import Loopback

    return Loopback()


def _client_of(far_end: Loopback) -> Client:
    """What reaches it, whatever this process has for AWS."""
    return Client(
        region=far_end.region,
        endpoint_url=far_end.endpoint_url,
        messages_endpoint_url=far_end.endpoint_url,
        credentials=look_up(Credentials(far_end.access_key_id, far_end.secret_access_key)),
        local=True,
    )
