"""Errors of connections are ConnectionErrors, as asyncio's own: libraries bear them, too."""

import pytest

from ssmnet import errors
from ssmnet.errors import DestinationRefused, Error, SessionClosed, StreamStalled

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type)]


def test_errors_of_connections_are_connection_errors() -> None:
    lost = {kind.__name__ for kind in KINDS if issubclass(kind, OSError)}
    assert lost == {
        *("ConnectError", "DestinationRefused", "DestinationNotFound", "DestinationForbidden"),
        *("TargetNotConnected", "AccessDenied", "CredentialsError", "ServiceError"),
        *("SessionClosed", "StreamStalled"),
    }
    assert all(issubclass(kind, Error) for kind in KINDS)
    assert issubclass(DestinationRefused, ConnectionRefusedError)
    assert not issubclass(SessionClosed, ConnectionRefusedError)


@pytest.mark.parametrize(
    "error",
    [SessionClosed("gone", output="bye", resumable=True), StreamStalled("not read")],
    ids=["closed", "stalled"],
)
def test_their_text_is_ours_alone(error: OSError) -> None:
    assert str(error) in ("gone: bye", "not read")
    assert error.errno is None
