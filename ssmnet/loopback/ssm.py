"""The AmazonSSM calls: sessions are started, resumed and terminated by them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Container, Mapping
from typing import Any

import msgspec

from .api import ApiError
from .documents import DocumentError, SessionRequest, session_request
from .relay import Session


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


class Ssm:
    """Answers the calls for one instance, and starts sessions for all of ``targets``.

    ``sessions`` and ``ended`` are the gateway's own, ``open_session(target, request)`` makes one,
    and ``stream_url(session_id)`` names its WebSocket.
    """

    name = "ssm"
    prefix = "AmazonSSM"

    def __init__(
        self,
        *,
        instance_id: str,
        targets: Collection[str],
        agent_version: str,
        sessions: Mapping[str, Session],
        ended: Container[str],
        open_session: Callable[[str, SessionRequest], Session],
        stream_url: Callable[[str], str],
    ) -> None:
        self._instance_id = instance_id
        self._targets = targets
        self._agent_version = agent_version
        self._sessions = sessions
        self._ended = ended
        self._open_session = open_session
        self._stream_url = stream_url
        self._stale_tokens = 0
        self.calls: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
            "StartSession": self._start_session,
            "ResumeSession": self._resume_session,
            "TerminateSession": self._terminate_session,
            "DescribeInstanceInformation": self._describe_instances,
        }

    def expire_next(self, tokens: int) -> None:
        """Hand out so many tokens that are no longer good."""
        self._stale_tokens = tokens

    def grant(self, session: Session) -> tuple[str, str]:
        """A client's token for ``session``, and the URL to use it at."""
        token = session.client_token
        if self._stale_tokens:
            self._stale_tokens -= 1
            session.renew_client_token()
        return token, self._stream_url(session.id)

    def _start_session(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_StartSession)
        if call.target not in self._targets:
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
        token, url = self.grant(session)
        return {"SessionId": session.id, "TokenValue": token, "StreamUrl": url}

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
