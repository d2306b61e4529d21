"""AWS and its message gateway in virtual time: grants, tokens, sessions and what befalls them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import NoReturn

from ..errors import ConnectError
from ..message_socket import Handler
from ..protocol.message import AgentMessage, MessageType
from .agent import AgentSide, Destination, DestinationSide
from .link import Network
from .transcript import Transcript, kind_and_number
from .websocket import PING, PONG, Observer, SimulatedWebSocket

CREATED = 1_700_000_000_000
# After this long the client gives up a connection, or a call, that nothing answers; seconds.
CONNECT_TIMEOUT = 15.0


@dataclass(frozen=True)
class Grant:
    """What opens a session's data channel."""

    session_id: str
    token_value: str
    stream_url: str


class Hosted:
    """A session in the gateway. Each grant takes the place of the one before."""

    def __init__(self, session_id: str) -> None:
        self.id = session_id
        self.used_since = float("inf")  # when the first destination was connected
        self.ended = False
        self.asked_to_end = False  # if only in vain
        self.grants = 0
        self.agent: AgentSide | None = None
        # The agent's WebSocket is gone for a while.
        self.agent_away = False
        self.client: SimulatedWebSocket | None = None

    def renew(self) -> Grant:
        """A fresh token and a fresh place; the old ones are good for nothing."""
        self.grants += 1
        return self.grant

    @property
    def grant(self) -> Grant:
        """What opens it at present."""
        url = f"wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/{self.id}"
        query = f"role=publish_subscribe&cell-number={self.grants}"
        return Grant(self.id, f"token-{self.id}-{self.grants}", f"{url}?{query}")


class SimulatedGateway:
    """A session's Access, and the far end behind it. Faults are done to it by its methods.

    ``connect(side, session)`` makes a destination, ``delivered`` counts the messages that have come
    to the gateway, ``sessions`` is where it keeps all sessions that there ever were.
    """

    def __init__(
        self,
        network: Network,
        *,
        random: Random,
        transcript: Transcript,
        observer: Observer,
        ideal: bool,
        pace: bool,
        version: str,
        connect: Callable[[DestinationSide, Hosted], Destination | None],
        sessions: dict[str, Hosted],
    ) -> None:
        self.sessions = sessions
        self.websockets: list[SimulatedWebSocket] = []
        self.delivered = 0
        self.refusals = 0  # of ResumeSession, still to come
        self.down = False
        self._unreachable_until = 0.0
        self._network = network
        self._random = random
        self._transcript = transcript
        self._observer = observer
        self._ideal = ideal
        self._pace = pace
        self._version = version
        self._connect_destination = connect
        self._loop = asyncio.get_running_loop()
        self._opening: dict[SimulatedWebSocket, Hosted] = {}
        self._milestone: tuple[int, asyncio.Future[None]] | None = None

    # AWS, for sessions.

    async def start_session(self) -> Grant:
        """A new session. Raises ConnectError."""
        await self._call("StartSession")
        session = Hosted(f"session-{len(self.sessions)}")
        self.sessions[session.id] = session
        return session.renew()

    async def resume_session(self, session_id: str) -> Grant | None:
        """A fresh grant, None when the session is over. Raises ConnectError."""
        await self._call("ResumeSession")
        if self.refusals:
            self.refusals -= 1
            self._transcript.event("ResumeSession is throttled")
            raise ConnectError("ThrottlingException: Rate exceeded")
        session = self.sessions[session_id]
        return None if session.ended else session.renew()

    async def terminate_session(self, session_id: str) -> None:
        """End a session. Raises ConnectError."""
        session = self.sessions[session_id]
        session.asked_to_end = True
        await self._call("TerminateSession")
        self.end(session, "")

    async def generate_data_key(self, key_id: str, context: Mapping[str, str]) -> NoReturn:
        """There is no KMS here: raises ConnectError."""
        raise ConnectError(f"there is no key {key_id}")

    async def connect(self, stream_url: str, handler: Handler) -> SimulatedWebSocket:
        """Open a WebSocket. Raises ConnectError."""
        await self._call("connect")
        sessions = (one for one in self.sessions.values() if one.grant.stream_url == stream_url)
        session = next(sessions, None)
        if session is None or session.ended:
            raise ConnectError("the gateway answered 410 Gone")
        websocket = SimulatedWebSocket(
            handler,
            self,
            self._network.path(self._random),
            self._network.path(self._random),
            buffer=self._network.buffer,
            spoil=self._spoil,
            observer=self._observer,
            transcript=self._transcript,
        )
        self.websockets.append(websocket)
        self._opening[websocket] = session
        return websocket

    # The WebSockets' server.

    def received(self, websocket: SimulatedWebSocket, messages: list[bytes]) -> None:
        """Messages of a client."""
        data: list[bytes] = []
        session = self._session_of(websocket)
        for message in messages:
            kind, number = kind_and_number(message)
            self._transcript.message(">  ", kind, number, len(message))
            if message == PING:
                websocket.send([PONG], sure=True)
            elif message.startswith(b"{"):
                session = self._open(websocket, message)
            else:
                data.append(message)
        self._count(len(data))
        # What overtook the opening, or comes while the agent is away, has nowhere to go.
        if session is not None and session.agent is not None and not session.agent_away:
            session.agent.receive(data)

    def closed(self, websocket: SimulatedWebSocket) -> None:
        """A client has closed its WebSocket."""
        self._opening.pop(websocket, None)
        session = self._session_of(websocket)
        if session is not None:
            self._detach(session)

    def flow(self, websocket: SimulatedWebSocket, full: bool) -> None:
        """What goes to a client piles up, or no longer does."""
        session = self._session_of(websocket)
        if session is not None and session.agent is not None:
            self._transcript.event(f"{session.id}: the gateway's buffer: {full=}")
            session.agent.block(full)

    # What befalls it.

    def live(self) -> list[Hosted]:
        """The sessions that are not over."""
        return [session for session in self.sessions.values() if not session.ended]

    def cut(self, session: Hosted, reason: str) -> None:
        """The client's WebSocket breaks, and both ends notice."""
        if session.client is not None:
            session.client.cut(reason)
            self._detach(session)

    def finish(self, session: Hosted, reason: str) -> None:
        """The gateway closes the client's WebSocket."""
        if session.client is not None:
            session.client.finish(reason)
            self._detach(session)

    def end(self, session: Hosted, output: str) -> None:
        """End a session for good; the client is told, if it is there."""
        if session.ended:
            return
        self._transcript.event(f"{session.id} is over: {output!r}")
        session.ended = True
        if session.client is not None:
            session.client.send([_channel_closed(output)], sure=True)
            session.client.finish("the session is over")
            session.client = None
        if session.agent is not None:
            session.agent.stop()

    def set_agent_away(self, session: Hosted, away: bool) -> None:
        """The agent's WebSocket is lost, or there again; what comes meanwhile is lost."""
        session.agent_away = away
        if session.client is not None:
            self.tell_client(session, paused=away)
        if not away and session.agent is not None:
            self.tell_agent(session, paused=session.client is None)

    def tell_client(self, session: Hosted, *, paused: bool) -> None:
        """Tell the client that the agent is away, or back; true or not."""
        if session.client is not None:
            session.client.send([_publication(paused)], sure=True)

    def tell_agent(self, session: Hosted, *, paused: bool) -> None:
        """Tell the agent that the client is away, or back; true or not."""
        if session.agent is not None and not session.agent_away:
            session.agent.receive([_publication(paused)])

    def make_unreachable(self, seconds: float) -> None:
        """Nobody answers new connections and calls."""
        self._unreachable_until = self._loop.time() + seconds

    async def passed(self, messages: int) -> None:
        """Wait until that many messages have come."""
        if self.delivered < messages:
            self._milestone = messages, self._loop.create_future()
            await self._milestone[1]

    def stop(self) -> None:
        """Let go of all that is still going on."""
        for websocket in self.websockets:
            websocket.stop()
        for session in self.sessions.values():
            if session.agent is not None:
                session.agent.stop()

    # How it works.

    async def _call(self, name: str) -> None:
        """The way there and back, if there is one."""
        now = self._loop.time()
        silent = self._unreachable_until - now
        if silent > 0:
            await asyncio.sleep(min(silent, CONNECT_TIMEOUT))
        if silent > CONNECT_TIMEOUT:
            self._transcript.event(f"{name} is not answered")
            raise ConnectError(f"no answer within {CONNECT_TIMEOUT:g} s")
        await asyncio.sleep(2 * self._network.delay + 0.02)
        if self.down:
            self._transcript.event(f"{name} is refused")
            raise ConnectError("cannot reach the gateway: 503")
        self._transcript.event(f"{name} works")

    def _spoil(self, data: bytes) -> bytes:
        """Now and then a message arrives that is not what was sent."""
        share = self._network.corruption
        if not share or self._random.random() >= share:
            return data
        return data[:-1] + bytes([data[-1] ^ 1])

    def _session_of(self, websocket: SimulatedWebSocket) -> Hosted | None:
        sessions = (one for one in self.sessions.values() if one.client is websocket)
        return next(sessions, None)

    def _open(self, websocket: SimulatedWebSocket, message: bytes) -> Hosted | None:
        """A client says who it is."""
        session = self._opening.pop(websocket, None)
        if session is None or session.ended:
            websocket.finish("the session is over")
            return None
        if json.loads(message)["TokenValue"] != session.grant.token_value:
            websocket.finish("the token is not valid")
            return None
        if session.client is not None:
            session.client.finish("replaced")
        self._transcript.event(f"{session.id} has a client")
        session.client = websocket
        if session.agent is None:
            session.agent = self._make_agent(session)
            session.agent.start()
        else:
            session.agent.block(False)
            self.tell_agent(session, paused=False)
            if session.agent_away:
                self.tell_client(session, paused=True)
        return session

    def _make_agent(self, session: Hosted) -> AgentSide:
        def send(messages: list[bytes]) -> None:
            messages = [data for data in messages if not data.startswith(b"agent_session_state", 4)]
            if session.client is not None and not session.agent_away:
                session.client.send(messages)
                return
            for data in messages:
                self._transcript.message("< GONE", *kind_and_number(data), len(data))

        def connect(side: DestinationSide) -> Destination | None:
            session.used_since = min(session.used_since, self._loop.time())
            return self._connect_destination(side, session)

        return AgentSide(
            ideal=self._ideal,
            pace=self._pace,
            version=self._version,
            random=self._random,
            send=send,
            ended=lambda output: self.end(session, output),
            connect=connect,
            dial_time=self._random.choice((0.0, 0.01, 0.2)),
        )

    def _detach(self, session: Hosted) -> None:
        session.client = None
        if session.agent is not None:
            session.agent.block(False)
            self.tell_agent(session, paused=True)

    def _count(self, messages: int) -> None:
        self.delivered += messages
        if self._milestone is not None and self.delivered >= self._milestone[0]:
            if not self._milestone[1].done():
                self._milestone[1].set_result(None)
            self._milestone = None


def _channel_closed(output: str) -> bytes:
    payload = json.dumps({"Output": output, "CreatedDate": "1"}).encode()
    return AgentMessage(
        MessageType.CHANNEL_CLOSED, payload, flags=3, created_date=CREATED
    ).serialize()


def _publication(paused: bool) -> bytes:
    kind = MessageType.PAUSE_PUBLICATION if paused else MessageType.START_PUBLICATION
    return AgentMessage(kind, flags=3, created_date=CREATED).serialize()
