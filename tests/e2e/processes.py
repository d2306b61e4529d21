"""Real programs as the tests see them: started, listened to, signalled, and gone for good."""

import asyncio
import os
import re
import signal
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp

TIMEOUT = 40.0  # s for what takes a second or two: the machine may be busy
SSMNET = Path(sys.executable).with_name("ssmnet")


class Done(NamedTuple):
    """How a program ended."""

    status: int
    out: str
    err: str


class Program:
    """A running program, in a process group of its own. Waiting for anything has a deadline."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._out: list[str] = []
        self._err: list[str] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def out_line(self, pattern: str = ".*") -> re.Match[str]:
        """Wait for a line of stdout that holds ``pattern``."""
        return await self._line(self._process.stdout, self._out, pattern)

    async def err_line(self, pattern: str = "") -> re.Match[str]:
        """Wait for a line of stderr that holds ``pattern``."""
        return await self._line(self._process.stderr, self._err, pattern)

    async def port(self) -> int:
        """Wait until ``ssmnet forward`` listens; its next local port."""
        return int((await self.err_line(r"^Listening on \S+:(\d+), "))[1])

    def send_signal(self, number: int = signal.SIGINT) -> None:
        """Send a signal to the whole group, as a terminal does."""
        if sys.platform == "win32":
            self._process.send_signal(number)
        else:
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it as nothing can be kept from."""
        self._process.kill()

    async def wait(self, timeout: float = TIMEOUT) -> Done:
        """Wait for the end, and for all that was said."""
        async with asyncio.timeout(timeout):
            streams = ((self._process.stdout, self._out), (self._process.stderr, self._err))
            for stream, said in streams:
                assert stream is not None
                said.append((await stream.read()).decode())
            status = await self._process.wait()
        return Done(status, "".join(self._out), "".join(self._err))

    async def end(self, number: int = signal.SIGINT) -> Done:
        """Send a signal and wait for the end."""
        self.send_signal(number)
        return await self.wait()

    def check_gone(self) -> None:
        """The group has no member any more."""
        if sys.platform != "win32":
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return
            raise AssertionError(f"a process of group {self.pid} was left behind")

    async def _line(
        self, stream: asyncio.StreamReader | None, said: list[str], pattern: str
    ) -> re.Match[str]:
        assert stream is not None
        try:
            async with asyncio.timeout(TIMEOUT):
                while line := (await stream.readline()).decode():
                    said.append(line)
                    if match := re.search(pattern, line):
                        return match
        except TimeoutError:
            raise AssertionError(f"waited for {pattern!r}: {self._out} {self._err}") from None
        done = await self.wait()
        raise AssertionError(f"no {pattern!r}, but {done}")


@asynccontextmanager
async def started(*command: str | Path, env: Mapping[str, str]) -> AsyncIterator[Program]:
    """Run a program; at the end, end it as Ctrl-C does if need be, and see that nothing is left."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    program = Program(process)
    try:
        yield program
        if program.running:
            done = await program.end()
            assert done.status == 0, done
        assert "--debug" in command or "Traceback" not in "".join(program._err), program._err
    finally:
        if program.running:
            process.kill()
            await program.wait()
        program.check_gone()


async def run(*command: str | Path, env: Mapping[str, str], timeout: float = TIMEOUT) -> Done:
    """Run a program to its end."""
    async with started(*command, env=env) as program:
        return await program.wait(timeout)


class FarEnd:
    """``ssmnet loopback`` in a process of its own."""

    target = "i-0123456789abcdef0"

    def __init__(self, program: Program, lines: list[str]) -> None:
        self._program = program
        self.lines = lines
        exports = (line.removeprefix("export ") for line in lines if line.startswith("export "))
        self.exports = dict(line.split("=", 1) for line in exports)
        # What a test leaves behind on purpose.
        self.left_open = 0
        self.killed = False

    @property
    def pid(self) -> int:
        """Of the process that gateway and agents are in."""
        return self._program.pid

    async def fault(self, name: str, **arguments: object) -> None:
        """Make something go wrong there; the names are those of Loopback's methods."""
        pair = f"{self.exports['AWS_ACCESS_KEY_ID']}:{self.exports['AWS_SECRET_ACCESS_KEY']}"
        headers = {"Authorization": f"Basic {b64encode(pair.encode()).decode()}"}
        url = f"{self.exports['AWS_ENDPOINT_URL_SSM']}/faults/{name}"
        async with aiohttp.ClientSession() as http:
            async with http.post(url, json=arguments, headers=headers) as response:
                assert response.status == 204, await response.text()

    async def kill(self) -> None:
        """Kill it, so that it has no last word."""
        self.killed = True
        self._program.kill()
        await self._program.wait()

    async def end(self) -> int:
        """End it; how many sessions were open that nobody had terminated."""
        self._program.send_signal()
        told = await self._program.err_line(r"^(\d+) sessions started, (\d+) still open$")
        assert (await self._program.wait()).status == 0
        return int(told[2])


@asynccontextmanager
async def far_end_running(env: Mapping[str, str], *options: str) -> AsyncIterator[FarEnd]:
    """Run one. At the end, no session may be open that the test has not named."""
    async with started(SSMNET, "loopback", *options, env=env) as program:
        await program.err_line("is online at http")
        last = "SSL_CERT_FILE" if "--tls-cert" in options else "AWS_EC2_METADATA_DISABLED"
        lines = [(await program.out_line())[0]]
        while last not in lines[-1]:
            lines.append((await program.out_line())[0])
        far_end = FarEnd(program, lines)
        yield far_end
        if not far_end.killed:
            assert await far_end.end() == far_end.left_open
