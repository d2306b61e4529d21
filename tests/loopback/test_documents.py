import pytest

from ssmnet.loopback.documents import DocumentError, session_request


def test_port_forwarding_has_defaults() -> None:
    request = session_request("AWS-StartPortForwardingSession", {"portNumber": ["8080"]})
    assert request.session_type == "Port"
    assert list(request.properties.items()) == [
        ("localPortNumber", "0"),
        ("portNumber", "8080"),
        ("type", "LocalPortForwarding"),
    ]


def test_remote_host_and_socket_and_raw() -> None:
    remote = session_request("AWS-StartPortForwardingSessionToRemoteHost", {"host": ["db.example"]})
    assert remote.properties["host"] == "db.example"
    socket = session_request(
        "AWS-StartPortForwardingSessionToSocket", {"localUnixSocket": ["/tmp/s"]}
    )
    assert socket.properties["localUnixSocket"] == "/tmp/s"
    assert socket.properties["type"] == "LocalPortForwarding"
    assert session_request("AWS-StartSSHSession", {}).properties == {"portNumber": "22"}


@pytest.mark.parametrize("document", [None, "AWS-Nothing"])
def test_documents_that_are_not_offered(document: str | None) -> None:
    with pytest.raises(DocumentError) as caught:
        session_request(document, {})
    assert caught.value.code == "InvalidDocument"


@pytest.mark.parametrize(
    "parameters",
    [
        {"portNumber": ["0"]},
        {"portNumber": ["65536"]},
        {"portNumber": ["ssh"]},
        {"portNumber": ["1", "2"]},
        {"portNumber": []},
        {"type": ["LocalPortForwarding"]},
        {"host": ["h"]},
    ],
)
def test_invalid_parameters(parameters: dict[str, list[str]]) -> None:
    with pytest.raises(DocumentError) as caught:
        session_request("AWS-StartPortForwardingSession", parameters)
    assert caught.value.code == "ValidationException"


def test_a_remote_host_must_be_named() -> None:
    with pytest.raises(DocumentError):
        session_request("AWS-StartPortForwardingSessionToRemoteHost", {"portNumber": ["1"]})
