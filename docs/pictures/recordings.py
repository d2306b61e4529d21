"""Records commands of ssmnet in a real terminal, against far ends on this machine::

    sudo unshare --net python3 run.py python -m docs.pictures.recordings

makes ``docs/pictures/up.svg`` and ``docs/pictures/forward.svg``. Nothing in them is drawn by hand:
PostgreSQL, redis and a web server run, psql and others use the tunnels, and the far ends make
WebSockets break. It needs Linux, root, tmux and the programs of tests/e2e/install.sh; in a network
of its own, all ports are free.
"""

# ruff: noqa: S101, S603, S607 - all that is run stands here

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from docs.pictures.svg import save
from docs.pictures.terminal import Shown, Terminal, Window, picture

DATABASE, CACHE, SITE = "127.0.0.21", "127.0.0.22", "127.0.0.23"
COLUMNS = 112
PROGRAMS = Path(sys.executable).parent
FILE = """\
[defaults]
target = "i-0123456789abcdef0"

[forwards.db]
host = "db.internal"
remote = 5432

[forwards.cache]
host = "cache.internal"
remote = 6379

[forwards.staging]
profile = "staging"
endpoint_url = "{endpoint}"
host = "db.internal"
remote = 5432
local = 5433

[proxies.corp]
socks = 1080
allow = ["*.internal"]
"""
KEYS = """\
[staging]
aws_access_key_id = {AWS_ACCESS_KEY_ID}
aws_secret_access_key = {AWS_SECRET_ACCESS_KEY}
"""
PSQL = "env PGUSER=postgres PGDATABASE=postgres psql -h 127.0.0.1"


@contextmanager
def running(*command: str | Path, folder: Path, told: str = "") -> Iterator[subprocess.Popen[str]]:
    """A program; with ``told`` once a line of its stdout holds that."""
    with (folder / "said").open("a") as said:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, stdout=subprocess.PIPE, stderr=said, text=True
        )
    try:
        assert process.stdout is not None
        while told and told not in process.stdout.readline():
            if process.poll() is not None:
                raise RuntimeError(f"{command}: {(folder / 'said').read_text()}")
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


def user(name: str, *command: str | Path) -> list[str]:
    """The command as another user's."""
    return ["runuser", "-u", name, "--", *map(str, command)]


@contextmanager
def postgres() -> Iterator[None]:
    """PostgreSQL, as its own user: it refuses root."""
    binaries = max(Path("/usr/lib/postgresql").glob("*/bin"))
    with tempfile.TemporaryDirectory() as name:
        shutil.chown(name, "postgres")
        data = Path(name, "data")
        start = f"-c listen_addresses={DATABASE} -c unix_socket_directories={name} -c fsync=off"
        quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": name}
        init = (binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust", "--no-sync")
        subprocess.run(user("postgres", *init), **quiet)  # type: ignore[call-overload]
        control = (binaries / "pg_ctl", "-D", data, "-w", "-l", Path(name, "log"))
        subprocess.run(user("postgres", *control, "-o", start, "start"), **quiet)  # type: ignore[call-overload]
        try:
            yield
        finally:
            stop = user("postgres", *control, "-m", "immediate", "stop")
            subprocess.run(stop, **quiet)  # type: ignore[call-overload]


@contextmanager
def destinations(folder: Path) -> Iterator[None]:
    """What the far ends' agents reach."""
    (folder / "report.bin").write_bytes(os.urandom(6 * 1024 * 1024))
    site = (sys.executable, "-m", "http.server", "--bind", SITE, "80")
    redis = ("redis-server", "--bind", CACHE, "--save", "", "--protected-mode", "no")
    with (
        postgres(),
        running(*site, folder=folder),
        running(*redis, folder=folder, told="Ready to accept connections"),
    ):
        yield


class FarEnd:
    """``ssmnet loopback``, and what goes wrong there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.exports: dict[str, str] = {}
        while "AWS_EC2_METADATA_DISABLED" not in self.exports:
            name, _, value = process.stdout.readline().strip().partition("=")
            self.exports[name.removeprefix("export ")] = value

    @property
    def settings(self) -> str:
        """A line for a shell, after which all leads there."""
        return "; ".join(f"export {name}={value}" for name, value in self.exports.items() if name)

    def fault(self, name: str, arguments: str = "{}") -> None:
        """Have something go wrong there."""
        pair = f"{self.exports['AWS_ACCESS_KEY_ID']}:{self.exports['AWS_SECRET_ACCESS_KEY']}"
        url = f"{self.exports['AWS_ENDPOINT_URL_SSM']}/faults/{name}"
        subprocess.run(["curl", "-sfu", pair, "-d", arguments, url], check=True)


@contextmanager
def far_end(folder: Path) -> Iterator[FarEnd]:
    """Run one, at the real agent's pace."""
    names = {"db.internal": DATABASE, "cache.internal": CACHE, "site.internal": SITE}
    options = [f"--name={name}={address}" for name, address in names.items()]
    with running(PROGRAMS / "ssmnet", "loopback", "--pace", *options, folder=folder) as process:
        yield FarEnd(process)


def record_up(folder: Path) -> str:
    """Four of ``ssmnet up``, in use; one of them resumes."""
    with ExitStack() as stack:
        near, staging = (stack.enter_context(far_end(folder)) for _ in range(2))
        (folder / "ssmnet.toml").write_text(
            FILE.format(endpoint=staging.exports["AWS_ENDPOINT_URL_SSM"])
        )
        (folder / "credentials").write_text(KEYS.format(**staging.exports))
        prepare = f"cd {folder}; PATH={PROGRAMS}:$PATH; {near.settings}"
        prepare += f"; export AWS_SHARED_CREDENTIALS_FILE={folder}/credentials"
        # It would be that of both.
        prepare += "; unset AWS_ENDPOINT_URL_SSMMESSAGES"
        terminal = Terminal(folder, "up", COLUMNS, 18, prepare)
        stack.callback(terminal.close)
        terminal.type("ssmnet up")
        shown = [
            Shown(terminal.wait_for(r"db .* up (.*\n)+cache .* up .*\n(.*\n)*.*corp .* up"), 2)
        ]
        terminal.wait_for("staging .* up")
        for program in use(folder):
            stack.enter_context(program)
        shown += each_second(terminal, 4)
        staging.fault("fail_next", '{"code": "ExpiredTokenException", "times": 6}')
        staging.fault("cut_clients")
        shown.append(Shown(terminal.wait_for("staging .* resuming"), 1))
        still = len(shown)
        shown += each_second(terminal, 4)
        shown.append(Shown(terminal.wait_for("staging .* up"), 1))
        shown += each_second(terminal, 2)
        shown[-1] = Shown(shown[-1].screen, 3)
        terminal.key("C-c")
        terminal.wait_for(r"^\$\s*\Z")
    title = "ssmnet up shows what runs, while one forward resumes"
    return picture([Window("ssmnet up", shown)], COLUMNS, title, still)


def use(folder: Path) -> Iterator[AbstractContextManager[subprocess.Popen[str]]]:
    """Programs that use them all."""
    lines = "select repeat(md5(n::text), 8) from generate_series(1, 60000) n"
    commands = (
        f"{PSQL} -c 'copy ({lines}) to stdout'",
        f"{PSQL} -c 'select pg_sleep(60)'",
        f"{PSQL} -p 5433 -c 'select pg_sleep(60)'",
        "redis-cli -h 127.0.0.1 -r 600 -i 0.1 ping",
        "redis-cli -h 127.0.0.1 subscribe news",
        "curl -s --socks5-hostname 127.0.0.1:1080 http://site.internal/report.bin -o /dev/null",
    )
    for command in commands:
        yield running("sh", "-c", f"exec {command}", folder=folder)


def each_second(terminal: Terminal, seconds: int) -> Iterator[Shown]:
    """What stands there, so many times: it is drawn once a second."""
    for _ in range(seconds):
        time.sleep(1.0)
        yield Shown(terminal.screen())


def record_forward(folder: Path) -> str:
    """A query through ``ssmnet forward`` outlives a WebSocket."""
    with ExitStack() as stack:
        end = stack.enter_context(far_end(folder))
        prepare = f"cd {folder}; PATH={PROGRAMS}:$PATH; {end.settings}"
        forward = Terminal(folder, "forward", COLUMNS, 14, prepare)
        stack.callback(forward.close)
        client = Terminal(
            folder, "client", COLUMNS, 14, f"{prepare}; export PGUSER=postgres PGDATABASE=postgres"
        )
        stack.callback(client.close)
        forward.type(
            "ssmnet forward -t i-0123456789abcdef0 --host db.internal --remote 5432 --local 5432"
        )
        forward.wait_for("Listening on .*5432")
        client.type("psql -h 127.0.0.1 -c \"select 'still here' as answer from pg_sleep(4)\"")
        time.sleep(1.0)  # the query has been sent
        end.fault(
            "fail_next", '{"code": "ThrottlingException", "times": 3, "message": "Rate exceeded"}'
        )
        end.fault("cut_clients")
        forward.wait_for("resumed after")
        answered = client.wait_for(r"\(1 row\)\s+\$")
        said = forward.screen()
        forward.key("C-c")
        forward.wait_for(r"^\$\s*\Z")
    title = "A query through ssmnet forward outlives a WebSocket that breaks"
    windows = [Window("ssmnet forward", [Shown(said)]), Window("psql", [Shown(answered)])]
    return picture(windows, COLUMNS, title)


def main() -> None:
    """Record both."""
    if sys.platform == "win32" or os.geteuid() != 0:
        sys.exit("run it as root, in a network of its own: see its head")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with destinations(folder):
            save({"forward.svg": record_forward(folder), "up.svg": record_up(folder)})


if __name__ == "__main__":
    main()
