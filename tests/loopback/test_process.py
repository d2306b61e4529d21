"""Shells and commands as they are: real terminals, pipes and processes."""

import sys

import pytest

if sys.platform == "win32":
    pytest.skip("shells and commands need a POSIX system", allow_module_level=True)

from tests import wire
from tests.loopback.far_end import FarEnd, command, interactive, shell


async def test_a_shell() -> None:
    async with FarEnd(shell()) as far:
        await far.until_acknowledged(far.set_size(132, 40))
        far.type(b"echo hi-$((6*7)); stty size; tty; echo $TERM; exit\n")
        assert await far.until_ended() == ""
    assert b"hi-42\r\n40 132\r\n/dev/" in far.output
    assert b"\r\nxterm-256color\r\n" in far.output
    assert far.states == ["Connected", "Terminating"]
    assert {message.payload_type for message in far.messages} == {wire.OUTPUT}


async def test_separated() -> None:
    async with FarEnd(
        command("sh -c 'echo out; echo err >&2; exit 7'", separateOutputStream="True")
    ) as far:
        assert await far.until_ended() == ""
    assert far.output == b"out\n"
    assert far.payload(wire.STDERR) == b"err\n"
    assert far.payload(12) == b"EXIT_CODE: 7"
    assert far.messages[-1].payload_type == 12
    assert far.states == ["Connected", "Terminating"]


async def test_plain() -> None:
    async with FarEnd(command("sh -c 'echo out; echo err >&2; exit 7'")) as far:
        assert await far.until_ended() == ""
    assert far.output == b"out\nerr\n"
    assert {message.payload_type for message in far.messages[2:]} == {wire.OUTPUT}


async def test_interactive() -> None:
    async with FarEnd(interactive("stty size; echo done")) as far:
        assert await far.until_ended() == ""
    assert far.output == b"0 0\r\ndone\r\n"
