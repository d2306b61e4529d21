"""What becomes of throughput and CPU as messages get lost?

``python -m perf.losses`` moves bytes up and down through ``ssmnet forward`` while the far end loses
0 to 5 % of all messages, acknowledgements too, at a round trip of 20 ms. Uploads are repaired by
us. Downloads are repaired by the agent, and the loopback's is here as slow as the real one: it
sends about 700 messages a second, and at most 10 of the lost ones, or of those whose
acknowledgement was lost, again. Four processes: this one, forward, far end and destination.
"""

from collections import defaultdict
from contextlib import ExitStack

from perf import report, tunnel
from perf.transfer import Moved, download, upload

LOSSES = (0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0)  # percent
QUICK_LOSSES = (0.0, 2.0)
ROUND_TRIP = 0.02  # s


def measure(losses: tuple[float, ...], seconds: float, rounds: int) -> list[report.Row]:
    found: dict[tuple[float, str], list[Moved]] = defaultdict(list)
    with ExitStack() as stack:
        remote = stack.enter_context(tunnel.destination())
        stack.enter_context(tunnel.far_end("--pace"))
        for _ in range(rounds):
            for loss in losses:
                # The session begins well; and has no part in the next one's fate.
                tunnel.impair()
                with tunnel.forward(remote.port) as forward:
                    tunnel.impair(delay=ROUND_TRIP / 2, loss=loss / 100)
                    found[loss, "up"].append(upload(forward, remote, seconds))
                    found[loss, "down"].append(download(forward, seconds))
                    tunnel.impair()
    return [row(loss, found) for loss in losses]


def row(loss: float, found: dict[tuple[float, str], list[Moved]]) -> report.Row:
    made: dict[str, int | float | None] = {"loss %": loss}
    for way in ("up", "down"):
        moved = found[loss, way]
        made[f"{way} MB/s"] = report.median([one.rate / 1e6 for one in moved])
        made[f"{way} us/KiB"] = report.median([one.cpu_per_kib * 1e6 for one in moved])
    return made


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    rows = measure(QUICK_LOSSES, 2.0, 1) if arguments.quick else measure(LOSSES, 10.0, 3)
    report.show("losses", rows, arguments.json)


if __name__ == "__main__":
    main()
