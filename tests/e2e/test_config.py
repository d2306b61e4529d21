"""``ssmnet config`` and ``ssmnet service`` as a user runs them."""

import re
from pathlib import Path

import pytest

from .processes import SSMNET, Done, run

GOOD = """
[defaults]
target = "i-1"
[forwards.db]
host = "db.internal"
remote = 5432
local = 0
[forwards.sock]
remote = 80
target = "i-2"
local = "/tmp/x.sock"
[proxies.corp]
socks = 1080
bind = "127.0.0.1"
"""


async def in_folder(folder: Path, *arguments: str, env: dict[str, str]) -> Done:
    """Run ``ssmnet`` in a folder."""
    return await run("sh", "-c", 'cd "$0" && exec "$@"', folder, SSMNET, *arguments, env=env)


async def test_the_example_passes_the_check(aws_env: dict[str, str], tmp_path: Path) -> None:
    example = await run(SSMNET, "config", "example", env=aws_env)
    assert (example.status, example.err) == (0, "")
    (tmp_path / "ssmnet.toml").write_text(example.out)
    done = await in_folder(tmp_path, "config", "check", env=aws_env)
    assert (done.status, done.err) == (0, "")
    assert "forward web: 127.0.0.1:8080, [::1]:8080 -> i-0123456789abcdef0:80\n" in done.out


async def test_what_a_file_names(aws_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ssmnet.toml").write_text(GOOD)
    (tmp_path / "below").mkdir()
    path = tmp_path / "ssmnet.toml"
    done = await in_folder(tmp_path / "below", "config", "check", env=aws_env)
    assert done == Done(
        0,
        f"{path}:\n"
        "forward db: a free port of 127.0.0.1 and [::1] -> db.internal:5432 through i-1\n"
        "forward sock: /tmp/x.sock -> i-2:80\n"
        "proxy corp: socks on 127.0.0.1:1080 through i-1\n",
        "",
    )
    path.write_text(GOOD.replace("local = 0", 'bind = "*"'))
    exposed = await run(SSMNET, "config", "check", "--config", path, env=aws_env)
    warning = "warning: forward db: all that can reach this machine can use it\n"
    assert (exposed.status, exposed.err) == (0, warning)
    found = await in_folder(tmp_path / "below", "config", "path", env=aws_env)
    assert found == Done(0, f"{path}\n", "")


async def test_all_that_is_wrong_with_one(aws_env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('[forwards.db]\nremote = "five"\nbin = "\u0007"\n[forwards.web]\n')
    expected = [
        f'error: {path}, line 2, forwards.db.remote: expected a port from 1 to 65535, found "five"',
        f"error: {path}, line 3, forwards.db.bin: unknown; is bind meant?",
        f"error: {path}, line 4, forwards.web: remote is missing: the port to forward to",
    ]
    # A control character is no TOML; as \u it is.
    path.write_text(path.read_text().replace("\u0007", "\\u0007"))
    done = await run(SSMNET, "config", "check", "--config", path, env=aws_env)
    assert (done.status, done.out, done.err.splitlines()) == (2, "", expected)
    by_variable = await run(SSMNET, "config", "check", env=aws_env | {"SSMNET_CONFIG": str(path)})
    assert by_variable == done
    service = await run(SSMNET, "service", "print", "--config", path, env=aws_env)
    assert (service.status, service.out) == (2, "")
    assert service.err == f"{expected[0]} (and 2 more: see ssmnet config check)\n"


async def test_a_file_with_nothing_in_it(aws_env: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.touch()
    done = await run(SSMNET, "config", "check", "--config", path, "--debug", env=aws_env)
    assert done == Done(0, f"{path}:\nno forward and no proxy\n", "")


async def test_a_file_that_a_shell_substitutes(aws_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(GOOD)
    line = '"$0" config check --config <(cat "$1"); status=$?; wait $!; exit $status'
    done = await run("bash", "-c", line, SSMNET, tmp_path / "my.toml", env=aws_env)
    assert (done.status, done.err) == (0, "")
    assert "\nproxy corp: socks on 127.0.0.1:1080 through i-1\n" in done.out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is always room")
@pytest.mark.parametrize(
    "command",
    [["config", "example"], ["config", "check"], ["config", "path"], ["service", "print"]],
)
async def test_no_room_for_what_is_printed(
    aws_env: dict[str, str], tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "ssmnet.toml").write_text(GOOD)
    line = 'cd "$1" && shift && exec "$0" "$@" >/dev/full'
    done = await run("sh", "-c", line, SSMNET, tmp_path, *command, env=aws_env)
    assert done == Done(1, "", "error: cannot write: No space left on device\n")


@pytest.mark.parametrize("command", [["config", "check"], ["config", "path"], ["service", "print"]])
async def test_no_file(aws_env: dict[str, str], tmp_path: Path, command: list[str]) -> None:
    (tmp_path / ".git").mkdir()
    done = await in_folder(tmp_path, *command, env=aws_env)
    assert (done.status, done.out) == (2, "")
    assert re.fullmatch(r"error: there is no ssmnet.toml, neither here nor above, .*\n", done.err)


async def test_a_unit_and_an_agent(aws_env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "ssmnet.toml").write_text(GOOD)
    unit = await in_folder(tmp_path, "service", "print", "--systemd", "db", "corp", env=aws_env)
    assert (unit.status, unit.err) == (0, "")
    start = f"ExecStart={SSMNET} up --config {tmp_path}/ssmnet.toml db corp\n"
    assert start in unit.out
    agent = await in_folder(tmp_path, "service", "print", "--launchd", env=aws_env)
    assert (agent.status, agent.err) == (0, "")
    assert f"<string>{SSMNET}</string>" in agent.out
    for words, told in (
        (["--systemd", "--launchd"], "are given both"),
        (["dbb"], "has no 'dbb'; is db meant?"),
    ):
        done = await in_folder(tmp_path, "service", "print", *words, env=aws_env)
        assert (done.status, done.out) == (2, "")
        assert told in done.err
