"""Lines that never hold anything up."""

import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from ssmnet.output import write


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        yield reader, stream
    os.close(reader)


def test_a_line_is_there_at_once(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    assert write(stream, "told")
    assert os.read(reader, 100) == b"told\n"


def test_a_reader_that_does_not_read_misses_lines(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    for number in range(10_000):
        assert write(stream, f"line {number} {'x' * 80}")
    os.read(reader, 1 << 20)
    assert write(stream, "heard again")
    assert os.read(reader, 1 << 20).endswith(b"heard again\n")


def test_a_reader_that_is_gone_is_told_of_once(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    elsewhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(elsewhere, reader)
    os.close(elsewhere)
    assert not write(stream, "to nobody")
    assert write(stream, "to nobody, but it does no harm")


def test_a_process_without_stdout_says_nothing() -> None:
    assert write(None, "nowhere")
