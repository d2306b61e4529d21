"""What a session document and its parameters make of a session."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LOCAL_PORT_FORWARDING = "LocalPortForwarding"

# Document: what it fills in where the caller leaves a parameter out.
_PORT_DOCUMENTS: dict[str, dict[str, str]] = {
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
_MAX_PORT = 65535


class DocumentError(Exception):
    """The document or its parameters do not do; ``code`` is the AWS error type to answer with."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class SessionRequest:
    """What the agent is asked to run: a session type of the handshake, and its properties."""

    session_type: str
    properties: Mapping[str, str]


def session_request(
    document: str | None, parameters: Mapping[str, Sequence[str]]
) -> SessionRequest:
    """Read StartSession's document and parameters. Raises DocumentError."""
    defaults = _PORT_DOCUMENTS.get(document or "SSM-SessionManagerRunShell")
    if defaults is None:
        raise DocumentError("InvalidDocument", f"Document with name {document} does not exist.")
    properties = dict(defaults)
    for name, values in parameters.items():
        if name not in defaults or name in _FIXED or len(values) != 1:
            raise DocumentError("ValidationException", f"Parameter {name} is not understood.")
        properties[name] = values[0]
    for name, value in properties.items():
        if not value or (name == "portNumber" and not _is_port(value)):
            raise DocumentError("ValidationException", f"Parameter {name} has an invalid value.")
    return SessionRequest("Port", dict(sorted(properties.items())))


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 1 <= int(text) <= _MAX_PORT
