"""No token, key or payload is shown: not in what programs print at debug level, nor in /proc.

Every command runs on good ways and on bad ones, with all the logging there is. What a debugger or
``traceback`` with ``capture_locals`` shows of a process is out of scope, as is a core dump: the
secrets are in its memory, where they have to be.
"""

import asyncio
import base64
import json
import os
import re
import secrets
import signal
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from hashlib import sha1
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pexpect
import pytest
import trustme
import typer

from ssmnet.aws import Client
from ssmnet.cli import app
from ssmnet.loopback import Loopback
from tests.io.http_proxy import http_proxy

from .leaks import RESPONSE_VARIABLE, Secrets, Seen, Tap, forms, recording_program, tapped
from .processes import SSMNET, TIMEOUT, Done, Program, started

pytestmark = pytest.mark.long

if sys.platform != "linux":
    pytest.skip("argv and environments are read from /proc", allow_module_level=True)

PLUGIN = SSMNET.with_name("session-manager-plugin")
PORT_DOCUMENT = "AWS-StartPortForwardingSession"
DEBUG = {"SSMNET_DEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1"}
KIB = 1024
Environment = dict[str, str]
Command = tuple[str | Path, ...]
Function = TypeVar("Function", bound=Callable[..., object])

covered: set[str] = set()


def covers(command: str) -> Callable[[Function], Function]:
    """Say that a test runs ``ssmnet command``."""
    covered.add(command)
    return lambda function: function


def secret(size: int = 30) -> str:
    """One of those that have every character that encodings care for."""
    return secrets.token_urlsafe(size) + "+/&=" + secrets.token_urlsafe(size)


class Scene:
    """A far end behind a Tap, a destination that echoes, and what was seen of the programs."""

    def __init__(self, far: Loopback, tap: Tap, destination: int, env: Environment) -> None:
        self.far = far
        self.tap = tap
        self.destination = destination
        endpoints = ("AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SSMMESSAGES", "AWS_ENDPOINT_URL_KMS")
        self.env = env | far.environment | DEBUG | dict.fromkeys(endpoints, tap.url)
        self.secrets = Secrets()
        self.secrets.add("secret key", far.secret_access_key)
        self.seen = Seen()
        self._at_once = asyncio.Semaphore(4)
        marker, binary = secrets.token_urlsafe(60).encode(), secrets.token_bytes(68)
        self.secrets.add("payload", marker, binary)
        self.payload = (marker + binary) * 8 * KIB

    @property
    def forward(self) -> Command:
        target, port = self.far.target, str(self.destination)
        return (SSMNET, "forward", "-t", target, "--remote", port, "--debug")

    async def plugin(
        self, env: Environment, *, by_argument: bool = False, profile: str = ""
    ) -> tuple[Command, Environment]:
        """The plugin's arguments and environment, for a session that has just been started."""
        given = {name: self.env[name] for name in self.env if name in self.far.environment}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in given.items():
                patch.setenv(name, value)
            client = Client(region=self.far.region, endpoint_url=self.tap.url)
            grant = await client.start_session(
                self.far.target, PORT_DOCUMENT, {"portNumber": [str(self.destination)]}
            )
        response = plugin_response(grant.session_id, grant.token_value, grant.stream_url)
        self.secrets.add("token", grant.token_value)
        return plugin_call(response, self.tap.url, env, by_argument=by_argument, profile=profile)

    @asynccontextmanager
    async def watch(self, *command: str | Path, env: Environment) -> AsyncIterator[Program]:
        """Run a program; what it printed, and what it looked like in /proc, is in ``seen``."""
        async with started(*command, env=env) as program:
            self.look(program, command, env)
            yield program
            done = await (program.end() if program.running else program.wait())
            self.add(done)

    async def run(self, *command: str | Path, env: Environment, case: str = "") -> Done:
        """Run a program to its end."""
        async with self._at_once, started(*command, env=env) as program:
            done = await program.wait()
            self.add(done, case)
        return done

    def add(self, done: Done, case: str = "") -> None:
        self.seen.add(f"{case} stdout", done.out)
        self.seen.add(f"{case} stderr", done.err)

    def look(self, program: Program, command: Command, env: Environment) -> None:
        self.seen.add_process(program.pid, [str(part) for part in command], env)

    async def exchange(self, port: int, half_way: Callable[[], None]) -> None:
        """Send the payload through ``port`` and get it back, with something happening meanwhile."""
        half = len(self.payload) // 2
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(self.payload)
                received = await reader.readexactly(half)
                half_way()
                received += await reader.readexactly(half)
            assert received == self.payload
        finally:
            writer.transport.abort()

    def check(self, **at_least: int) -> None:
        """Fail if any secret was seen; ``at_least`` so many of each name must be known."""
        self.tap.tell(self.secrets)
        for name, number in at_least.items():
            assert self.secrets.count(name.replace("_", " ")) >= number, name
        leaks = self.seen.leaks(self.secrets)
        assert not leaks, f"{leaks}\n{self.seen.texts}"


def plugin_response(session_id: str, token: str, url: str) -> str:
    return json.dumps({"SessionId": session_id, "TokenValue": token, "StreamUrl": url})


def plugin_call(
    response: str,
    endpoint: str,
    env: Environment,
    *,
    by_argument: bool = False,
    profile: str = "",
) -> tuple[Command, Environment]:
    variable = f"{RESPONSE_VARIABLE}_1"
    first = response if by_argument else variable
    env = env if by_argument else env | {variable: response}
    return (PLUGIN, first, "us-east-1", "StartSession", profile, "{}", endpoint), env


@asynccontextmanager
async def echoing() -> AsyncIterator[int]:
    """The port of a destination that echoes."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def scene_of(
    env: Environment, tls: ssl.SSLContext | None = None, *, kms: bool = False
) -> AsyncIterator[Scene]:
    # The real agent repairs one lost message in 100 ms: a cut would take it long.
    async with echoing() as destination, Loopback(ideal=True, kms=kms) as far:
        async with tapped(int(far.endpoint_url.rpartition(":")[2]), tls) as tap:
            yield Scene(far, tap, destination, env)


@pytest.fixture
async def scene(aws_env: Environment) -> AsyncIterator[Scene]:
    async with scene_of(aws_env) as scene:
        yield scene


# The search itself.


@pytest.mark.parametrize("form", [*range(12)])
def test_a_secret_that_is_shown_is_found_in_every_form(form: int) -> None:
    known = Secrets()
    value = secret().encode() + bytes(range(128, 144))
    known.add("it", value)
    shapes = sorted(forms(value))
    shown = shapes[form % len(shapes)]
    assert known.shown_in(b"before " + shown.upper() + b" after") == {"it"}
    assert known.shown_in(b"cut off: " + shown[7:27]) == {"it"}
    assert known.shown_in(b"before and after, " + secret().encode()) == set()


def test_it_is_found_in_logs_in_argv_and_in_the_environment_of_children(tmp_path: Path) -> None:
    known, seen = Secrets(), Seen()
    value = secret()
    known.add("it", value)
    folder = tmp_path / "child-1"
    folder.mkdir()
    (folder / "cmdline").write_text(f"program\0--key={value}\0")
    (folder / "environ").write_text(f"MINE={value}\0{RESPONSE_VARIABLE}={value}\0")
    seen.add("log", f"an error: {base64.b64encode(value.encode()).decode()}")
    assert seen.add_children(tmp_path, {"MINE": value, RESPONSE_VARIABLE: value}) == 1
    assert seen.leaks(known) == {
        "log": {"it"},
        f"argv of {folder}": {"it"},
        f"environment of {folder}": {"it"},
    }
    # What the user has set himself is his to show.
    (folder / "cmdline").write_text("program\0")
    (folder / "environ").write_text(f"MINE={value}\0")
    again = Seen()
    again.add_children(tmp_path, {"MINE": value})
    assert again.leaks(known) == {}


async def test_a_program_that_shows_its_secret_is_caught(scene: Scene) -> None:
    """The canary: the same machinery, and a program that does it all wrong."""
    script = """
import os, subprocess
key = os.environ["AWS_SECRET_ACCESS_KEY"]
print(key[:20])
with subprocess.Popen(["sleep", "60"], env={"OTHER": key, "PATH": os.environ["PATH"]}):
    try:
        print("ready", flush=True)
        os.read(os.pipe()[0], 1)
    except KeyboardInterrupt:
        pass
"""
    command = (sys.executable, "-c", script)
    async with started(*command, env=scene.env) as program:
        await program.out_line("ready")
        scene.look(program, command, scene.env)
        scene.add(await program.end())
    places = scene.seen.leaks(scene.secrets)
    assert places.pop(" stdout") == {"secret key"}
    assert [name for where, name in places.items() if "environment" in where] == [{"secret key"}]


# ssmnet forward.


@covers("forward")
@pytest.mark.parametrize("output", ["text", "json"])
async def test_a_forward_that_is_cut_resumed_ended_and_restarted(scene: Scene, output: str) -> None:
    command = (*scene.forward, "--output", output)
    async with scene.watch(*command, env=scene.env) as program:
        port = await listening(program, output)
        for disturb in (scene.far.cut_clients, scene.far.close_clients):
            await scene.exchange(port, disturb)
            scene.look(program, command, scene.env)
        scene.far.end_sessions()
        await (program.out_line if output == "json" else program.err_line)(
            "started after|restarted"
        )
        await scene.exchange(port, lambda: scene.look(program, command, scene.env))
    scene.check(token=4, signature=2, payload=2)


async def listening(program: Program, output: str) -> int:
    if output == "text":
        return await program.port()
    return int((await program.out_line(r'"port":(\d+)'))[1])


async def test_a_connection_that_the_destination_refuses(scene: Scene, closed_port: int) -> None:
    command = (SSMNET, "forward", "-t", scene.far.target, "--remote", str(closed_port), "--debug")
    async with scene.watch(*command, env=scene.env) as program:
        reader, writer = await asyncio.open_connection("127.0.0.1", await program.port())
        writer.write(scene.payload[:KIB])
        with pytest.raises(ConnectionError):
            await reader.read()
        writer.close()
    done = await scene.run(*command, "--check", env=scene.env)
    assert done.status == 1
    # Two equal requests of the same second have the same signature.
    scene.check(token=2, signature=3)


async def test_it_crashes_with_a_full_tunnel(scene: Scene) -> None:
    """A fault that ends the interpreter shows where it was, and nothing of what it had."""
    async with started(*scene.forward, env=scene.env) as program:
        port = await program.port()
        crash = lambda: program.send_signal(signal.SIGABRT)  # noqa: E731
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await scene.exchange(port, crash)
        done = await program.wait()
        scene.add(done)
    assert done.status == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in done.err
    scene.check(token=1, signature=2)


SESSION_TOKEN = f"{secret(40)}{secret(60)}"
OTHER_SIGNATURE = secrets.token_hex(32)
# As AWS does it.
CANONICAL = (
    "The request signature we calculated does not match the signature you provided. Check your AWS"
    " Secret Access Key and signing method. Consult the service documentation for details.\n\n"
    "The Canonical String for this request should have been\n'POST\n/\n\nhost:ssm.example\n"
    f"x-amz-date:20300101T000000Z\nx-amz-security-token:{SESSION_TOKEN}\n\n'"
)
INCOMPLETE = (
    "Authorization header requires 'Credential' parameter. Authorization=AWS4-HMAC-SHA256"
    f" Signature={OTHER_SIGNATURE}"
)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidSignatureException", CANONICAL),
        ("IncompleteSignature", INCOMPLETE),
        ("ExpiredTokenException", "The security token included in the request is expired"),
        ("UnheardOf", ""),
    ],
)
async def test_an_api_that_says_no(scene: Scene, code: str, message: str) -> None:
    scene.secrets.add("session token", SESSION_TOKEN)
    scene.secrets.add("signature", OTHER_SIGNATURE)
    scene.far.fail_next(code, message)
    done = await scene.run(*scene.forward, env=scene.env)
    assert done.status == 1
    scene.check(signature=2)


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"])
async def test_credentials_that_are_refused(scene: Scene, wrong: str) -> None:
    value = secret()
    scene.secrets.add(wrong, value)
    done = await scene.run(*scene.forward, env=scene.env | {wrong: value})
    assert done.status == 1
    assert "AWS rejects the credentials" in done.err
    scene.check(signature=1)


def keys(scene: Scene, **changes: object) -> dict[str, object]:
    return {
        "Version": 1,
        "AccessKeyId": scene.far.access_key_id,
        "SecretAccessKey": scene.far.secret_access_key,
    } | changes


def with_profile(scene: Scene, *lines: str) -> Environment:
    """The environment of a user who has the profile ``mine`` and no keys in the environment."""
    text = "\n".join(["[profile mine]", *lines, ""])
    Path(scene.env["AWS_CONFIG_FILE"]).write_text(text)
    unset = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    return {name: value for name, value in scene.env.items() if name not in unset}


@pytest.mark.parametrize("plugin", [False, True])
async def test_a_credential_process_sees_nothing_of_ours(
    scene: Scene, tmp_path: Path, plugin: bool
) -> None:
    program_path = recording_program(tmp_path, json.dumps(keys(scene)))
    env = with_profile(scene, f"credential_process = {program_path}")
    command: Command = (*scene.forward, "--profile", "mine")
    if plugin:
        command, env = await scene.plugin(env, profile="mine")
    async with scene.watch(*command, env=env) as program:
        port = await (opened(program) if plugin else program.port())
        await scene.exchange(port, scene.far.cut_clients)
    # For the start and for the resume.
    assert scene.seen.add_children(tmp_path, env) >= 2
    scene.check(token=2, signature=2)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, 1),
        ({"AccessKeyId": None}, 0),
        ({"Expiration": "2020-01-01T00:00:00Z"}, 0),
        ({"SecretAccessKey": ["one", "two"]}, 0),
    ],
)
async def test_a_credential_process_that_fails(
    scene: Scene, tmp_path: Path, changes: dict[str, object], status: int
) -> None:
    token = secret()
    scene.secrets.add("session token", token)
    output = json.dumps(keys(scene, SessionToken=token, **changes))
    program = recording_program(tmp_path, output, status=status, says="not today")
    env = with_profile(scene, f"credential_process = {program}")
    done = await scene.run(*scene.forward, "--profile", "mine", env=env)
    assert done.status == 1
    assert scene.seen.add_children(tmp_path, env) >= 1
    scene.check()


async def test_a_credential_process_that_prints_no_json(scene: Scene, tmp_path: Path) -> None:
    program = recording_program(tmp_path, f"key={scene.far.secret_access_key}")
    env = with_profile(scene, f"credential_process = {program}")
    done = await scene.run(*scene.forward, "--profile", "mine", env=env)
    assert done.status == 1
    scene.check()


async def test_a_file_of_credentials_that_cannot_be_read(scene: Scene) -> None:
    env = with_profile(scene)
    text = f"aws_secret_access_key = {scene.far.secret_access_key}\n"
    Path(env["AWS_SHARED_CREDENTIALS_FILE"]).write_text(text)
    done = await scene.run(*scene.forward, env=env)
    assert done.status == 2
    scene.check()


# Answers that no AWS gives.

TOKEN = secrets.token_urlsafe(120)
SIGNATURE = secrets.token_hex(32)
PRESIGNED = (
    "/v1/data-channel/s?role=publish_subscribe&X-Amz-Algorithm=AWS4-HMAC-SHA256"
    f"&X-Amz-Security-Token={base64.b64encode(secrets.token_bytes(90)).decode()}"
    f"&X-Amz-Signature={SIGNATURE}"
)
AWS_URL = "wss://ssmmessages.us-east-1.amazonaws.com"


class WrongServer:
    """Answers API calls with ``answer`` and upgrades with ``upgrade``."""

    def __init__(self, answer: str | None, upgrade: Callable[[bytes], bytes]) -> None:
        self._answer = answer
        self._upgrade = upgrade
        self.url = ""

    @property
    def answer(self) -> str:
        stream_url = self.url.replace("http", "ws", 1) + PRESIGNED
        return plugin_response("s", TOKEN, stream_url) if self._answer is None else self._answer

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                body = self.answer.encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.1\r\n")
                writer.write(b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            else:
                writer.write(self._upgrade(head))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def nothing(_: bytes) -> bytes:
    return b""


def say(text: str) -> Callable[[bytes], bytes]:
    return lambda _: text.replace("\n", "\r\n").encode()


def switching(rest: bytes) -> Callable[[bytes], bytes]:
    """A good answer to the upgrade, and then the wrong thing."""

    def answer(head: bytes) -> bytes:
        key = head.lower().partition(b"sec-websocket-key: ")[0]
        key = head[len(key) + 19 :].partition(b"\r\n")[0]
        accept = base64.b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n" + rest
        )

    return answer


@asynccontextmanager
async def wrong_server(
    scene: Scene, answer: str | None = None, upgrade: Callable[[bytes], bytes] = nothing
) -> AsyncIterator[str]:
    scene.secrets.add("token", TOKEN)
    scene.secrets.add("presigned", PRESIGNED.partition("Security-Token")[2], SIGNATURE)
    wrong = WrongServer(answer, upgrade)
    async with await asyncio.start_server(wrong.accept, "127.0.0.1", 0) as server:
        wrong.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield wrong.url


ANSWERS = {
    "cut off": plugin_response("s", TOKEN, AWS_URL)[:-60],
    "no JSON": f"TokenValue={TOKEN}",
    "a string": json.dumps(TOKEN),
    "a list": json.dumps([TOKEN]),
    "a token in a list": json.dumps({"SessionId": "s", "TokenValue": [TOKEN], "StreamUrl": "x"}),
    "a URL in a list": json.dumps({"SessionId": "s", "TokenValue": TOKEN, "StreamUrl": [TOKEN]}),
    "no URL": plugin_response("s", TOKEN, ""),
    "no session": plugin_response("", TOKEN, AWS_URL + PRESIGNED),
    "a foreign host": plugin_response("s", TOKEN, "wss://foreign.example" + PRESIGNED),
    "no TLS": plugin_response("s", TOKEN, "ws://192.0.2.1" + PRESIGNED),
    "user information": plugin_response("s", TOKEN, f"wss://u:{TOKEN}@127.0.0.1{PRESIGNED}"),
    "no URL at all": plugin_response("s", TOKEN, f"{TOKEN} {PRESIGNED}"),
    "a long URL": plugin_response("s", TOKEN, AWS_URL + "/" + TOKEN * 100),
}


async def test_an_api_that_answers_nonsense(scene: Scene) -> None:
    env = {name: value for name, value in scene.env.items() if "ENDPOINT" not in name}

    async def try_it(case: str, answer: str) -> None:
        async with wrong_server(scene, answer) as url:
            command = (*scene.forward, "--endpoint-url", url)
            done = await scene.run(*command, env=env, case=case)
        assert done.status == 1, (case, done)

    await asyncio.gather(*(try_it(*answer) for answer in ANSWERS.items()))
    scene.check()


UPGRADES = {
    "refused": say(f"HTTP/1.1 403 Forbidden\nContent-Length: {len(TOKEN)}\n\n{TOKEN}"),
    "moved": say(f"HTTP/1.1 302 Found\nLocation: ws://127.0.0.1:9/{TOKEN}\nContent-Length: 0\n\n"),
    "closed": nothing,
    "wrong accept": say("HTTP/1.1 101 Switching\nUpgrade: websocket\nConnection: upgrade\n\n"),
    "no HTTP": say("220 Welcome\n\n"),
    "long head": say(f"HTTP/1.1 101 Switching\nX: {'x' * 20_000}\n\n"),
    "wrong frames": switching(b"\xf2\x05hello"),
    "closed at once": switching(b"\x88\x02\x03\xe8"),
}


@pytest.mark.parametrize("plugin", [False, True], ids=["forward", "plugin"])
async def test_a_gateway_that_does_not_do_for_a_presigned_url(scene: Scene, plugin: bool) -> None:
    async def try_it(case: str, upgrade: Callable[[bytes], bytes]) -> None:
        async with wrong_server(scene, None, upgrade) as url:
            env = scene.env | {"AWS_ENDPOINT_URL_SSMMESSAGES": url}
            command: Command = (*scene.forward, "--endpoint-url", url)
            if plugin:
                response = plugin_response("s", TOKEN, url.replace("http", "ws", 1) + PRESIGNED)
                command, env = plugin_call(response, url, env)
            await scene.run(*command, env=env, case=case)

    await asyncio.gather(*(try_it(*upgrade) for upgrade in UPGRADES.items()))
    scene.check()


ROLE = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<Credentials><AccessKeyId>AKIDROLE</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>
<SessionToken>{}</SessionToken><Expiration>2999-01-01T00:00:00Z</Expiration></Credentials>
<AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>R:s</AssumedRoleId>
</AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"""


@pytest.mark.filterwarnings("ignore:.*forkpty:DeprecationWarning")
@pytest.mark.parametrize("good", [True, False])
async def test_the_code_of_an_mfa_device_and_the_role_s_keys(scene: Scene, good: bool) -> None:
    """The gateway refuses the role's session token, and so says all that there is to say."""
    code, key, token = "7" + secrets.token_hex(10), secret(), secret(100)
    scene.secrets.add("code", code)
    scene.secrets.add("role", key)
    scene.secrets.add("session token", token)
    role = "role_arn = arn:aws:iam::1:role/r"
    lines = ("source_profile = user", "mfa_serial = arn:aws:iam::1:mfa/u", "[profile user]")
    user = ("aws_access_key_id = AKIDUSER", f"aws_secret_access_key = {secret()}")
    env = with_profile(scene, role, *lines, *user)
    answer = ROLE.format(key, token).replace("&", "&amp;") if good else f"<Error>{code}</Error>"
    async with wrong_server(scene, answer) as url:
        command = (*scene.forward, "--profile", "mine")
        terminal: Any = pexpect.spawn(
            str(command[0]),
            [str(part) for part in command[1:]],
            env=env | {"AWS_ENDPOINT_URL_STS": url},
            timeout=TIMEOUT,
        )
        try:
            await terminal.expect("MFA code.*: ", async_=True)
            scene.seen.add_process(terminal.pid, map(str, command), env)
            terminal.sendline(code)
            await terminal.expect(pexpect.EOF, async_=True)
        finally:
            terminal.close(force=True)
    assert b"error: " in terminal.before
    scene.seen.add("terminal", terminal.before)
    scene.check(**({"session_token": 2} if good else {}))


# Shells and commands: what they read and say is the user's, on stdout, and nowhere else.


@pytest.fixture
async def encrypting(aws_env: Environment) -> AsyncIterator[Scene]:
    async with scene_of(aws_env, kms=True) as scene:
        yield scene


async def cut_and_go_on(
    scene: Scene, command: Command, fifo: Path, *, marker: str, status: int
) -> None:
    """Run what says ``marker``, waits for the FIFO, and says "over"; with a cut in between."""
    async with scene.watch(*command, env=scene.env) as program:
        await program.out_line(marker)
        scene.far.cut_clients()
        scene.look(program, command, scene.env)
        fifo.write_text("go on\n")
        await program.out_line("^over")
        done = await program.wait()
        scene.add(done)
    assert done.status == status, done
    assert marker in scene.seen.texts.pop(" stdout").decode()


@covers("exec")
async def test_a_command_that_is_cut_and_resumed(encrypting: Scene, tmp_path: Path) -> None:
    scene, marker, fifo = encrypting, secrets.token_urlsafe(60), tmp_path / "fifo"
    scene.secrets.add("payload", marker)
    (tmp_path / "file").write_text(f"{marker}\n")
    os.mkfifo(fifo)
    script = f"cat {tmp_path}/file; read -r line <{fifo}; echo over; exit 3"
    command = (SSMNET, "exec", scene.far.target, "--debug", "--", "sh", "-c", script)
    await cut_and_go_on(scene, command, fifo, marker=marker, status=255)
    scene.check(token=2, signature=2, payload=1, data_key=1)


@covers("shell")
async def test_a_shell_that_is_cut_and_resumed(encrypting: Scene, tmp_path: Path) -> None:
    scene, marker, fifo = encrypting, secrets.token_urlsafe(60), tmp_path / "fifo"
    scene.secrets.add("payload", marker)
    os.mkfifo(fifo)
    script = tmp_path / "script"
    script.write_text(f"stty -echo\necho '{marker}'\nread -r line <{fifo}\necho; echo over\n")
    shell = (SSMNET, "shell", scene.far.target, "--debug")
    command = ("sh", "-c", 'exec "$@" <"$0"', script, *shell)
    await cut_and_go_on(scene, command, fifo, marker=marker, status=0)
    scene.check(token=2, signature=2, payload=1, data_key=1)


@pytest.mark.parametrize("command", ["shell", "exec"])
async def test_a_shell_or_command_that_can_t_be_had(encrypting: Scene, command: str) -> None:
    scene, arguments = encrypting, ("--", "true") if command == "exec" else ()
    wrong = scene.env | {"AWS_SECRET_ACCESS_KEY": secret()}
    scene.secrets.add("wrong key", wrong["AWS_SECRET_ACCESS_KEY"])
    for code in ("AccessDeniedException", "NotFoundException"):
        scene.far.fail_next(code, message=INCOMPLETE, action="GenerateDataKey")
    scene.secrets.add("signature", OTHER_SIGNATURE)
    target = scene.far.target
    for env in (wrong, scene.env, scene.env):
        done = await scene.run(SSMNET, command, target, "--debug", *arguments, env=env)
        assert done.status == (255 if command == "exec" else 1), done
    scene.check(token=2)


@covers("ssh-proxy")
async def test_a_raw_stream(scene: Scene, tmp_path: Path) -> None:
    marker, script = secrets.token_urlsafe(60), tmp_path / "file"
    scene.secrets.add("payload", marker)
    script.write_text(marker)
    async with echoing() as port:
        proxy = (SSMNET, "ssh-proxy", scene.far.target, str(port), "--debug")
        done = await scene.run("sh", "-c", 'exec "$@" <"$0"', script, *proxy, env=scene.env)
    assert done.status == 0, done
    assert marker in scene.seen.texts.pop(" stdout").decode()
    scene.check(token=1, signature=1, payload=1)


@covers("completion")
@covers("ssh-config")
@covers("plugin")
async def test_what_only_looks_at_this_machine(scene: Scene) -> None:
    scene.secrets.add("session token", SESSION_TOKEN)
    env = scene.env | {"AWS_SESSION_TOKEN": SESSION_TOKEN}
    for command in (
        ("completion", "bash"),
        ("ssh-config",),
        ("plugin", "status"),
        ("plugin", "status", "--output", "json"),
    ):
        await scene.run(SSMNET, *command, env=env)
    scene.check()


# Proxies.

PASSWORD = "pa55word-" + secrets.token_urlsafe(24)
PROXIES = {
    "closed": "http://user:{}@127.0.0.1:9",
    "no port": "http://user:{}@127.0.0.1:port",
    "another scheme": "socks5://user:{}@127.0.0.1:9",
    "no host": "http://user:{}@",
    "no scheme": "user:{}@127.0.0.1:9",
    "a bracket": "http://user:{}[@127.0.0.1:9",
    "a slash": "http://user:{}/@127.0.0.1:9",
}


@pytest.mark.parametrize("plugin", [False, True], ids=["forward", "plugin"])
async def test_a_proxy_that_does_not_do(scene: Scene, plugin: bool) -> None:
    scene.secrets.add("proxy password", PASSWORD)

    async def try_it(case: str, proxy: str) -> None:
        url = proxy.format(PASSWORD)
        env = scene.env | {"HTTP_PROXY": url, "http_proxy": url}
        command = scene.forward
        if plugin:
            command, env = await scene.plugin(env)
        await scene.run(*command, env=env, case=case)

    await asyncio.gather(*(try_it(*proxy) for proxy in PROXIES.items()))
    scene.check()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize("plugin", [False, True], ids=["forward", "plugin"])
@pytest.mark.parametrize(
    "refusal", [b"", b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"?\r\n\r\n"]
)
async def test_a_proxy_with_a_password_and_tls_behind_it(
    aws_env: Environment, authority: trustme.CA, tmp_path: Path, refusal: bytes, plugin: bool
) -> None:
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(bundle)
    trusting = {"AWS_CA_BUNDLE": str(bundle), "SSL_CERT_FILE": str(bundle)}
    async with scene_of(aws_env, server) as scene, http_proxy() as proxy:
        scene.env |= trusting
        scene.secrets.add("proxy password", PASSWORD)
        url = proxy.url.replace("://", f"://user:{PASSWORD}@")
        env = scene.env | {"HTTPS_PROXY": url, "https_proxy": url}
        command = scene.forward
        if plugin:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("AWS_CA_BUNDLE", str(bundle))
                command, env = await scene.plugin(env)
        proxy.refusal = refusal
        if refusal:
            await scene.run(*command, env=env)
        else:
            async with scene.watch(*command, env=env) as program:
                port = await (opened(program) if plugin else program.port())
                await scene.exchange(port, scene.far.cut_clients)
        basic = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
        assert any(basic in headers for headers in proxy.headers)
        scene.check(**({} if refusal else {"token": 2, "signature": 2}))


# ssmnet proxy, and what a file names.


async def through(scene: Scene, port: int, user: str, password: str) -> bytes:
    """Ask the SOCKS proxy for the destination, and send it the payload; the proxy's answers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(TIMEOUT):
            name, word = user.encode(), password.encode()
            writer.write(b"\5\1\2\1" + bytes([len(name)]) + name + bytes([len(word)]) + word)
            writer.write(b"\5\1\0\1\x7f\0\0\1" + scene.destination.to_bytes(2, "big"))
            answers = await reader.read(4)
            if answers == b"\5\2\1\0":
                answers += await reader.readexactly(10)
                writer.write(scene.payload[: 64 * KIB])
                scene.far.cut_clients()
                assert await reader.readexactly(64 * KIB) == scene.payload[: 64 * KIB]
    finally:
        writer.transport.abort()
    return answers


@covers("proxy")
async def test_a_proxy_that_asks_for_a_password(scene: Scene) -> None:
    scene.secrets.add("proxy password", PASSWORD)
    command = (SSMNET, "proxy", "-t", scene.far.target, "--socks", "0", "--user", "me", "--debug")
    env = scene.env | {"SSMNET_PROXY_PASSWORD": PASSWORD}
    async with scene.watch(*command, env=env) as program:
        port = await program.port()
        assert (await through(scene, port, "me", PASSWORD))[:6] == b"\5\2\1\0\5\0"
        assert (await through(scene, port, "me", PASSWORD[:-1]))[:3] == b"\5\2\1"
        assert (await through(scene, port, PASSWORD, "me"))[:3] == b"\5\2\1"
    scene.check(token=2, signature=2, payload=2, proxy_password=1)


@covers("up")
@covers("status")
@covers("down")
@covers("reload")
@covers("config")
@covers("service")
async def test_what_a_file_names(scene: Scene, tmp_path: Path) -> None:
    scene.secrets.add("proxy password", PASSWORD)
    file = tmp_path / "ssmnet.toml"
    text = f"""
[defaults]
target = "{scene.far.target}"
[forwards.one]
local = 0
remote = {scene.destination}
[proxies.two]
socks = 0
user = "me"
password_env = "MINE"
"""
    file.write_text(text)
    with TemporaryDirectory() as folder:
        env = scene.env | {"XDG_RUNTIME_DIR": folder, "MINE": PASSWORD}
        command = (SSMNET, "up", "--config", file, "--debug", "--metrics", "0")
        async with scene.watch(*command, env=env) as program:
            port = int((await program.err_line(r"^one: Listening on \S+:(\d+), "))[1])
            await scene.exchange(port, scene.far.cut_clients)
            for asked in (("status", "--json"), ("reload",), ("config", "check"), ("down",)):
                done = await scene.run(SSMNET, *asked, "--config", file, env=env)
                assert done.status == 0, done
        printed = await scene.run(SSMNET, "service", "print", "--config", file, env=env)
        assert printed.status == 0, printed
        file.write_text(text + f'password = "{PASSWORD}"\n')
        done = await scene.run(SSMNET, "config", "check", "--config", file, env=env)
        assert done.status == 2
    scene.check(token=2, signature=2, payload=2, proxy_password=1)


@covers("run")
async def test_a_command_with_a_forward(scene: Scene) -> None:
    remote = ("--remote", str(scene.destination))
    command = (SSMNET, "run", "-t", scene.far.target, *remote, "--debug", "--", "printenv")
    done = await scene.run(*command, "SSMNET_PORT", env=scene.env)
    assert done.status == 0, done
    missing = (*command[:-1], "no-such-command-at-all")
    assert (await scene.run(*missing, env=scene.env)).status == 127
    scene.check(token=1, signature=1)


# session-manager-plugin.


async def opened(program: Program) -> int:
    return int((await program.out_line(r"^Port (\d+) opened"))[1])


@pytest.mark.parametrize("by_argument", [False, True])
async def test_the_plugin_cut_and_resumed_and_ended(scene: Scene, by_argument: bool) -> None:
    command, env = await scene.plugin(scene.env, by_argument=by_argument)
    async with scene.watch(*command, env=env) as program:
        port = await opened(program)
        for disturb in (scene.far.cut_clients, scene.far.close_clients):
            await scene.exchange(port, disturb)
            scene.look(program, command, env)
        # The last exchange may have ended over the old WebSocket. This one needs the new one, over
        # which the gateway can say why it ends the session.
        await scene.exchange(port, lambda: None)
        scene.far.end_sessions("Ended by an administrator.")
        done = await program.wait()
        assert "Ended by an administrator." in done.out
    scene.check(token=3, signature=2, payload=2)


@pytest.mark.parametrize("by_argument", [False, True])
async def test_the_plugin_with_a_response_that_does_not_do(scene: Scene, by_argument: bool) -> None:
    unset = {name: value for name, value in scene.env.items() if "ENDPOINT" not in name}

    async def try_it(case: str, response: str) -> None:
        async with wrong_server(scene, response) as url:
            command, env = plugin_call(response, url, unset, by_argument=by_argument)
            done = await scene.run(*command, env=env, case=case)
        assert "Cannot perform start session: " in done.out, case

    some = ("cut off", "a token in a list", "a foreign host", "user information")
    cases = {case: ANSWERS[case] for case in some} if by_argument else ANSWERS
    await asyncio.gather(*(try_it(*case) for case in cases.items()))
    scene.check()


async def test_the_plugin_called_otherwise(scene: Scene) -> None:
    response = plugin_response("s", TOKEN, AWS_URL)
    scene.secrets.add("token", TOKEN)
    calls = (
        (),
        ("--version",),
        (response,),
        (response[:-60],),
        (response, "us-east-1"),
        (response, "us-east-1", "StopSession"),
        (plugin_response("s", TOKEN, "x"), "us-east-1", "StartSession"),
        (response, "no region", "StartSession"),
        ("us-east-1", response, "StartSession"),
    )
    await asyncio.gather(*(scene.run(PLUGIN, *call, env=scene.env) for call in calls))
    scene.check()


# The other commands.

RECORDER = """
import hmac, os, secrets

def recorded(function, name, keep):
    def call(*arguments):
        value = function(*arguments)
        if keep(value):
            with open(os.environ["RECORD"], "a") as record:
                kept = value[:60].hex() if isinstance(value, bytes) else value.encode().hex()
                record.write(f"{name}={kept}\\n")
        return value
    return call

secrets.token_urlsafe = recorded(secrets.token_urlsafe, "token", lambda value: len(value) > 100)
hmac.HMAC.hexdigest = recorded(hmac.HMAC.hexdigest, "signature", bool)
os.urandom = recorded(os.urandom, "payload", lambda value: len(value) > 1000000)
"""


class Record:
    """The secrets of a program that has both ends in itself: it writes down what it makes up."""

    def __init__(self, folder: Path) -> None:
        (folder / "sitecustomize.py").write_text(RECORDER)
        self._file = folder / "record"
        self.env = {"PYTHONPATH": str(folder), "RECORD": str(self._file)}

    def tell(self, known: Secrets) -> None:
        for line in self._file.read_text().splitlines():
            name, _, value = line.partition("=")
            known.add(name, bytes.fromhex(value))


@covers("demo")
async def test_the_demo(scene: Scene, tmp_path: Path) -> None:
    record = Record(tmp_path)
    done = await scene.run(SSMNET, "demo", "--debug", env=scene.env | record.env)
    assert done.status == 0, done
    record.tell(scene.secrets)
    scene.check(token=4, signature=4, payload=3)


async def test_a_forward_with_a_far_end_of_its_own(scene: Scene, tmp_path: Path) -> None:
    record = Record(tmp_path)
    remote = str(scene.destination)
    command = (SSMNET, "forward", "-t", "loopback", "--remote", remote, "--debug")
    env = scene.env | record.env
    async with scene.watch(*command, env=env) as program:
        port = await program.port()
        await scene.exchange(port, lambda: scene.look(program, command, env))
    record.tell(scene.secrets)
    scene.check(token=2, signature=2)


@covers("loopback")
async def test_the_loopback_tells_its_keys_in_its_exports_alone(
    aws_env: Environment, scene: Scene, tmp_path: Path
) -> None:
    command = (SSMNET, "loopback", "--debug")
    async with started(*command, env=aws_env | DEBUG) as program:
        await program.err_line("is online at http")
        exports: Environment = {}
        while "AWS_EC2_METADATA_DISABLED" not in exports:
            line = await program.out_line("^export ([^=]*)=(.*)")
            exports[line[1]] = line[2]
        scene.secrets.add("secret key", exports["AWS_SECRET_ACCESS_KEY"])
        port = int(exports["AWS_ENDPOINT_URL_SSM"].rpartition(":")[2])
        async with tapped(port) as tap:
            endpoints = ("AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SSMMESSAGES")
            scene.env |= exports | dict.fromkeys(endpoints, tap.url)
            await talk_to_loopback(scene)
            tap.tell(scene.secrets)
        scene.look(program, command, aws_env | DEBUG)
        scene.add(await program.end())
    shown = scene.seen.texts.pop(" stdout")
    assert shown.count(exports["AWS_SECRET_ACCESS_KEY"].encode()) == 1
    scene.seen.add("other lines", re.sub(rb"export AWS_SECRET_ACCESS_KEY.*", b"", shown))
    scene.check(token=2, signature=4)


async def talk_to_loopback(scene: Scene) -> None:
    """Everything that a gateway may have a reason to complain of."""
    async with scene.watch(*scene.forward, env=scene.env) as program:
        await scene.exchange(await program.port(), lambda: None)
    wrong = scene.env | {"AWS_SECRET_ACCESS_KEY": secret()}
    assert (await scene.run(*scene.forward, env=wrong)).status == 1
    response = plugin_response("nobody", TOKEN, AWS_URL)
    scene.secrets.add("token", TOKEN)
    command, env = plugin_call(response, scene.tap.url, scene.env)
    await scene.run(*command, env=env)


@covers("")
async def test_help_shows_no_settings(scene: Scene) -> None:
    scene.secrets.add("session token", SESSION_TOKEN)
    env = scene.env | {"AWS_SESSION_TOKEN": SESSION_TOKEN}
    names = [name for name in command_names() if name]
    helps = [(name, "--help") for name in names]
    calls = [(), ("--help",), ("--version",), ("forward", "--remote"), ("nothing",), *helps]
    await asyncio.gather(*(scene.run(SSMNET, *call, env=env) for call in calls))
    scene.check()


def command_names() -> set[str]:
    group: Any = typer.main.get_command(app)
    return {"", *group.commands}


def test_every_command_has_a_case() -> None:
    assert command_names() == covered
