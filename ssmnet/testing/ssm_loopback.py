"""A far end for synchronous tests: a real gateway and agent on a loop in a thread of its own.

::

    with SsmLoopback(names={"db.internal": "127.0.0.1"}) as far_end, far_end.in_environment():
        ...  # AWS clients, ssmnet and session-manager-plugin reach far_end.target

The pytest fixture ``ssm_loopback`` does just that for each test.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from ..aws_credentials import Credentials
from ..blocking import LoopThread
from ..loopback import AGENT_AWAY, Loopback, ecs, sigv4
from ..loopback.gateway import AgentSettings
from ..loopback.impairment import Impairment
from ..loopback.lifetime import CLIENT_AWAY, Limits
from ..loopback.policing import QUEUE, Policing
from ..loopback.port import SETUP_TIME
from .certificate import server_context
from .session_seen import SessionSeen, WatchedGateway

Direction = Literal["both", "to_agent", "to_client"]
T = TypeVar("T")


class SsmLoopback:
    """A gateway and one online instance, from ``with`` to its end. It takes milliseconds to start.

    All methods may be called from any thread, and from where an event loop runs. ``names`` are
    addresses by host name that the far end knows, for names that nobody else on this machine need
    know. With ``check_sessions`` the end of ``with`` raises AssertionError for sessions that were
    left open.

    ``tls`` makes it https and wss, with a certificate that ``environment`` names. ``denied`` names
    API actions, such as ``"StartSession"``, that are answered with AccessDeniedException.
    ``allow_unsigned`` lets WebSockets in that carry no signature, as clients before
    session-manager-plugin 1.2.764 made them. The agent announces ``agent_version``; it encrypts
    shells and commands with ``kms``, and refuses clients that ignore its random challenge with
    ``require_challenge``. ``pace`` gives it the real agent's pace, 0.95 MB/s a session, and
    ``ideal`` takes its vices away; ``setup_time`` is how long it drops input after the handshake,
    ``first_output_delay`` how long it holds back a shell's first output, 1 s in real ones.

    A session ends ``away_limit`` after it lost its client, ``agent_away_limit`` after its agent,
    ``idle_timeout`` after its last data and ``max_duration`` after its start; None is never. All
    times are in seconds. Raises ValueError for an address, an action or a time that is none, and
    RuntimeError where a method needs it to run and it does not.
    """

    target = Loopback.target
    """The instance: ``"i-0123456789abcdef0"``."""
    region = Loopback.region
    """Where it says it is."""
    ecs_target = ecs.TARGET
    """The same instance as a container of ``ecs_cluster`` and ``ecs_task``."""
    ecs_cluster = ecs.CLUSTER
    ecs_task = ecs.TASK

    def __init__(
        self,
        *,
        names: Mapping[str, str] | None = None,
        check_sessions: bool = True,
        tls: bool = False,
        denied: Collection[str] = (),
        allow_unsigned: bool = False,
        agent_version: str = "3.3.0.0",
        kms: bool = False,
        require_challenge: bool = False,
        pace: bool = False,
        ideal: bool = False,
        setup_time: float = SETUP_TIME,
        first_output_delay: float = 0.0,
        away_limit: float = CLIENT_AWAY,
        agent_away_limit: float = AGENT_AWAY,
        idle_timeout: float | None = None,
        max_duration: float | None = None,
    ) -> None:
        self.check_sessions = check_sessions
        """Whether sessions that are open at the end are an error."""
        self.credentials = Credentials(
            "AKIA" + secrets.token_hex(8).upper(), secrets.token_urlsafe(30)
        )
        """Good here alone, and made for this far end."""
        self._tls = tls
        self._ca_file: Path | None = None
        self._names = {_key(host): _address(address) for host, address in (names or {}).items()}
        self._gateway = WatchedGateway(
            credentials=sigv4.Credentials(self.credentials.access_key, self.credentials.secret_key),
            allow_unsigned=allow_unsigned,
            denied=denied,
            agent=AgentSettings(
                version=agent_version,
                pace=pace,
                ideal=ideal,
                setup_time=setup_time,
                first_output_delay=first_output_delay,
                kms=kms,
                require_challenge=require_challenge,
                names=self._names,
            ),
            limits=Limits(away_limit, agent_away_limit, idle_timeout, max_duration),
        )
        for action in denied:
            self._gateway.faults.fail_next("", "", 0, action)  # for its check of the name alone
        self._thread = LoopThread()
        self._running = False
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            context = None
            if self._tls:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                context, self._ca_file = server_context(folder)
            stack.enter_context(self._thread)
            self._thread.call(self._gateway.start("127.0.0.1", 0, context))
            stack.callback(lambda: self._thread.call(self._gateway.close()))
            self._stack = stack.pop_all()
        self._running = True
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *exc_info: object) -> None:
        """End it. Raises AssertionError for sessions that were left open."""
        __tracebackhide__ = True
        with self._stack:
            try:
                if self.check_sessions and exc_type is None:
                    self.assert_no_sessions_left()
            finally:
                self._running = False

    # Where it is.

    @property
    def endpoint_url(self) -> str:
        """Of SSM, KMS, ECS and the message gateway: each for itself has this address."""
        return self._gateway.endpoint_url

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which any AWS client finds this far end, and no file of the user's."""
        environment = {
            "AWS_ENDPOINT_URL_SSM": self.endpoint_url,
            "AWS_ENDPOINT_URL_SSMMESSAGES": self.endpoint_url,
            "AWS_ENDPOINT_URL_KMS": self.endpoint_url,
            "AWS_ENDPOINT_URL_ECS": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        if self._ca_file is not None:
            environment["AWS_CA_BUNDLE"] = environment["SSL_CERT_FILE"] = str(self._ca_file)
        return environment

    def changes(self, environ: Mapping[str, str]) -> dict[str, str | None]:
        """What to change in ``environ`` so that clients come here; None is to be removed.

        Every AWS setting goes but the endpoints of other services, which may be moto's.
        """
        changes: dict[str, str | None] = {
            name: None
            for name in environ
            if name.startswith("AWS_") and not name.startswith("AWS_ENDPOINT_URL")
        }
        for name in ("NO_PROXY", "no_proxy"):
            before = environ.get(name, "")
            if before != "*":
                changes[name] = ",".join(filter(None, (before, "127.0.0.1", "localhost")))
        return {**changes, **self.environment}

    @contextmanager
    def in_environment(self) -> Iterator[Self]:
        """Lead this process, and those that it starts, here until the end of ``with``."""
        changes = self.changes(os.environ)
        before = {name: os.environ.get(name) for name in changes}
        _apply(changes)
        try:
            yield self
        finally:
            _apply(before)

    def name(self, host: str, address: str = "127.0.0.1") -> None:
        """Let the far end know ``host`` by this address, in sessions that start from now on."""
        self._names[_key(host)] = _address(address)

    # What was seen.

    @property
    def sessions(self) -> list[SessionSeen]:
        """Every session that was started here, ended ones too, in the order of their start."""
        return self._gateway.seen()

    @property
    def open_sessions(self) -> list[SessionSeen]:
        """The sessions that have not been terminated."""
        return [session for session in self.sessions if session.state != "terminated"]

    def assert_no_sessions_left(self, timeout: float = 5.0) -> None:
        """Raise AssertionError if sessions are still open after ``timeout`` seconds.

        It blocks meanwhile; an async test calls it by ``asyncio.to_thread`` if what ends the
        sessions runs in its own loop.
        """
        __tracebackhide__ = True

        async def none_left() -> bool:
            try:
                async with asyncio.timeout(timeout):
                    await self._gateway.none_left.wait()
            except TimeoutError:
                return False
            return True

        if not self._call(none_left()):
            left = self.open_sessions
            were = "1 session was" if len(left) == 1 else f"{len(left)} sessions were"
            told = "".join(f"\n  {session}" for session in left)
            raise AssertionError(f"{were} left open:{told}")

    # What can go wrong; all of it happens to every session.

    def fail_next(
        self, code: str, message: str = "", times: int = 1, action: str | None = None
    ) -> None:
        """Answer the next API calls with an AWS error such as ``"ThrottlingException"``.

        Only calls of ``action``, such as ``"ResumeSession"``, if one is named.
        """
        self._do(lambda: self._gateway.faults.fail_next(code, message, times, action))

    def expire_tokens(self, also_next: int = 0) -> None:
        """Refuse every token that clients have been given: only ResumeSession gives a good one.

        The ``also_next`` tokens that are handed out next are as bad. Open WebSockets stay.
        """
        self._do(lambda: self._gateway.faults.expire_tokens(also_next))

    def cut_clients(self) -> None:
        """Reset every client's WebSocket; the sessions live on and can be resumed."""
        self._do(self._gateway.faults.cut_clients)

    def close_clients(self, code: int = 1000, reason: str = "Bye") -> None:
        """Close every client's WebSocket in good order; the sessions live on."""
        self._do(lambda: self._gateway.faults.close_clients(code, reason))

    def blackhole_clients(self, seconds: float, *, new: bool = False) -> None:
        """Let nothing pass on clients' WebSockets for so long: half-dead links.

        Then all that was held passes. New WebSockets work meanwhile, unless ``new``.
        """
        self._do(lambda: self._gateway.faults.blackhole_clients(seconds, new=new))

    def impair(
        self,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: bool = False,
        direction: Direction = "both",
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        """Put a bad network between client and agent, in sessions that are and that will be.

        Each message comes ``delay`` seconds late and up to ``jitter`` more, in order unless
        ``reorder``; the share ``loss`` of 1 never comes, ``duplicate`` comes twice. It lasts for
        ``seconds``, or until the next call: one without arguments heals.
        """
        impairment = Impairment(delay, jitter, loss, duplicate, reorder, direction, seconds, seed)
        self._do(lambda: self._gateway.faults.impair(impairment))

    def police(
        self,
        rate: float | None = None,
        queue: int = QUEUE,
        *,
        direction: Direction = "to_agent",
    ) -> None:
        """Cap what is taken of each WebSocket, as AWS's gateway is reported to do.

        Messages pass at ``rate`` bytes/s, ``queue`` bytes may wait, and one message more ends the
        session. It lasts until the next call: one without arguments lifts the cap.
        """
        policing = Policing(rate, queue, direction)
        self._do(lambda: self._gateway.faults.police(policing))

    def kill_agents(self) -> None:
        """End every session's agent without a word; ``agent_away_limit`` later the sessions end."""
        self._do(self._gateway.faults.kill_agents)

    def end_sessions(self, output: str = "") -> None:
        """End every session, as an administrator or a time limit does; clients read ``output``."""
        self._do(lambda: self._gateway.faults.end_sessions(output))

    def _do(self, fault: Callable[[], T]) -> T:
        """Faults happen in the far end's loop, and have happened when this returns."""

        async def work() -> T:
            return fault()

        return self._call(work())

    def _call(self, work: Coroutine[Any, Any, T]) -> T:
        if not self._running:
            work.close()
            raise RuntimeError("this far end runs from the start of `with` to its end only")
        return self._thread.call(work)


def _key(host: str) -> str:
    """As the agent looks hosts up: case and the dot at the end make no difference."""
    return host.lower().removesuffix(".")


def _address(address: str) -> str:
    return str(ip_address(address))


def _apply(changes: Mapping[str, str | None]) -> None:
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
