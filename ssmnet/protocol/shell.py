"""ShellPort: what a shell or a command reads and writes, with the face of port.BasicPort.

Input and output are one stream. Where the agent keeps standard error apart, that may be a second
one, which carries nothing to the agent; unless it is opened, all output is one stream.
"""

from __future__ import annotations

import re

import msgspec

from ..errors import LocalProtocolError, RemoteProtocolError
from .buffer import Buffer
from .port import BasicPort, PortStream

_EXIT_CODE = re.compile(rb"\s*EXIT_CODE:\s*(-?[0-9]{1,10})\s*")


class ErrorStream(PortStream):
    """What a command writes to standard error."""

    __slots__ = ()

    def write(self, data: Buffer) -> None:  # noqa: ARG002 - as any stream's
        """Not possible."""
        raise LocalProtocolError("standard error takes no data")


class ShellPort(BasicPort):
    """The client's end of a session with a shell or a command."""

    def __init__(self) -> None:
        super().__init__(reusable=False)
        self._errors: ErrorStream | None = None

    def open_error_stream(self) -> ErrorStream:
        """The stream of standard error. Open it before the other, or its beginning goes there."""
        if self._errors is not None:
            raise LocalProtocolError("there is one stream of standard error")
        self._errors = ErrorStream()
        return self._errors

    def receive_error(self, data: Buffer) -> None:
        """Take in what the command has written to standard error."""
        if self._errors is None:
            self.receive(data)
        else:
            self._deliver(self._errors, data)

    def receive_exit_code(self, payload: Buffer) -> None:
        """Take in the agent's text on how the command has ended.

        Who wants all in one stream gets that there too, as AWS's plugin shows it.
        """
        if self._errors is None:
            self.receive(payload)

    def ended(self) -> None:
        """The session has ended in order."""
        super().ended()
        if self._errors is not None:
            self._end(self._errors)


def encode_size(columns: int, rows: int) -> bytes:
    """The payload of a Size message: a terminal's size in characters."""
    return msgspec.json.encode({"cols": columns, "rows": rows})


def decode_exit_code(payload: Buffer) -> int:
    """Read the payload of an ExitCode message. Raises RemoteProtocolError."""
    found = _EXIT_CODE.fullmatch(bytes(payload))
    if found is None:
        raise RemoteProtocolError("an exit code that can't be read")
    return int(found[1])
