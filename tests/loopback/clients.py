"""AWS's own clients, led to a loopback by nothing but the environment it names."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from ssmnet.loopback import Loopback
from tests.io.far_client import sign


@asynccontextmanager
async def aws_client(loopback: Loopback, service: str) -> AsyncIterator[Any]:
    os.environ.update(loopback.environment)
    async with get_session().create_client(service) as client:
        yield client


def error_of(refused: pytest.ExceptionInfo[ClientError]) -> tuple[str, str]:
    """The code and the message."""
    error = refused.value.response["Error"]
    return error["Code"], error.get("Message", "")


async def call(
    loopback: Loopback, target: str, body: bytes, *, service: str, secret: str | None = None
) -> tuple[int, dict[str, Any]]:
    """Any call at all, right or wrong."""
    url = loopback.endpoint_url + "/"
    headers = {"X-Amz-Target": target, "Content-Type": "application/x-amz-json-1.1"}
    headers = sign(
        loopback, "POST", url, body=body, headers=headers, service=service, secret=secret
    )
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, data=body, headers=headers) as response,
    ):
        return response.status, json.loads(await response.read())
