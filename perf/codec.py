"""What do an AgentMessage and an acknowledgement cost, in SHA-256 digests of 1 KiB?

``python -m perf.codec``. The digest is part of every message, cannot be done without and takes the
same share on every machine, so it is the calibrator. Bursts of 64 messages, as the hot path has.
"""

import time
from collections.abc import Callable
from hashlib import sha256
from itertools import count

from perf import report
from ssmnet.protocol.message import (
    AgentMessage,
    MessageType,
    PayloadType,
    acknowledge,
    acknowledged_number,
    message_ids,
    parse,
    serialize,
)

BURST = 64
PAYLOAD = bytes(range(256)) * 4
DATE = 1_700_000_000_000


def digest() -> None:
    for _ in range(BURST):
        sha256(PAYLOAD).digest()


def encoder() -> Callable[[], None]:
    numbers, ids = count(), message_ids(bytes(16))

    def encode() -> None:
        for _ in range(BURST):
            serialize(
                MessageType.INPUT_STREAM_DATA,
                PAYLOAD,
                next(numbers),
                PayloadType.OUTPUT,
                0,
                next(ids),
                DATE,
            )

    return encode


def decoder(wire: bytes) -> Callable[[], None]:
    def decode() -> None:
        for _ in range(BURST):
            parse(wire)

    return decode


def acknowledger(message: AgentMessage) -> Callable[[], None]:
    ids = message_ids(bytes(16))

    def encode() -> None:
        for _ in range(BURST):
            acknowledge(message, next(ids), DATE)

    return encode


def acknowledgement_reader(wire: bytes) -> Callable[[], None]:
    def decode() -> None:
        for _ in range(BURST):
            acknowledged_number(wire)

    return decode


def measure(rounds: int, repeats: int) -> list[report.Row]:
    message = AgentMessage(
        MessageType.OUTPUT_STREAM_DATA, PAYLOAD, 7, PayloadType.OUTPUT, created_date=DATE
    )
    wire = message.serialize()
    operations = {
        "SHA-256 of 1 KiB": digest,
        "encode 1 KiB": encoder(),
        "decode 1 KiB": decoder(wire),
        "encode acknowledgement": acknowledger(message),
        "decode acknowledgement": acknowledgement_reader(acknowledge(message, bytes(16), DATE)),
    }
    found: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(rounds):
        for name, operation in operations.items():
            began = time.process_time()
            for _ in range(repeats):
                operation()
            found[name].append((time.process_time() - began) / repeats / BURST * 1e6)
    calibrator = found["SHA-256 of 1 KiB"]
    return [
        {
            "what": name,
            "us": report.median(times),
            "ratio": report.median([t / c for t, c in zip(times, calibrator, strict=True)]),
        }
        for name, times in found.items()
    ]


def main() -> None:
    arguments = report.parser(__doc__).parse_args()
    rounds, repeats = (7, 200) if arguments.quick else (15, 1000)
    report.show("codec", measure(rounds, repeats), arguments.json)


if __name__ == "__main__":
    main()
