"""The KMS endpoint, as AWS's own client sees it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ssmnet.loopback import Loopback
from tests.loopback.clients import aws_client, call, error_of

CONTEXT = {"aws:ssm:SessionId": "s-1", "aws:ssm:TargetId": "i-1"}


@pytest.fixture
async def kms(ssm_loopback: Loopback) -> AsyncIterator[Any]:
    async with aws_client(ssm_loopback, "kms") as client:
        yield client


async def data_key(kms: Any, loopback: Loopback, **more: Any) -> Any:
    arguments = {
        "KeyId": loopback.kms_key_id,
        "NumberOfBytes": 64,
        "EncryptionContext": CONTEXT,
    }
    return await kms.generate_data_key(**(arguments | more))


async def test_a_data_key_comes_back_from_its_blob(kms: Any, ssm_loopback: Loopback) -> None:
    first = await data_key(kms, ssm_loopback)
    second = await data_key(kms, ssm_loopback)
    assert first["KeyId"] == ssm_loopback.kms_key_id
    assert len(first["Plaintext"]) == 64
    assert first["Plaintext"] not in first["CiphertextBlob"]
    assert first["Plaintext"] != second["Plaintext"]
    reordered = dict(reversed(CONTEXT.items()))
    for key in (first, second):
        back = await kms.decrypt(CiphertextBlob=key["CiphertextBlob"], EncryptionContext=reordered)
        assert back["Plaintext"] == key["Plaintext"]
        assert back["KeyId"] == ssm_loopback.kms_key_id
        assert back["EncryptionAlgorithm"] == "SYMMETRIC_DEFAULT"


@pytest.mark.parametrize(
    "context",
    [{}, CONTEXT | {"aws:ssm:SessionId": "s-2"}, CONTEXT | {"aws:ssm:RandomChallenge": "x"}],
)
async def test_another_context_does_not_do(
    kms: Any, ssm_loopback: Loopback, context: dict[str, str]
) -> None:
    key = await data_key(kms, ssm_loopback)
    with pytest.raises(ClientError) as refused:
        await kms.decrypt(CiphertextBlob=key["CiphertextBlob"], EncryptionContext=context)
    assert error_of(refused)[0] == "InvalidCiphertextException"


@pytest.mark.parametrize("place", [0, 20, 40, -1])
async def test_a_changed_blob_does_not_do(kms: Any, ssm_loopback: Loopback, place: int) -> None:
    key = await data_key(kms, ssm_loopback)
    blob = bytearray(key["CiphertextBlob"])
    blob[place] ^= 1
    for wrong in (bytes(blob), blob[:10], blob[:30]):
        with pytest.raises(ClientError) as refused:
            await kms.decrypt(CiphertextBlob=bytes(wrong), EncryptionContext=CONTEXT)
        assert error_of(refused)[0] == "InvalidCiphertextException"


async def test_another_loopback_has_another_key(kms: Any, ssm_loopback: Loopback) -> None:
    blob = (await data_key(kms, ssm_loopback))["CiphertextBlob"]
    async with Loopback() as other, aws_client(other, "kms") as client:
        assert other.kms_key_id != ssm_loopback.kms_key_id
        with pytest.raises(ClientError) as refused:
            await client.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
    assert error_of(refused)[0] == "InvalidCiphertextException"


async def test_the_names_of_the_key(kms: Any, ssm_loopback: Loopback) -> None:
    arn = ssm_loopback.kms_key_id
    alias = arn[: arn.index("key/")] + "alias/loopback"
    for name in (arn, arn.rpartition("/")[2], "alias/loopback", alias):
        key = await data_key(kms, ssm_loopback, KeyId=name)
        await kms.decrypt(
            CiphertextBlob=key["CiphertextBlob"], EncryptionContext=CONTEXT, KeyId=name
        )
    unknown = "alias/nobody"
    with pytest.raises(ClientError) as refused:
        await data_key(kms, ssm_loopback, KeyId=unknown)
    assert error_of(refused) == ("NotFoundException", "Key 'alias/nobody' does not exist")
    with pytest.raises(ClientError) as refused:
        await kms.decrypt(
            CiphertextBlob=key["CiphertextBlob"], EncryptionContext=CONTEXT, KeyId=unknown
        )
    assert error_of(refused)[0] == "NotFoundException"


async def test_sizes(kms: Any, ssm_loopback: Loopback) -> None:
    key_id = ssm_loopback.kms_key_id
    for size in (1, 1024):
        key = await kms.generate_data_key(KeyId=key_id, NumberOfBytes=size)
        assert len(key["Plaintext"]) == size
    assert len((await kms.generate_data_key(KeyId=key_id, KeySpec="AES_256"))["Plaintext"]) == 32
    wrong: list[dict[str, Any]] = [
        {},
        {"NumberOfBytes": 1025},
        {"KeySpec": "AES_512"},
        {"KeySpec": "AES_256", "NumberOfBytes": 32},
    ]
    for arguments in wrong:
        with pytest.raises(ClientError) as refused:
            await kms.generate_data_key(KeyId=key_id, **arguments)
        assert error_of(refused)[0] == "ValidationException"


async def test_denied_and_failing_calls() -> None:
    async with Loopback(denied={"GenerateDataKey"}) as loopback:
        async with aws_client(loopback, "kms") as client:
            with pytest.raises(ClientError) as refused:
                await data_key(client, loopback)
            assert error_of(refused) == (
                "AccessDeniedException",
                "User is not authorized to perform: kms:GenerateDataKey",
            )
            loopback.fail_next("DisabledException", "off", action="Decrypt")
            for code in ("DisabledException", "InvalidCiphertextException"):
                with pytest.raises(ClientError) as refused:
                    await client.decrypt(CiphertextBlob=b"x")
                assert error_of(refused)[0] == code


async def test_bad_calls(ssm_loopback: Loopback) -> None:
    target = "TrentService.Decrypt"
    for body in (b"", b"[]", b"{}", b'{"CiphertextBlob":"!"}', b'{"CiphertextBlob":5}'):
        status, answer = await call(ssm_loopback, target, body, service="kms")
        assert (status, answer["__type"]) == (400, "ValidationException")
    for target in ("TrentService.CreateKey", "TrentService.StartSession", "AmazonSSM.Decrypt"):
        service = "kms" if target.startswith("Trent") else "ssm"
        status, answer = await call(ssm_loopback, target, b"{}", service=service)
        assert (status, answer["__type"]) == (400, "UnknownOperationException")


async def test_the_signature_is_for_the_service(ssm_loopback: Loopback) -> None:
    target, body = "TrentService.Decrypt", b"{}"
    _, answer = await call(ssm_loopback, target, body, service="ssm")
    assert answer["__type"] == "InvalidSignatureException"
    _, answer = await call(ssm_loopback, target, body, service="kms", secret="wrong")
    assert answer["__type"] == "InvalidSignatureException"
