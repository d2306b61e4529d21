"""The recorded transcripts in tests/vectors, see the README there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent.parent / "vectors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.jsonl"))


class Line(NamedTuple):
    """One WebSocket message: ``text`` or ``data``, with the time in seconds."""

    at: float
    way: str
    text: str
    data: bytes


def read(name: str) -> list[Line]:
    """A transcript, by its name without the suffix."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_line(json.loads(line)) for line in lines]


def _line(record: dict[str, str]) -> Line:
    return Line(
        float(record["ms"]) / 1000,
        record["way"],
        record.get("text", ""),
        bytes.fromhex(record.get("hex", "")),
    )
