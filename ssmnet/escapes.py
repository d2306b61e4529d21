"""What a user types to ssmnet itself, as to ssh: ``~.`` and the like at the start of a line.

Bytes in, bytes and actions out; no IO.
"""

from __future__ import annotations

import re
from enum import Enum

HELP = """\
Escapes, after Enter:
  ~.  end this session
  ~?  show this
  ~-  no more escapes
  ~~  send a ~
"""

_AFTER_NEWLINE = re.compile(rb"[\r\n]~")
_TILDE = b"~"


class Action(Enum):
    """What the user asked of ssmnet."""

    END = "end the session"
    HELP = "show HELP"


class Escapes:
    """Finds escapes in what is typed, however it is cut into pieces.

    Every input goes through ``feed``. A ``~`` that may begin an escape is held back until the next
    byte; ``~`` and a byte that makes no escape are sent as they are.
    """

    def __init__(self) -> None:
        self._on = True
        self._after_newline = True
        self._held = b""

    def feed(self, data: bytes) -> list[bytes | Action]:
        """Return what to send and what to do, in this order. Nothing comes after ``END``."""
        if not self._on:
            return [data] if data else []
        data = self._held + data
        self._held = b""
        found: list[bytes | Action] = []
        send: list[bytes] = []
        start = 0
        while self._on and (tilde := self._find(data, start)) is not None:
            send.append(data[start:tilde])
            start = tilde + 2
            self._after_newline = True
            letter = data[tilde + 1 : start]
            if not letter:
                self._held = _TILDE
            elif action := _ACTIONS.get(letter):
                found += [b"".join(send), action]
                send.clear()
                if action is Action.END:
                    return [part for part in found if part]
            elif letter == b"-":
                self._on = False
            else:
                send.append(letter if letter == _TILDE else _TILDE + letter)
                self._after_newline = letter in b"\r\n"
        send.append(data[start:])
        found.append(b"".join(send))
        if data[start:]:
            self._after_newline = data[-1:] in b"\r\n"
        return [part for part in found if part]

    def end(self) -> bytes:
        """Return what was held back, at the end of the input."""
        held, self._held = self._held, b""
        return held

    def _find(self, data: bytes, start: int) -> int | None:
        """Where the next ``~`` after a newline is."""
        if self._after_newline and data.startswith(_TILDE, start):
            return start
        match = _AFTER_NEWLINE.search(data, start)
        return None if match is None else match.end() - 1


_ACTIONS = {b".": Action.END, b"?": Action.HELP}
