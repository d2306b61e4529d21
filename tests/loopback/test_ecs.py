"""The ECS endpoint, as AWS's own client sees it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ssmnet.loopback import AgentOffer, Loopback, SessionRequest
from tests.loopback.clients import aws_client, call, error_of


@pytest.fixture
async def ecs(ssm_loopback: Loopback) -> AsyncIterator[Any]:
    async with aws_client(ssm_loopback, "ecs") as client:
        yield client


async def execute(ecs: Any, **more: Any) -> Any:
    arguments = {
        "cluster": Loopback.cluster,
        "task": Loopback.task,
        "container": Loopback.container,
        "command": "true",
        "interactive": True,
    }
    return await ecs.execute_command(**(arguments | more))


async def test_what_the_aws_cli_makes_of_it(ecs: Any, ssm_loopback: Loopback) -> None:
    """Its second call is for the container's runtime id, a part of the target."""
    executed = await execute(ecs)
    cluster = executed["clusterArn"].split("/")[-1]
    task = executed["taskArn"].split("/")[-1]
    described = await ecs.describe_tasks(cluster=cluster, tasks=[task])
    (container,) = described["tasks"][0]["containers"]
    assert container["name"] == executed["containerName"] == Loopback.container
    target = f"ecs:{cluster}_{task}_{container['runtimeId']}"
    assert target == ssm_loopback.ecs_target
    assert executed["interactive"] is True
    assert set(executed["session"]) == {"sessionId", "streamUrl", "tokenValue"}
    assert ssm_loopback.session_ids == [executed["session"]["sessionId"]]


async def test_the_session_runs_the_command() -> None:
    offers: list[AgentOffer] = []
    async with Loopback(offer=offers.append) as loopback, aws_client(loopback, "ecs") as ecs:
        session = (await execute(ecs, command="uname -a"))["session"]
    (offer,) = offers
    assert (offer.session_id, offer.url) == (session["sessionId"], session["streamUrl"])
    assert offer.session_id.startswith("ecs-execute-command-")
    assert offer.request == SessionRequest("InteractiveCommands", {"command": "uname -a"})


async def test_its_session_is_resumed_and_terminated_by_ssm(
    ecs: Any, ssm_loopback: Loopback
) -> None:
    session = (await execute(ecs))["session"]
    async with aws_client(ssm_loopback, "ssm") as ssm:
        resumed = await ssm.resume_session(SessionId=session["sessionId"])
        assert resumed["StreamUrl"] == session["streamUrl"]
        assert resumed["TokenValue"] != session["tokenValue"]
        await ssm.terminate_session(SessionId=session["sessionId"])
    assert ssm_loopback.sessions == 0


async def test_a_container_can_be_a_target_of_ssm(ssm_loopback: Loopback) -> None:
    async with aws_client(ssm_loopback, "ssm") as ssm:
        port = {"portNumber": ["1"]}
        document = "AWS-StartPortForwardingSession"
        await ssm.start_session(
            Target=ssm_loopback.ecs_target, DocumentName=document, Parameters=port
        )
        other = ssm_loopback.ecs_target[:-1] + "x"
        with pytest.raises(ClientError) as refused:
            await ssm.start_session(Target=other, DocumentName=document, Parameters=port)
    assert error_of(refused)[0] == "TargetNotConnected"


async def test_names_and_arns(ecs: Any) -> None:
    executed = await execute(ecs)
    again = await execute(ecs, cluster=executed["clusterArn"], task=executed["taskArn"])
    assert again["taskArn"] == executed["taskArn"]
    by_arn = await ecs.describe_tasks(cluster=executed["clusterArn"], tasks=[executed["taskArn"]])
    assert by_arn["tasks"][0]["taskArn"] == executed["taskArn"]
    await ecs.execute_command(
        cluster=Loopback.cluster, task=Loopback.task, command="true", interactive=True
    )


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"cluster": "other"}, "ClusterNotFoundException"),
        ({"task": "other"}, "InvalidParameterException"),
        ({"container": "other"}, "InvalidParameterException"),
        ({"interactive": False}, "InvalidParameterException"),
        ({"command": ""}, "InvalidParameterException"),
    ],
)
async def test_what_is_not_there(
    ecs: Any, ssm_loopback: Loopback, wrong: dict[str, Any], code: str
) -> None:
    with pytest.raises(ClientError) as refused:
        await execute(ecs, **wrong)
    assert error_of(refused)[0] == code
    assert ssm_loopback.sessions_started == 0


async def test_tasks_that_are_not_there(ecs: Any) -> None:
    found = await ecs.describe_tasks(cluster=Loopback.cluster, tasks=["other", Loopback.task])
    assert len(found["tasks"]) == 1
    assert [failure["arn"] for failure in found["failures"]] == ["other"]
    assert not (await ecs.describe_tasks(cluster=Loopback.cluster, tasks=["other"]))["tasks"]
    with pytest.raises(ClientError) as refused:
        await ecs.describe_tasks(tasks=[Loopback.task])
    assert error_of(refused)[0] == "ClusterNotFoundException"


async def test_denied_and_failing_calls() -> None:
    loopback = Loopback(denied={"ExecuteCommand"})
    async with loopback, aws_client(loopback, "ecs") as ecs:
        with pytest.raises(ClientError) as refused:
            await execute(ecs)
        assert error_of(refused)[1] == "User is not authorized to perform: ecs:ExecuteCommand"
        loopback.fail_next("AccessDeniedException", action="DescribeTasks")
        with pytest.raises(ClientError) as refused:
            await ecs.describe_tasks(cluster=Loopback.cluster, tasks=[Loopback.task])
        assert error_of(refused)[0] == "AccessDeniedException"
        assert loopback.sessions == 0


async def test_the_signature_is_for_the_service(ssm_loopback: Loopback) -> None:
    target = "AmazonEC2ContainerServiceV20141113.DescribeTasks"
    _, answer = await call(ssm_loopback, target, b'{"tasks":[]}', service="kms")
    assert answer["__type"] == "InvalidSignatureException"
