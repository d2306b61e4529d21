from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.buffer import SendBuffer


def test_gives_bytes_out_in_the_order_they_came() -> None:
    buffer = SendBuffer()
    buffer.append(b"abc")
    buffer.append(memoryview(b"def"))
    assert b"".join(buffer.take(4)) == b"abcd"
    assert b"".join(buffer.take(4)) == b"ef"
    assert buffer.take(4) == []


def test_size_counts_what_is_left() -> None:
    buffer = SendBuffer()
    assert buffer.size == 0
    buffer.append(b"abcdef")
    buffer.take(2)
    assert buffer.size == 4
    buffer.take(100)
    assert buffer.size == 0


def test_nothing_appended_is_nothing_to_take() -> None:
    buffer = SendBuffer()
    buffer.append(b"")
    assert buffer.size == 0
    assert buffer.take(1) == []


def test_a_piece_is_a_view_of_what_was_written_and_no_copy() -> None:
    data = bytes(1000)
    buffer = SendBuffer()
    buffer.append(data)
    (piece,) = buffer.take(10)
    assert piece.obj is data


def test_taking_nothing_takes_nothing() -> None:
    buffer = SendBuffer()
    buffer.append(b"abc")
    assert buffer.take(0) == []
    assert buffer.size == 3
    assert b"".join(buffer.take(3)) == b"abc"


def test_clear_drops_everything() -> None:
    buffer = SendBuffer()
    buffer.append(b"abc")
    buffer.clear()
    assert buffer.size == 0
    assert buffer.take(3) == []
    buffer.append(b"x")
    assert b"".join(buffer.take(3)) == b"x"


@given(st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 30))))
def test_behaves_like_one_string_of_bytes(steps: list[bytes | int]) -> None:
    buffer, model = SendBuffer(), b""
    for step in steps:
        if isinstance(step, bytes):
            buffer.append(step)
            model += step
        else:
            assert b"".join(buffer.take(step)) == model[:step]
            model = model[step:]
        assert buffer.size == len(model)
