"""What programs leave behind in a terminal, and how it is undone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.screen import Screen

UNDO = b"\x1b\\\x1b[m"


def left_by(*pieces: bytes) -> bytes:
    screen = Screen()
    for piece in pieces:
        screen.feed(piece)
    return screen.reset()


@pytest.mark.parametrize(
    ("shown", "undone"),
    [
        (b"", b""),
        (b"$ ls --color\r\n\x1b[32mgreen\x1b[m\r\n", b""),
        (b"\x1b[?1049h", b"\x1b[?1049l"),
        (b"\x1b[?1049hvim\x1b[?1049l", b""),
        (b"\x1b[?1049l", b""),
        (b"\x1b[?25l\x1b[?2004h", b"\x1b[?2004l\x1b[?25h"),
        (b"\x1b[?25h\x1b[?7l", b"\x1b[?7h"),
        (b"\x1b[?1000;1006h", b"\x1b[?1006l\x1b[?1000l"),
        (b"\x1b[?1000;1006h\x1b[?1006;1000l", b""),
        (b"\x1b[?3;4l\x1b[?12h", b""),
        (b"\x1b[?;h\x1b[?h", b""),
        (b"\x1b[?1049h\x1bc", b""),
        (b"\x1b[>5u", b"\x1b[=0u\x1b[>4m"),
        (b"\x1b[=5u\x1b[>4;1m", b"\x1b[=0u\x1b[>4m"),
        (b"\x1b[>c\x1b[?u\x1b[?1049$p", b""),
        (b"\x1b[?" + b"1" * 10_000 + b"h", b""),
    ],
)
def test_what_is_left_is_undone(shown: bytes, undone: bytes) -> None:
    expected = UNDO + undone if undone else b""
    assert left_by(shown) == expected
    assert left_by(*(shown[i : i + 1] for i in range(len(shown)))) == expected


def test_it_is_undone_once() -> None:
    screen = Screen()
    screen.feed(b"\x1b[?1049h\x1b[>5u\x1b[?25")
    assert screen.reset()
    assert screen.reset() == b""


shown = st.lists(
    st.sampled_from(
        [b"\x1b", b"\x1b[?", b"1049", b"25", b";", b"h", b"l", b"\x1b[>", b"u", b"m", b"x", b"c"]
    ),
    max_size=40,
).map(b"".join)


@given(shown, st.lists(st.integers(0, 120)))
def test_pieces_change_nothing(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in zip(places, places[1:], strict=False)]
    assert left_by(*pieces) == left_by(data)


@given(st.lists(st.binary()))
def test_anything_may_be_shown(pieces: list[bytes]) -> None:
    left_by(*pieces)
