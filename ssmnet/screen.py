"""What remote programs have switched on in the terminal, to switch it off when they can't.

A program that is cut off, as an editor whose session is lost, leaves its screen, its mouse and its
keyboard modes behind. What was not switched on is not switched off either: leaving a screen that
was never entered moves the cursor on some terminals. Bytes in, bytes out; no IO.
"""

from __future__ import annotations

import re

# DEC private modes, as in xterm's ctlseqs, that hinder a shell: cursor keys, the alternate screen,
# the mouse, focus, bracketed paste, and output held back.
_OFF_AT_FIRST = frozenset(
    [1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026]
)
# Wrapping at the margin, and a cursor that can be seen.
_ON_AT_FIRST = frozenset([7, 25])
# How kitty and xterm are told to report keys in another way, and how to end that.
_PLAIN_KEYS = b"\x1b[=0u\x1b[>4m"

_SWITCH = re.compile(rb"\x1b(?:\[\?([0-9;]{1,40})([hl])|\[[>=][0-9;]{1,20}([um])|(c))")
_BEGUN = re.compile(rb"\x1b(?:\[(?:\?[0-9;]{0,40}|[>=][0-9;]{0,20})?)?\Z")
# No sequence that counts is longer.
_LONGEST = 43


class Screen:
    """Goes through what is shown, in pieces of any size, and remembers what is switched on."""

    def __init__(self) -> None:
        self._changed: dict[int, None] = {}
        self._keys_changed = False
        self._begun = b""

    def feed(self, data: bytes) -> None:
        """Look through the terminal's next output."""
        if self._begun:
            data = self._begun + data
        for match in _SWITCH.finditer(data):
            modes, switch, keys, reset = match.groups()
            if modes:
                for mode in modes.split(b";"):
                    self._switch(int(mode or b"0"), on=switch == b"h")
            elif keys:
                self._keys_changed = True
            elif reset:
                self._changed.clear()
                self._keys_changed = False
        begun = _BEGUN.search(data, max(0, len(data) - _LONGEST))
        self._begun = begun[0] if begun else b""

    def reset(self) -> bytes:
        """What to write to the terminal to have it as it was; nothing where nothing is left."""
        undo = [
            b"\x1b[?%d%s" % (mode, b"h" if mode in _ON_AT_FIRST else b"l")
            for mode in reversed(self._changed)
        ]
        if self._keys_changed:
            undo.append(_PLAIN_KEYS)
        if undo:
            # Colours, too, and out of whatever sequence was cut off.
            undo = [b"\x1b\\\x1b[m", *undo]
        self._changed.clear()
        self._keys_changed = False
        self._begun = b""
        return b"".join(undo)

    def _switch(self, mode: int, on: bool) -> None:
        if mode not in _OFF_AT_FIRST and mode not in _ON_AT_FIRST:
            return
        if on == (mode in _ON_AT_FIRST):
            self._changed.pop(mode, None)
        else:
            self._changed[mode] = None
