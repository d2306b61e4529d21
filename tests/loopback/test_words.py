"""How a non-interactive command is split."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.loopback.words import UnfinishedError, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("  \t\r\n ", []),
        ("echo out", ["echo", "out"]),
        ("sh -c 'echo out; echo err >&2; exit 7'", ["sh", "-c", "echo out; echo err >&2; exit 7"]),
        ("a'b'\"c\"d", ["abcd"]),
        ("''", [""]),
        (r"a\ b '\' c", ["a b", "\\", "c"]),
        (r'"a\"b\\c\n$HOME"', [r'a"b\cn$HOME']),
        ("echo a#b #rest 'of\nit", ["echo", "a#b", "it"]),
        ("echo $(id) | cat > x; y", ["echo", "$(id)", "|", "cat", ">", "x;", "y"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'abc", "EOF found when expecting closing quote"),
        ('echo "abc', "EOF found when expecting closing quote"),
        ("echo abc\\", "EOF found after escape character"),
        ('echo "abc\\', "EOF found after escape character"),
    ],
)
def test_unfinished(text: str, reason: str) -> None:
    with pytest.raises(UnfinishedError, match=reason):
        split_words(text)


@given(st.lists(st.text()))
def test_what_is_quoted_for_a_shell_comes_whole(words: list[str]) -> None:
    assert split_words(shlex.join(words)) == words
