"""The gateway: AWS's control plane and message gateway for one instance, on a loopback address.

``/`` answers the calls of SSM, KMS and ECS, ``/v1/data-channel/<session-id>`` is the WebSocket of
both sides of a session; whose it is shows by the token in its first message. The built-in agent
needs no WebSocket: it is attached when the client first opens its channel.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import ssl
from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address

import msgspec
from aiohttp import WSMsgType, web

from . import ecs, sigv4
from .agent import FIRST_OUTPUT_DELAY
from .api import MAX_BODY, Api, ApiError, check_signature
from .documents import PORT, SessionRequest
from .driver import BuiltInAgent
from .encryption import DataKeyError, Encryption
from .faults import Faults
from .faults_api import PATH as FAULTS_PATH
from .faults_api import FaultsApi
from .kms import Kms
from .lifetime import Limits
from .port import SETUP_TIME
from .relay import Session
from .ssm import Ssm
from .websocket import CLOSE_TIMEOUT, WebSocketSide

INSTANCE_ID = "i-0123456789abcdef0"
REGION = "us-east-1"
PATH = "/v1/data-channel/"
QUERY = "role=publish_subscribe&cell-number=AAEAAcbHQXRrzjxEXCyrzHZcAxsEEzAB"

# Limits; seconds, bytes, counts.
OPEN_TIMEOUT = 10.0
MAX_MESSAGE = 1024 * 1024
MAX_SESSIONS = 10_000
_REMEMBERED = 10_000

_VERSION = re.compile(r"\d+(\.\d+){0,3}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_POLICY_VIOLATION = 1008


class _OpenDataChannel(msgspec.Struct, rename="pascal"):
    """The first message of either side; an agent names its instance instead of its version."""

    message_schema_version: str
    request_id: str
    token_value: str
    client_id: str
    client_version: str | None = None
    client_instance_id: str | None = None


@dataclass(frozen=True, slots=True)
class AgentOffer:
    """What an agent of one's own needs to join a session by WebSocket.

    Call ``complete(output)`` to say that the session is over.
    """

    session_id: str
    url: str = field(repr=False)
    token: str = field(repr=False)
    request: SessionRequest
    complete: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """How the built-in agent behaves; see agent.Agent.

    ``kms`` makes it encrypt shells and commands, ``require_challenge`` refuse clients that do not
    bind the data key to its random challenge. ``names`` are addresses by lower-case host name.
    """

    version: str = "3.3.0.0"
    pace: bool = False
    ideal: bool = False
    setup_time: float = SETUP_TIME
    first_output_delay: float = FIRST_OUTPUT_DELAY
    kms: bool = False
    require_challenge: bool = False
    names: Mapping[str, str] = field(default_factory=dict)


class Gateway:
    """Serves one loopback address from start() to close().

    ``denied`` names API actions that IAM denies. ``offer`` is told of each new session, which then
    has no built-in agent.
    """

    def __init__(
        self,
        *,
        credentials: sigv4.Credentials,
        allow_unsigned: bool = False,
        denied: Container[str] = (),
        agent: AgentSettings | None = None,
        offer: Callable[[AgentOffer], None] | None = None,
        open_timeout: float = OPEN_TIMEOUT,
        limits: Limits | None = None,
    ) -> None:
        self.sessions: dict[str, Session] = {}
        self.sessions_started = 0
        self.sessions_terminated = 0
        self.agents: dict[str, BuiltInAgent] = {}
        self.endpoint_url = ""
        self._credentials = credentials
        self._allow_unsigned = allow_unsigned
        self._agent = agent or AgentSettings()
        self._offer = offer
        self._open_timeout = open_timeout
        self._limits = limits or Limits()
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)
        self._sides: set[WebSocketSide] = set()
        self._runner: web.AppRunner | None = None
        ssm = Ssm(
            instance_id=INSTANCE_ID,
            targets=(INSTANCE_ID, "loopback", ecs.TARGET),
            agent_version=self._agent.version,
            sessions=self.sessions,
            ended=self._ended,
            open_session=self._open_session,
            stream_url=self._stream_url,
        )
        self.kms = Kms(REGION)
        services = (ssm, self.kms, ecs.Ecs(REGION, self._open_session, ssm.grant))
        self.api = Api(services, credentials=credentials, region=REGION, denied=denied)
        self.faults = Faults(self.sessions, self.api, ssm)

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Listen. ``host`` must be a loopback address."""
        if not ip_address(host).is_loopback:
            raise ValueError(f"{host} is not a loopback address")
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/", self.api.handle)
        app.router.add_get(PATH + "{session_id}", self._data_channel)
        app.router.add_post(FAULTS_PATH, FaultsApi(self.faults, self._credentials).handle)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=CLOSE_TIMEOUT
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, host, port, ssl_context=tls).start()
        port = self._runner.addresses[0][1]
        shown = "localhost" if tls else f"[{host}]" if ":" in host else host
        self.endpoint_url = f"{'https' if tls else 'http'}://{shown}:{port}"

    async def close(self) -> None:
        """End every session and close every socket."""
        self.faults.close()
        for session in list(self.sessions.values()):
            session.end("")
        for agent in self.agents.values():
            agent.abort()
        await asyncio.gather(
            *(side.wait_closed() for side in list(self._sides)),
            *(agent.wait_closed() for agent in self.agents.values()),
        )
        if self._runner is not None:
            await self._runner.cleanup()

    def _stream_url(self, session_id: str) -> str:
        return f"{self.endpoint_url.replace('http', 'ws', 1)}{PATH}{session_id}?{QUERY}"

    # Sessions.

    def _open_session(self, target: str, request: SessionRequest) -> Session:
        if len(self.sessions) >= MAX_SESSIONS:
            raise ApiError("ThrottlingException", "Rate exceeded")
        name = "ecs-execute-command" if target == ecs.TARGET else "loopback"
        session_id = f"{name}-{secrets.token_hex(9)[:17]}"
        session = Session(
            session_id,
            target=target,
            request=request,
            limits=self._limits,
            over=self._session_over,
        )
        self.sessions[session_id] = session
        self.sessions_started += 1
        self.faults.session_opened(session)
        self._forget_agents()
        if self._offer is not None:
            url, token = self._stream_url(session_id), session.agent_token
            self._offer(AgentOffer(session_id, url, token, request, session.end))
        return session

    def _session_over(self, session: Session) -> None:
        del self.sessions[session.id]
        self._ended.append(session.id)
        self.sessions_terminated += 1

    def _start_agent(self, session: Session) -> None:
        agent = BuiltInAgent(
            session.request,
            session_id=session.id,
            agent_version=self._agent.version,
            pace=self._agent.pace,
            ideal=self._agent.ideal,
            setup_time=self._agent.setup_time,
            first_output_delay=self._agent.first_output_delay,
            send=session.from_agent,
            flow=lambda full: session.agent_flow(agent, full),
            ended=session.end,
            encryption=self._encryption(session) if self._agent.kms else None,
            names=self._agent.names,
        )
        self.agents[session.id] = agent
        session.attach_agent(agent)
        agent.start()

    def _encryption(self, session: Session) -> Encryption:
        return Encryption(
            self.kms.key_arn,
            decrypt=self._decrypt,
            session_id=session.id,
            target=session.target,
            random=os.urandom,
            require_challenge=self._agent.require_challenge,
        )

    def _decrypt(self, blob: bytes, context: Mapping[str, str], key_id: str) -> bytes:
        """The agent's own call of KMS."""
        try:
            self.api.allow(self.kms, "Decrypt")
            return self.kms.decrypt(blob, context, key_id)
        except ApiError as error:
            raise DataKeyError(f"{error.code}: {error}") from None

    def _forget_agents(self) -> None:
        """Those of ended sessions stay until their last destination is closed."""
        gone = [
            session_id
            for session_id, agent in self.agents.items()
            if session_id not in self.sessions and not agent.connections
        ]
        for session_id in gone:
            del self.agents[session_id]

    # The WebSocket.

    async def _data_channel(self, request: web.Request) -> web.StreamResponse:
        await self.faults.wait_reachable()
        session = self.sessions.get(request.match_info["session_id"])
        try:
            self._check_upgrade(request, session)
        except ApiError as error:
            return web.json_response({"__type": error.code, "message": str(error)}, status=403)
        if session is None or request.query.get("role") != "publish_subscribe":
            return web.json_response({"message": "No such session."}, status=404)
        ws = web.WebSocketResponse(
            timeout=CLOSE_TIMEOUT,
            max_msg_size=MAX_MESSAGE,
            compress=False,
            # Pings and closes are the WebSocketSide's: a held link answers neither.
            autoping=False,
            autoclose=False,
            # 0 makes aiohttp's own sending wait whenever the transport is full.
            writer_limit=0,
        )
        await ws.prepare(request)
        role = await self._opened(ws, session)
        if role is None or session.ended or request.transport is None:
            await ws.close(code=_POLICY_VIOLATION)
        else:
            await self._serve(ws, request.transport, session, role)
        return ws

    def _check_upgrade(self, request: web.Request, session: Session | None) -> None:
        """Raise ApiError for what is not signed; whoever runs commands here has to be known."""
        path, _, query = request.raw_path.partition("?")
        received = sigv4.Request(request.method, path, query, list(request.headers.items()))
        runs_commands = session is not None and session.request.session_type != PORT
        if self._allow_unsigned and not runs_commands and not sigv4.is_signed(received):
            return
        check_signature(request, b"", self._credentials, REGION, "ssmmessages")

    async def _opened(self, ws: web.WebSocketResponse, session: Session) -> str | None:
        """Read the first message: whose WebSocket is that?"""
        try:
            async with asyncio.timeout(self._open_timeout):
                while (message := await ws.receive()).type is WSMsgType.PING:
                    await ws.pong(message.data)
            if message.type is not WSMsgType.TEXT:
                return None
            opening = msgspec.json.decode(message.data, type=_OpenDataChannel)
        except (TimeoutError, msgspec.MsgspecError):
            return None
        role = session.role_of(opening.token_value)
        if opening.message_schema_version != "1.0" or not _UUID.fullmatch(opening.request_id):
            return None
        if role == "client" and not (
            _UUID.fullmatch(opening.client_id) and _VERSION.fullmatch(opening.client_version or "")
        ):
            return None
        return role

    async def _serve(
        self,
        ws: web.WebSocketResponse,
        transport: asyncio.Transport,
        session: Session,
        role: str,
    ) -> None:
        """Relay one side of a session until its WebSocket ends."""
        if role == "agent":
            side = WebSocketSide(ws, transport, lambda full: session.agent_flow(side, full))
        else:
            side = WebSocketSide(ws, transport, lambda full: session.client_flow(side, full))
        self._sides.add(side)
        try:
            if role == "agent":
                session.attach_agent(side)
                await side.run(lambda data: session.from_agent((data,)))
            else:
                self._client_came(session, side)
                await side.run(session.from_client)
        finally:
            self._sides.discard(side)
            if role == "agent":
                session.detach_agent(side)
            else:
                session.detach_client(side)
            await side.wait_closed()

    def _client_came(self, session: Session, side: WebSocketSide) -> None:
        session.attach_client(side)
        if self._offer is None and not session.agent_started:
            self._start_agent(session)
