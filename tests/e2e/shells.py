"""What the tests of ``ssmnet shell`` and ``ssmnet exec`` share: bytes on pipes, and far ends that
hang.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from .processes import TIMEOUT, FarEnd

if sys.platform == "win32":
    pytest.skip("terminals and descriptors as POSIX has them", allow_module_level=True)

QUICK = ("--first-output-delay", "0.05")  # the real agent's is a second
INTERACTIVE = ("--document", "AWS-StartInteractiveCommand", "--parameter")


class Done(NamedTuple):
    """How a program ended, and what it wrote, as bytes."""

    status: int
    out: bytes
    err: bytes


async def piped(*command: str | Path, env: Mapping[str, str], data: bytes = b"") -> Done:
    """Run a program whose standard input is a pipe with that."""
    async with pipes(*command, env=env) as process:
        try:
            async with asyncio.timeout(TIMEOUT):
                out, err = await process.communicate(data)
        except TimeoutError:
            raise AssertionError(f"it did not end: {command}") from None
        assert process.returncode is not None
        return Done(process.returncode, out, err)


@asynccontextmanager
async def pipes(
    *command: str | Path, env: Mapping[str, str], stdout: int = PIPE
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program with pipes all around. Nothing of it is left at the end, in any case."""
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=PIPE, stdout=stdout, stderr=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


@asynccontextmanager
async def stopped(far_end: FarEnd) -> AsyncIterator[None]:
    """The far end does nothing any more. What it had to do is not looked at then."""
    os.kill(far_end.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        await far_end.kill()
