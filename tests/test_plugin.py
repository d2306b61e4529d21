"""The plugin's command line where no session comes of it: what is printed, and how it exits."""

import json
import os
import re
import subprocess
import sys

import pytest

VARIABLE = "AWS_SSM_START_SESSION_RESPONSE"
TOKEN = "AAEAAbcdefghijklmnopqrstuvwxyz0123456789"
RESPONSE = {"SessionId": "user-0a1b", "TokenValue": TOKEN, "StreamUrl": "wss://host.example/x"}
REST = ("us-east-1", "StartSession", "", '{"Target": "i-0a1b", "Parameters": null}', "")
FAILED = "Cannot perform start session: "
NO_AWS = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
HEAVY = {"aiobotocore", "aiohttp", "asyncio", "botocore", "cryptography", "typer", "uvloop"}


def plugin(
    *arguments: str, options: tuple[str, ...] = (), environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *options, "-m", "ssmnet.plugin", *arguments],
        env=NO_AWS | {"AWS_EC2_METADATA_DISABLED": "true"} | (environment or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            (),
            "\nThe Session Manager plugin was installed successfully."
            " Use the AWS CLI to start a session.\n\n",
        ),
        (
            ("foo",),
            "\nUnknown operation foo. \n"
            "Use session-manager-plugin --version to check the version.\n\n",
        ),
        (
            ("--version", "x"),
            "\nUnknown operation --version. \n"
            "Use session-manager-plugin --version to check the version.\n\n",
        ),
        (
            (json.dumps(RESPONSE), "us-east-1"),
            "\nUnknown operation {...}. \n"
            "Use session-manager-plugin --version to check the version.\n\n",
        ),
        ((json.dumps(RESPONSE), "us-east-1", "ResumeSession"), "Invalid Operation"),
        ((json.dumps(RESPONSE), "us-east-1", "startsession", "", "{}", ""), "Invalid Operation"),
    ],
)
def test_what_is_no_session_is_answered_in_the_reference_s_words(
    arguments: tuple[str, ...], said: str
) -> None:
    done = plugin(*arguments)
    assert (done.stdout, done.stderr, done.returncode) == (said, "", 0)


def without(name: str, **changes: object) -> str:
    return json.dumps({key: value for key, value in RESPONSE.items() if key != name} | changes)


@pytest.mark.parametrize(
    ("response", "told"),
    [
        ("", "the response of StartSession can't be read: "),
        ("{", "the response of StartSession can't be read: "),
        ('{"TokenValue": "' + TOKEN, "the response of StartSession can't be read: "),
        (f'["{TOKEN}"]', "the response of StartSession can't be read: "),
        (without("SessionId"), "the response of StartSession has no SessionId"),
        (without("TokenValue"), "the response of StartSession has no TokenValue"),
        (without("", TokenValue=None), "the response of StartSession has no TokenValue"),
        (without("", TokenValue={"a": TOKEN}), "the response of StartSession has no TokenValue"),
        (without("StreamUrl"), "the response of StartSession has no StreamUrl"),
        (without("", StreamUrl=""), "the response of StartSession has no StreamUrl"),
    ],
)
def test_a_response_that_will_not_do_is_one_line(response: str, told: str) -> None:
    """As an argument it is in our caller's error message if we exit with anything but 0."""
    by_argument = plugin(response, *REST)
    by_variable = plugin(VARIABLE, *REST, environment={VARIABLE: response})

    assert by_argument.stdout.startswith(FAILED + told)
    assert by_argument.stdout.count("\n") == 1
    assert by_argument.stdout == by_variable.stdout
    assert (by_argument.returncode, by_variable.returncode) == (0, 1)
    assert by_argument.stderr == by_variable.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are not bytes there")
def test_a_response_that_is_not_utf_8_is_one_line() -> None:
    done = plugin(os.fsdecode(b'{"SessionId": "\xff"}'), *REST)
    assert done.stdout.startswith(FAILED)
    assert (done.stdout.count("\n"), done.stderr, done.returncode) == (1, "", 0)


def test_a_variable_that_is_not_there_is_one_line() -> None:
    done = plugin(VARIABLE + "_2", *REST)
    assert done.stdout == FAILED + f"there is no environment variable {VARIABLE}_2\n"
    assert (done.stderr, done.returncode) == ("", 1)


@pytest.mark.parametrize(
    ("region", "endpoint_url", "told"),
    [
        ("us-east-1", "", "refused StreamUrl: 'host.example' is not ssmmessages of us-east-1"),
        ("us east", "", "'us east' is not an AWS region"),
        ("us-east-1", "nonsense", "an endpoint URL looks like https://host"),
    ],
)
def test_what_must_not_be_connected_to_is_told_in_one_more_line(
    region: str, endpoint_url: str, told: str
) -> None:
    # A port of this machine that nobody listens on: what else was tried would fail at once.
    nowhere = {
        "AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "A",
        "AWS_SECRET_ACCESS_KEY": "B",
    }
    request = (region, "StartSession", "", "{}", endpoint_url)
    done = plugin(json.dumps(RESPONSE), *request, environment=nowhere)

    first, second = done.stdout.removeprefix("\n").splitlines()
    assert first == "Starting session with SessionId: user-0a1b"
    assert second.startswith(FAILED + told)
    assert (done.stderr, done.returncode) == ("", 0)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit there")
def test_a_fault_that_nobody_thought_of_is_one_line_and_keeps_the_token() -> None:
    """With no file to be had there is no event loop."""
    command = f'ulimit -n 8; exec {sys.executable} -m ssmnet.plugin "$@"'
    done = subprocess.run(
        ["sh", "-c", command, "plugin", json.dumps(RESPONSE), *REST],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    started = "\nStarting session with SessionId: user-0a1b\n"
    told = re.escape(started + FAILED) + r"[A-Za-z]+Error; SSMNET_DEBUG=1 shows more\n"
    assert re.fullmatch(told, done.stdout)
    assert TOKEN not in done.stderr
    assert done.returncode == 0


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such shell there")
def test_a_caller_may_close_the_standard_files() -> None:
    """Their numbers are then those of the next sockets, which uvloop aborts over."""
    command = f'exec {sys.executable} -m ssmnet.plugin "$@" <&- >&-'
    nowhere = RESPONSE | {"StreamUrl": "ws://127.0.0.1:1/"}
    done = subprocess.run(
        ["sh", "-c", command, "plugin", json.dumps(nowhere), *REST[:-1], "http://127.0.0.1:1"],
        env=NO_AWS | {"AWS_ACCESS_KEY_ID": "A", "AWS_SECRET_ACCESS_KEY": "B"},
        stderr=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert "cannot terminate it" in done.stderr  # as far as that it came
    assert TOKEN not in done.stderr
    assert done.returncode == 0


def test_the_version_is_what_the_aws_cli_wants_to_see() -> None:
    done = plugin("--version")
    version = done.stdout.removesuffix("\n")
    assert re.fullmatch(r"\d+(\.\d+){0,3}", version)
    assert tuple(map(int, version.split("."))) > (1, 2, 764, 0)
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_version_is_told_without_loading_what_sessions_need() -> None:
    """The AWS CLI asks for it before each session."""
    told = plugin("--version", options=("-X", "importtime")).stderr
    imported = {line.rpartition("|")[2].strip() for line in told.splitlines()}
    assert "ssmnet.protocol.version" in imported
    assert not HEAVY & {name.partition(".")[0] for name in imported}


def test_a_session_does_not_load_the_other_command_line() -> None:
    code = (
        "import sys; import ssmnet.plugin, ssmnet.runner, ssmnet.aws, ssmnet.session, "
        "ssmnet.forward; sys.exit('typer' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0
