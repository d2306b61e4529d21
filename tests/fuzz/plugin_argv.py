"""The plugin's command line against any arguments, in process, up to where a session would begin.

An input is the arguments, each ended by a NUL, which no argument can hold.
"""

from __future__ import annotations

import io
import ipaddress
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

from ssmnet import plugin, plugin_port, runner, stream_url
from ssmnet.errors import RemoteProtocolError, UsageError
from ssmnet.plugin import RESPONSE_VARIABLE
from tests.fuzz.json_tree import mutate_json

SUBJECTS = (
    plugin.main,
    plugin._start_session,
    plugin._read_call,
    plugin._field,
    plugin_port._local_port,
    stream_url,
)
UNDECODABLE = "replace" if sys.platform == "win32" else "surrogateescape"
TOKEN = "AAEAAVerySecretTokenOfASession0123456789"
FIELDS = ("SessionId", "TokenValue", "StreamUrl")
HOST = "ssmmessages.eu-west-1.amazonaws.com"
URLS = (
    f"wss://{HOST}/v1/data-channel/user-0a1b?role=publish_subscribe&cell-number=AAEA",
    f"wss://{HOST}/v1/data-channel/user-0a1b?X-Amz-Signature=abc",
    "wss://ssmmessages.us-gov-west-1.api.aws:443/x",
    "wss://vpce-0123-abcd.ssmmessages.eu-west-1.vpce.amazonaws.com/x",
    f"wss://user@{HOST}/x",
    "ws://127.0.0.1:8080/x",
    "ws://[::1]:8080/x",
    "wss://[::1%lo]:1/x",
    "https://[:::]:1",
    "wss://ssmmessages.eu-west-1.amazonaws.com.example.com/x",
    "wss://ssmmessages.eu-west-1.example.com/x",
)
TOKENS = (
    b"\0",
    b"StartSession\0",
    b"--version\0",
    b"eu-west-1\0",
    b"{",
    b'{"SessionId":"s","TokenValue":"t","StreamUrl":"wss://x"}',
    *(f'"{name}":'.encode() for name in FIELDS),
    TOKEN.encode(),
    RESPONSE_VARIABLE.encode(),
    RESPONSE_VARIABLE.encode() + b"_1=",
    b"9" * 4400,
    b"[" * 1200,
    b"\xff\xfe",
    b"\\ud800",
    *(url.encode() for url in URLS),
)


def fuzz(data: bytes) -> None:
    *arguments, last = (part.decode("utf-8", UNDECODABLE) for part in data.split(b"\0"))
    # What follows the last NUL is the value of the variable that the first argument may name.
    if not data.count(b"\0"):
        arguments, last = [last], "{}"
    # A name with "=" in it can't be that of a variable.
    name = arguments[0] if is_name(arguments[0]) and "=" not in arguments[0] else ""
    check_call(arguments, name, last)
    check_main(arguments, name, last)
    check_texts(arguments, last)


def is_name(argument: str) -> bool:
    """Whether it stands for a variable. A name is shown where there is none, whatever it is."""
    return argument.startswith(RESPONSE_VARIABLE)


def check_call(arguments: list[str], name: str, value: str) -> None:
    """The session that is named, or UsageError, which tells no token."""
    if len(arguments) < 3:
        return
    with variable(name, value):
        try:
            call = plugin._read_call(arguments)
        except UsageError as error:
            told = str(error)
            assert TOKEN not in told or is_name(arguments[0])
            assert "\n" not in told or is_name(arguments[0])
            return
        assert name not in os.environ, "the token is left to our children"
    assert (call.region, *arguments[3:4]) == (arguments[1], *arguments[3:4])
    found = (call.session_id, call.token_value, call.stream_url)
    assert all(isinstance(text, str) and text for text in found)
    content = json.loads(os.fsencode(value if name else arguments[0]), strict=False)
    content = {field.lower(): text for field, text in content.items()}
    assert found == tuple(content[field.lower()] for field in FIELDS)


def check_main(arguments: list[str], name: str, value: str) -> None:
    """A few lines, and an exit code that shows no caller the token."""
    with variable(name, value), no_session() as begun:
        said, code = call_main(arguments)
    assert code in (0, 1)
    assert code == 0 or is_name(arguments[0])
    assert said.endswith((b"\n", b"Invalid Operation")) or (begun and not said)
    if begun:
        # Nothing before it shows that its data is not for standard output.
        assert not said or said.startswith(b"\nStarting session with SessionId: ")
        assert code == 0
    elif len(arguments) < 3:
        assert TOKEN.encode() not in said or "{" not in arguments[0]
    elif arguments[2] == "StartSession":
        assert said.startswith(b"Cannot perform start session: ")
        assert b"SSMNET_DEBUG" not in said, "a fault of ours"
        assert bool(code) == is_name(arguments[0])
        assert TOKEN.encode() not in said or is_name(arguments[0])


def call_main(arguments: list[str]) -> tuple[bytes, int]:
    """What the command line prints, and its exit code."""
    printed = io.BytesIO()
    before = sys.argv, sys.stdout
    sys.argv, sys.stdout = ["session-manager-plugin", *arguments], io.TextIOWrapper(printed)
    try:
        plugin.main()
    except SystemExit as end:
        return printed.getvalue(), int(str(end.code))
    else:
        return printed.getvalue(), 0
    finally:
        sys.argv, sys.stdout = before


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    if name:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextmanager
def no_session() -> Iterator[list[object]]:
    """Sessions only note that they have begun."""
    begun: list[object] = []

    def begin(main: object) -> bool:
        begun.append(main)
        return True

    run, runner.run = runner.run, begin  # type: ignore[assignment]
    try:
        with signals_as_they_were():
            yield begun
    finally:
        runner.run = run


@contextmanager
def signals_as_they_were() -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def check_texts(arguments: list[str], value: str) -> None:
    """Regions, URLs and ports, of which a session makes host names and sockets."""
    region = arguments[1] if len(arguments) > 1 else value[:20]
    for text in (value, *arguments[3:], *strings(arguments[0]), *strings(value)):
        check_url(text, region)
        check_endpoint(text)
        check_port(text)


def strings(text: str) -> list[str]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return []
    values = content.values() if isinstance(content, dict) else ()
    return [value for value in values if isinstance(value, str)]


def check_url(url: str, region: str) -> None:
    try:
        stream_url.check_stream_url(url, region, allow_loopback=True)
    except (UsageError, RemoteProtocolError) as error:
        told = str(error)
        assert TOKEN not in told or TOKEN in url.partition("?")[0] + region
        return
    host = host_of(url)
    stream_url.is_presigned(url)
    assert stream_url.move_stream_url(url, "https://localhost:1").startswith("wss://localhost:1")
    if not host.startswith(("localhost", "127.", "[")):
        assert url.startswith("wss")
        suffix = host.removesuffix(":443").partition(f".{region}.")[2]
        assert suffix.removeprefix("vpce.") in stream_url._SUFFIXES


def check_endpoint(endpoint: str) -> None:
    """An endpoint that the user configures makes its own host trusted, and no other."""
    try:
        stream_url.check_endpoint(endpoint)
    except UsageError as error:
        told = str(error)
        assert TOKEN not in told or TOKEN in endpoint.partition("?")[0]
        return
    moved = stream_url.move_stream_url(URLS[0], endpoint)
    assert host_of(moved) == host_of(endpoint)
    stream_url.check_stream_url(moved, "eu-west-1", endpoints=(endpoint,))
    try:
        stream_url.check_stream_url("wss://other.example/x", "eu-west-1", endpoints=(endpoint,))
    except RemoteProtocolError:
        return
    assert host_of(endpoint).startswith("other.example")


def host_of(url: str) -> str:
    """Host and port of a URL that has been accepted, and so has nothing odd in it."""
    scheme, _, rest = url.partition("://")
    assert scheme in ("ws", "wss", "http", "https")
    assert url.isascii()
    assert url.isprintable()
    host = rest.partition("/")[0].partition("?")[0]
    assert not set("@\\ #%") & set(host)
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:].partition("]")[0])
    return host.lower()


def check_port(text: str) -> None:
    try:
        port = plugin_port._local_port(text)
    except UsageError as error:
        told = str(error)
        assert len(told) < 300
    else:
        assert 0 <= port < 65536


def mutate(data: bytes, random: Random) -> bytes:
    """One of the arguments that is JSON becomes other JSON."""
    parts = data.split(b"\0")
    place = random.randrange(len(parts))
    parts[place] = mutate_json(parts[place], random)
    return b"\0".join(parts)


def seeds() -> list[bytes]:
    def response(**changes: Any) -> str:
        return json.dumps(
            {"SessionId": "user-0a1b", "TokenValue": TOKEN, "StreamUrl": URLS[0]} | changes
        )

    request = '{"Target":"i-0a1b","Parameters":null}'
    rest = ("eu-west-1", "StartSession", "", request, f"https://ssm.{HOST}")
    calls: list[tuple[str, ...]] = [
        ("", ""),
        ("--version", ""),
        ("foo", ""),
        (response(), "eu-west-1", ""),
        (response(), "eu-west-1", "StartSession", ""),
        (response(), "eu-west-1", "ResumeSession", ""),
        (RESPONSE_VARIABLE, *rest, response()),
        (RESPONSE_VARIABLE + "_7", *rest, response()),
        (RESPONSE_VARIABLE, *rest, "8080"),
        (response(TokenValue=None), *rest, ""),
        (response(StreamUrl=""), *rest, ""),
        *((response(StreamUrl=url), *rest, "") for url in URLS),
        *((response(), *rest, url) for url in URLS),
        *((response(), *rest, port) for port in ("0", "65535", "65536", "99999", "123456")),
    ]
    return ["\0".join(call).encode() for call in calls]
