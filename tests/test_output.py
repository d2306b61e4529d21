"""Lines that never hold anything up."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from ssmnet import output
from ssmnet.output import is_waiting, write

TIMEOUT = 20.0


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


if sys.platform != "win32":
    import fcntl
    import pty

    @pytest.fixture
    def terminal() -> Iterator[tuple[int, TextIO]]:
        far, near = pty.openpty()
        os.set_blocking(far, False)
        stream = os.fdopen(near, "w", encoding="utf-8")
        yield far, stream
        os.close(far)
        # What a write that was held up has left has nobody to wait for now.
        with contextlib.suppress(OSError):
            stream.close()

    async def read_until(far: int, end: bytes) -> bytes:
        data = b""
        async with asyncio.timeout(TIMEOUT):
            while not data.endswith(end):
                try:
                    data += os.read(far, 65536)
                except BlockingIOError:
                    await asyncio.sleep(0.005)
        return data

    @pytest.mark.timeout(TIMEOUT)
    async def test_a_full_terminal_holds_up_nothing_and_has_whole_lines(
        terminal: tuple[int, TextIO],
    ) -> None:
        far, stream = terminal
        for number in range(3_000):
            # At last there is room for a character and not for the two that end a line.
            assert write(stream, f"{number} {'x' * (number % 150)}")
        assert is_waiting(stream)
        last = b"heard again\r\n"
        data = await read_until(far, b"\n")
        while is_waiting(stream):
            data += await read_until(far, b"\n")
        assert write(stream, "heard again")
        lines = (data + await read_until(far, last)).decode().splitlines()
        assert lines[:-1] == [f"{n} {'x' * (n % 150)}" for n in range(len(lines) - 1)]
        assert output.MAX_WAITING < len(data) < output.MAX_WAITING + 100_000

    async def test_a_long_text_is_whole_once_it_is_read(terminal: tuple[int, TextIO]) -> None:
        far, stream = terminal
        text = "\u65e5" * 200_000
        assert write(stream, text)
        assert write(stream, "there is no room for this")
        assert (await read_until(far, b"\n")).decode() == f"{text}\r\n"

    async def test_the_flags_that_others_share_are_left_alone(
        terminal: tuple[int, TextIO],
    ) -> None:
        far, stream = terminal
        before = fcntl.fcntl(stream, fcntl.F_GETFL)
        assert write(stream, "x" * 100_000)
        assert fcntl.fcntl(stream, fcntl.F_GETFL) == before
        assert os.get_blocking(stream.fileno())
        await read_until(far, b"\n")

    async def test_a_full_terminal_that_goes_away_is_no_fault(
        terminal: tuple[int, TextIO],
    ) -> None:
        far, stream = terminal
        assert write(stream, "x" * 100_000)
        elsewhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(elsewhere, far)
        os.close(elsewhere)
        async with asyncio.timeout(TIMEOUT):
            while is_waiting(stream):
                await asyncio.sleep(0.005)
        assert write(stream, "to nobody, but it does no harm")

    async def test_what_waits_is_written_at_the_exit(terminal: tuple[int, TextIO]) -> None:
        far, stream = terminal
        source = "import sys; from ssmnet.output import write; write(sys.stderr, 'x' * 50_000)"
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", source, stderr=stream)
        assert len(await read_until(far, b"\n")) == 50_002
        assert await child.wait() == 0

    def test_the_exit_does_not_wait_for_ever(terminal: tuple[int, TextIO]) -> None:
        _, stream = terminal
        source = "import sys; from ssmnet.output import write; write(sys.stderr, 'x' * 50_000)"
        child = subprocess.Popen([sys.executable, "-c", source], stderr=stream)
        assert child.wait(TIMEOUT) == 0

    async def test_a_terminal_that_has_no_name_here_is_written_to(
        terminal: tuple[int, TextIO], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: int) -> str:
            raise OSError

        monkeypatch.setattr(os, "ttyname", fail)
        far, stream = terminal
        for _ in range(3):
            assert write(stream, "told")
        assert await read_until(far, b"told\r\n" * 3) == b"told\r\n" * 3
