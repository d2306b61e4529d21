"""Runs forwards: a session and a listener for each, from start to an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from .aws import Client
from .errors import ConnectError, DestinationRefused, Error
from .events import Closed, Event, Listening
from .forward import Listener
from .forwards import Forward, Request
from .pool import SessionPool
from .protocol.reconnect import MAX_REFUSALS
from .runner import finish, unless
from .session import DRAIN_TIMEOUT, Session
from .target import open_port_session

# How long connections that are open may go on after a stop was asked for.
DRAIN_TIME = 3.0


async def run_forwards(
    client: Client,
    request: Request,
    forwards: Sequence[Forward],
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
) -> bool:
    """Run all ``forwards`` until ``stop``; whether none of them ended before.

    Raises the error of the first that can't start, with nothing left behind.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(_run(client, request, forward, on_event, stop))
                for forward in forwards
            ]
    except* Error as errors:
        first = errors.exceptions[0]
    else:
        return all(task.result() for task in tasks)
    raise first


async def _run(
    client: Client,
    request: Request,
    forward: Forward,
    on_event: Callable[[Event], None],
    stop: asyncio.Event,
) -> bool:
    destination = forward.destination(request.target)

    async def start() -> Session:
        return await open_port_session(
            client,
            request.target,
            port=forward.remote,
            host=forward.host,
            document=request.document,
            parameters=request.parameters,
            reason=request.reason,
            resume_timeout=request.resume_timeout,
            keep_alive=request.keep_alive,
            on_event=on_event,
        )

    pool = SessionPool(
        start,
        on_event,
        width=request.sessions,
        max_restarts=request.max_restarts,
        max_age=request.max_session_age,
        # The target looks up a name once in a session; an address is the same in the next.
        max_refusals=MAX_REFUSALS if forward.names_host or request.document else None,
    )
    ended: Error | None = None
    drain = 0.0
    try:
        if await unless(stop, pool.open()) is None:
            return True
        client.stop_asking()
        if request.check and await unless(stop, _check(pool, destination)) is None:
            return True
        listener = Listener(pool.dial, destination, on_event)
        try:
            await _listen(listener, forward)
            on_event(
                Listening(
                    listener.address, listener.port, pool.session_id, request.target, destination
                )
            )
            ended = await unless(stop, pool.wait_ended())
        finally:
            listener.close()
            # What had no time to finish has none to arrive, either.
            drain = DRAIN_TIMEOUT if await listener.wait_closed(DRAIN_TIME) else 0.0
    finally:
        # When another forward fails, this one is cancelled; its session is ended all the same.
        await finish(pool.close(drain=drain))
    on_event(Closed(pool.session_id, str(ended or "stopped")))
    return ended is None


async def _check(pool: SessionPool, destination: str) -> bool:
    """True. Raises ConnectError when the destination does not answer, or can't be asked."""
    try:
        told = await pool.probe()
    except DestinationRefused as error:
        raise DestinationRefused(
            f"the target could not connect to {destination}: it refuses, or cannot be reached"
        ) from error
    if not told:
        raise ConnectError(f"cannot check {destination}: the agent is too old to tell")
    return True


async def _listen(listener: Listener, forward: Forward) -> None:
    if isinstance(forward.local, int):
        await listener.listen_tcp(forward.bind, forward.local)
    else:
        await listener.listen_unix(forward.local)
