"""What a session's window makes of a gateway that polices, in virtual time.

The gateway passes messages on at a rate, and a queue that overflows ends the session; see
loopback/policing.py for the real one. Rates are bytes/s on the wire, headers included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from ..protocol.message import PAYLOAD_SIZE
from ..protocol.smux import Multiplexer
from .link import Path
from .one_way import Transfer

# What a full message takes on the wire for its payload.
MESSAGE = 120 + PAYLOAD_SIZE
# As little as a stream's queue is never empty.
PIECE = 4 * PAYLOAD_SIZE


class Outcome(NamedTuple):
    """What became of an upload.

    ``share`` of the rate was used from the first byte on, ``steady`` of it in the second half, or
    over all where there were cuts. ``peak`` is the most that ever was in the queue, in bytes.
    ``fairness`` is what the slowest of several uploads got, as a share of the fastest's.
    """

    share: float
    steady: float
    peak: int
    fairness: float


class Change(NamedTuple):
    """What became of a rate that dropped and came back.

    ``share`` is what was used of the lower rate, ``queued`` how many bytes were in the queue in the
    end of that. ``comeback`` is how many seconds it took until nine tenths of the old rate were
    used again, and ``peak`` the most that ever was in the queue.
    """

    share: float
    queued: int
    comeback: float
    peak: int


def queue_needed(rate: float, round_trip: float) -> float:
    """The bytes of queue that a window never goes beyond, on a path whose rate does not change.

    Twice the initial window, and what the bottleneck passes in a quarter of the round trip and four
    milliseconds.
    """
    return 64 * 1024 + rate * (round_trip / 4 + 0.004)


def upload(
    rate: float, round_trip: float, *, uploads: int = 1, seconds: float = 12.0, cuts: int = 0
) -> Outcome:
    """``uploads`` at full speed in one session, which is resumed ``cuts`` times on the way."""
    source = Streams(uploads)
    transfer = _transfer(rate, round_trip, source)
    for n in range(1, cuts + 1):
        transfer.run(seconds * n / (cuts + 1))
        transfer.reconnect()
    half = 0
    if not cuts:
        transfer.run(seconds / 2)
        half = transfer.delivered
    transfer.run(seconds)
    steady = (transfer.delivered - half) / (seconds if cuts else seconds / 2)
    return Outcome(
        _share(transfer.delivered / seconds, rate),
        _share(steady, rate),
        transfer.there.peak,
        source.fairness,
    )


def change(rate: float, round_trip: float, *, to: float = 0.1, seconds: float = 5.0) -> Change:
    """One upload, whose rate becomes ``to`` times as much for so many ``seconds``."""
    transfer = _transfer(rate, round_trip, Streams(1))
    transfer.run(5.0)
    transfer.there.set_rate(rate * to, transfer.now)
    before, began = transfer.delivered, transfer.now
    transfer.run(began + seconds)
    share = _share((transfer.delivered - before) / seconds, rate * to)
    queued = transfer.there.queued
    transfer.there.set_rate(rate, transfer.now)
    return Change(share, queued, _comeback(transfer, rate), transfer.there.peak)


class Streams:
    """The payloads of so many streams that always have something to send."""

    def __init__(self, amount: int) -> None:
        self._multiplexer = Multiplexer()
        self._streams = [self._multiplexer.open_stream() for _ in range(amount)]
        self._taken: Counter[int] = Counter()

    def __iter__(self) -> Iterator[bytes]:
        while True:
            for stream in self._streams:
                if stream.unsent < PIECE:
                    stream.write(bytes(PIECE))
                    self._taken[stream.id] += PIECE
            yield self._multiplexer.take(PAYLOAD_SIZE, 0.0)

    @property
    def fairness(self) -> float:
        """The least that a stream sent, as a share of the most."""
        sent = [self._taken[stream.id] - stream.unsent for stream in self._streams]
        return min(sent) / max(sent)


def _transfer(rate: float, round_trip: float, source: Streams) -> Transfer:
    return Transfer(Path(round_trip / 2, rate=rate), Path(round_trip / 2), iter(source))


def _share(delivered: float, rate: float) -> float:
    return delivered * MESSAGE / PAYLOAD_SIZE / rate


def _comeback(transfer: Transfer, rate: float, slot: float = 0.25, patience: float = 60.0) -> float:
    began = transfer.now
    share = 0.0
    while share < 0.9 and transfer.now < began + patience:
        before = transfer.delivered
        transfer.run(transfer.now + slot)
        share = _share((transfer.delivered - before) / slot, rate)
    return transfer.now - slot - began
