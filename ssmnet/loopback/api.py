"""The gateway's control plane: the AmazonSSM calls, as AWS JSON 1.1 over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Container, Mapping
from typing import Any
from uuid import uuid4

import msgspec
from aiohttp import web

from . import sigv4
from .documents import DocumentError, session_request
from .relay import Session

CONTENT_TYPE = "application/x-amz-json-1.1"
MAX_BODY = 64 * 1024
MAX_FAILURES = 10_000
_SERVICE = "ssm"
_TARGET_PREFIX = "AmazonSSM."
_SERVER_ERROR = "InternalServerError"


class ApiError(Exception):
    """An answer other than success: ``code`` is the AWS error type."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _StartSession(msgspec.Struct, rename="pascal"):
    target: str
    document_name: str | None = None
    parameters: dict[str, list[str]] | None = None
    reason: str | None = None


class _SessionId(msgspec.Struct, rename="pascal"):
    session_id: str


class _Filter(msgspec.Struct, rename="pascal"):
    key: str
    values: list[str]


class _DescribeInstances(msgspec.Struct, rename="pascal"):
    filters: list[_Filter] | None = None


class Api:
    """Answers the calls.

    ``sessions`` and ``ended`` are the gateway's own, ``open_session`` makes one, and
    ``stream_url(session_id)`` names its WebSocket.
    """

    def __init__(
        self,
        *,
        credentials: sigv4.Credentials,
        region: str,
        instance_id: str,
        agent_version: str,
        denied: Container[str],
        sessions: Mapping[str, Session],
        ended: Container[str],
        open_session: Callable[[str, Any], Session],
        stream_url: Callable[[str], str],
    ) -> None:
        self._credentials = credentials
        self._region = region
        self._instance_id = instance_id
        self._agent_version = agent_version
        self._denied = denied
        self._sessions = sessions
        self._ended = ended
        self._open_session = open_session
        self._stream_url = stream_url
        self._failures: list[tuple[str | None, ApiError]] = []
        self._stale_tokens = 0
        self._calls: dict[str, Callable[[bytes], dict[str, Any]]] = {
            "StartSession": self._start_session,
            "ResumeSession": self._resume_session,
            "TerminateSession": self._terminate_session,
            "DescribeInstanceInformation": self._describe_instances,
        }

    def fail_next(self, code: str, message: str, times: int, action: str | None) -> None:
        """Answer the next calls with this error: all, or only those of ``action``."""
        if action is not None and action not in self._calls:
            raise ValueError(f"there is no action {action!r}, only {', '.join(self._calls)}")
        if not 0 <= times <= MAX_FAILURES - len(self._failures):
            raise ValueError(f"{times} more failures are too many, or too few")
        self._failures += [(action, ApiError(code, message)) for _ in range(times)]

    def expire_next(self, tokens: int) -> None:
        """Hand out so many tokens that are no longer good."""
        self._stale_tokens = tokens

    async def handle(self, request: web.Request) -> web.Response:
        """The HTTP handler."""
        body = await request.read()
        request_id = str(uuid4())
        try:
            answer = self._answer(request, body)
            status = 200
        except ApiError as error:
            answer = {"__type": error.code, "message": str(error)}
            status = 500 if error.code == _SERVER_ERROR else 400
        return web.Response(
            body=json.dumps(answer).encode(),
            status=status,
            headers={"Content-Type": CONTENT_TYPE, "x-amzn-RequestId": request_id},
        )

    def _answer(self, request: web.Request, body: bytes) -> dict[str, Any]:
        check_signature(request, body, self._credentials, self._region, _SERVICE)
        prefix, _, action = request.headers.get("X-Amz-Target", "").partition(".")
        for number, (only, error) in enumerate(self._failures):
            if only in (None, action):
                del self._failures[number]
                raise error
        call = self._calls.get(action)
        if call is None or f"{prefix}." != _TARGET_PREFIX:
            raise ApiError("UnknownOperationException", "There is no such operation here.")
        if action in self._denied:
            raise ApiError(
                "AccessDeniedException", f"User is not authorized to perform: ssm:{action}"
            )
        try:
            return call(body)
        except msgspec.MsgspecError as error:
            raise ApiError("ValidationException", str(error)) from None

    def _start_session(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_StartSession)
        if call.target not in (self._instance_id, "loopback"):
            raise ApiError("TargetNotConnected", f"{call.target} is not connected.")
        try:
            request = session_request(call.document_name, call.parameters or {})
        except DocumentError as error:
            raise ApiError(error.code, str(error)) from None
        return self._access(self._open_session(call.target, request))

    def _resume_session(self, body: bytes) -> dict[str, Any]:
        session_id = self._session_id(body)
        session = self._sessions.get(session_id)
        if session is None:
            return {"SessionId": session_id, "TokenValue": "", "StreamUrl": ""}
        session.renew_client_token()
        return self._access(session)

    def _terminate_session(self, body: bytes) -> dict[str, Any]:
        session_id = self._session_id(body)
        session = self._sessions.get(session_id)
        if session is not None:
            session.end("")
        return {"SessionId": session_id}

    def _session_id(self, body: bytes) -> str:
        """The id of a session that is, or that was."""
        session_id = msgspec.json.decode(body, type=_SessionId).session_id
        if session_id not in self._sessions and session_id not in self._ended:
            raise ApiError("DoesNotExistException", f"Session {session_id} does not exist.")
        return session_id

    def _access(self, session: Session) -> dict[str, Any]:
        token = session.client_token
        if self._stale_tokens:
            self._stale_tokens -= 1
            session.renew_client_token()
        return {
            "SessionId": session.id,
            "TokenValue": token,
            "StreamUrl": self._stream_url(session.id),
        }

    def _describe_instances(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_DescribeInstances)
        instance = {
            "InstanceId": self._instance_id,
            "PingStatus": "Online",
            "LastPingDateTime": time.time(),
            "AgentVersion": self._agent_version,
            "IsLatestVersion": True,
            "PlatformType": "Linux",
            "PlatformName": "Loopback",
            "ResourceType": "EC2Instance",
            "ComputerName": "loopback",
            "IPAddress": "127.0.0.1",
        }
        fields = {"InstanceIds": "InstanceId", "PingStatus": "PingStatus"}
        for wanted in call.filters or ():
            if instance.get(fields.get(wanted.key, wanted.key)) not in wanted.values:
                return {"InstanceInformationList": []}
        return {"InstanceInformationList": [instance]}


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
