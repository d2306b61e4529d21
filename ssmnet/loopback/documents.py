"""What a session document and its parameters make of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LOCAL_PORT_FORWARDING = "LocalPortForwarding"
PORT = "Port"
SHELL = "Standard_Stream"
INTERACTIVE = "InteractiveCommands"
NON_INTERACTIVE = "NonInteractiveCommands"

DEFAULT_DOCUMENT = "SSM-SessionManagerRunShell"
_SESSION_TYPES = {
    DEFAULT_DOCUMENT: SHELL,
    "AWS-StartInteractiveCommand": INTERACTIVE,
    "AWS-StartNonInteractiveCommand": NON_INTERACTIVE,
}
# Document: what it fills in where the caller leaves a parameter out. An empty text is to be given.
_DOCUMENTS: dict[str, dict[str, str]] = {
    DEFAULT_DOCUMENT: {},
    "AWS-StartInteractiveCommand": {"command": ""},
    "AWS-StartNonInteractiveCommand": {
        "command": "",
        "separateOutputStream": "False",
        "stdOutSeparatorPrefix": "",
        "stdErrSeparatorPrefix": "",
    },
    "AWS-StartPortForwardingSession": {
        "portNumber": "80",
        "localPortNumber": "0",
        "type": LOCAL_PORT_FORWARDING,
    },
    "AWS-StartPortForwardingSessionToRemoteHost": {
        "host": "",
        "portNumber": "80",
        "localPortNumber": "0",
        "type": LOCAL_PORT_FORWARDING,
    },
    "AWS-StartPortForwardingSessionToSocket": {
        "portNumber": "80",
        "localConnectionType": "unix",
        "localUnixSocket": "",
        "type": LOCAL_PORT_FORWARDING,
    },
    "AWS-StartSSHSession": {"portNumber": "22"},
}
# Filled in by the document, never by the caller.
_FIXED = frozenset({"type"})
_MAY_BE_EMPTY = frozenset({"stdOutSeparatorPrefix", "stdErrSeparatorPrefix"})
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_MAX_PORT = 65535
_LONGEST = 5


class DocumentError(Exception):
    """The document or its parameters do not do; ``code`` is the AWS error type to answer with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What the agent is asked to run: a session type of the handshake, and its properties."""

    session_type: str
    # The command of one that has a command, too.
    properties: Mapping[str, str] = field(repr=False)


def session_request(
    document: str | None, parameters: Mapping[str, Sequence[str]]
) -> SessionRequest:
    """Read StartSession's document and parameters. Raises DocumentError."""
    name = document or DEFAULT_DOCUMENT
    defaults = _DOCUMENTS.get(name)
    if defaults is None:
        raise DocumentError("InvalidDocument", f"Document with name {name} does not exist.")
    properties = dict(defaults)
    for parameter, values in parameters.items():
        if parameter not in defaults or parameter in _FIXED or len(values) != 1:
            raise DocumentError("ValidationException", f"Parameter {parameter} is not understood.")
        properties[parameter] = values[0]
    for parameter, value in properties.items():
        if not _is_valid(parameter, value):
            raise DocumentError(
                "ValidationException", f"Parameter {parameter} is missing or has an invalid value."
            )
    return SessionRequest(_SESSION_TYPES.get(name, PORT), dict(sorted(properties.items())))


def is_true(text: str) -> bool:
    """Whether a parameter that says yes or no says yes."""
    return text in _TRUE


def _is_valid(name: str, value: str) -> bool:
    if name == "portNumber":
        return (
            len(value) <= _LONGEST
            and value.isascii()
            and value.isdigit()
            and 1 <= int(value) <= _MAX_PORT
        )
    if name == "separateOutputStream":
        return value in _TRUE or value in _FALSE
    return bool(value) or name in _MAY_BE_EMPTY
