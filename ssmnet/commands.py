"""Commands: those that an application runs on a target, and its shells, each with its session."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from subprocess import CompletedProcess

from .aws import Client
from .errors import SessionClosed, UsageError
from .events import Event
from .execute import command_request
from .forwards import Request
from .process import Command, RemoteShell
from .runner import finish
from .session import Session
from .target import start_session


class Commands:
    """The commands and shells of one target, until they end or ``close``.

    ``request`` holds what their sessions have in common. ``tell`` is told of interruptions.
    """

    def __init__(self, client: Client, request: Request, tell: Callable[[Event], None]) -> None:
        self._client = client
        self._request = request
        self._tell = tell
        self._starting: set[asyncio.Task[Session]] = set()
        self._sessions: dict[Session, None] = {}
        self._closed = False

    async def run(
        self,
        args: tuple[str, ...],
        *,
        timeout: float | None,  # noqa: ASYNC109 - as subprocess.run's
        base64: bool,
        limit: int,
    ) -> CompletedProcess[bytes]:
        """See Target.run."""
        if not args:
            raise UsageError("the command is missing")
        request = command_request(_checked(args), base64=base64)
        async with asyncio.timeout(timeout):
            session = await self._start(request.document, request.parameters)
            try:
                code, out, err = await Command(session, base64=base64, limit=limit).run()
            finally:
                self._sessions.pop(session, None)
        return CompletedProcess(args, code, out, err)

    async def shell(
        self,
        args: tuple[str, ...],
        *,
        size: tuple[int, int],
        limit: int,
        document: str | None,
        parameters: Mapping[str, Sequence[str]] | None,
    ) -> RemoteShell:
        """See Target.shell."""
        if args:
            document, parameters = command_request(_checked(args), tty=True)
        session = await self._start(document, parameters, is_shell=True)
        shell = RemoteShell(session, size, limit)
        try:
            await shell.open()
        except BaseException:
            self._sessions.pop(session, None)
            raise
        return shell

    async def close(self) -> None:
        """End all."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        await asyncio.gather(*(session.close(drain=0.0) for session in self._sessions))

    async def _start(
        self,
        document: str | None,
        parameters: Mapping[str, Sequence[str]] | None,
        is_shell: bool = False,
    ) -> Session:
        starting = asyncio.create_task(
            start_session(
                self._client,
                self._request.target,
                document=document,
                parameters=parameters,
                reason=self._request.reason,
                shell=is_shell,
                keep_alive=self._request.keep_alive,
                on_event=self._tell,
            )
        )
        self._starting.add(starting)
        try:
            session = await starting
        except asyncio.CancelledError:
            await _drop(starting)
            if _is_cancelled() or not self._closed:
                raise
            raise SessionClosed("the target is closed") from None
        finally:
            self._starting.discard(starting)
        for ended in [one for one in self._sessions if one.ended is not None]:
            del self._sessions[ended]
        self._sessions[session] = None
        return session


async def _drop(starting: asyncio.Task[Session]) -> None:
    """End a session that was there at the moment when its caller was cancelled."""
    if starting.done() and not starting.cancelled() and starting.exception() is None:
        await finish(starting.result().close(drain=0.0))


def _is_cancelled() -> bool:
    """Whether that is what was asked of the task, and not of the one that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _checked(args: tuple[str, ...]) -> tuple[str, ...]:
    for arg in args:
        if not isinstance(arg, str):
            raise UsageError(f"an argument of a command is a str, not {type(arg).__name__}")
    return args
