"""Does a scenario's faults to a simulated gateway, one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .gateway import Hosted, SimulatedGateway
from .scenario import FOREVER, Fault, Kind
from .transcript import Transcript, Violation
from .websocket import SimulatedWebSocket

# A session that ends with a reason before it was used so long is not followed by another, by
# intention; seconds.
SHORT_LIFE = 6.0
# So long after one direction of a connection has died the other stops, too; seconds.
WINDOW_TIME = 1.0


class Faults:
    """``run`` does them. ``jump`` puts the client's wall clock forward.

    Each becomes due within ``patience`` seconds of traffic, or at once when ``idle`` is set.
    """

    def __init__(
        self,
        gateway: SimulatedGateway,
        transcript: Transcript,
        *,
        patience: float,
        idle: asyncio.Event,
        jump: Callable[[float], None],
    ) -> None:
        self._gateway = gateway
        self._transcript = transcript
        self._patience = patience
        self._idle = idle
        self._jump = jump
        self._loop = asyncio.get_running_loop()

    async def run(self, faults: tuple[Fault, ...]) -> None:
        """Do them all. Raises Violation when no messages come that would make one due."""
        for fault in faults:
            await asyncio.sleep(fault.wait)
            await self._until_due(fault.messages)
            self._transcript.event(f"FAULT {fault}")
            await self._do(fault)
            self._transcript.event(f"{fault.kind.name} is over")

    async def _until_due(self, messages: int) -> None:
        loop = self._loop
        passed = loop.create_task(self._gateway.passed(self._gateway.delivered + messages))
        idle = loop.create_task(self._idle.wait())
        try:
            done, _ = await asyncio.wait(
                (passed, idle), timeout=self._patience, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                raise Violation(f"no {messages} messages within {self._patience:g} s")
        finally:
            passed.cancel()
            idle.cancel()

    async def _do(self, fault: Fault) -> None:
        match fault.kind:
            case Kind.HALF_DEAD | Kind.HALF_DEAD_AND_CUT:
                await self._half_dead(fault)
            case Kind.OUTAGE:
                await self._outage(fault.seconds)
            case Kind.UNREACHABLE:
                await self._unreachable(fault.seconds)
            case Kind.AGENT_AWAY:
                await self._agent_away(fault.seconds)
            case Kind.FALSE_PAUSE:
                await self._false_pause(fault)
            case Kind.SLEEP:
                self._jump(3600.0)
            case _:
                for session in self._gateway.live():
                    self._do_at_once(session, fault)

    def _do_at_once(self, session: Hosted, fault: Fault) -> None:
        gateway = self._gateway
        match fault.kind:
            case Kind.CUT:
                gateway.cut(session, "connection reset")
            case Kind.BYE:
                gateway.finish(session, "code 1000 Bye")
            case Kind.REFUSED:
                gateway.refusals = fault.count
                gateway.cut(session, "connection reset")
            case Kind.END:
                old = self._loop.time() - session.used_since > SHORT_LIFE
                gateway.end(session, fault.output if old else "")
            case Kind.END_UNHEARD:
                gateway.cut(session, "connection reset")
                gateway.end(session, "")

    def _websockets(self) -> list[SimulatedWebSocket]:
        return [websocket for websocket in self._gateway.websockets if websocket.open]

    async def _half_dead(self, fault: Fault) -> None:
        websockets = self._websockets()
        for websocket in websockets:
            websocket.hold(there=fault.there, back=fault.back)
        await asyncio.sleep(min(fault.seconds, WINDOW_TIME))
        # TCP's own acknowledgements go the other way.
        for websocket in websockets:
            websocket.hold(there=True, back=True)
        if fault.seconds == FOREVER:
            # Nobody but the client finds out.
            return
        await asyncio.sleep(fault.seconds - WINDOW_TIME)
        if fault.kind is Kind.HALF_DEAD:
            for websocket in websockets:
                websocket.go_on()
            return
        for session in self._gateway.live():
            if session.client in websockets:
                self._gateway.cut(session, "connection reset")
        for websocket in websockets:
            websocket.cut("connection reset")

    async def _outage(self, seconds: float) -> None:
        self._gateway.down = True
        for session in self._gateway.live():
            self._gateway.finish(session, "code 1001 Going Away")
        await asyncio.sleep(seconds)
        self._gateway.down = False

    async def _unreachable(self, seconds: float) -> None:
        websockets = self._websockets()
        for websocket in websockets:
            websocket.hold(there=True, back=True)
        self._gateway.make_unreachable(seconds)
        await asyncio.sleep(seconds)
        for websocket in websockets:
            websocket.go_on()

    async def _agent_away(self, seconds: float) -> None:
        sessions = self._gateway.live()
        for session in sessions:
            self._gateway.set_agent_away(session, True)
        await asyncio.sleep(seconds)
        for session in sessions:
            if not session.ended:
                self._gateway.set_agent_away(session, False)

    async def _false_pause(self, fault: Fault) -> None:
        sessions = self._gateway.live()
        for session in sessions:
            self._tell_pause(session, fault, paused=True)
        await asyncio.sleep(fault.seconds)
        for session in sessions:
            if not session.ended:
                self._tell_pause(session, fault, paused=False)

    def _tell_pause(self, session: Hosted, fault: Fault, *, paused: bool) -> None:
        if fault.there:
            self._gateway.tell_client(session, paused=paused)
        if fault.back:
            # It may really be away.
            self._gateway.tell_agent(session, paused=paused or session.client is None)
