"""What is asked for to run a command, and what its end means: the parts that need no session."""

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import ConnectError, Error, RemoteProtocolError, SessionClosed, UsageError
from ssmnet.execute import (
    FAILED,
    Base64Decoder,
    command_request,
    command_status,
    last_words,
    shell_status,
)
from ssmnet.loopback.words import split_words
from ssmnet.session import CLOSED
from ssmnet.shell import Left

WORD = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
ODD = [
    "",
    " ",
    "a b",
    "'",
    '"',
    "\\",
    "\n",
    "$HOME",
    "`id`",
    "*",
    "#",
    "~",
    "!",
    "ünï 漢字",
    "-n",
    ";",
]


@given(st.lists(WORD | st.sampled_from(ODD), min_size=1))
def test_every_word_comes_as_it_is(words: list[str]) -> None:
    line = command_request(words).parameters["command"]
    assert [split_words(one) for one in line] == [words]


def test_the_documents() -> None:
    assert command_request(["uname", "-a"]) == (
        "AWS-StartNonInteractiveCommand",
        {"command": ["uname -a"], "separateOutputStream": ["True"]},
    )
    assert command_request(["top"], tty=True) == (
        "AWS-StartInteractiveCommand",
        {"command": ["top"]},
    )


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(UsageError, match="UTF-8"):
        command_request(["echo", os.fsdecode(b"\xff")])


# Base64.


def run_encoded(*words: str, path: str = os.environ["PATH"]) -> tuple[int, bytes, bytes]:
    """Run a command as the agent would, with the output decoded as it comes."""
    (line,) = command_request(words, base64=True).parameters["command"]
    shell, *arguments = split_words(line)
    done = subprocess.run(
        [shutil.which(shell) or shell, *arguments],
        env={"PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    decoder = Base64Decoder()
    output = decoder.feed(done.stdout)
    decoder.end()
    return done.returncode, output, done.stderr


needs_sh = pytest.mark.skipif(sys.platform == "win32", reason="a POSIX shell is run")


@needs_sh
@pytest.mark.parametrize("size", [0, 1, 2, 3, 57, 58, 100_000])
def test_bytes_come_as_they_are(size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    (tmp_path / "a file").write_bytes(data)
    assert run_encoded("cat", str(tmp_path / "a file")) == (0, data, b"")


@needs_sh
@pytest.mark.parametrize("status", [0, 1, 127, 255])
def test_the_command_s_own_status_and_complaints_come(status: int) -> None:
    script = f"printf '\\377'; echo no >&2; exit {status}"
    assert run_encoded("sh", "-c", script) == (status, b"\xff", b"no\n")


@needs_sh
def test_a_command_that_is_not_there() -> None:
    status, output, complaint = run_encoded("/no/such/thing")
    assert (status, output) == (127, b"")
    assert b"/no/such/thing" in complaint


@needs_sh
def test_a_command_that_leaves_somebody_behind_has_ended_when_all_has_come() -> None:
    assert run_encoded("sh", "-c", "(sleep 0.2; echo late) & echo early") == (
        0,
        b"early\nlate\n",
        b"",
    )


@needs_sh
def test_a_machine_without_base64(tmp_path: Path) -> None:
    """Nothing could come, and that must not look like success."""
    true = shutil.which("true")
    assert true
    (tmp_path / "true").symlink_to(true)
    status, output, complaint = run_encoded("true", path=str(tmp_path))
    assert (status, output) == (127, b"")
    assert b"base64" in complaint


@given(st.binary(), st.lists(st.integers(0, 400)))
def test_base64_in_pieces(data: bytes, cuts: list[int]) -> None:
    text = base64.encodebytes(data)
    bounds = [0, *sorted(cuts), len(text)]
    decoder = Base64Decoder()
    pieces = [text[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    assert b"".join(map(decoder.feed, pieces)) == data
    decoder.end()


@pytest.mark.parametrize("text", [b"no..\n", b"QUJ\xff", b"QUI=QUJD"])
def test_what_is_not_base64(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="base64"):
        Base64Decoder().feed(text)


def test_base64_that_is_cut_off() -> None:
    decoder = Base64Decoder()
    assert decoder.feed(b"QUJDQU") == b"ABC"
    with pytest.raises(RemoteProtocolError, match="base64"):
        decoder.end()


# The end.


@pytest.mark.parametrize("code", range(256))
def test_a_command_s_status_is_ours(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_status(code, interrupted=code % 2 == 0) == code
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("code", "interrupted", "status", "told"),
    [
        (-1, False, FAILED, "the command was ended by a signal\n"),
        (-1, True, 130, "the command was ended by a signal\n"),
        (3221225786, False, FAILED, "the command's exit status is 3221225786\n"),
        (256, True, FAILED, "the command's exit status is 256\n"),
    ],
)
def test_a_status_that_is_none_here_is_told(
    code: int, interrupted: bool, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_status(code, interrupted=interrupted) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("ended", "status", "told"),
    [
        (SessionClosed(CLOSED), 0, ""),
        (SessionClosed(CLOSED, output="Bye.\nReally."), 1, "Bye. Really.\n"),
        (Left("ended by ~.", 255), 255, "ended by ~.\n"),
        (Left("", 141), 141, ""),
    ],
)
def test_a_shell_s_end(
    ended: SessionClosed, status: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shell_status(ended) == status
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("ended", [SessionClosed("it was lost"), ConnectError("no")])
def test_a_shell_that_is_lost(ended: Error) -> None:
    with pytest.raises(type(ended), match=str(ended)):
        shell_status(ended)


def test_last_words_are_one_line() -> None:
    text = "\n----------ERROR-------\nUnable to start command: no.\n\n"
    assert last_words(text) == "Unable to start command: no."
