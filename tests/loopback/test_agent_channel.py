"""Input that the session refuses, wherever it stands in the order."""

from itertools import count

import pytest

from ssmnet.errors import RemoteProtocolError
from ssmnet.loopback.agent_channel import AgentChannel, Delivery
from ssmnet.protocol.message import AgentMessage
from tests import wire


class Session:
    """Takes input but for payloads that say otherwise."""

    def __init__(self) -> None:
        self.delivered: list[int] = []
        ids = count(1)
        self.channel = AgentChannel(
            deliver=self.deliver,
            closed=lambda: None,
            wall_clock=lambda: 1_750_000_000_000,
            message_id=lambda: next(ids).to_bytes(16),
            ideal=False,
        )

    def deliver(self, message: AgentMessage) -> Delivery:
        if message.payload == b"bad":
            raise RemoteProtocolError("bad")
        self.delivered.append(message.sequence_number)
        return Delivery.WAITING if message.payload == b"slow" else Delivery.DONE

    def receive(self, number: int, payload: bytes) -> None:
        self.channel.receive(wire.input_data(number, payload), 0.0)

    @property
    def acknowledged(self) -> list[int]:
        return [wire.acknowledged(wire.decode(data)) for data in self.channel.take_messages()]


def test_what_is_refused_is_not_acknowledged_and_may_come_again() -> None:
    session = Session()
    session.receive(0, b"bad")
    session.receive(1, b"next")
    assert (session.acknowledged, session.delivered, session.channel.invalid) == ([1], [], 1)
    session.receive(0, b"good")
    assert (session.acknowledged, session.delivered) == ([0], [0, 1])


@pytest.mark.parametrize("first", [b"done", b"slow"])
def test_what_is_refused_when_its_turn_comes_stops_the_order(first: bytes) -> None:
    """Like the real agent, which has acknowledged it already: it will not come again."""
    session = Session()
    session.receive(1, b"bad")
    session.receive(2, b"next")
    session.receive(0, first)
    session.channel.go_on(0.0, written=True)
    assert (session.acknowledged, session.delivered) == ([1, 2, 0], [0])
    assert session.channel.invalid == 1
    session.receive(3, b"more")
    assert (session.acknowledged, session.delivered) == ([3], [0])
