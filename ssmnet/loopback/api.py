"""The gateway's control plane: AWS JSON 1.1 over HTTP, for several services at one address.

The prefix in ``X-Amz-Target`` says which service a call is for. Each has a module of its own; what
they share is here: signatures, denied actions, failures on demand, errors.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Protocol
from uuid import uuid4

import msgspec
from aiohttp import web

from . import sigv4

CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_BODY = 64 * 1024
MAX_FAILURES = 10_000
_SERVER_ERRORS = frozenset(("InternalServerError", "KMSInternalException", "ServerException"))


class ApiError(Exception):
    """An answer other than success: ``code`` is the AWS error type."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Service(Protocol):
    """One AWS service.

    ``name`` is what requests are signed for, ``prefix`` what stands before the action in
    X-Amz-Target. ``calls`` take the request's body; they raise ApiError, or what msgspec raises.
    """

    name: str
    prefix: str
    calls: Mapping[str, Callable[[bytes], dict[str, Any]]]


class Api:
    """Answers the calls of ``services``. ``denied`` names actions that IAM denies."""

    def __init__(
        self,
        services: Sequence[Service],
        *,
        credentials: sigv4.Credentials,
        region: str,
        denied: Container[str],
    ) -> None:
        self._services = {service.prefix: service for service in services}
        self._default = services[0]
        self._credentials = credentials
        self._region = region
        self._denied = denied
        self._failures: list[tuple[str | None, ApiError]] = []

    def fail_next(self, code: str, message: str, times: int, action: str | None) -> None:
        """Answer the next calls with this error: all, or only those of ``action``."""
        known = [name for service in self._services.values() for name in service.calls]
        if action is not None and action not in known:
            raise ValueError(f"there is no action {action!r}, only {', '.join(known)}")
        if not 0 <= times <= MAX_FAILURES - len(self._failures):
            raise ValueError(f"{times} more failures are too many, or too few")
        self._failures += [(action, ApiError(code, message)) for _ in range(times)]

    def allow(self, service: Service, action: str) -> None:
        """Raise ApiError if this call is to fail, or is denied."""
        self._fail(action)
        if action in self._denied:
            raise ApiError(
                "AccessDeniedException",
                f"User is not authorized to perform: {service.name}:{action}",
            )

    async def handle(self, request: web.Request) -> web.Response:
        """The HTTP handler."""
        body = await request.read()
        request_id = str(uuid4())
        try:
            answer = self._answer(request, body)
            status = 200
        except ApiError as error:
            answer = {"__type": error.code, "message": str(error)}
            status = 500 if error.code in _SERVER_ERRORS else 400
        return web.Response(
            body=json.dumps(answer).encode(),
            status=status,
            headers={"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": request_id},
        )

    def _answer(self, request: web.Request, body: bytes) -> dict[str, Any]:
        prefix, _, action = request.headers.get("X-Amz-Target", "").partition(".")
        service = self._services.get(prefix, self._default)
        check_signature(request, body, self._credentials, self._region, service.name)
        call = service.calls.get(action)
        if call is None or prefix != service.prefix:
            self._fail(action)
            raise ApiError("UnknownOperationException", "There is no such operation here.")
        self.allow(service, action)
        try:
            return call(body)
        except msgspec.MsgspecError as error:
            raise ApiError("ValidationException", str(error)) from None

    def _fail(self, action: str) -> None:
        for number, (only, error) in enumerate(self._failures):
            if only in (None, action):
                del self._failures[number]
                raise error


def check_signature(
    request: web.BaseRequest,
    body: bytes,
    credentials: sigv4.Credentials,
    region: str,
    service: str,
) -> None:
    """Raise ApiError unless the request is signed for ``service``."""
    path, _, query = request.raw_path.partition("?")
    received = sigv4.Request(request.method, path, query, list(request.headers.items()), body)
    try:
        sigv4.verify(received, credentials, region=region, service=service, now=time.time())
    except sigv4.SignatureError as error:
        raise ApiError(error.code, str(error)) from None
