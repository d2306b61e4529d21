"""What is to happen in a simulation: the network, the far end, the transfers and the faults.

All of it is drawn from a seed, so that the seed is all that one has to remember.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

from ..driver import READ_LIMIT, STALL_TIMEOUT
from .link import Network
from .traffic import Pause, Plan

KIB = 1024
MIN_BYTES = 200 * KIB  # each way, of all transfers together
MIN_TRANSFERS = 3
FOREVER = float("inf")
NEW_AGENT = "3.3.0.0"
# It wants to see a frame every 30 s.
OLD_AGENT = "3.1.1511.0"
# It has one connection at a time, and can neither refuse nor end one.
BASIC_AGENT = "3.0.196.0"


class Kind(Enum):
    """What can happen to a session; see simulation.Faults."""

    CUT = "the WebSocket breaks"
    BYE = "the gateway closes the WebSocket"
    HALF_DEAD = "nothing passes for a while, or for ever"
    HALF_DEAD_AND_CUT = "nothing passes, and what was sent meanwhile is lost"
    OUTAGE = "the gateway restarts"
    UNREACHABLE = "nobody answers, nothing passes"
    REFUSED = "the WebSocket breaks, and ResumeSession fails a few times"
    AGENT_AWAY = "the agent's WebSocket is gone for a while"
    FALSE_PAUSE = "the client, or the agent, is told that the other is away, and it is not"
    SLEEP = "the client's machine sleeps: its clocks differ afterwards"
    END = "the session is over, and the client is told"
    END_UNHEARD = "the session is over, and the client is not told"


# How often each happens.
WEIGHTS = {
    Kind.CUT: 6,
    Kind.BYE: 4,
    Kind.HALF_DEAD: 5,
    Kind.HALF_DEAD_AND_CUT: 4,
    Kind.OUTAGE: 3,
    Kind.UNREACHABLE: 2,
    Kind.REFUSED: 3,
    Kind.AGENT_AWAY: 3,
    Kind.FALSE_PAUSE: 3,
    Kind.SLEEP: 1,
    Kind.END: 2,
    Kind.END_UNHEARD: 2,
}


@dataclass(frozen=True)
class Fault:
    """Happens ``wait`` seconds and then ``messages`` messages after the last fault was over."""

    kind: Kind
    messages: int
    wait: float = 0.0
    seconds: float = 0.0
    there: bool = True
    back: bool = True
    count: int = 0
    output: str = ""


@dataclass(frozen=True)
class Scenario:
    """One run.

    ``closing`` befalls what is going on when all is closed at last. A share of ``refusing`` of all
    connections is refused. The others are as those of Session and SessionPool.
    """

    seed: int
    ideal: bool
    pace: bool
    network: Network
    plans: tuple[Plan, ...]
    faults: tuple[Fault, ...] = ()
    closing: Fault | None = None
    refusing: float = 0.0
    keep_alive: float | None = None
    max_age: float | None = None
    read_limit: int = READ_LIMIT
    stall_timeout: float = STALL_TIMEOUT
    version: str = NEW_AGENT

    def lines(self) -> list[str]:
        """To read."""
        agent = "an ideal agent" if self.ideal else "an agent with the real one's habits"
        return [
            f"seed {self.seed}: {agent}, {'paced' if self.pace else 'not paced'}, {self.version}",
            f"refusing {self.refusing}, keep-alive {self.keep_alive}, greatest age {self.max_age},"
            f" read limit {self.read_limit}, stall time-out {self.stall_timeout}",
            str(self.network),
            *map(str, self.plans),
            *map(str, self.faults),
            f"at the end: {self.closing}",
        ]


def draw(seed: int) -> Scenario:
    """The scenario of ``seed``."""
    random = Random(seed)
    ideal = random.random() < 0.5
    version = random.choices((NEW_AGENT, OLD_AGENT, BASIC_AGENT), (8, 1, 1))[0]
    # A basic agent can't tell what it still has of a connection that was given up.
    multiplexed = version != BASIC_AGENT
    return Scenario(
        seed=seed,
        ideal=ideal,
        pace=not ideal and random.random() < 0.7,
        network=_draw_network(random, ideal),
        plans=_draw_plans(random, version),
        faults=tuple(_draw_fault(random) for _ in range(random.randint(2, 6))),
        closing=random.choice((None, None, _draw_fault(random))),
        refusing=random.choice((0.0, 0.0, 0.0, 0.1, 0.5)) if multiplexed else 0.0,
        keep_alive=random.choice((None, None, 5.0)),
        max_age=random.choice((None, None, None, None, 10.0)),
        read_limit=random.choice((READ_LIMIT, 16 * KIB)),
        stall_timeout=random.choice((STALL_TIMEOUT, 20.0)) if multiplexed else STALL_TIMEOUT,
        version=version,
    )


def _draw_network(random: Random, ideal: bool) -> Network:
    quiet = random.random() < 0.25
    delay = random.choice((0.0005, 0.005, 0.02, 0.08, 0.15))
    rate = random.choice((None, None, None, 200_000.0, 1_000_000.0))
    if quiet:
        return Network(delay, rate)
    return Network(
        delay,
        rate,
        # The real agent repairs one message per 100 ms.
        loss=random.choice((0.0, 0.001, 0.01, 0.05, 0.2) if ideal else (0.0, 0.001, 0.01, 0.03)),
        duplication=random.choice((0.0, 0.0, 0.02, 0.2)),
        spread=delay * random.choice((0.0, 0.1, 1.0)),
        reordering=random.random() < 0.5,
        corruption=random.choice((0.0, 0.0, 0.0, 0.01)),
    )


def _draw_plans(random: Random, version: str) -> tuple[Plan, ...]:
    """Shares of what has to go each way."""
    multiplexed = version != BASIC_AGENT
    # With its output stuck, an agent sees no frame of ours.
    longest = 3.0 if version == OLD_AGENT else 60.0
    amount = random.randint(MIN_TRANSFERS, 5)
    ups = _draw_shares(random, amount)
    downs = _draw_shares(random, amount)
    return tuple(
        Plan(
            start=random.choice((0.0, 0.0, random.uniform(0, 5))),
            up=up,
            down=down,
            piece=random.choice((700, 4096, 50_000)),
            gap=random.choice((0.0, 0.0, 0.001, 0.05)),
            client_ends=random.random() < 0.5 or not multiplexed,
            client_pause=_draw_pause(random, down, longest),
            destination_pause=_draw_pause(random, up, longest),
            abort_after=random.randint(1, down) if random.random() < 0.05 * multiplexed else None,
        )
        for up, down in zip(ups, downs, strict=True)
    )


def _draw_shares(random: Random, amount: int) -> list[int]:
    weights = [random.choice((0.01, 0.3, 1.0)) for _ in range(amount)]
    return [round(MIN_BYTES * weight / sum(weights)) + 1 for weight in weights]


def _draw_pause(random: Random, size: int, longest: float) -> Pause | None:
    if random.random() < 0.75:
        return None
    return Pause(random.randint(0, size), random.choice((0.1, 3.0, longest)))


def _draw_fault(random: Random) -> Fault:
    kind = random.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    both = random.random() < 0.5
    one_way = random.random() < 0.5
    seconds = random.choice((0.05, 0.5, 3.0, 20.0))
    if kind is Kind.HALF_DEAD and random.random() < 0.5:
        seconds = FOREVER
    return Fault(
        kind,
        messages=random.choice((0, 1, 5, 20, 60)),
        wait=random.choice((0.0, 0.0, 0.0, 0.0, 0.0, 0.01, 0.1, 1.0, 30.0)),
        seconds=seconds,
        there=both or one_way,
        back=both or not one_way,
        count=random.randint(1, 5),
        output=random.choice(("", "Your session timed out due to inactivity.")),
    )
