"""How the agent reads what a process writes."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.loopback.events import STDOUT, Event, PauseReading
from ssmnet.loopback.pump import Pump, TextReader
from ssmnet.protocol.message import PayloadType


def width(data: bytes, position: int) -> int:
    """How many bytes the character there has; 0 if it is none, or U+FFFD."""
    for size in range(1, 5):
        try:
            character = data[position : position + size].decode()
        except UnicodeDecodeError:
            continue
        return 0 if character == "\ufffd" else size
    return 0


def slowly(pieces: list[bytes]) -> bytes:
    """What the agent was seen to do and its source says, character by character."""
    sent, rest = b"", b""
    for piece in pieces:
        data, position = rest + piece, 0
        while position < len(data):
            size = width(data, position)
            if size:
                sent += data[position : position + size]
            elif len(data) - position < 4:
                break
            else:
                sent += data[position : position + 1]
                size = 3 if data.startswith(b"\xef\xbf\xbd", position) else 1
            position += size
        rest = data[position:]
    return sent


BYTES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.text(max_size=6).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.sampled_from([b"\xef\xbf\xbd", b"\xef", b"\xef\xbf", b"\xf0\x9f", b"\n", b"\xe2\x82"]),
    ),
    max_size=12,
)


@given(BYTES)
def test_text_is_read_as_the_agent_reads_it(pieces: list[bytes]) -> None:
    reader = TextReader()
    assert b"".join(reader.read(piece) for piece in pieces) == slowly(pieces)


@given(st.text(), st.integers(min_value=1, max_value=7))
def test_utf_8_comes_whole_but_for_one_character(text: str, size: int) -> None:
    data = text.replace("\ufffd", "").encode("utf-8", "ignore")
    reader = TextReader()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert b"".join(reader.read(piece) for piece in pieces) == data


def test_random_bytes_lose_their_end_and_a_replacement_character_two_thirds() -> None:
    data = random.Random(1).randbytes(65533) + b"a\xfe\xff"
    assert b"\xef\xbf\xbd" not in data
    reader = TextReader()
    read = b"".join(reader.read(data[start : start + 1024]) for start in range(0, 65536, 1024))
    assert read == data[:-2]
    assert TextReader().read(b"a\xef\xbf\xbdbcd") == b"a\xefbcd"


def pump(*, prefix: bytes = b"", ideal: bool = False) -> tuple[Pump, list[Event]]:
    emitted: list[Event] = []
    return Pump(STDOUT, PayloadType.OUTPUT, emitted.append, prefix=prefix, ideal=ideal), emitted


@pytest.mark.parametrize("ideal", [False, True])
def test_a_prefix_goes_before_what_begins_a_line(ideal: bool) -> None:
    one, _ = pump(prefix=b"OUT:", ideal=ideal)
    taken = []
    for data in (b"one\n", b"two", b"three", b"four\n", b"five\nsix\n"):
        one.append(data)
        taken.append(one.take(1024))
    assert taken == [b"OUT:one\n", b"OUT:two", b"three", b"four\n", b"OUT:five\nsix\n"]


def test_a_prefix_counts_for_the_size() -> None:
    one, _ = pump(prefix=b"0123456789")
    one.append(b"x" * 2000)
    assert one.take(1024) == b"0123456789" + b"x" * 1014
    assert one.take(1024) == b"x" * 986


def test_what_waits_for_its_other_half_goes_before_the_prefix() -> None:
    one, _ = pump(prefix=b"P:")
    for data in (b"a\xff\n", b"bcde"):
        one.append(data)
    assert one.take(5) + one.take(1024) == b"P:a\xff\nP:bcde"


def test_giving_up_forgets_and_reads_no_more() -> None:
    one, emitted = pump()
    one.append(b"x")
    one.give_up()
    assert (one.has_output, one.finished) == (False, True)
    assert emitted == [PauseReading(STDOUT)]
    one.append(b"y")
    assert not one.has_output
