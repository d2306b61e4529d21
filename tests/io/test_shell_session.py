"""Shells, commands and encrypted sessions: the real Session, and their far end by hand."""

import asyncio
import json
import logging
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from ssmnet import session as session_module
from ssmnet.aws import DataKey
from ssmnet.errors import (
    Error,
    HandshakeError,
    LocalProtocolError,
    RemoteProtocolError,
    ServiceError,
    SessionClosed,
)
from ssmnet.loopback.encryption import Cipher
from ssmnet.protocol import opening
from ssmnet.protocol.events import SessionReady
from ssmnet.session import INCOMPLETE, Session
from ssmnet.transport import StreamTransport
from tests import wire
from tests.io.raw_agent import RawAccess, RawAgent
from tests.io.raw_gateway import raw_gateway

pytestmark = pytest.mark.usefixtures("clean")

TIMEOUT = 15.0
EXIT_CODE, CHALLENGE_REQUEST, CHALLENGE_RESPONSE = 12, 8, 9
DATA_KEY = bytes(range(64))
ENCRYPTED_KEY = b"as KMS has encrypted it"
KEY_ID = "alias/sessions"


def request(session_type: str = "NonInteractiveCommands", *, encrypted: bool = False) -> object:
    actions: list[dict[str, object]] = [
        {"ActionType": "SessionType", "ActionParameters": {"SessionType": session_type}}
    ]
    if encrypted:
        asked = {"KMSKeyId": KEY_ID, "Challenge": "random"}
        actions.append({"ActionType": "KMSEncryption", "ActionParameters": asked})
    return {"AgentVersion": "3.3.0.0", "RequestedClientActions": actions}


class Access(RawAccess):
    """KMS does what ``key`` does; ``asked`` is what it was asked."""

    asked: tuple[str, dict[str, str]] | None = None

    async def key(self) -> DataKey:
        return DataKey(DATA_KEY, ENCRYPTED_KEY)

    async def generate_data_key(self, key_id: str, context: Mapping[str, str]) -> DataKey:  # type: ignore[override]
        self.asked = key_id, dict(context)
        return await self.key()


class Reader(asyncio.Protocol):
    """``log`` is what its transport told it, ``data`` what it got."""

    def __init__(self, *, pauses: bool = False) -> None:
        self.log: list[object] = []
        self.data = bytearray()
        self.transport: asyncio.Transport
        self.lost = asyncio.Event()
        self._pauses = pauses
        self._changed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._note("made")
        if self._pauses:
            transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._note(bytes(data))
        if self._pauses:
            self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._note(exc)
        self.lost.set()

    @property
    def end(self) -> object:
        """What it was told at its end."""
        assert self.lost.is_set()
        return self.log[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _note(self, entry: object) -> None:
        self.log.append(entry)
        self._changed.set()


class Pair:
    """A session and its far end; its streams are there as soon as it has begun."""

    def __init__(self, session: Session, agent: RawAgent, access: Access, *, apart: bool) -> None:
        self.session = session
        self.agent = agent
        self.access = access
        self.reader = Reader()
        self.errors = Reader() if apart else None
        self.began: list[SessionReady] = []
        self.codes: list[int] = []
        session.on_ready = self._begin
        session.on_exit_code = self.codes.append

    def _begin(self, ready: SessionReady) -> None:
        self.began.append(ready)
        if self.errors is not None:
            self.session.create_error_stream(self.errors)
        self.session.create_stream(self.reader)

    async def until_sent(self, count: int) -> list[tuple[int, bytes]]:
        """What the client has sent, once it is so many messages."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.agent.received) < count:
                await self.agent.next()
        return [(message.payload_type, message.payload) for message in self.agent.received]

    async def over(self) -> Error:
        async with asyncio.timeout(TIMEOUT):
            return await self.session.wait_ended()


@asynccontextmanager
async def pair(*, apart: bool = False, shell: bool = True) -> AsyncIterator[Pair]:
    """A session that is granted and not open, and what will be its far end."""
    async with raw_gateway() as gateway:
        access = Access(gateway)
        agent = RawAgent(access, multiplexed=False)
        session = Session(access, access.grant(), target="i-1", shell=shell)
        try:
            yield Pair(session, agent, access, apart=apart)
        finally:
            gateway.drop()
            access.resumable = False
            await session.close()


@asynccontextmanager
async def begun(first: bytes = b"$ ", **arguments: bool) -> AsyncIterator[Pair]:
    """A shell that has said ``first`` and knows its terminal's size."""
    async with pair(**arguments) as it:
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(first))
        await begins
        await it.until_sent(1)
        await it.reader.until(lambda: it.reader.data == first)
        yield it


def size(columns: int, rows: int) -> tuple[int, bytes]:
    return wire.SIZE, json.dumps({"cols": columns, "rows": rows}, separators=(",", ":")).encode()


# Shells.


async def test_a_shell_begins_with_its_first_output() -> None:
    async with pair() as it:
        it.session.set_size(80, 24)
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(b"$ "))
        ready = await begins
        assert ready == SessionReady("Standard_Stream", {}, "", "")
        assert it.began == [ready]
        await it.reader.until(lambda: it.reader.data == b"$ ")
        it.reader.transport.write(b"exit\r")
        assert await it.until_sent(2) == [size(80, 24), (wire.OUTPUT, b"exit\r")]
        it.session.set_size(132, 40)
        assert (await it.until_sent(3))[2] == size(132, 40)
        it.agent.peer.send(it.agent.output(b"exit\r\n"), it.agent.channel_closed("bye"))
        ended = await it.over()
        assert isinstance(ended, SessionClosed)
        assert ended.output == "bye"
        await it.reader.lost.wait()
        assert it.reader.data == b"$ exit\r\n"
        assert it.reader.end is None, "it has ended in order"
    assert it.access.terminated == 0
    assert it.session.exit_code is None


async def test_a_silent_shell_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "PROBE_AFTER", 0.02)
    monkeypatch.setattr(opening, "ASSUME_SHELL_AFTER", 0.02)
    async with pair() as it:
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        assert await it.until_sent(1) == [size(300, 100)]
        ready = await begins
        assert ready.session_type == "Standard_Stream"
        it.reader.transport.write(b"typed to cat")
        assert (await it.until_sent(3))[1:] == [size(300, 100), (wire.OUTPUT, b"typed to cat")]
        it.agent.peer.send(it.agent.output(b"typed to cat"))
        await it.reader.until(lambda: it.reader.data == b"typed to cat")


async def test_a_session_that_can_be_no_shell_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(opening, "PROBE_AFTER", 0.0)
    async with pair(shell=False) as it:
        it.session._driver.channel._opening._timeout = 0.2
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(b"$ "))
        with pytest.raises(HandshakeError, match="did not begin"):
            await begins
        assert await it.agent.next() is None, "it has sent nothing"
    assert it.access.terminated == 1


async def test_what_is_no_shell_needs_a_stream_only_when_it_is_made() -> None:
    async with pair() as it:
        it.session.on_ready = lambda _: None
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(b"one "), it.agent.output(b"two"))
        await begins
        reader = Reader()
        it.session.create_stream(reader)
        await reader.until(lambda: reader.data == b"one two")
        assert await it.until_sent(1) == [size(300, 100)]


async def test_nothing_is_made_of_a_session_that_has_not_begun() -> None:
    async with pair() as it:
        for make in (it.session.create_stream, it.session.create_error_stream):
            with pytest.raises(LocalProtocolError, match="not begun"):
                make(Reader())


async def test_a_shell_goes_on_over_another_websocket() -> None:
    async with begun() as it:
        it.access.resumable = True
        it.reader.transport.write(b"typed before")
        async with asyncio.timeout(TIMEOUT):
            while it.agent.input != b"typed before":
                await it.agent.next(acknowledge=False)
        it.agent.peer.reset()
        await it.agent.take()
        it.reader.transport.write(b", and after")
        it.session.set_size(80, 24)
        it.agent.peer.send(it.agent.output(b"whole"))
        async with asyncio.timeout(TIMEOUT):
            while it.agent.received[-1].payload_type != wire.SIZE or len(it.agent.input) < 23:
                await it.agent.next()
        assert it.agent.input == b"typed before, and after"
        await it.reader.until(lambda: it.reader.data == b"$ whole")
    assert it.access.resumed == 1


async def test_a_shell_that_is_lost_has_not_ended_in_order() -> None:
    async with begun() as it:
        it.agent.peer.reset()
        ended = await it.over()
        assert isinstance(ended, SessionClosed)
        await it.reader.lost.wait()
        assert it.reader.end is ended


# Commands.


async def shake_hands(it: Pair, asked: object) -> None:
    """Up to and without the agent's last message."""
    await it.agent.take()
    it.agent.peer.send(it.agent.output(json.dumps(asked).encode(), wire.HANDSHAKE_REQUEST))
    await it.until_sent(1)


def complete(agent: RawAgent) -> bytes:
    return agent.output(b'{"CustomerMessage":"hello"}', wire.HANDSHAKE_COMPLETE)


def whole_command(agent: RawAgent) -> list[bytes]:
    """What a command says that is over at once."""
    return [
        complete(agent),
        agent.output(b"out "),
        agent.output(b"err", wire.STDERR),
        agent.output(b"and out"),
        agent.output(b"EXIT_CODE: 7", EXIT_CODE),
        agent.channel_closed("done"),
    ]


@pytest.mark.parametrize("apart", [False, True])
async def test_a_command_that_is_over_at_once_loses_nothing(apart: bool) -> None:
    async with pair(apart=apart) as it:
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request())
        it.agent.peer.send(*whole_command(it.agent))
        with pytest.raises(SessionClosed, match="done"):
            await begins
        assert it.began == [SessionReady("NonInteractiveCommands", {}, "3.3.0.0", "hello")]
        assert it.codes == [7]
        assert it.session.exit_code == 7
        await it.reader.lost.wait()
        assert it.reader.end is None
        if it.errors is None:
            assert it.reader.data == b"out errand outEXIT_CODE: 7"
        else:
            assert it.reader.data == b"out and out"
            await it.errors.lost.wait()
            assert it.errors.data == b"err"
            assert it.errors.end is None
    assert it.access.terminated == 0


async def test_a_command_whose_end_comes_in_pieces_loses_nothing() -> None:
    async with pair(apart=True) as it:
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request())
        first, *others = whole_command(it.agent)
        it.agent.peer.send(first)
        await begins
        for data in others:
            it.agent.peer.send(data)
            await asyncio.sleep(0)
        await it.over()
        await it.reader.lost.wait()
        assert it.reader.data == b"out and out"
        assert it.session.exit_code == 7


async def test_the_end_of_a_command_of_which_something_is_missing_is_an_error() -> None:
    async with pair(apart=True) as it:
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request())
        done, out, err, _missing, code, end = whole_command(it.agent)
        it.agent.peer.send(done, out, err, code, end)
        with pytest.raises(SessionClosed):
            await begins
        assert it.session.exit_code is None, "that would have come later"
        assert it.errors is not None
        for reader in (it.reader, it.errors):
            await reader.lost.wait()
            assert isinstance(reader.end, SessionClosed)
            assert reader.end.reason == INCOMPLETE


async def test_standard_error_takes_nothing_and_can_be_closed_alone() -> None:
    async with begun(apart=True) as it:
        assert it.errors is not None
        with pytest.raises(LocalProtocolError, match="takes no data"):
            it.errors.transport.write(b"for nobody")
        it.errors.transport.close()
        await it.errors.lost.wait()
        it.agent.peer.send(it.agent.output(b"err", wire.STDERR), it.agent.output(b"out"))
        await it.reader.until(lambda: it.reader.data == b"$ out")
        assert it.errors.data == b""
        with pytest.raises(LocalProtocolError, match="one stream"):
            it.session.create_error_stream(Reader())


async def test_a_port_has_no_standard_error() -> None:
    async with pair() as it:
        it.session.on_ready = lambda _: None
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request("Port"))
        it.agent.peer.send(complete(it.agent))
        await begins
        with pytest.raises(LocalProtocolError, match="only shells and commands"):
            it.session.create_error_stream(Reader())


async def test_a_reader_that_is_slow_to_the_end_gets_all() -> None:
    async with begun() as it:
        slow = it.reader
        slow._pauses = True
        slow.transport.pause_reading()
        pieces = [bytes([number]) * 500 for number in range(20)]
        for piece in pieces:
            it.agent.peer.send(it.agent.output(piece))
            await asyncio.sleep(0)
        transport = slow.transport
        assert isinstance(transport, StreamTransport)
        async with asyncio.timeout(TIMEOUT):
            while transport.unread_size < 10_000:
                await asyncio.sleep(0.001)
        it.agent.peer.send(it.agent.channel_closed())
        await it.over()
        await slow.lost.wait()
        assert slow.data == b"$ " + b"".join(pieces)
        assert slow.end is None


# What is called when it has begun.


async def test_who_refuses_the_session_ends_it() -> None:
    async with pair() as it:
        refusal = HandshakeError("not what was asked for")

        def refuse(ready: SessionReady) -> None:
            raise refusal

        it.session.on_ready = refuse
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(b"$ "))
        with pytest.raises(HandshakeError) as caught:
            await begins
        assert caught.value is refusal
    assert it.access.terminated == 1
    assert it.access.resumed == 0


async def test_who_fails_at_the_beginning_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as it:
        it.access.resumable = True

        def fail(ready: SessionReady) -> None:
            raise OSError(9, "Bad file descriptor")

        it.session.on_ready = fail
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        it.agent.peer.send(it.agent.output(b"$ "))
        with pytest.raises(Error, match="Bad file descriptor"):
            await begins
    assert it.access.terminated == 1
    assert it.access.resumed == 0, "the WebSocket has not failed"


# Encryption.


class EncryptedAgent:
    """The agent's part in an encrypted session."""

    def __init__(self, it: Pair, data_key: bytes = DATA_KEY) -> None:
        self.it = it
        self.cipher = Cipher(data_key, bytes(12))

    async def begin(self) -> None:
        """Up to and with its challenge."""
        it, agent = self.it, self.it.agent
        await shake_hands(it, request("Standard_Stream", encrypted=True))
        response = agent.received[0].json()
        (_, action) = response["ProcessedClientActions"]
        assert action["ActionStatus"] == 1
        assert b64decode(action["ActionResult"]["KMSCipherTextKey"]) == ENCRYPTED_KEY
        assert action["ActionResult"]["ChallengeAcknowledgement"] is True
        challenge = b64encode(self.cipher.encrypt(b"prove it")).decode()
        text = json.dumps({"Challenge": challenge}).encode()
        agent.peer.send(agent.output(text, CHALLENGE_REQUEST))

    async def complete(self) -> None:
        (kind, payload) = (await self.it.until_sent(2))[1]
        assert kind == CHALLENGE_RESPONSE
        assert self.cipher.decrypt(b64decode(json.loads(payload)["Challenge"])) == b"prove it"
        self.it.agent.peer.send(complete(self.it.agent))

    def output(self, plaintext: bytes, kind: int = wire.OUTPUT) -> bytes:
        return self.it.agent.output(self.cipher.encrypt(plaintext), kind)


@asynccontextmanager
async def encrypted() -> AsyncIterator[tuple[Pair, EncryptedAgent]]:
    async with pair() as it:
        agent = EncryptedAgent(it)
        begins = asyncio.ensure_future(it.session.open())
        await agent.begin()
        await agent.complete()
        await begins
        yield it, agent


async def test_a_session_is_encrypted_where_its_agent_asks_for_it() -> None:
    async with encrypted() as (it, agent):
        assert it.access.asked == (
            KEY_ID,
            {
                "aws:ssm:SessionId": "session-1",
                "aws:ssm:TargetId": "i-1",
                "aws:ssm:RandomChallenge": "random",
            },
        )
        it.agent.peer.send(agent.output(b"$ "))
        await it.reader.until(lambda: it.reader.data == b"$ ")
        it.reader.transport.write(b"the secret")
        _, _, told, (kind, payload) = await it.until_sent(4)
        assert told == size(300, 100)
        assert kind == wire.OUTPUT
        assert b"secret" not in payload
        assert agent.cipher.decrypt(payload) == b"the secret"
        it.agent.peer.send(agent.output(b"EXIT_CODE: 7", EXIT_CODE), it.agent.channel_closed())
        await it.over()
        assert it.session.exit_code == 7


async def test_an_encrypted_session_goes_on_over_another_websocket() -> None:
    async with encrypted() as (it, agent):
        it.access.resumable = True
        await it.until_sent(3)
        it.agent.peer.reset()
        await it.agent.take()
        it.agent.peer.send(agent.output(b"still here"))
        await it.reader.until(lambda: it.reader.data == b"still here")
        it.reader.transport.write(b"so are we")
        (_, payload) = (await it.until_sent(4))[3]
        assert agent.cipher.decrypt(payload) == b"so are we"


async def failing(it: Pair) -> BaseException:
    """What opening a session raises whose agent asks for encryption."""
    begins = asyncio.ensure_future(it.session.open())
    await it.agent.take()
    asked = json.dumps(request("Standard_Stream", encrypted=True)).encode()
    it.agent.peer.send(it.agent.output(asked, wire.HANDSHAKE_REQUEST))
    with pytest.raises(Error) as caught:
        async with asyncio.timeout(TIMEOUT):
            await begins
    assert it.access.terminated == 1
    assert it.began == []
    assert it.access.asked is not None
    return caught.value


async def test_a_key_that_kms_denies() -> None:
    async with pair() as it:
        denied = ServiceError("kms:GenerateDataKey is not allowed")

        async def deny() -> DataKey:
            raise denied

        it.access.key = deny  # type: ignore[method-assign]
        assert await failing(it) is denied


async def test_a_kms_that_fails_otherwise_is_named_and_says_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with pair() as it:

        async def fail() -> DataKey:
            raise RuntimeError("a bug")

        it.access.key = fail  # type: ignore[method-assign]
        error = await failing(it)
        assert isinstance(error, HandshakeError)
        assert str(error) == "cannot get a data key: RuntimeError"


async def test_a_kms_that_never_answers_is_given_up() -> None:
    async with pair() as it:
        gone = asyncio.Event()

        async def hang() -> DataKey:
            try:
                await asyncio.Event().wait()
                raise AssertionError
            finally:
                gone.set()

        it.access.key = hang  # type: ignore[method-assign]
        it.session._driver.channel._opening._timeout = 0.2
        error = await failing(it)
        assert isinstance(error, HandshakeError)
        assert "KMS gave no data key within 0.2 s" in str(error)
        async with asyncio.timeout(TIMEOUT):
            await gone.wait()


async def test_a_kms_that_is_slow_is_not_waited_for_longer_than_the_agent_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "DATA_KEY_TIMEOUT", 0.05)
    async with pair() as it:

        async def hang() -> DataKey:
            await asyncio.Event().wait()
            raise AssertionError

        it.access.key = hang  # type: ignore[method-assign]
        error = await failing(it)
        assert isinstance(error, HandshakeError)
        assert str(error) == f"KMS has given no data key of {KEY_ID} within 0.05 s"


async def test_who_gives_up_opening_asks_kms_no_longer() -> None:
    async with pair() as it:
        asking, gone = asyncio.Event(), asyncio.Event()

        async def hang() -> DataKey:
            asking.set()
            try:
                await asyncio.Event().wait()
                raise AssertionError
            finally:
                gone.set()

        it.access.key = hang  # type: ignore[method-assign]
        failure = asyncio.ensure_future(failing(it))
        async with asyncio.timeout(TIMEOUT):
            await asking.wait()
            await it.session.close()
            await gone.wait()
        assert isinstance(await failure, SessionClosed)


@pytest.mark.parametrize("data_key", [b"", DATA_KEY[:32], DATA_KEY * 2])
async def test_a_key_of_another_size(data_key: bytes) -> None:
    async with pair() as it:

        async def wrong() -> DataKey:
            return DataKey(data_key, ENCRYPTED_KEY)

        it.access.key = wrong  # type: ignore[method-assign]
        error = await failing(it)
        assert isinstance(error, HandshakeError)
        assert f"{len(data_key)} bytes" in str(error)


async def test_an_agent_with_another_key() -> None:
    async with pair() as it:
        agent = EncryptedAgent(it, DATA_KEY[::-1])
        begins = asyncio.ensure_future(it.session.open())
        await agent.begin()
        with pytest.raises(HandshakeError, match="another data key"):
            await begins
    assert it.began == []


async def test_an_agent_that_forgets_its_challenge() -> None:
    async with pair() as it:
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request("Standard_Stream", encrypted=True))
        it.agent.peer.send(complete(it.agent), it.agent.output(b"in the clear"))
        with pytest.raises(HandshakeError, match="did not begin it"):
            await begins
    assert it.began == []


async def test_a_session_that_fails_before_it_has_its_key_asks_for_none() -> None:
    async with pair() as it:
        begins = asyncio.ensure_future(it.session.open())
        await it.agent.take()
        asked = json.dumps(request("Standard_Stream", encrypted=True)).encode()
        it.agent.peer.send(it.agent.output(asked, wire.HANDSHAKE_REQUEST), complete(it.agent))
        with pytest.raises(HandshakeError, match="did not begin it"):
            await begins
        await asyncio.sleep(0.01)
    assert it.access.asked is None


@pytest.mark.parametrize("kind", [wire.OUTPUT, wire.STDERR, EXIT_CODE])
async def test_what_comes_in_the_clear_ends_an_encrypted_session_and_is_not_shown(
    kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with encrypted() as (it, agent):
        it.agent.peer.send(
            agent.output(b"the last"), it.agent.output(b"EXIT_CODE: 0 in the clear, long", kind)
        )
        ended = await it.over()
        assert isinstance(ended, RemoteProtocolError)
        assert "can't be decrypted" in str(ended)
        await it.reader.lost.wait()
        assert it.reader.end is ended
        assert b"the last".startswith(it.reader.data)
        assert it.session.exit_code is None
    assert it.access.terminated == 1
    assert it.access.resumed == 0
    assert "clear" not in caplog.text


async def test_what_was_changed_while_it_waited_for_its_reader_is_not_shown() -> None:
    async with pair() as it:
        it.session.on_ready = lambda _: None
        agent = EncryptedAgent(it)
        begins = asyncio.ensure_future(it.session.open())
        await agent.begin()
        await agent.complete()
        await begins
        it.agent.peer.send(agent.output(b"good"), it.agent.output(bytes(50)))
        async with asyncio.timeout(TIMEOUT):
            while it.agent.acknowledged[-1] != it.agent.number - 1:
                await it.agent.next()
        reader = Reader()
        it.session.create_stream(reader)
        ended = await it.over()
        assert isinstance(ended, RemoteProtocolError)
        await reader.lost.wait()
        assert reader.end is ended
        assert reader.data == b""


def test_a_data_key_does_not_show_itself() -> None:
    key = DataKey(b"plain" * 12, b"encrypted")
    assert "plain" not in f"{key} {key!r}"
    assert key.__rich_repr__() == []


# What the far end should not do, and what we do at the end.


async def test_a_gateway_that_sends_what_can_not_be_read_is_not_asked_for_ever() -> None:
    async with begun() as it:
        it.access.resumable = True
        for _ in range(session_module.MAX_BROKEN):
            it.agent.peer.send(b"\xff\x00")
            if it.access.resumed < session_module.MAX_BROKEN - 1:
                await it.agent.take()
        ended = await it.over()
        assert isinstance(ended, RemoteProtocolError)
        assert "again and again" in str(ended)
    assert it.access.resumed == session_module.MAX_BROKEN - 1


async def test_one_that_does_so_now_and_then_is() -> None:
    async with begun(b"0") as it:
        it.access.resumable = True
        for number in range(1, 2 * session_module.MAX_BROKEN):
            it.agent.peer.send(it.agent.output(b"%d" % number))
            await it.reader.until(lambda: len(it.reader.data) > number)
            it.agent.peer.send(b"\xff\x00")
            await it.agent.take()
        assert it.session.ended is None
        assert it.reader.data == b"012345"


async def test_only_the_first_end_and_the_first_exit_code_count() -> None:
    async with pair(apart=True) as it:
        begins = asyncio.ensure_future(it.session.open())
        await shake_hands(it, request())
        agent = it.agent
        begun = complete(agent)
        codes = [agent.output(b"EXIT_CODE: %d" % code, EXIT_CODE) for code in (7, 8)]
        ends = [agent.channel_closed(reason) for reason in ("first", "second")]
        agent.peer.send(begun, *codes, *ends)
        with pytest.raises(SessionClosed) as ended:
            await begins
        assert ended.value.output == "first"
        assert (it.session.exit_code, it.codes) == (7, [7])


async def test_a_shell_has_no_port_that_could_refuse() -> None:
    async with begun() as it:
        refused = (3).to_bytes(4)
        it.agent.peer.send(it.agent.output(refused, wire.FLAG), it.agent.output(b"on"))
        await it.reader.until(lambda: it.reader.data == b"$ on")
        assert not it.reader.lost.is_set()


async def test_whoever_closes_it_waits_for_aws() -> None:
    """Two may: the one who is first is cancelled when the other is done."""
    asked, told = asyncio.Event(), asyncio.Event()

    async def terminate(session_id: str) -> None:
        asked.set()
        await told.wait()
        it.access.terminated += 1

    async with begun() as it:
        it.access.terminate_session = terminate  # type: ignore[method-assign]
        first = asyncio.ensure_future(it.session.close(drain=0.0))
        await asked.wait()
        second = asyncio.ensure_future(it.session.close(drain=0.0))
        first.cancel()
        await asyncio.wait((first,))
        assert not second.done()
        told.set()
        await second
        assert it.access.terminated == 1
