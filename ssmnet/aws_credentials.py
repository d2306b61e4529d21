"""Looking for AWS credentials without being held up where there are none.

Those of the environment are read here. For all others this works on the sessions of botocore that
``aws_api`` makes, and imports nothing of it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .errors import CredentialsError

# Seconds. On EC2 the service accepts within a millisecond; elsewhere its address leads nowhere.
_METADATA_PROBE = 0.5


class Credentials(msgspec.Struct, frozen=True):
    """A key pair, and the token of a temporary one. No secret is in the representation."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"Credentials(access_key={self.access_key!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("access_key", self.access_key)]


def environment_credentials(environment: Mapping[str, str]) -> Credentials | None:
    """Return the credentials in ``environment``, read as botocore does.

    None where there are none, and where they are not whole or have expired: botocore says so best.
    Raises CredentialsError.
    """
    access_key = environment.get("AWS_ACCESS_KEY_ID")
    secret_key = environment.get("AWS_SECRET_ACCESS_KEY")
    expiration = environment.get("AWS_CREDENTIAL_EXPIRATION")
    if not access_key or not secret_key or (expiration and not _is_ahead(expiration)):
        return None
    token = environment.get("AWS_SECURITY_TOKEN") or environment.get("AWS_SESSION_TOKEN")
    if not (access_key + secret_key + (token or "")).isascii():
        raise CredentialsError("the AWS credentials in the environment have characters of no key")
    return Credentials(access_key, secret_key, token or None)


def files_mention(setting: str) -> bool:
    """Whether AWS's settings files may have ``setting``, in any profile."""
    files = {
        "AWS_CONFIG_FILE": os.path.join("~", ".aws", "config"),
        "AWS_SHARED_CREDENTIALS_FILE": os.path.join("~", ".aws", "credentials"),
    }
    for variable, usual in files.items():
        path = os.path.expanduser(os.path.expandvars(os.environ.get(variable, usual)))
        try:
            with open(path, "rb") as file:
                if setting.encode() in file.read():
                    return True
        except OSError:
            continue  # botocore has no settings without it, either
    return False


def _is_ahead(moment: str) -> bool:
    """Whether it is to come; False for one that botocore may be able to read."""
    try:
        return datetime.fromisoformat(moment) > datetime.now(UTC)
    except (ValueError, TypeError):  # TypeError: without a time zone
        return False


async def find_credentials(
    session: Any, cache: Any, mfa_code: Callable[[str], str]
) -> Credentials | None:
    """Return the credentials that botocore's chain of sources finds, or None.

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
        if found is None:
            return None
        keys = await found.get_frozen_credentials()
        return Credentials(keys.access_key, keys.secret_key, keys.token)


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
