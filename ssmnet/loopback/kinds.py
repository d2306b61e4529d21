"""Which kind of session a request means, for these versions of agent and client."""

from __future__ import annotations

from collections.abc import Callable

from . import handshake
from .command import Command
from .documents import INTERACTIVE, LOCAL_PORT_FORWARDING, PORT, SHELL, SessionRequest
from .kind import Emit, End, Kind, Send
from .port import Port
from .port_basic import BasicPort, RawPort
from .port_mux import MuxPort
from .shell import Shell

# What the agent starts for a shell, whatever the user's own is; and its way to run a command there.
_SHELL = ("sh",)
_RUN = ("sh", "-c")


class KindMaker:
    """Called with a request and the client's version; None where ``end`` was called with a reason.

    ``is_away`` says whether the client is. ``first_output_delay`` is a shell's, and what a command
    waits before it says what failed.
    """

    def __init__(
        self,
        agent_version: str,
        *,
        send: Send,
        emit: Emit,
        end: End,
        is_away: Callable[[], bool],
        setup_time: float,
        first_output_delay: float,
        ideal: bool,
    ) -> None:
        self._agent_version = agent_version
        self._send = send
        self._emit = emit
        self._end = end
        self._is_away = is_away
        self._setup_time = setup_time
        self._first_output_delay = first_output_delay
        self._ideal = ideal

    def __call__(self, request: SessionRequest, client_version: str) -> Kind | None:
        """The kind, not started yet."""
        if request.session_type == PORT:
            return self._port(request, client_version)
        if request.session_type == SHELL:
            return self._shell(_SHELL)
        if not request.properties["command"].strip():
            self._end(f"Commands cannot be empty for session type {request.session_type}")
            return None
        if request.session_type == INTERACTIVE:
            return self._shell((*_RUN, request.properties["command"]))
        return Command(
            request.properties,
            send=self._send,
            emit=self._emit,
            end=self._end,
            is_away=self._is_away,
            setup_time=self._setup_time,
            error_delay=self._first_output_delay,
            ideal=self._ideal,
        )

    def _port(self, request: SessionRequest, client_version: str) -> Port:
        properties = request.properties
        if properties.get("type") != LOCAL_PORT_FORWARDING:
            return self._single(RawPort, request)
        if not handshake.multiplexes(self._agent_version, client_version):
            return self._single(BasicPort, request)
        return MuxPort(
            properties,
            send=self._send,
            emit=self._emit,
            end=self._end,
            setup_time=self._setup_time,
            ideal=self._ideal,
            keep_alive=handshake.keeps_alive(self._agent_version, client_version),
        )

    def _single(self, kind: type[RawPort], request: SessionRequest) -> Port:
        return kind(
            request.properties,
            send=self._send,
            emit=self._emit,
            end=self._end,
            setup_time=self._setup_time,
        )

    def _shell(self, arguments: tuple[str, ...]) -> Shell:
        return Shell(
            arguments,
            send=self._send,
            emit=self._emit,
            end=self._end,
            setup_time=self._setup_time,
            first_output_delay=self._first_output_delay,
            ideal=self._ideal,
        )
