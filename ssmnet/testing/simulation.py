"""Whole sessions in virtual time: a scenario is played, and what must hold is looked at all along.

``simulate(draw(seed))`` returns what became of it, or raises Failure with the transcript. The same
scenario gives the same transcript again, to the letter.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from ..errors import Error
from ..events import Event
from ..pool import SessionPool
from ..session import Session
from .clock import VirtualLoop, run
from .faults import Faults
from .gateway import Hosted, SimulatedGateway
from .invariants import Invariants
from .scenario import FOREVER, Scenario
from .traffic import Pause, Plan
from .transcript import Transcript, Violation
from .transfer import Transfers

# How long anything may take with no fault going on: a WebSocket that is dead is noticed after 32 s,
# and the next try to resume is at most 15 s away; seconds.
PATIENCE = 100.0
# How long a message takes at most that only the agent's resending brings, one after the other.
REPAIR_TIME = 0.5
# How long closing may take: to drain, to terminate by flag and by call, to close the WebSocket;
# seconds.
CLOSE_TIME = 25.0
WALL_CLOCK = 1_700_000_000.0
LAST_LINES = 300
# Whatever has happened, the tunnel works in the end.
LAST_PLAN = Plan(start=0.0, up=1000, down=1000)
# What is going on when something befalls the end.
CUT_OFF = Plan(start=0.0, up=100_000, down=100_000)


class Failure(AssertionError):
    """A scenario in which something happened that must not happen."""

    def __init__(self, scenario: Scenario, error: BaseException, lines: list[str]) -> None:
        self.scenario = scenario
        self.error = error
        self.lines = lines
        text = f"seed {scenario.seed}: {type(error).__name__}: {error}"
        super().__init__("\n".join((text, *scenario.lines(), *lines)))


@dataclass(frozen=True)
class Result:
    """What became of a scenario that went well.

    ``seconds`` of virtual time in all, ``seconds_after_faults`` until all was done, within
    ``bound``. ``lines`` are the last of the transcript.
    """

    seconds: float
    seconds_after_faults: float
    messages: int
    sessions: int
    websockets: int
    bound: float
    lines: list[str]


def simulate(scenario: Scenario, *, last_lines: int | None = LAST_LINES) -> Result:
    """Play ``scenario`` and keep the ``last_lines`` of its transcript, None for all.

    Raises Failure.
    """
    lines: list[str] = []

    async def main() -> Result:
        transcript = Transcript()
        try:
            return await _Run(scenario, transcript).play(lines)
        finally:
            lines.extend(transcript.lines(last_lines))

    try:
        return run(main())
    except Exception as error:
        raise Failure(scenario, error, lines) from error


class _Run:
    def __init__(self, scenario: Scenario, transcript: Transcript) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)  # noqa: S101 - for the type
        self._loop = loop
        self._scenario = scenario
        self._transcript = transcript
        self._random = Random(scenario.seed)
        self._slept = 0.0
        self._invariants = Invariants(transcript)
        sessions: dict[str, Hosted] = {}
        self._transfers = Transfers(
            sessions, transcript, random=self._random, refusing=scenario.refusing
        )
        self._gateway = SimulatedGateway(
            scenario.network,
            random=self._random,
            transcript=transcript,
            observer=self._invariants,
            ideal=scenario.ideal,
            pace=scenario.pace,
            version=scenario.version,
            connect=self._transfers.connect,
            sessions=sessions,
        )
        self._idle = asyncio.Event()
        self._faults = Faults(
            self._gateway, transcript, patience=PATIENCE * 2, idle=self._idle, jump=self._jump
        )
        loop.set_exception_handler(self._unhandled)

    async def play(self, lines: list[str]) -> Result:
        """All of it."""
        faults = self._loop.create_task(self._faults.run(self._scenario.faults))
        pool = await self._open_pool()
        transfers = asyncio.gather(
            *(
                self._transfers.run(f"transfer {number}", plan, pool)
                for number, plan in enumerate(self._scenario.plans)
            )
        )
        transfers.add_done_callback(lambda _: self._idle.set())
        await self._watch(faults)
        over = self._loop.time()
        bound = self._bound()
        self._transcript.event(f"the last fault is over, the rest must be done within {bound:g} s")
        await self._within(bound, transfers)
        await self._within(PATIENCE, self._transfers.run("the last", LAST_PLAN, pool))
        done = self._loop.time()
        await self._close(pool)
        self._check_end()
        if self._transcript.failed.done():
            raise self._transcript.failed.result()
        return Result(
            seconds=self._loop.time(),
            seconds_after_faults=done - over,
            messages=len(self._transcript),
            sessions=len(self._gateway.sessions),
            websockets=len(self._gateway.websockets),
            bound=bound,
            lines=lines,
        )

    async def _close(self, pool: SessionPool) -> None:
        """Close all, in good order or in the middle of something."""
        fault, transfers = self._scenario.closing, self._transfers
        unfinished = [] if fault is None else [transfers.begin("unfinished", CUT_OFF, pool)]
        faults = self._loop.create_task(self._faults.run(() if fault is None else (fault,)))
        if fault is not None:
            await asyncio.sleep(self._random.choice((0.0, 0.01, 0.1, fault.wait)))
        transfers.closing = True
        self._transcript.event("the client closes everything")
        await self._within(CLOSE_TIME, pool.close())
        faults.cancel()
        await asyncio.wait((faults,))
        self._gateway.stop()
        for connection in unfinished:
            await self._within(1.0, connection.client.over)

    async def _open_pool(self) -> SessionPool:
        """As an application would: a first session that does not come about is tried again."""
        while True:
            pool = SessionPool(
                self._start,
                self._event,
                max_age=self._scenario.max_age,
                clock=self._loop.time,
                random=self._random,
            )
            try:
                await self._watch(pool.open())
            except Error as error:
                self._transcript.event(f"no session: {error}")
                await pool.close()
                await asyncio.sleep(1.0)
            else:
                return pool

    async def _start(self) -> Session:
        session = Session(
            self._gateway,
            await self._gateway.start_session(),
            on_event=self._event,
            keep_alive=self._scenario.keep_alive,
            read_limit=self._scenario.read_limit,
            stall_timeout=self._scenario.stall_timeout,
            clock=self._loop.time,
            wall_clock=lambda: WALL_CLOCK + self._slept + self._loop.time(),
            random=self._random,
        )
        await session.open()
        return session

    async def _within(
        self, seconds: float, work: Coroutine[Any, Any, Any] | asyncio.Future[Any]
    ) -> None:
        """Wait for ``work``, which must be done in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._watch(work)
        except TimeoutError:
            raise Violation(f"not done within {seconds:g} s") from None

    async def _watch(self, work: Coroutine[Any, Any, Any] | asyncio.Future[Any]) -> None:
        """Wait for ``work``, and no longer than until something goes wrong."""
        task = asyncio.ensure_future(work)
        failed = self._transcript.failed
        try:
            await asyncio.wait((task, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                raise failed.result()
            await task
        finally:
            task.cancel()

    def _bound(self) -> float:
        """How long the rest may take: the far end may have a lot to repair, one by one."""
        network = self._scenario.network
        plans = self._scenario.plans
        pauses = [pause.seconds for plan in plans for pause in _pauses(plan)]
        gaps = [plan.gap * (plan.up + plan.down) / plan.piece for plan in plans]
        unrepaired = [
            session.agent.core.unacknowledged
            for session in self._gateway.live()
            if session.agent is not None
        ]
        if any(fault.seconds == FOREVER for fault in self._scenario.faults[-1:]):
            # Until the client notices, the agent goes on sending what will be lost.
            unrepaired.append(network.buffer // 1024)
        repairs = sum(unrepaired) + 2 * (network.loss + network.corruption) * sum(
            (plan.up + plan.down) / 1024 for plan in plans
        )
        return PATIENCE + sum(pauses) + sum(gaps) + repairs * REPAIR_TIME

    def _check_end(self) -> None:
        """Nothing may be left behind."""
        require = self._transcript.require
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        require(not tasks, f"tasks are left: {tasks}")
        timers = self._loop.timers()
        require(not timers, f"timers are left: {timers}")
        left = [websocket for websocket in self._gateway.websockets if websocket.open]
        require(not left, f"{len(left)} WebSockets are left open")
        live = [session.id for session in self._gateway.live() if not session.asked_to_end]
        require(not live, f"nobody asked to end these sessions: {live}")
        self._invariants.check_end()

    def _event(self, event: Event) -> None:
        self._transcript.event(str(event))

    def _jump(self, seconds: float) -> None:
        self._slept += seconds

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._transcript.fail(f"{context['message']}: {error!r}")


def _pauses(plan: Plan) -> list[Pause]:
    return [pause for pause in (plan.client_pause, plan.destination_pause) if pause is not None]
