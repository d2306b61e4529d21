"""A client of the built-in agent that acknowledges everything, with no gateway in between."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from ssmnet.loopback import SessionRequest, session_request
from ssmnet.loopback.driver import BuiltInAgent
from tests import wire

DEADLINE = 20.0


def shell() -> SessionRequest:
    return session_request(None, {})


def interactive(command: str) -> SessionRequest:
    return session_request("AWS-StartInteractiveCommand", {"command": [command]})


def command(command: str, **parameters: str) -> SessionRequest:
    named = {"command": command, **parameters}
    document = "AWS-StartNonInteractiveCommand"
    return session_request(document, {name: [value] for name, value in named.items()})


class NearClient:
    """``async with`` starts the session and leaves nothing of it.

    Each wait has a deadline.
    """

    def __init__(self, request: SessionRequest, **options: Any) -> None:
        defaults = {
            "agent_version": "3.3.0.0",
            "pace": False,
            "ideal": False,
            "setup_time": 0.0,
            "first_output_delay": 0.0,
        }
        self.messages: list[wire.Message] = []
        self.states: list[str] = []
        self.acknowledged: set[int] = set()
        self.ended_with: str | None = None
        self.acknowledges = True
        self._number = 0
        self._unacknowledged: dict[int, bytes] = {}
        self._changed = asyncio.Event()
        self.agent = BuiltInAgent(
            request,
            session_id="session-1",
            send=self._receive,
            flow=lambda full: None,
            ended=self._ended,
            **{**defaults, **options},
        )

    async def __aenter__(self) -> Self:
        self.agent.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.agent.abort()
        async with asyncio.timeout(10):
            await self.agent.wait_closed()

    def payload(self, payload_type: int) -> bytes:
        return b"".join(m.payload for m in self.messages if m.payload_type == payload_type)

    @property
    def output(self) -> bytes:
        return self.payload(wire.OUTPUT)

    def type(self, data: bytes, payload_type: int = wire.OUTPUT) -> int:
        """Send input; the number it has. The agent may take no notice: see until_ready."""
        number, self._number = self._number, self._number + 1
        self._unacknowledged[number] = wire.input_data(number, data, payload_type)
        self.agent.send(self._unacknowledged[number])
        return number

    def set_size(self, columns: int, rows: int) -> int:
        content = {"cols": columns, "rows": rows}
        return self.type(json.dumps(content).encode(), wire.SIZE)

    async def until_ready(self) -> None:
        """Wait until input is taken: send the first again and again, as clients do."""
        number = self.set_size(80, 24)
        async with asyncio.timeout(DEADLINE):
            while number not in self.acknowledged:
                self.agent.send(self._unacknowledged[number])
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await self._wait()

    async def until(self, condition: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                while not condition():
                    await self._wait()
        except TimeoutError:
            raise AssertionError(f"in vain: {self.messages[-3:]}, {self.ended_with}") from None

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    async def until_shown(self, text: bytes) -> None:
        await self.until(lambda: text in self.output)

    async def until_ended(self) -> str:
        await self.until(lambda: self.ended_with is not None)
        assert self.ended_with is not None
        return self.ended_with

    def _receive(self, messages: list[bytes]) -> None:
        for data in messages:
            message = wire.decode(data)
            if message.type == wire.ACKNOWLEDGE:
                number = wire.acknowledged(message)
                self.acknowledged.add(number)
                self._unacknowledged.pop(number, None)
            elif message.type == wire.OUTPUT_DATA:
                self._receive_output(message)
            else:
                self.states.append(message.json()["SessionState"])
        self._changed.set()

    def _receive_output(self, message: wire.Message) -> None:
        if message.number == len(self.messages):
            self.messages.append(message)
        if self.acknowledges:
            self.agent.send(wire.acknowledge(message))
        if message.payload_type == wire.HANDSHAKE_REQUEST and self._number == 0:
            self.type(wire.handshake_response("1.2.764.0"), wire.HANDSHAKE_RESPONSE)

    def _ended(self, output: str) -> None:
        self.ended_with = output
        self._changed.set()
