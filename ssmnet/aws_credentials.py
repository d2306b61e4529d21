"""Looking for AWS credentials without being held up where there are none.

Works on the sessions of botocore that ``aws`` makes, and imports nothing of it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

# Seconds. On EC2 the service accepts within a millisecond; elsewhere its address leads nowhere.
_METADATA_PROBE = 0.5


async def find_credentials(session: Any, cache: Any, mfa_code: Callable[[str], str]) -> Any:
    """Return the ReadOnlyCredentials that botocore's chain of sources finds, or None.

    ``cache`` is a mapping for the credentials of assumed roles; ``mfa_code`` is called with a
    prompt. The instance's metadata service comes last, as always, and only where there is one.
    """
    chain = session.get_component("credential_provider")
    for name in ("assume-role", "assume-role-with-web-identity", "sso"):
        chain.get_provider(name).cache = cache
    # Neither of the two names set below is public. The chain takes no prompter, and its own reads
    # the terminal under the feet of a running session; and when cancelled it leaves a process.
    chain.get_provider("assume-role")._prompter = mfa_code
    metadata = chain.get_provider("iam-role")
    chain.remove("iam-role")
    async with _processes() as start:
        chain.get_provider("custom-process")._popen = start
        found = await chain.load_credentials()
        if found is None and await _metadata_answers(session):
            found = await metadata.load()
        return None if found is None else await found.get_frozen_credentials()


@contextlib.asynccontextmanager
async def _processes() -> AsyncIterator[Callable[..., Any]]:
    """Yield what starts a process as asyncio does; those still running at the end are killed."""
    started: list[asyncio.subprocess.Process] = []

    async def start(*argv: str, **options: Any) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(*argv, **options)
        started.append(process)
        return process

    try:
        yield start
    finally:
        for process in started:
            if process.returncode is None:
                process.kill()
                # What it started itself may keep its output open.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), 0.5)


async def _metadata_answers(session: Any) -> bool:
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return False
    mode = session.get_config_variable("ec2_metadata_service_endpoint_mode")
    usual = "http://[fd00:ec2::254]/" if str(mode).lower() == "ipv6" else "http://169.254.169.254/"
    url = urlsplit(session.get_config_variable("ec2_metadata_service_endpoint") or usual)
    host, port = url.hostname or "", url.port or 80
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_METADATA_PROBE):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port)
    except OSError:
        return False
    transport.abort()
    return True
