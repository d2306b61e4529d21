"""Whose credentials a library's user means: keys, a callable, or a session of aiobotocore."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from .aws_credentials import Credentials
from .errors import CredentialsError, UsageError


@runtime_checkable
class AioSession(Protocol):
    """An ``aiobotocore.session.AioSession``, as far as it is used here."""

    async def get_credentials(self) -> Any:
        """What it found, or None."""

    def get_config_variable(self, logical_name: str) -> Any:
        """A setting of its own or of its profile."""


Source = Credentials | Callable[[], Credentials | Awaitable[Credentials]] | AioSession


def look_up(source: Source) -> Callable[[], Awaitable[Credentials]]:
    """What gives the credentials of ``source``, as they are when it is called.

    Raises UsageError for what is no source.
    """
    if isinstance(source, Credentials):
        return _Keys(source)
    if isinstance(source, AioSession):
        return _OfSession(source)
    if callable(source):
        return _Called(source)
    raise UsageError("credentials are ssmnet.Credentials, a callable or an aiobotocore session")


def region_of(source: Source | None) -> str | None:
    """The region of an aiobotocore session; None for all others."""
    if isinstance(source, AioSession):
        region = source.get_config_variable("region")
        return str(region) if region else None
    return None


class _Keys:
    def __init__(self, keys: Credentials) -> None:
        self._keys = keys

    async def __call__(self) -> Credentials:
        return self._keys


class _Called:
    def __init__(self, call: Callable[[], Credentials | Awaitable[Credentials]]) -> None:
        self._call = call

    async def __call__(self) -> Credentials:
        given = self._call()
        found = await given if inspect.isawaitable(given) else given
        if not isinstance(found, Credentials):
            raise CredentialsError("the application's callable gave no ssmnet.Credentials")
        return found


class _OfSession:
    def __init__(self, session: AioSession) -> None:
        self._session = session

    async def __call__(self) -> Credentials:
        found = await self._session.get_credentials()
        if found is None:
            raise CredentialsError("the aiobotocore session has no AWS credentials")
        keys = await found.get_frozen_credentials()
        return Credentials(keys.access_key, keys.secret_key, keys.token)
