"""Escapes typed at the start of a line, whatever pieces they come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.escapes import HELP, Action, Escapes

END, SHOW_HELP = Action.END, Action.HELP


def feed(*pieces: bytes) -> list[bytes | Action]:
    """Return all that came, with adjacent bytes joined, and what was held back at the end."""
    escapes = Escapes()
    found: list[bytes | Action] = []
    for piece in pieces:
        found += escapes.feed(piece)
        if END in found:
            return joined(found)
    return joined([*found, escapes.end()])


def joined(found: list[bytes | Action]) -> list[bytes | Action]:
    result: list[bytes | Action] = []
    for one in found:
        if isinstance(one, bytes) and result and isinstance(last := result[-1], bytes):
            result[-1] = last + one
        elif one:
            result.append(one)
    return result


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (b"~.", [END]),
        (b"ls\r~.", [b"ls\r", END]),
        (b"ls\n~.rm -r", [b"ls\n", END]),
        (b"~?", [SHOW_HELP]),
        (b"~?~?x", [SHOW_HELP, SHOW_HELP, b"x"]),
        (b"a\r~?~.", [b"a\r", SHOW_HELP, END]),
        (b"~~", [b"~"]),
        (b"~~.", [b"~."]),
        (b"~~\r~.", [b"~\r", END]),
        (b"~~~.", [b"~~."]),
        (b"~-~.\r~.\r~?", [b"~.\r~.\r~?"]),
        (b"x~.", [b"x~."]),
        (b"x~?\r", [b"x~?\r"]),
        (b"~x", [b"~x"]),
        (b"~x~.", [b"~x~."]),
        (b"~\r~.", [b"~\r", END]),
        (b"cd ~/a\r~/b\r", [b"cd ~/a\r~/b\r"]),
        (b"\r", [b"\r"]),
        (b"~", [b"~"]),
        (b"", []),
    ],
)
def test_what_is_typed(typed: bytes, expected: list[bytes | Action]) -> None:
    assert feed(typed) == expected
    assert feed(*(typed[i : i + 1] for i in range(len(typed)))) == expected


def test_a_tilde_is_held_back_until_it_is_known_what_it_is() -> None:
    escapes = Escapes()
    assert escapes.feed(b"\r~") == [b"\r"]
    assert escapes.feed(b"") == []
    assert escapes.feed(b"a~") == [b"~a~"]
    assert escapes.end() == b""


def test_the_help_names_every_escape() -> None:
    assert all(f"~{letter} " in HELP for letter in ".?-~")


typed = st.lists(
    st.sampled_from([b"~", b"\r", b"\n", b".", b"?", b"-", b"a", b"\r~", b"\n~~", b"\x00\xff"]),
    max_size=30,
).map(b"".join)


@given(typed, st.lists(st.integers(0, 60)))
def test_pieces_change_nothing(data: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in zip(places, places[1:], strict=False)]
    assert feed(*pieces) == feed(data)


@given(typed)
def test_one_byte_after_another_says_the_same(data: bytes) -> None:
    """Against the rules, told once more in the plainest way."""
    sent: list[bytes | Action] = []
    on, at_start, pending = True, True, False
    for byte in (data[i : i + 1] for i in range(len(data))):
        if pending:
            pending = False
            if byte in b".?":
                sent.append(END if byte == b"." else SHOW_HELP)
                if byte == b".":
                    break
            elif byte == b"-":
                on = False
            else:
                sent.append(b"~" if byte == b"~" else b"~" + byte)
                at_start = byte in b"\r\n"
        elif on and at_start and byte == b"~":
            pending = True
        else:
            sent.append(byte)
            at_start = byte in b"\r\n"
    assert feed(data) == joined([*sent, b"~" if pending else b""])


@given(st.lists(st.binary().filter(lambda data: b"~" not in data)))
def test_without_a_tilde_nothing_changes(pieces: list[bytes]) -> None:
    escapes = Escapes()
    for piece in pieces:
        assert escapes.feed(piece) == ([piece] if piece else [])


def test_a_paste_is_not_copied_byte_by_byte() -> None:
    paste = b"a line of what was pasted, ~ and all\r" * 30_000
    escapes = Escapes()
    (sent,) = escapes.feed(paste)
    assert sent is paste
