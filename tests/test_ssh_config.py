"""The Host block in a file of ssh: where it goes, what stays as it is, and what ssh reads there."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.cli import main
from ssmnet.errors import UsageError
from ssmnet.ssh_config import (
    BEGIN,
    END,
    edit_file,
    host_block,
    own_command,
    with_block,
    without_block,
)

PROXY = ["/opt/ssmnet/bin/ssmnet", "ssh-proxy"]
BLOCK = host_block(PROXY)
INSTANCE = "i-0123456789abcdef0"

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no modes and owners")

# Lines as they stand in such files, and pieces that come near the marks without being some.
PIECES = st.sampled_from(
    ["Host *\n", "    User me\r\n", "\n", "\r\n", "\udcff", "\x0b\x85\u2028", "# ", "a", BEGIN[:-1]]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def read_by_ssh(config: Path, host: str = INSTANCE) -> dict[str, str]:
    """What the real ssh makes of a file, by option."""
    program = shutil.which("ssh")
    if program is None:
        pytest.skip("NO SSH: run tests/e2e/install.sh as root, or install it")
    done = subprocess.run(
        [program, "-G", "-F", config, host], capture_output=True, text=True, timeout=60, check=True
    )
    lines = (line.partition(" ") for line in done.stdout.splitlines())
    return {name: value for name, _, value in lines}


@given(TEXTS)
def test_a_block_goes_to_the_top_once_and_comes_out_without_a_trace(text: str) -> None:
    with_it = with_block(text, BLOCK)
    assert with_it.endswith(text)
    assert with_block(with_it, BLOCK) == with_it
    assert without_block(with_it) == text


@given(TEXTS, TEXTS)
def test_another_block_takes_the_place_of_the_older_one(before: str, after: str) -> None:
    before += "" if before.endswith("\n") or not before else "\n"
    newline = "\r\n" if "\r\n" in before + after else "\n"
    older = host_block(["old"]).replace("\n", newline)
    text = before + older + after
    assert with_block(text, BLOCK) == before + BLOCK.replace("\n", newline) + after
    assert without_block(text) == before + after


def test_of_several_blocks_one_is_left() -> None:
    text = f"a\n{BLOCK}b\n{BLOCK}c\n"
    assert with_block(text, BLOCK) == f"a\n{BLOCK}b\nc\n"
    assert without_block(text) == "a\nb\nc\n"


@pytest.mark.parametrize("text", [f"{BEGIN}\nHost *\n", f"{BEGIN}\n{BEGIN}\n{END}\n"])
def test_a_block_without_an_end_is_not_guessed_at(text: str) -> None:
    with pytest.raises(UsageError, match="by hand"):
        with_block(text, BLOCK)
    with pytest.raises(UsageError, match="by hand"):
        without_block(text)


def test_lines_end_as_those_of_the_file() -> None:
    assert with_block("Host *\r\n", BLOCK).count("\r\n") == BLOCK.count("\n") + 1


@pytest.mark.parametrize("pattern", ["", "a b", 'a"', "a#b", "a\nb", "a,b", "\t"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        host_block(PROXY, hosts=[pattern])


@pytest.mark.parametrize("user", ["", "a b", "-oProxyCommand=x", "a\nb", "a#"])
def test_what_is_no_user_is_refused(user: str) -> None:
    with pytest.raises(UsageError):
        host_block(PROXY, user=user)


def test_a_line_feed_gets_into_no_command() -> None:
    with pytest.raises(UsageError):
        host_block([*PROXY, "--profile=a\n    ProxyCommand evil"])


def test_windows_has_quotes_of_its_own() -> None:
    block = host_block([r"C:\Program Files\ssmnet.exe", "ssh-proxy"], windows=True)
    assert r'ProxyCommand "C:\Program Files\ssmnet.exe" ssh-proxy %h %p' in block


# What the real ssh reads.

AFTER = {
    "a block for all": "Host *\n    User other\n    ProxyCommand none\n    Port 2222\n",
    "options before any block": "User other\nPort 2222\nProxyJump bastion\n",
    "a block that matches": f"Host {INSTANCE}\n    User other\n    Port 2222\nMatch all\n",
}


@pytest.mark.parametrize("text", AFTER.values(), ids=AFTER)
def test_ssh_takes_the_block_before_all_else_and_the_rest_as_before(
    tmp_path: Path, text: str
) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    elsewhere = read_by_ssh(config, "example.com")
    instance = read_by_ssh(config)
    assert edit_file(config, host_block(PROXY, user="ec2-user"))
    found = read_by_ssh(config)
    assert found["proxycommand"] == "/opt/ssmnet/bin/ssmnet ssh-proxy %h %p"
    assert found["user"] == "ec2-user"
    assert found["port"] == "2222"
    assert read_by_ssh(config, "mi-0123456789abcdef0")["user"] == "ec2-user"
    assert read_by_ssh(config, "example.com") == elsewhere
    assert edit_file(config, None)
    assert read_by_ssh(config) == instance


@posix
@pytest.mark.parametrize("name", ["a b", "100%", "it's", 'say "x"', "#1", "$HOME", "a\\b", "é"])
def test_ssh_starts_a_command_of_any_name(tmp_path: Path, name: str) -> None:
    """Whatever is in the path reaches the shell of ssh as one word."""
    folder = tmp_path / name
    folder.mkdir()
    program = folder / "ssmnet"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n' \"$@\" >'{tmp_path}/called'\n")
    program.chmod(0o700)
    config = tmp_path / "config"
    edit_file(config, host_block([str(program), "ssh-proxy", "--profile", name], hosts=["i-*"]))
    read_by_ssh(config)
    subprocess.run(
        ["ssh", "-F", config, "-p", "2222", INSTANCE], capture_output=True, timeout=60, check=False
    )
    called = (tmp_path / "called").read_text("utf-8").splitlines()
    assert called == ["ssh-proxy", "--profile", name, INSTANCE, "2222"]


# The file.


def test_a_new_file_is_for_the_user_alone(tmp_path: Path) -> None:
    config = tmp_path / ".ssh" / "config"
    assert edit_file(config, BLOCK)
    assert config.read_text() == BLOCK
    if sys.platform != "win32":
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(config.parent.stat().st_mode) == 0o700
    assert os.listdir(config.parent) == ["config"]


@posix
@pytest.mark.parametrize(("mode", "then"), [(0o600, 0o600), (0o644, 0o644), (0o666, 0o644)])
def test_a_file_keeps_its_mode_but_is_not_for_others_to_write(
    tmp_path: Path, mode: int, then: int
) -> None:
    config = tmp_path / "config"
    config.write_text("Host *\n")
    config.chmod(mode)
    assert edit_file(config, BLOCK)
    assert stat.S_IMODE(config.stat().st_mode) == then


def test_nothing_is_written_where_nothing_changes(tmp_path: Path) -> None:
    config = tmp_path / "config"
    assert not edit_file(config, None)
    assert not config.exists()
    assert edit_file(config, BLOCK)
    before = config.stat()
    assert not edit_file(config, BLOCK)
    assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_is_not_text_stays_as_it_is(tmp_path: Path) -> None:
    config = tmp_path / "config"
    rest = bytes(range(256)) + b"\r\n" + "é\u2028".encode() + b"\xff\n no end"
    config.write_bytes(rest)
    assert edit_file(config, BLOCK)
    assert config.read_bytes() == BLOCK.replace("\n", "\r\n").encode() + rest
    assert edit_file(config, None)
    assert config.read_bytes() == rest


@posix
def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "ssh"
    link = tmp_path / "config"
    link.symlink_to("dotfiles/ssh")
    assert edit_file(link, BLOCK)
    assert link.is_symlink()
    assert real.read_text() == BLOCK


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is no file"):
        edit_file(tmp_path, BLOCK)
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError, match="it is no file"):
        edit_file(Path(os.devnull), BLOCK)


@posix
@pytest.mark.skipif(sys.platform != "win32" and os.geteuid() == 0, reason="root may write it all")
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match=r"cannot change .*config: Permission denied"):
        edit_file(tmp_path / "config", BLOCK)


def test_a_file_that_cannot_be_read_right_is_left_as_it_is(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(f"{BEGIN}\nHost *\n")
    with pytest.raises(UsageError, match=r"cannot change .*config: .* by hand"):
        edit_file(config, BLOCK)
    assert config.read_text() == f"{BEGIN}\nHost *\n"


# How this ssmnet is started from anywhere.


def test_a_script_is_named_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "ssmnet"
    script.touch(0o700)
    link = tmp_path / "bin" / "ssmnet"
    link.parent.mkdir()
    link.symlink_to(script)
    monkeypatch.chdir(link.parent)
    monkeypatch.setattr(sys, "argv", ["./ssmnet"])
    assert own_command() == [str(link)]


def test_a_module_is_named_by_its_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(Path(__file__).with_name("__main__.py"))])
    assert own_command() == [sys.executable, "-m", "ssmnet"]


# The command.


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["ssmnet", "ssh-config", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(str(ended.value.code or 0))


def test_it_prints_what_it_would_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--profile", "dev", "--region", "eu-central-1", "--user", "me", "--host", "i-*")
    assert run(monkeypatch, *options) == 0
    block = capsys.readouterr().out
    assert "Host i-*\n" in block
    assert " -m ssmnet ssh-proxy --profile=dev --region=eu-central-1 %h %p\n" in block
    assert "    User me\n" in block
    config = tmp_path / "config"
    config.write_text("Host *\n")
    for said in ("the block is installed", "the block was there already"):
        assert run(monkeypatch, "--install", "--file", config, *options) == 0
        assert capsys.readouterr().err == f"{config}: {said}\n"
        assert config.read_text() == block + "Host *\n"
    for said in ("the block is taken out", "there was no block"):
        assert run(monkeypatch, "--remove", "--file", config) == 0
        assert capsys.readouterr().err == f"{config}: {said}\n"
        assert config.read_text() == "Host *\n"


def test_it_installs_into_the_user_s_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert run(monkeypatch, "--install") == 0
    assert "Host i-* mi-*\n" in (tmp_path / ".ssh" / "config").read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--install", "--remove"],
        ["--file", "x"],
        ["--remove", "--file", "x", "--user", "me"],
        ["--install", "--install"],
        ["--host", "a b"],
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
