"""How long until a command does what it was started for, and what does the idle plugin weigh?

``python -m perf.startup`` starts each command and its calibrator in turn, round after round. Times
run from the start of the process to its end, or, of those that stay, to the line that says that the
port is open; ``cpu`` is what the process itself had used by then (Linux). The far end is ``ssmnet
loopback``, a process of its own, without TLS.

"environment": the credentials are in the environment, as exported by most tools. "profile": they
are in the file of credentials, under a named profile, which is botocore's business.
"""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from perf.report import Row, median, parser, show
from ssmnet.aws import Client

TIMEOUT = 60.0  # s a process
VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
PROFILE = "perf"

Environment = dict[str, str]


class Start(NamedTuple):
    """Seconds, and MiB of resident memory where the process is still there."""

    wall: float
    cpu: float
    resident: float | None = None


class Case(NamedTuple):
    what: str
    calibrator: str | None
    start: Callable[[], Start]


def script(name: str) -> str:
    """The command as it is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def run(*command: str) -> Start:
    """Start what ends by itself."""
    if sys.platform == "win32":
        raise SystemExit("it is not told there what a process has used")
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    took = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return Start(took, usage.ru_utime + usage.ru_stime)


def run_until(said: str, environment: Environment, *command: str) -> Start:
    """Start what stays, until it has printed a line that begins with ``said``; then end it."""
    began = time.perf_counter()
    with staying(environment, *command) as process:
        await_line(process, said)
        took = time.perf_counter() - began
        cpu = used(process.pid)
        time.sleep(0.2)  # memory is to be that of a process that has nothing to do
        return Start(took, cpu, resident(process.pid))


@contextmanager
def staying(environment: Environment, *command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def await_line(process: subprocess.Popen[str], said: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(said):
            return line
    raise AssertionError(f"it ended without {said!r}")


def used(pid: int) -> float:
    """CPU seconds of all threads of a process so far; nan where the system does not tell."""
    threads = Path(f"/proc/{pid}/task")
    try:
        files = [thread / "schedstat" for thread in threads.iterdir()]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9
    except OSError:
        return float("nan")


def resident(pid: int) -> float | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) / 1024


class FarEnd:
    """Sessions for plugins, and the environment that leads to them."""

    def __init__(self, environment: Environment, home: Path) -> None:
        self.environment = environment
        self.target = environment["SSMNET_TARGET"]
        config, credentials = home / "config", home / "credentials"
        config.write_text("")
        credentials.write_text(
            f"[{PROFILE}]\naws_access_key_id = {environment['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {environment['AWS_SECRET_ACCESS_KEY']}\n"
        )
        environment["AWS_CONFIG_FILE"] = str(config)
        environment["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
        os.environ.update(environment)

    def plugin(self, profile: str = "") -> Start:
        """Start the plugin as the AWS CLI does."""
        started = asyncio.run(
            Client().start_session(
                self.target, "AWS-StartPortForwardingSession", {"portNumber": ["9"]}
            )
        )
        response = json.dumps(
            {
                "SessionId": started.session_id,
                "TokenValue": started.token_value,
                "StreamUrl": started.stream_url,
            }
        )
        region, url = self.environment["AWS_REGION"], self.environment["AWS_ENDPOINT_URL_SSM"]
        return run_until(
            "Port ",
            self.environment | {VARIABLE: response},
            *(script("session-manager-plugin"), VARIABLE, region, "StartSession"),
            *(profile, json.dumps({"Target": self.target}), url),
        )

    def forward(self, *options: str) -> Start:
        arguments = ("forward", "-t", self.target, "--remote", "9", *options)
        return run_until("Listening on ", self.environment, script("ssmnet"), *arguments)


@contextmanager
def far_end() -> Iterator[FarEnd]:
    """``ssmnet loopback``, seen by this process and those that it starts."""
    # Written bytecode is what an installed program has.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    usual = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    with TemporaryDirectory() as home, staying(usual, script("ssmnet"), "loopback") as process:
        exported: Environment = {}
        while "AWS_EC2_METADATA_DISABLED" not in exported:
            name, _, text = await_line(process, "export ").removeprefix("export ").partition("=")
            exported[name] = text.strip()
        online = await_line(process, "i-")
        yield FarEnd(usual | exported | {"SSMNET_TARGET": online.split()[0]}, Path(home))


def cases(far: FarEnd) -> list[Case]:
    python = sys.executable
    plugin, ssmnet = "session-manager-plugin", "ssmnet"
    nothing, aiohttp, typer = "python -c pass", 'python -c "import aiohttp"', "import typer"
    return [
        Case(nothing, None, lambda: run(python, "-c", "pass")),
        Case(aiohttp, None, lambda: run(python, "-c", "import aiohttp")),
        Case(typer, None, lambda: run(python, "-c", "import typer")),
        Case(f"{plugin} --version", nothing, lambda: run(script(plugin), "--version")),
        Case(f"{plugin}, environment", aiohttp, far.plugin),
        Case(f"{plugin}, profile", aiohttp, lambda: far.plugin(PROFILE)),
        Case(f"{ssmnet} --version", nothing, lambda: run(script(ssmnet), "--version")),
        Case(f"{ssmnet} --help", typer, lambda: run(script(ssmnet), "--help")),
        Case(f"{ssmnet} forward, environment", aiohttp, far.forward),
        Case(f"{ssmnet} forward, profile", aiohttp, lambda: far.forward("--profile", PROFILE)),
    ]


def measure(rounds: int) -> list[Row]:
    with far_end() as far:
        found = cases(far)
        starts: dict[str, list[Start]] = {case.what: [] for case in found}
        for number in range(rounds + 1):
            for case in found:
                start = case.start()
                if number:  # the first finds cold caches
                    starts[case.what].append(start)
    return [row(case, starts) for case in found]


def row(case: Case, starts: dict[str, list[Start]]) -> Row:
    mine = starts[case.what]
    told: dict[str, str | float | None] = {
        "what": case.what,
        "wall_ms": milliseconds(start.wall for start in mine),
        "cpu_ms": milliseconds(start.cpu for start in mine),
        **dict.fromkeys(("calibrator", "calibrator_ms", "ratio", "cpu_ratio")),
    }
    if case.calibrator is not None:
        calibrator = starts[case.calibrator]
        told["calibrator"] = case.calibrator
        told["calibrator_ms"] = milliseconds(start.wall for start in calibrator)
        told["ratio"] = ratio([one.wall for one in mine], [one.wall for one in calibrator])
        told["cpu_ratio"] = ratio([one.cpu for one in mine], [one.cpu for one in calibrator])
    memory = [start.resident for start in mine if start.resident is not None]
    told["resident_mib"] = median(memory) if memory else None
    return told


def milliseconds(seconds: Iterator[float]) -> float:
    return median([1000 * one for one in seconds])


def ratio(mine: Sequence[float], calibrator: Sequence[float]) -> float:
    return median([median(mine, 6) / median(calibrator, 6)])


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=15)
    arguments = options.parse_args()
    show("startup", measure(4 if arguments.quick else arguments.rounds), arguments.json)


if __name__ == "__main__":
    main()
