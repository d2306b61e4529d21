"""How much CPU does a megabyte cost the client, and how much can it move?

``python -m perf.throughput`` moves bytes from a local application through a listener, a session
and its WebSocket to a far end and back: application, client and far end are three processes, and
the client's CPU time is what counts. The calibrator, in the same process and against the same far
end, is aiohttp alone: ``send_bytes`` and ``receive`` for messages and acknowledgements of the same
size, with nothing in them and nothing beside it. Rounds are interleaved; medians.

``vs bare`` is throughput per CPU of the client against that of the calibrator, in percent;
``vs raw`` that of a multiplexed session against one without.
"""

import argparse
import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

import aiohttp
import uvloop

from perf import near_end, report
from perf.far_agent import PAYLOAD_SIZE, WINDOW
from perf.near_end import Application, Spent

# An AgentMessage around 1 KiB, and around the JSON of an acknowledgement with a number of 5 digits.
MESSAGE = bytes(120 + PAYLOAD_SIZE)
ACKNOWLEDGEMENT = bytes(120 + 178)
KINDS = ("raw", "mux")


async def bare_upload(websocket: aiohttp.ClientWebSocketResponse, size: int) -> None:
    messages = size // PAYLOAD_SIZE
    await websocket.send_str(f"A {len(ACKNOWLEDGEMENT)}")
    room = asyncio.Event()
    acknowledged = 0

    async def send() -> None:
        for number in range(messages):
            while number - acknowledged >= WINDOW:
                room.clear()
                await room.wait()
            await websocket.send_bytes(MESSAGE)

    sending = asyncio.create_task(send())
    while acknowledged < messages:
        await websocket.receive()
        acknowledged += 1
        room.set()
    await sending


async def bare_download(websocket: aiohttp.ClientWebSocketResponse, size: int) -> None:
    messages = size // PAYLOAD_SIZE
    await websocket.send_str(f"S {messages} {len(MESSAGE)}")
    for _ in range(messages):
        await websocket.receive()
        await websocket.send_bytes(ACKNOWLEDGEMENT)


BARE = {"U": bare_upload, "D": bare_download}


def works(
    websocket: aiohttp.ClientWebSocketResponse,
    applications: dict[str, Application],
    letter: str,
    size: int,
) -> dict[str, Callable[[], Awaitable[object]]]:
    """What a round does, by name."""
    return {
        "bare": lambda: BARE[letter](websocket, size),
        "raw": lambda: applications["raw"].order(letter, size),
        "mux": lambda: applications["mux"].order(letter, size),
    }


async def measure(scheme: str, size: int, rounds: int) -> dict[str, dict[str, list[Spent]]]:
    """What each direction spent on each work in each round."""
    found: dict[str, dict[str, list[Spent]]] = {letter: defaultdict(list) for letter in BARE}
    async with (
        near_end.far_end() as far_end,
        far_end.bare(scheme) as websocket,
        near_end.applications(far_end, scheme, KINDS) as applications,
    ):
        for number in range(rounds + 1):
            for letter in BARE:
                for name, work in works(websocket, applications, letter, size).items():
                    one = await near_end.spent(work())
                    if number:  # the first opens windows and warms caches
                        found[letter][name].append(one)
    return found


def rows(
    loop: str, scheme: str, size: int, found: dict[str, dict[str, list[Spent]]]
) -> list[report.Row]:
    made: list[report.Row] = []
    for letter, works in found.items():
        cpu = {name: [one.cpu for one in spent] for name, spent in works.items()}
        for name, spent in works.items():
            made.append(
                {
                    "direction": "upload" if letter == "U" else "download",
                    "over": "TLS" if scheme == "wss" else "plain",
                    "loop": loop,
                    "what": name,
                    "MB/s": report.median([size / one.wall / 1e6 for one in spent]),
                    "MB/CPU-s": report.median([size / one.cpu / 1e6 for one in spent]),
                    "us/KiB": report.median([one.cpu / size * 1024e6 for one in spent]),
                    "vs bare %": percent(cpu["bare"], cpu[name]),
                    "vs raw %": percent(cpu["raw"], cpu[name]) if name == "mux" else None,
                }
            )
    return made


def percent(calibrator: list[float], cpu: list[float]) -> int:
    """Throughput per CPU in percent of the calibrator's, round by round."""
    return round(100 * report.median([c / own for c, own in zip(calibrator, cpu, strict=True)]))


def options() -> argparse.Namespace:
    parser = report.parser(__doc__)
    parser.add_argument("--loop", choices=("uvloop", "asyncio", "both"), default="uvloop")
    parser.add_argument("--over", choices=("plain", "TLS", "both"), default="both")
    parser.add_argument("--mib", type=int, help="how much a round moves each way")
    parser.add_argument("--rounds", type=int)
    return parser.parse_args()


def main() -> None:
    arguments = options()
    size = (arguments.mib or (8 if arguments.quick else 32)) * 1024 * 1024
    rounds = arguments.rounds or (5 if arguments.quick else 11)
    loops = ("uvloop", "asyncio") if arguments.loop == "both" else (arguments.loop,)
    schemes = {"plain": ("ws",), "TLS": ("wss",), "both": ("ws", "wss")}[arguments.over]
    made: list[report.Row] = []
    for loop in loops:
        factory = uvloop.new_event_loop if loop == "uvloop" else None
        for scheme in schemes:
            with asyncio.Runner(loop_factory=factory) as runner:
                found = runner.run(measure(scheme, size, rounds))
            made += rows(loop, scheme, size, found)
    report.show("throughput", made, arguments.json)


if __name__ == "__main__":
    main()
