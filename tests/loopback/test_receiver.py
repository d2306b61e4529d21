from ssmnet.loopback.receiver import Arrival, Receiver
from ssmnet.protocol.message import AgentMessage


def message(number: int) -> AgentMessage:
    return AgentMessage("input_stream_data", b"x", number)


def test_order_and_duplicates() -> None:
    receiver = Receiver()
    assert receiver.place(message(0)) is Arrival.EXPECTED
    assert receiver.place(message(2)) is Arrival.EARLY
    assert receiver.place(message(0)) is Arrival.EXPECTED, "not done yet"
    assert receiver.advance() is None
    assert receiver.place(message(0)) is Arrival.DUPLICATE
    assert receiver.place(message(1)) is Arrival.EXPECTED
    following = receiver.advance()
    assert following is not None
    assert following.sequence_number == 2
    assert receiver.advance() is None
    assert receiver.expected == 3


def test_a_full_buffer_refuses() -> None:
    receiver = Receiver(capacity=2)
    for number in (1, 2):
        assert receiver.place(message(number)) is Arrival.EARLY
    assert receiver.place(message(3)) is Arrival.REFUSED
    assert receiver.place(message(2)) is Arrival.EARLY, "that one has its place"
    assert receiver.place(message(0)) is Arrival.EXPECTED
