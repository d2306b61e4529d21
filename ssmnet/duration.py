"""How long something is, as a user writes it."""

from __future__ import annotations

import re

from .errors import UsageError

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Read ``90``, ``90s``, ``15m``, ``8h`` or ``1d`` as seconds. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhd]?)", text)
    if match is None or not (seconds := float(match[1]) * _SECONDS[match[2]]):
        raise UsageError(f"{text!r} is not a duration such as 90s, 15m or 8h")
    return seconds
