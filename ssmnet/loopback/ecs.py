"""The ECS calls behind ``aws ecs execute-command``: ExecuteCommand and DescribeTasks.

There is one cluster with one task of one container, and that is this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from .api import ApiError
from .documents import DocumentError, SessionRequest, session_request
from .kms import ACCOUNT
from .relay import Session

CLUSTER = "loopback"
TASK = "0123456789abcdef0123456789abcdef"
CONTAINER = "app"
RUNTIME_ID = f"{TASK}-0123456789"
TARGET = f"ecs:{CLUSTER}_{TASK}_{RUNTIME_ID}"


class _ExecuteCommand(msgspec.Struct, rename="camel"):
    task: str
    command: str
    interactive: bool
    cluster: str = "default"
    container: str | None = None


class _DescribeTasks(msgspec.Struct, rename="camel"):
    tasks: list[str]
    cluster: str = "default"


class Ecs:
    """Answers the calls.

    ``open_session(target, request)`` makes a session, ``grant(session)`` gives a token for it and
    the URL to use that at.
    """

    name = "ecs"
    prefix = "AmazonEC2ContainerServiceV20141113"

    def __init__(
        self,
        region: str,
        open_session: Callable[[str, SessionRequest], Session],
        grant: Callable[[Session], tuple[str, str]],
    ) -> None:
        arn = f"arn:aws:ecs:{region}:{ACCOUNT}:"
        self._cluster_arn = f"{arn}cluster/{CLUSTER}"
        self._task_arn = f"{arn}task/{CLUSTER}/{TASK}"
        self._container_arn = f"{arn}container/{CLUSTER}/{TASK}/{CONTAINER}"
        self._open_session = open_session
        self._grant = grant
        self.calls: Mapping[str, Callable[[bytes], dict[str, Any]]] = {
            "ExecuteCommand": self._execute_command,
            "DescribeTasks": self._describe_tasks,
        }

    def _execute_command(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_ExecuteCommand)
        self._check_cluster(call.cluster)
        if call.task not in (TASK, self._task_arn):
            raise ApiError("InvalidParameterException", "The specified task was not found.")
        if call.container not in (None, CONTAINER):
            raise ApiError("InvalidParameterException", "The container was not found in the task.")
        if not call.interactive:
            raise ApiError("InvalidParameterException", "Interactive is the only mode supported.")
        try:
            request = session_request("AWS-StartInteractiveCommand", {"command": [call.command]})
        except DocumentError as error:
            raise ApiError("InvalidParameterException", str(error)) from None
        session = self._open_session(TARGET, request)
        token, url = self._grant(session)
        return {
            "clusterArn": self._cluster_arn,
            "containerArn": self._container_arn,
            "containerName": CONTAINER,
            "interactive": True,
            "session": {"sessionId": session.id, "streamUrl": url, "tokenValue": token},
            "taskArn": self._task_arn,
        }

    def _describe_tasks(self, body: bytes) -> dict[str, Any]:
        call = msgspec.json.decode(body, type=_DescribeTasks)
        self._check_cluster(call.cluster)
        known = (TASK, self._task_arn)
        missing = [task for task in call.tasks if task not in known]
        return {
            "tasks": [self._task()] if len(missing) < len(call.tasks) else [],
            "failures": [{"arn": task, "reason": "MISSING"} for task in missing],
        }

    def _check_cluster(self, cluster: str) -> None:
        if cluster not in (CLUSTER, self._cluster_arn):
            raise ApiError("ClusterNotFoundException", "Cluster not found.")

    def _task(self) -> dict[str, Any]:
        container = {
            "containerArn": self._container_arn,
            "taskArn": self._task_arn,
            "name": CONTAINER,
            "runtimeId": RUNTIME_ID,
            "lastStatus": "RUNNING",
            "managedAgents": [{"name": "ExecuteCommandAgent", "lastStatus": "RUNNING"}],
        }
        return {
            "clusterArn": self._cluster_arn,
            "taskArn": self._task_arn,
            "lastStatus": "RUNNING",
            "desiredStatus": "RUNNING",
            "enableExecuteCommand": True,
            "containers": [container],
        }
