"""Botocore, for API calls and for settings and credentials that are not in the environment.

The only module that imports botocore and aiobotocore; itself imported only when one of these is
needed: that takes as long as everything else at the start together. What they raise is told as
ssmnet's own errors by ``aws_errors``.
"""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Mapping
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.httpsession import get_cert_path
from botocore.utils import JSONFileCache

from ._version import __version__
from .aws_credentials import Credentials, find_credentials
from .aws_errors import Call, explain, explained, retries

logger = logging.getLogger("ssmnet")

_CONNECT_TIMEOUT = 5.0
# Where a setting is found: in a file, in the environment, or by default.
_NO_SETTINGS = {
    "profile": (None, None, None, None),
    "config_file": (None, None, os.devnull, None),
    "credentials_file": (None, None, os.devnull, None),
    "ca_bundle": (None, None, None, None),
}


class Botocore:
    """Botocore as one profile has it, or the default one.

    Its files are read anew for everything that is asked, so that changes show; all but AWS's own
    descriptions of its services, which are big. ``local`` is Client's.
    """

    def __init__(self, profile: str | None, *, local: bool = False) -> None:
        self._profile = profile
        self._local = local
        self._loader: Any = None

    def setting(self, name: str) -> Any:
        """Return a setting of the environment or the profile. Raises errors of botocore."""
        return self._new_session().get_config_variable(name)

    async def credentials(self, region: str, mfa_code: Callable[[str], str]) -> Credentials | None:
        """Return what ``find_credentials`` finds; STS is asked in ``region``."""
        session = self._new_session()
        session.set_config_variable("region", region)
        return await find_credentials(session, _cli_cache(), mfa_code)

    def client(
        self,
        service: str,
        region: str,
        endpoint_url: str | None,
        credentials: Credentials,
        timeout: float,
    ) -> Any:
        """Return what opens a client of a service's API; it waits ``timeout`` seconds to read."""
        return self._new_session().create_client(
            service,
            region_name=region,
            endpoint_url=endpoint_url,
            aws_access_key_id=credentials.access_key,
            aws_secret_access_key=credentials.secret_key,
            aws_session_token=credentials.token,
            config=AioConfig(
                connect_timeout=_CONNECT_TIMEOUT,
                read_timeout=timeout,
                retries={"mode": "standard", "total_max_attempts": 1},
                user_agent_extra=f"ssmnet/{__version__}",
                proxies={} if self._local else None,
            ),
        )

    def _new_session(self) -> Any:
        session = AioSession(_NO_SETTINGS if self._local else None, profile=self._profile)
        if self._loader is None:
            self._loader = session.get_component("data_loader")
        session.register_component("data_loader", self._loader)
        return session


async def call(
    client: Any, operation: str, request: Mapping[str, Any], about: Call, seconds: float
) -> dict[str, Any]:
    """Carry out a call of the API within ``seconds``, again and again where that does no harm.

    Botocore's own retries know no deadline, and repeat a StartSession that was only slow.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    attempt = 0
    # What AWS last said tells more than that the time was over during the next attempt.
    failed: Exception | None = None
    with explained(lambda error: explain(failed or error, about)):
        async with asyncio.timeout_at(deadline):
            while True:
                try:
                    answer: dict[str, Any] = await getattr(client, operation)(**request)
                except Exception as error:
                    failed = error
                    delay = min(0.5 * 2**attempt, 8) * random.uniform(0.5, 1)  # noqa: S311
                    if attempt >= retries(error) or loop.time() + delay > deadline:
                        raise
                else:
                    return answer
                logger.info("%s: trying again in %.1f s", about.action, delay)
                await asyncio.sleep(delay)
                attempt += 1


def certificates() -> str:
    """Return the file of the CAs that API calls trust by default."""
    return str(get_cert_path(True))


def _cli_cache() -> Any:
    """The AWS CLI's own cache: a role that it has just assumed needs no MFA code again."""
    return JSONFileCache(os.path.expanduser(os.path.join("~", ".aws", "cli", "cache")))
