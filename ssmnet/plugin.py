"""The ``session-manager-plugin`` command line, as the AWS CLI and other programs start it.

::

    session-manager-plugin <response> <region> StartSession <profile> <request> <endpoint>

``response`` is what StartSession answered, as JSON, or the name of an environment variable that
holds it. Programs parse what is printed, so the lines are those of the reference client.

The AWS CLI runs ``--version`` before every session and waits for it: what is slow to import is
imported where it is used.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from .errors import Error, RemoteProtocolError, SessionClosed, UsageError
from .output import write
from .signals import hold_signals, ignore_signals, take_signals

if TYPE_CHECKING:
    import asyncio

    from .aws import Client
    from .protocol.events import SessionReady
    from .session import Session
    from .shell import Shell
    from .ssh_proxy import Pair

RESPONSE_VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"

# Seconds. A caller that has the credentials to itself leaves us none to resume with.
RESUME_TIMEOUT = 600.0

_INSTALLED = (
    "\nThe Session Manager plugin was installed successfully. Use the AWS CLI to start a session.\n"
)
_UNKNOWN = "\nUnknown operation {}. \nUse session-manager-plugin --version to check the version.\n"
_STARTING = "\nStarting session with SessionId: {}"
_RAW = "AWS-StartSSHSession"
# Documents whose sessions have no raw stream. What others may have shows when they begin.
_NEVER_RAW = (
    "SSM-SessionManagerRunShell",
    "AWS-StartPortForwarding",
    "AWS-StartInteractiveCommand",
    "AWS-StartNonInteractiveCommand",
)
# And those that always begin with a handshake, so that silence means no shell.
_NO_SHELL = ("AWS-StartPortForwarding", "AWS-StartSSHSession", "AWS-StartNonInteractiveCommand")
_EXITING = "\n\nExiting session with sessionId: {}.\n"


# How a raw stream ended that came to its end.
_ORDERLY = SessionClosed("")


class _Call(NamedTuple):
    """What we were called with: a session that has been started, and where to resume it."""

    session_id: str
    token_value: str
    stream_url: str
    region: str
    profile: str
    endpoint_url: str
    target: str
    document: str

    def __repr__(self) -> str:
        return f"_Call(session_id={self.session_id!r})"

    @property
    def may_be_raw(self) -> bool:
        """Whether standard output may be for the session's data alone."""
        return bool(self.document) and not self.document.startswith(_NEVER_RAW)


def main() -> None:
    """The entry point."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace", newline="\n")
    arguments = sys.argv[1:]
    if not arguments:
        _say(_INSTALLED)
    elif arguments == ["--version"]:
        from .protocol.version import CLIENT_VERSION

        _say(CLIENT_VERSION)
    elif len(arguments) < 3:
        # A response that stands alone is not shown: it holds a token.
        _say(_UNKNOWN.format("{...}" if "{" in arguments[0] else arguments[0]))
    elif arguments[2] != "StartSession":
        write(sys.stdout, "Invalid Operation", end="")
    elif not _start_session(arguments) and arguments[0].startswith(RESPONSE_VARIABLE):
        # Other callers have the token in our arguments, and print them when we say that we failed.
        sys.exit(1)


def _start_session(arguments: list[str]) -> bool:
    """Carry the session until it ends; whether it could be started, and no fault ended it."""
    # Until the event loop takes them: a session that is just being opened is not to be left behind.
    hold_signals()
    try:
        call = _read_call(arguments)
        if call.document == _RAW:
            # The caller's data goes to standard output, and nothing else.
            sys.stdout = sys.stderr
        elif not call.may_be_raw:
            _say(_STARTING.format(call.session_id))
        # Here, because run() is the end of the imports.
        from . import aws, plugin_port  # noqa: F401
        from .runner import run

        return run(lambda stop: _run(call, stop))
    except Error as error:
        _say(f"Cannot perform start session: {error}")
        return False
    except Exception as error:
        # A fault of ours or of the machine. What others put into their errors may be secret.
        if os.environ.get("SSMNET_DEBUG"):
            from .status import tell_traceback

            tell_traceback(error)
        _say(f"Cannot perform start session: {type(error).__name__}; SSMNET_DEBUG=1 shows more")
        return False


def _read_call(arguments: list[str]) -> _Call:
    """Read the arguments, of which old callers pass only three. Raises UsageError."""
    import msgspec

    text, region, _, profile, request, endpoint_url = (*arguments, "", "", "")[:6]
    if text.startswith(RESPONSE_VARIABLE):
        response = os.environ.pop(text, None)
        if response is None:
            raise UsageError(f"there is no environment variable {text}")
        text = response
    try:
        fields = msgspec.json.decode(os.fsencode(text), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(f"the response of StartSession can't be read: {error}") from None
    # ECS begins the names with small letters. Its callers pass its endpoint, not that of sessions.
    endpoint_url = endpoint_url if "SessionId" in fields else ""
    fields = {name.lower(): value for name, value in fields.items()}
    return _Call(
        _field(fields, "SessionId"),
        _field(fields, "TokenValue"),
        _field(fields, "StreamUrl"),
        region,
        profile,
        endpoint_url,
        *_read_request(request),
    )


def _read_request(text: str) -> tuple[str, str]:
    """The target and the document of the request, which some callers have not made themselves."""
    import msgspec

    try:
        fields = msgspec.json.decode(os.fsencode(text), type=dict[str, object])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        fields = {}
    target, document = fields.get("Target"), fields.get("DocumentName")
    return target if isinstance(target, str) else "", document if isinstance(document, str) else ""


def _field(response: dict[str, object], name: str) -> str:
    value = response.get(name.lower())
    if not isinstance(value, str) or not value:
        raise UsageError(f"the response of StartSession has no {name}")
    return value


async def _run(call: _Call, stop: asyncio.Event) -> bool:
    """Carry the session until it ends or ``stop`` is set; whether no fault ended it.

    Raises Error when it does not begin, with nothing left behind.
    """
    from .parent import watch_parent

    take_signals(stop)
    watch_parent(stop.set)
    try:
        return await _carry(call, stop)
    finally:
        ignore_signals()


async def _carry(call: _Call, stop: asyncio.Event) -> bool:
    """Open the session, carry it to its end and say why it ended; whether no fault did.

    Raises Error.
    """
    from .aws import Client, StartedSession
    from .runner import finish, unless
    from .session import Session

    client = Client(
        profile=call.profile, region=call.region or None, endpoint_url=call.endpoint_url
    )
    stream_url = await _trusted_url(client, call)
    grant = StartedSession(call.session_id, call.token_value, stream_url)
    session = Session(
        client,
        grant,
        target=call.target,
        shell=not call.document.startswith(_NO_SHELL),
        resume_timeout=RESUME_TIMEOUT,
    )
    ends = _Ends(call, session, stop)
    session.on_ready = ends.begin
    try:
        ended = await unless(stop, ends.carry()) or SessionClosed("stopped")
    finally:
        if stop.is_set() and ends.is_port:
            _say("Terminate signal received, exiting.")
        await finish(session.close())
    ends.say_last(ended)
    return ends.is_good(ended)


class _Ends:
    """This end of the session, whatever kind that turns out to be of."""

    def __init__(self, call: _Call, session: Session, stop: asyncio.Event) -> None:
        self._call = call
        self._session = session
        self._stop = stop
        self._shell: Shell | None = None
        self._pair: Pair | None = None

    @property
    def is_port(self) -> bool:
        """Whether signals have nothing to end but a listener."""
        return self._shell is None and self._pair is None

    def begin(self, ready: SessionReady) -> None:
        """The session is there; what it says first is not to be lost."""
        if ready.session_type == "Port" and ready.properties.get("type") != "LocalPortForwarding":
            from .ssh_proxy import Pair

            sys.stdout = sys.stderr
            self._pair = Pair(self._session)
            self._pair.begin(ready)
            return
        if self._call.may_be_raw:
            _say(_STARTING.format(self._call.session_id))
        if ready.session_type != "Port":
            from .shell import Shell

            self._shell = Shell(
                self._session, self._stop, greet=_say, warn=_warn, farewell=self._farewell
            )
            self._shell.begin(ready)

    async def carry(self) -> Error:
        """Open the session, carry it to its end and return that. Raises Error."""
        try:
            ready = await self._session.open()
        except SessionClosed as error:
            # It was short, or never began.
            return error if self.is_port else await self._finish(error)
        if not self.is_port:
            return await self._finish(None)
        from .plugin_port import forward_port

        return await forward_port(self._session, ready, _say)

    def say_last(self, ended: Error) -> None:
        """Say why the session has ended: of a shell what it has not said itself."""
        if self._shell is not None:
            from .session import INCOMPLETE

            if isinstance(ended, SessionClosed) and ended.reason == INCOMPLETE:
                _warn(INCOMPLETE)
        elif self._pair is None or not (self._stop.is_set() or ended is _ORDERLY):
            _say(_last_words(self._call.session_id, ended))

    def is_good(self, ended: Error) -> bool:
        """Whether no fault has ended the session: a raw stream cut off must not look whole."""
        from .session import CLOSED

        if not isinstance(ended, SessionClosed):
            return False
        return self._pair is None or self._stop.is_set() or ended.reason in ("", CLOSED)

    async def _finish(self, ended: SessionClosed | None) -> Error:
        if self._shell is not None:
            return await self._shell.finish(ended)
        if self._pair is not None:
            try:
                await self._pair.wait()
                self._pair.status()
            except Error as error:
                return error
            finally:
                await self._pair.close()
        return _ORDERLY

    def _farewell(self, ended: Error) -> str:
        """The last line of a shell's output, which waits for its reader as all of it does."""
        return _last_words(self._call.session_id, ended) + "\n"


async def _trusted_url(client: Client, call: _Call) -> str:
    try:
        return client.stream_url(call.stream_url)
    except RemoteProtocolError:
        with contextlib.suppress(Error):
            await client.terminate_session(call.session_id)
        raise


def _last_words(session_id: str, ended: Error) -> str:
    from .session import TIMED_OUT

    output = ended.output if isinstance(ended, SessionClosed) else str(ended)
    if output:
        return f"\n\nSessionId: {session_id} : {output}\n"
    if str(ended) == TIMED_OUT:
        return f"Session: {session_id} timed out."
    return _EXITING.format(session_id)


def _warn(text: str) -> None:
    """Print for people, where no program reads."""
    write(sys.stderr, text)


def _say(text: str) -> None:
    """Print for the caller. The forward goes on when it is gone, or does not read."""
    write(sys.stdout, text)


if __name__ == "__main__":
    main()
