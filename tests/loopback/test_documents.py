import pytest

from ssmnet.loopback.documents import DocumentError, is_true, session_request


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


@pytest.mark.parametrize("document", [None, "", "SSM-SessionManagerRunShell"])
def test_no_document_is_a_shell(document: str | None) -> None:
    request = session_request(document, {})
    assert (request.session_type, request.properties) == ("Standard_Stream", {})


def test_commands() -> None:
    interactive = session_request("AWS-StartInteractiveCommand", {"command": ["top"]})
    assert interactive.session_type == "InteractiveCommands"
    assert interactive.properties == {"command": "top"}
    document = "AWS-StartNonInteractiveCommand"
    request = session_request(document, {"command": ["id"], "separateOutputStream": ["True"]})
    assert request.session_type == "NonInteractiveCommands"
    assert request.properties == {
        "command": "id",
        "separateOutputStream": "True",
        "stdErrSeparatorPrefix": "",
        "stdOutSeparatorPrefix": "",
    }
    assert is_true(request.properties["separateOutputStream"])
    assert not is_true(session_request(document, {"command": ["id"]}).properties["command"])


def test_a_command_is_not_shown_in_logs() -> None:
    assert "hush" not in repr(session_request("AWS-StartInteractiveCommand", {"command": ["hush"]}))


@pytest.mark.parametrize(
    ("document", "parameters"),
    [
        ("SSM-SessionManagerRunShell", {"command": ["id"]}),
        ("AWS-StartInteractiveCommand", {}),
        ("AWS-StartInteractiveCommand", {"command": []}),
        ("AWS-StartInteractiveCommand", {"command": ["a", "b"]}),
        ("AWS-StartInteractiveCommand", {"command": ["id"], "separateOutputStream": ["True"]}),
        ("AWS-StartNonInteractiveCommand", {"separateOutputStream": ["True"]}),
        ("AWS-StartNonInteractiveCommand", {"command": ["id"], "separateOutputStream": ["yes"]}),
        ("AWS-StartNonInteractiveCommand", {"command": ["id"], "separateOutputStream": [""]}),
    ],
)
def test_invalid_commands(document: str, parameters: dict[str, list[str]]) -> None:
    with pytest.raises(DocumentError) as caught:
        session_request(document, parameters)
    assert caught.value.code == "ValidationException"


def test_documents_that_are_not_offered() -> None:
    with pytest.raises(DocumentError) as caught:
        session_request("AWS-Nothing", {})
    assert caught.value.code == "InvalidDocument"


@pytest.mark.parametrize(
    "parameters",
    [
        {"portNumber": ["0"]},
        {"portNumber": ["65536"]},
        {"portNumber": ["1" * 5000]},
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
