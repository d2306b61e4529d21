"""Commands on a target: what is asked of AWS to run one, and what its end means here."""

from __future__ import annotations

import asyncio
import shlex
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import NamedTuple

from .errors import Error, RemoteProtocolError, SessionClosed
from .protocol.handshake import SessionType
from .session import CLOSED, Session
from .shell import Left, Shell
from .status import tell

INTERACTIVE_DOCUMENT = "AWS-StartInteractiveCommand"
NON_INTERACTIVE_DOCUMENT = "AWS-StartNonInteractiveCommand"
# The exit status of a command that has none, or one that is none here.
FAILED = 255
TIMED_OUT = 124  # as timeout(1) has it

# Standard output as base64 text, which the agent does not damage, with the command's own status.
_BASE64 = """\
exec 3>&1
status=$({ { "$@" 3>&- 4>&-; echo $? >&4; } | base64 >&3 3>&- 4>&-; } 4>&1)
exit "$status"\
"""
_NOT_BASE64 = "the command's output is not the base64 that it was to be"


class Request(NamedTuple):
    """A document and its parameters."""

    document: str
    parameters: dict[str, list[str]]


def command_request(words: Sequence[str], *, tty: bool = False, base64: bool = False) -> Request:
    """What runs a command of these words, each of which reaches it as it is: there is no shell.

    ``tty`` runs it on a terminal of its own. ``base64`` has its output encoded: see Base64Decoder.
    """
    if base64:
        words = ["sh", "-c", _BASE64, "sh", *words]
    parameters = {"command": [shlex.join(words)]}
    if tty:
        return Request(INTERACTIVE_DOCUMENT, parameters)
    return Request(NON_INTERACTIVE_DOCUMENT, parameters | {"separateOutputStream": ["True"]})


async def run_command_session(
    session: Session,
    stop: asyncio.Event,
    *,
    tty: bool = False,
    base64: bool = False,
    timeout: float | None = None,  # noqa: ASYNC109 - it has a status of its own
) -> int:
    """Run the command that ``session`` was started for; it is not open yet. Give the exit status.

    Its output and error output come on ours. Raises Error when it can't be run, or is not known to
    have ended. After ``timeout`` seconds it is ended.
    """
    decoder = Base64Decoder() if base64 else None
    shell = Shell(
        session,
        stop,
        errors=True,
        escapes=tty,
        greet=tell,
        decode=None if decoder is None else decoder.feed,
    )
    timer: asyncio.TimerHandle | None = None
    if timeout is not None:
        reason = f"the command had not ended after {timeout:g} s"
        timer = asyncio.get_running_loop().call_later(timeout, shell.leave, reason, TIMED_OUT)
    try:
        ended = await shell.run()
    finally:
        if timer is not None:
            timer.cancel()
    if session.exit_code is None:
        if shell.session_type != SessionType.NON_INTERACTIVE_COMMANDS or isinstance(ended, Left):
            return shell_status(ended)
        if str(ended) == CLOSED:
            raise SessionClosed("the session was closed without the command's exit status")
        raise ended
    if decoder is not None:
        decoder.end()
    return session.exit_code if 0 <= session.exit_code <= FAILED else FAILED


def shell_status(ended: Error) -> int:
    """The exit status for a shell whose session has ended so, with a line that says why.

    Raises ``ended`` where that is an error.
    """
    if isinstance(ended, Left):
        tell(str(ended))
        return ended.status
    if not isinstance(ended, SessionClosed) or ended.reason != CLOSED:
        raise ended
    if ended.output:
        tell(ended.output)
    return 1 if ended.output else 0


class Base64Decoder:
    """Decodes base64 text that comes in pieces, lines and all."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """What can be decoded now. Raises RemoteProtocolError for what is not base64."""
        text = self._rest + b"".join(data.split())
        whole = len(text) // 4 * 4
        self._rest = text[whole:]
        try:
            return b64decode(text[:whole], validate=True)
        except Base64Error:
            raise RemoteProtocolError(_NOT_BASE64) from None

    def end(self) -> None:
        """That was all. Raises RemoteProtocolError when it ends in the middle."""
        if self._rest:
            raise RemoteProtocolError(_NOT_BASE64)
