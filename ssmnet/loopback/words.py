"""How the agent splits a non-interactive command into words; nothing is expanded."""

from __future__ import annotations

from collections.abc import Iterator

_SPACE = " \t\r\n"


class UnfinishedError(Exception):
    """The text ends within quotes, or after a backslash."""


def split_words(text: str) -> list[str]:
    r"""The words of ``text``. Raises UnfinishedError.

    Nearly as a shell does it: within double quotes a backslash is dropped before whatever follows,
    "\n" is "n". A # begins a comment where a word could begin.
    """
    words: list[str] = []
    characters = iter(text)
    for character in characters:
        if character == "#":
            _skip_line(characters)
        elif character not in _SPACE:
            words.append(_read_word(character, characters))
    return words


def _skip_line(characters: Iterator[str]) -> None:
    for character in characters:
        if character == "\n":
            return


def _read_word(first: str, characters: Iterator[str]) -> str:
    word: list[str] = []
    character: str | None = first
    while character is not None and character not in _SPACE:
        if character == "'":
            word += _until_quote("'", characters)
        elif character == '"':
            word += _until_quote('"', characters)
        elif character == "\\":
            word.append(_escaped(characters))
        else:
            word.append(character)
        character = next(characters, None)
    return "".join(word)


def _until_quote(quote: str, characters: Iterator[str]) -> Iterator[str]:
    for character in characters:
        if character == quote:
            return
        yield _escaped(characters) if character == "\\" and quote == '"' else character
    raise UnfinishedError("EOF found when expecting closing quote")


def _escaped(characters: Iterator[str]) -> str:
    for character in characters:
        return character
    raise UnfinishedError("EOF found after escape character")
