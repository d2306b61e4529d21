"""Commands on a target: what is asked of AWS to run one, and what its end means here."""

from __future__ import annotations

import asyncio
import shlex
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence
from typing import NamedTuple

from .errors import Error, RemoteProtocolError, SessionClosed, UsageError
from .protocol.handshake import SessionType
from .session import CLOSED, Session
from .shell import INTERRUPTED, Left, Shell
from .status import tell

INTERACTIVE_DOCUMENT = "AWS-StartInteractiveCommand"
NON_INTERACTIVE_DOCUMENT = "AWS-StartNonInteractiveCommand"
# The exit status of a command that has none, or one that is none here.
FAILED = 255
TIMED_OUT = 124  # as timeout(1) has it
# What the agent puts above a reason of its own.
_TITLE = "----------ERROR-------"

# Standard output as base64 text, which the agent does not damage, with the command's own status;
# that of base64 where it can't be had.
_BASE64 = """\
exec 3>&1
status=$({ { "$@" 3>&- 4>&-; echo $? >&4; } | base64 >&3 3>&- 4>&-; } 4>&1) || exit
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
    Raises UsageError for what is not text, since AWS takes nothing else.
    """
    if base64:
        words = ["sh", "-c", _BASE64, "sh", *words]
    line = shlex.join(words)
    try:
        line.encode()
    except UnicodeEncodeError:
        raise UsageError("the command is not UTF-8 text, which is all that can be sent") from None
    parameters = {"command": [line]}
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
        warn=tell,
        decode=None if decoder is None else decoder.feed,
    )

    def expire() -> None:
        if session.ended is None:  # or else its output only waits for its reader
            shell.leave("the command had not ended when its time was over", TIMED_OUT)

    timer = None
    if timeout is not None:
        timer = asyncio.get_running_loop().call_later(timeout, expire)
    try:
        ended = await shell.run()
    finally:
        if timer is not None:
            timer.cancel()
    if isinstance(ended, Left) or shell.session_type != SessionType.NON_INTERACTIVE_COMMANDS:
        return shell_status(ended)
    if session.exit_code is None:
        raise without_status(ended)
    if shell.may_lack_output:
        return FAILED
    status = command_status(session.exit_code, interrupted=shell.interrupts.any)
    if decoder is not None and not status:
        decoder.end()
    return status


def command_status(code: int, *, interrupted: bool) -> int:
    """The exit status for a command's ``code``, with a line where that is not the same.

    ``interrupted`` says that it was sent a ^C.
    """
    if code < 0:
        tell("the command was ended by a signal")
        return INTERRUPTED if interrupted else FAILED
    if code > FAILED:
        tell(f"the command's exit status is {code}")
        return FAILED
    return code


def shell_status(ended: Error) -> int:
    """The exit status for a shell whose session has ended so, with a line that says why.

    Raises ``ended`` where that is an error.
    """
    if isinstance(ended, Left):
        if ended.reason:
            tell(ended.reason)
        return ended.status
    if not isinstance(ended, SessionClosed) or ended.reason != CLOSED:
        raise ended
    if ended.output:
        tell(last_words(ended.output))
    return 1 if ended.output else 0


def last_words(output: str) -> str:
    """What the far end says at the end of a session, in one line."""
    return " ".join(output.replace(_TITLE, "").split())


def without_status(ended: Error) -> Error:
    """What to raise for a command whose session has ended so, without its exit status."""
    if not isinstance(ended, SessionClosed) or ended.reason != CLOSED:
        return ended
    if ended.output:
        return SessionClosed(CLOSED, output=last_words(ended.output))
    return SessionClosed("the session was closed without the command's exit status")


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
