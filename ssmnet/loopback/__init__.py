"""A real far end on this machine: gateway and agent, for tests, demonstrations and measurements.

::

    async with Loopback() as loopback:
        os.environ.update(loopback.environment)
        ...  # any AWS client and any Session Manager client can now talk to loopback.target

It listens on a loopback address only, checks every signature, and its agent dials real TCP
destinations from this machine. Shells and commands run here as whoever runs this process, so they
are for clients with the credentials only.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable, Container, Mapping
from ipaddress import ip_address
from typing import Literal, Self

from ..runner import finish
from . import ecs
from .agent import FIRST_OUTPUT_DELAY, Agent
from .documents import SessionRequest, session_request
from .gateway import INSTANCE_ID, OPEN_TIMEOUT, REGION, AgentOffer, AgentSettings, Gateway
from .impairment import Impairment
from .kms import Kms
from .lifetime import AGENT_AWAY, CLIENT_AWAY, Limits
from .policing import QUEUE, Policing
from .port import SETUP_TIME
from .sigv4 import Credentials

__all__ = [
    "AGENT_AWAY",
    "FIRST_OUTPUT_DELAY",
    "Agent",
    "AgentOffer",
    "Loopback",
    "SessionRequest",
    "session_request",
]


class Loopback:
    """A gateway and one online instance, from ``async with`` to its end.

    ``port`` 0 takes a free one. ``tls`` makes it https and wss on ``localhost``; ``ca_file`` is the
    PEM file that clients should trust then. ``allow_unsigned`` lets WebSockets of port sessions in
    that carry no signature, as clients did before session-manager-plugin 1.2.764. ``denied`` names
    API actions such as ``"StartSession"`` that are answered with AccessDeniedException.

    ``kms`` makes the agent encrypt shells and commands with a data key from ``kms_key_id``, which
    the API serves in any case; with ``require_challenge`` it refuses clients that do not bind that
    data key to its random challenge. ECS's ExecuteCommand runs a command in ``container`` of
    ``task`` in ``cluster``, which is the same agent on this machine.

    The agent has the real one's habits but for its sleep of 1 ms after each message, which ``pace``
    switches on, and but for its delay of 1 s before a shell's first output, which
    ``first_output_delay`` sets in seconds; ``ideal`` switches its vices off. ``setup_time`` is how
    many seconds it drops input after the handshake. ``offer`` is told of each new session and has
    to bring its own agent.

    ``names`` is the far end's hosts file, so to speak: addresses by host name, such as
    ``{"db.internal": "127.0.0.1"}``, for names that nobody else on this machine need know. One that
    is not an address raises ValueError.

    ``open_timeout`` bounds the wait for a WebSocket's first message, ``away_limit`` how long a
    session lives without its client, ``agent_away_limit`` without an agent that was there. Like
    AWS's, a session may end ``idle_timeout`` after the last stream data either way (pings and
    acknowledgements do not count), and ``max_duration`` after its start; None is never. All are in
    seconds.

    What goes wrong between a client and AWS can be had on demand: see fail_next, expire_tokens,
    cut_clients, close_clients, blackhole_clients, impair, police, kill_agents and end_sessions.
    They act on all sessions, and raise ValueError for arguments that make no sense. Other processes
    call them with HTTP Basic authentication by the access key id and secret, arguments as a JSON
    object::

        POST /faults/impair  {"delay": 0.1, "loss": 0.01, "seconds": 5}
    """

    region = REGION
    target = INSTANCE_ID
    cluster = ecs.CLUSTER
    task = ecs.TASK
    container = ecs.CONTAINER
    ecs_target = ecs.TARGET

    def __init__(
        self,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
        ca_file: str | None = None,
        allow_unsigned: bool = False,
        denied: Container[str] = (),
        pace: bool = False,
        ideal: bool = False,
        agent_version: str = "3.3.0.0",
        setup_time: float = SETUP_TIME,
        first_output_delay: float = FIRST_OUTPUT_DELAY,
        kms: bool = False,
        require_challenge: bool = False,
        names: Mapping[str, str] | None = None,
        offer: Callable[[AgentOffer], None] | None = None,
        open_timeout: float = OPEN_TIMEOUT,
        away_limit: float = CLIENT_AWAY,
        agent_away_limit: float = AGENT_AWAY,
        idle_timeout: float | None = None,
        max_duration: float | None = None,
    ) -> None:
        self.access_key_id = "AKIA" + secrets.token_hex(8).upper()
        self.secret_access_key = secrets.token_urlsafe(30)
        self._host = host
        self._port = port
        self._tls = tls
        self._ca_file = ca_file
        self._gateway = Gateway(
            credentials=Credentials(self.access_key_id, self.secret_access_key),
            allow_unsigned=allow_unsigned,
            denied=denied,
            agent=AgentSettings(
                agent_version,
                pace,
                ideal,
                setup_time,
                first_output_delay,
                kms,
                require_challenge,
                _hosts(names or {}),
            ),
            offer=offer,
            open_timeout=open_timeout,
            limits=Limits(away_limit, agent_away_limit, idle_timeout, max_duration),
        )

    async def __aenter__(self) -> Self:
        # A server that is just being made would be lost with a task that is cancelled meanwhile.
        starting = asyncio.ensure_future(self._gateway.start(self._host, self._port, self._tls))
        try:
            await asyncio.shield(starting)
        except BaseException:
            await finish(self._undo(starting))
            raise
        return self

    async def _undo(self, starting: asyncio.Future[None]) -> None:
        await asyncio.wait((starting,))
        await self._gateway.close()

    async def __aexit__(self, *exc_info: object) -> None:
        await self._gateway.close()

    @property
    def endpoint_url(self) -> str:
        """Where the API is; its WebSockets are on the same host and port."""
        return self._gateway.endpoint_url

    @property
    def kms_key_id(self) -> str:
        """The ARN of the key that data keys come from."""
        return self._gateway.kms.key_arn

    @property
    def kms(self) -> Kms:
        """The key itself, for an agent of one's own."""
        return self._gateway.kms

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment has to hold to find this far end and nothing else."""
        environment = {
            "AWS_ENDPOINT_URL_SSM": self.endpoint_url,
            # Where StreamUrl leads anyway; naming it is what makes a careful client trust it.
            "AWS_ENDPOINT_URL_SSMMESSAGES": self.endpoint_url,
            "AWS_ENDPOINT_URL_KMS": self.endpoint_url,
            "AWS_ENDPOINT_URL_ECS": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        if self._ca_file is not None:
            environment["AWS_CA_BUNDLE"] = self._ca_file
            environment["SSL_CERT_FILE"] = self._ca_file
        return environment

    @property
    def sessions(self) -> int:
        """How many sessions are alive."""
        return len(self._gateway.sessions)

    @property
    def session_ids(self) -> list[str]:
        """The ids of the sessions that are alive."""
        return list(self._gateway.sessions)

    @property
    def sessions_started(self) -> int:
        """How many sessions there have been."""
        return self._gateway.sessions_started

    @property
    def sessions_terminated(self) -> int:
        """How many sessions have ended."""
        return self._gateway.sessions_terminated

    @property
    def clients(self) -> int:
        """How many sessions have their client's WebSocket open."""
        return sum(session.client is not None for session in self._gateway.sessions.values())

    @property
    def connections(self) -> int:
        """How many TCP connections to destinations the agent has open."""
        return sum(agent.connections for agent in self._gateway.agents.values())

    def agent(self, session_id: str) -> Agent:
        """The built-in agent's core of a session, for a look at its counters. Raises KeyError."""
        return self._gateway.agents[session_id].agent

    def fail_next(
        self, code: str, message: str = "", times: int = 1, action: str | None = None
    ) -> None:
        """Answer the next API calls with an AWS error such as ``"ThrottlingException"``.

        Only calls of ``action``, such as ``"ResumeSession"``, if one is named.
        """
        self._gateway.faults.fail_next(code, message, times, action)

    def expire_tokens(self, also_next: int = 0) -> None:
        """Refuse every token that clients have been given: only ResumeSession gives a good one.

        The ``also_next`` tokens that are handed out next are as bad. Open WebSockets stay.
        """
        self._gateway.faults.expire_tokens(also_next)

    def cut_clients(self) -> None:
        """Reset every client's WebSocket; the sessions live on and can be resumed."""
        self._gateway.faults.cut_clients()

    def close_clients(self, code: int = 1000, reason: str = "Bye") -> None:
        """Close every client's WebSocket in good order; the sessions live on.

        The code 1006 is not sent but done: it means that there was no close frame.
        """
        self._gateway.faults.close_clients(code, reason)

    def blackhole_clients(self, seconds: float, *, new: bool = False) -> None:
        """Let nothing pass on clients' WebSockets for so long, not even a pong: half-dead links.

        Then all that was held passes. WebSockets that are made meanwhile work, unless ``new``: then
        they get no answer until that time is over. The API works.
        """
        self._gateway.faults.blackhole_clients(seconds, new=new)

    def impair(
        self,
        *,
        delay: float = 0.0,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        reorder: bool = False,
        direction: Literal["both", "to_agent", "to_client"] = "both",
        seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        """Put a bad network between client and agent, in sessions that are and that will be.

        Each message comes ``delay`` seconds late and up to ``jitter`` more, still in order as over
        TCP unless ``reorder``; the share ``loss`` of 1 never comes, ``duplicate`` comes twice. What
        the gateway says itself is not affected. A loss of the WebSocket loses what is on its way.
        The same ``seed`` draws the same for each session's n-th message. It lasts for ``seconds``,
        or until the next call: one without arguments heals, and what is on its way arrives.
        """
        self._gateway.faults.impair(
            Impairment(delay, jitter, loss, duplicate, reorder, direction, seconds, seed)
        )

    def police(
        self,
        rate: float | None = None,
        queue: int = QUEUE,
        *,
        direction: Literal["both", "to_agent", "to_client"] = "to_agent",
    ) -> None:
        """Cap what is taken of each WebSocket, as AWS's gateway is reported to do.

        Its messages pass at ``rate`` bytes/s, ``queue`` bytes of them may wait, and one more **ends
        the session**. Sessions that are and that will be are policed until the next call, which may
        change the figures of what waits already; one without arguments lifts the cap, and what
        waits passes. The queue is the WebSocket's: what waits in it is lost with that. See
        https://github.com/aws/session-manager-plugin/issues/145.
        """
        self._gateway.faults.police(Policing(rate, queue, direction))

    def kill_agents(self) -> None:
        """End every session's agent without a word, as SIGKILL does.

        Its destinations see their connections end, what they had not been sent yet is lost. Clients
        are told pause_publication; without an agent the sessions end after ``agent_away_limit``. An
        agent of one's own is only cut off and may come back.
        """
        self._gateway.faults.kill_agents()

    def end_sessions(self, output: str = "") -> None:
        """End every session, as an administrator or a time limit does."""
        self._gateway.faults.end_sessions(output)


def _hosts(names: Mapping[str, str]) -> dict[str, str]:
    """As the agent looks them up: case and the dot at the end make no difference."""
    return {
        name.lower().removesuffix("."): str(ip_address(address)) for name, address in names.items()
    }
