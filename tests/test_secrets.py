"""No object that holds a secret shows it, and no text of an error does.

What programs show is tested in tests/e2e/test_secrets.py. The local variables of a traceback are
out of scope: ``traceback.TracebackException(capture_locals=True)`` shows what it is asked for.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.core import TyperCommand

import ssmnet
from ssmnet.aws import Client, StartedSession
from ssmnet.aws_errors import Call, explain, explain_credentials, one_line
from ssmnet.errors import ServiceError
from ssmnet.loopback import Loopback
from ssmnet.status import tell_traceback

SECRET = {
    *("token", "token_value", "stream_url", "url", "query", "headers", "signature"),
    *("secret_access_key", "password", "payload", "data", "body", "wire"),
}
ELSEWHERE = (
    (".descriptor", ".watch", ".loopback.child") if sys.platform == "win32" else (".console",)
)


def public_classes() -> Iterator[type[Any]]:
    for module in pkgutil.walk_packages(ssmnet.__path__, "ssmnet."):
        # The secrets of a simulation are none, and some modules are of another system.
        left_out = (*ELSEWHERE, "__main__")
        if not module.name.endswith(left_out) and ".testing" not in module.name:
            for name, value in vars(importlib.import_module(module.name)).items():
                if inspect.isclass(value) and value.__module__ == module.name and name[0] != "_":
                    yield value


def field_names(cls: type[Any]) -> list[str]:
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    return list(getattr(cls, "__struct_fields__", getattr(cls, "_fields", ())))


def filled(cls: type[Any]) -> Any:
    """An instance each of whose fields holds ``<its name>``."""
    return cls(**{name: f"<{name}>" for name in field_names(cls)})


def shown(cls: type[Any]) -> set[str]:
    """The secret fields of ``cls`` that its representations show."""
    instance = filled(cls)
    texts = repr(instance) + str(instance) + f"{instance}" + repr([instance])
    return {name for name in SECRET & set(field_names(cls)) if f"<{name}>" in texts}


HOLDERS = [cls for cls in public_classes() if SECRET & set(field_names(cls))]


def test_the_sweep_finds_what_shows_a_secret() -> None:
    class Careless(msgspec.Struct, frozen=True):
        session_id: str
        token: str

    assert shown(Careless) == {"token"}
    assert StartedSession in HOLDERS


@pytest.mark.parametrize("cls", HOLDERS, ids=lambda cls: cls.__qualname__)
def test_what_holds_a_secret_does_not_show_it(cls: type[Any]) -> None:
    assert shown(cls) == set()


def test_no_other_object_shows_what_it_holds() -> None:
    """They have the representation of an object, or are known to hold no more than they show."""
    plain = (BaseException, Enum, TyperCommand)
    for cls in public_classes():
        if not field_names(cls) and not issubclass(cls, plain):
            assert not {"__repr__", "__str__"} & {
                name
                for parent in cls.__mro__
                if parent.__module__.startswith("ssmnet")
                for name in vars(parent)
            }, cls


async def test_clients_and_far_ends_show_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    loopback = Loopback()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", loopback.secret_access_key)
    client = Client(region="us-east-1", profile="mine", mfa_code=lambda _: "914273")
    assert loopback.secret_access_key not in f"{client!r}{client}{loopback!r}{loopback}"


STARTS = re.compile(
    r"create_subprocess|subprocess_exec|Popen|posix_spawn|os\.(exec|fork|spawn|system)"
)


def test_processes_are_started_in_few_places() -> None:
    """Credential processes, plugins asked for their version, commands of `run`, loopback shells."""
    package = Path(ssmnet.__file__).parent
    starting = [path for path in package.rglob("*.py") if STARTS.search(path.read_text("utf-8"))]
    assert {path.name for path in starting} == {
        "aws_credentials.py",
        "child.py",
        "child_process.py",
        "plugin_status.py",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('to proxy "http://user:pa55@host:1/"; x', 'to proxy "http://***host:1/"; x'),
        ("http://user:pa55:@/pa55@[host", "http://***[host"),
        (
            "url='http://h/?a=b&X-Amz-Signature=0f0f&c=d'",
            "url='http://h/?a=b&X-Amz-Signature=***&c=d'",
        ),
        ("?X-Amz-Security-Token=a%2Fb%3D&c=d", "?X-Amz-Security-Token***&c=d"),
        ("x-amz-security-token:a+b/c==\nx", "x-amz-security-token*** x"),
        (
            "Authorization=AWS4 Credential=AK/x, Signature=0f0f",
            "Authorization=AWS4 Credential=AK/x, Signature=***",
        ),
        # The names of people who have logged in are none.
        (
            "arn:aws:sts::1:assumed-role/r/me@example.com",
            "arn:aws:sts::1:assumed-role/r/me@example.com",
        ),
    ],
)
def test_foreign_text_loses_the_secrets_of_urls(text: str, expected: str) -> None:
    assert one_line(text) == expected


class ClientError(Exception):
    """As botocore's: the answer of AWS."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.response = {"Error": {"Code": code, "Message": message}}


def test_a_rejected_request_is_not_repeated() -> None:
    said = "They do not match. Check your key. The Canonical String should have been\n'POST secret'"
    told = str(explain(ClientError("SignatureDoesNotMatch", said), Call()))
    assert told == "AWS rejects the credentials: They do not match; check them and the clock"


def test_an_error_of_the_credentials_shows_no_password() -> None:
    told = str(explain_credentials(OSError("cannot reach http://u:pa55@proxy:1/"), None))
    assert "pa55" not in told
    assert "proxy:1" in told


def test_a_traceback_shows_the_texts_of_our_own_errors_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        try:
            try:
                raise OSError("no route")
            except OSError as error:
                raise ValueError("http://user:pa55@") from error
        except ValueError as error:
            raise ServiceError("it failed") from error
    except ServiceError as error:
        tell_traceback(error)
    told = capsys.readouterr().err
    kinds = ("builtins.OSError: no route\n", "builtins.ValueError\n", "ServiceError: it failed\n")
    places = [told.index(kind) for kind in kinds]
    assert places == sorted(places)
    assert told.count("test_secrets.py") == 3
    assert "raise ServiceError" in told
    # The line of the source is shown, and there the text is written down.
    assert told.count("pa55") == 1
