"""The WebSocket over real sockets, against a far end that is written from RFC 6455."""

import asyncio
import os
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ssmnet.websocket
from ssmnet.errors import ConnectError
from ssmnet.upgrade import connect
from ssmnet.websocket import MAX_MESSAGE_SIZE, WebSocket
from tests.io.http_proxy import http_proxy
from tests.io.raw_gateway import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    TIMEOUT,
    RawGateway,
    Recorder,
    close_frame,
    frame,
    joined,
    raw_gateway,
    switching_protocols,
    unmask,
)
from tests.io.sessions import eventually

pytestmark = pytest.mark.usefixtures("clean")

END = b"the last message"


@pytest.fixture(autouse=True)
def no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
async def gateway() -> AsyncIterator[RawGateway]:
    async with raw_gateway() as gateway:
        yield gateway


async def received(gateway: RawGateway, *frames: bytes) -> list[bytes | str]:
    """What a handler is told of ``frames`` and a last message, all in one segment."""
    async with joined(gateway) as (_, peer, recorder):
        peer.send(*frames, frame(END))
        await recorder.until(lambda: END in recorder.log or recorder.lost is not None)
        return list(recorder.log)


async def failure(gateway: RawGateway, *frames: bytes) -> str:
    """Why the WebSocket is given up after ``frames``; the message after them must not come."""
    async with joined(gateway) as (_, peer, recorder):
        peer.send(*frames, frame(END))
        reason = await recorder.until_lost()
        assert END not in recorder.messages
        # The connection is closed, too, and not only given up.
        await peer.rest()
        return reason


# Opening.


async def test_the_upgrade_request(gateway: RawGateway) -> None:
    recorder = Recorder()
    gateway.url += "&cell-number=AAEA%2Bb%2Fc%3D"
    websocket, peer = await asyncio.gather(
        connect(gateway.url, recorder, headers={"X-Signature": "s"}), gateway.accept()
    )
    request = peer.request
    assert request[""] == "GET /v1/data-channel/s?a=b&cell-number=AAEA%2Bb%2Fc%3D HTTP/1.1"
    assert request["host"] == f"127.0.0.1:{gateway.port}"
    assert request["upgrade"] == "websocket"
    assert request["connection"] == "Upgrade"
    assert request["sec-websocket-version"] == "13"
    assert len(request["sec-websocket-key"]) == 24
    assert request["x-signature"] == "s"
    assert "sec-websocket-extensions" not in request
    assert "sec-websocket-protocol" not in request
    websocket.close()
    await websocket.wait_closed()


async def test_bytes_in_the_segment_of_the_response(gateway: RawGateway) -> None:
    early = frame(b"one") + frame(b"two") + frame(b"three" * 100)
    for cut in (1, 4, 5, 7, len(early) - 1, len(early)):
        async with joined(gateway, early=early[:cut]) as (_, peer, recorder):
            peer.send(early[cut:], frame(END))
            await recorder.until(lambda: END in recorder.log)
            assert recorder.messages == [b"one", b"two", b"three" * 100, END]


async def test_a_segment_right_behind_the_response_does_not_overtake_it(
    gateway: RawGateway,
) -> None:
    """Whatever the loop does first: what came with the response, or what its socket has now."""
    for _ in range(30):
        recorder = Recorder()
        opening = asyncio.ensure_future(connect(gateway.url, recorder))
        peer = await gateway.accept(early=frame(b"first")[:3])
        sock = peer.writer.get_extra_info("socket")
        # Written at once and by itself in each turn, so that no moment is left out.
        rest = frame(b"first")[3:] + frame(b"second") + frame(END)
        while not opening.done():
            if rest:
                assert os.write(sock.fileno(), rest[:1]) == 1
                rest = rest[1:]
            await asyncio.sleep(0)
        peer.send(rest)
        websocket = await opening
        await recorder.until(lambda: END in recorder.log or recorder.lost)
        assert recorder.messages == [b"first", b"second", END]
        websocket.abort()
        await websocket.wait_closed()


async def test_messages_and_an_end_in_the_segment_of_the_response(gateway: RawGateway) -> None:
    for _ in range(10):
        recorder = Recorder()
        opening = asyncio.ensure_future(connect(gateway.url, recorder))
        peer = await gateway.accept(early=frame(b"the reason why") + close_frame(1008, "no"))
        peer.writer.close()
        websocket = await opening
        assert "1008 no" in await recorder.until_lost()
        assert recorder.messages == [b"the reason why"]
        await websocket.wait_closed()


async def test_an_end_right_behind_the_response(gateway: RawGateway) -> None:
    """Either it can't be opened, or it is lost: nothing in between, and no message is dropped."""
    for _ in range(10):
        recorder = Recorder()
        opening = asyncio.ensure_future(connect(gateway.url, recorder))
        peer = await gateway.accept(early=frame(b"bye"))
        peer.writer.close()
        try:
            websocket = await opening
        except ConnectError:
            continue
        await recorder.until_lost()
        assert recorder.messages == [b"bye"]
        await websocket.wait_closed()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "status 403"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nsorry", "status 403"),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 50\r\n\r\nnever whole", "status 403"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "status 200"),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", "status 302"),
        ("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: x\r\n\r\n", "not valid"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "not valid"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "cannot reach the gateway"),
    ],
)
async def test_an_answer_that_is_no_websocket(gateway: RawGateway, answer: str, text: str) -> None:
    opening = connect(gateway.url, Recorder())
    failed, peer = await asyncio.gather(
        opening, gateway.accept(lambda _: answer.encode()), return_exceptions=True
    )
    assert isinstance(failed, ConnectError)
    assert text in str(failed)
    assert "\n" not in str(failed)
    assert not isinstance(peer, BaseException)
    await peer.rest()  # the connection is closed


async def test_an_accept_of_another_key(gateway: RawGateway) -> None:
    def other_key(request: dict[str, str]) -> bytes:
        return switching_protocols({"sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ=="})

    failed, peer = await asyncio.gather(
        connect(gateway.url, Recorder()), gateway.accept(other_key), return_exceptions=True
    )
    assert isinstance(failed, ConnectError)
    assert not isinstance(peer, BaseException)
    await peer.rest()


async def test_a_gateway_that_never_answers(gateway: RawGateway) -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    with pytest.raises(ConnectError, match=r"did not answer within 0\.2 s"):
        await connect(gateway.url, Recorder(), timeout=0.2)
    assert loop.time() - started < 2
    peer = await gateway.connections.get()
    await peer.rest()


async def test_half_an_answer_is_none(gateway: RawGateway) -> None:
    failed, _ = await asyncio.gather(
        connect(gateway.url, Recorder(), timeout=0.2),
        gateway.accept(lambda request: switching_protocols(request)[:-2]),
        return_exceptions=True,
    )
    assert isinstance(failed, ConnectError)


async def test_a_gateway_that_hangs_up_during_the_upgrade(gateway: RawGateway) -> None:
    opening = asyncio.ensure_future(connect(gateway.url, Recorder()))
    for _ in range(2):  # aiohttp tries again once
        peer = await gateway.connections.get()
        peer.writer.close()
    with pytest.raises(ConnectError, match="cannot reach the gateway"):
        await opening


async def test_connection_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectError, match="cannot reach the gateway") as caught:
        await connect(f"ws://127.0.0.1:{port}/", Recorder())
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_cancelled_connect_leaves_nothing(gateway: RawGateway) -> None:
    opening = asyncio.ensure_future(connect(gateway.url, Recorder()))
    peer = await gateway.connections.get()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await peer.rest()


async def test_nodelay_is_set(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, _, _):
        sock = websocket.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        assert websocket.get_extra_info("peername")[1] == gateway.port
        assert websocket.get_extra_info("nothing of that name", 7) == 7


async def test_ipv6() -> None:
    async with raw_gateway(host="::1", name="[::1]") as gateway:
        assert await received(gateway) == [END, "burst ended"]


# TLS.


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def test_tls(authority: trustme.CA) -> None:
    async with (
        raw_gateway(tls=server_tls(authority), name="localhost") as gateway,
        joined(gateway, early=frame(b"early"), ssl_context=client_tls(authority)) as (
            websocket,
            peer,
            recorder,
        ),
    ):
        blob = random.randbytes(300_000)
        peer.send(frame(blob), frame(END))
        await recorder.until(lambda: END in recorder.log)
        assert recorder.messages == [b"early", blob, END]
        websocket.write([b"x", blob])
        assert await peer.frame() == (BINARY, b"x")
        assert await peer.frame() == (BINARY, blob)
        assert websocket.get_extra_info("ssl_object") is not None
        websocket.close()
        assert await peer.frame() == (CLOSE, struct.pack(">H", 1000))
        peer.writer.close()
        await websocket.wait_closed()


async def test_tls_closes_though_reading_is_paused(authority: trustme.CA) -> None:
    async with raw_gateway(tls=server_tls(authority), name="localhost") as gateway:
        async with joined(gateway, ssl_context=client_tls(authority)) as (websocket, peer, _):
            websocket.pause_reading()
            peer.send(frame(random.randbytes(200_000)))
            websocket.write([b"last"])
            websocket.close()
            assert await peer.frame() == (BINARY, b"last")
            assert (await peer.frame())[0] == CLOSE
            peer.writer.close()
            async with asyncio.timeout(TIMEOUT):
                await websocket.wait_closed()


async def test_tls_for_another_host(authority: trustme.CA) -> None:
    context = server_tls(authority, "elsewhere.example")
    async with raw_gateway(tls=context, name="localhost") as gateway:
        with pytest.raises(ConnectError, match="cannot reach the gateway") as caught:
            await connect(gateway.url, Recorder(), ssl_context=client_tls(authority))
        assert "\n" not in str(caught.value)
        assert "localhost" in str(caught.value)


async def test_tls_of_an_authority_that_nobody_trusts(authority: trustme.CA) -> None:
    async with raw_gateway(tls=server_tls(authority), name="localhost") as gateway:
        with pytest.raises(ConnectError, match="(?i)certificate verify failed"):
            await connect(gateway.url, Recorder(), ssl_context=client_tls(trustme.CA()))
        # And without a context of one's own, by the system's authorities.
        with pytest.raises(ConnectError, match="(?i)certificate verify failed"):
            await connect(gateway.url, Recorder())


async def test_tls_to_a_server_that_speaks_none(gateway: RawGateway) -> None:
    url = gateway.url.replace("ws://", "wss://")
    opening = asyncio.ensure_future(connect(url, Recorder(), timeout=5))
    peer = await gateway.connections.get()
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ConnectError, match="cannot reach the gateway"):
        await opening


# Proxies.


async def test_through_a_proxy_with_tls(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with (
        http_proxy() as proxy,
        raw_gateway(tls=server_tls(authority), name="localhost") as gateway,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        early = frame(b"early")
        async with joined(gateway, early=early, ssl_context=client_tls(authority)) as (
            websocket,
            peer,
            recorder,
        ):
            blob = random.randbytes(200_000)
            peer.send(frame(blob), frame(END))
            await recorder.until(lambda: END in recorder.log)
            assert recorder.messages == [b"early", blob, END]
            websocket.write([blob])
            assert await peer.frame() == (BINARY, blob)
            websocket.close()
            assert (await peer.frame())[0] == CLOSE
            peer.writer.close()
            await websocket.wait_closed()
        assert proxy.requests == [f"CONNECT localhost:{gateway.port} HTTP/1.1"]


async def test_through_a_proxy_without_tls(
    gateway: RawGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        async with joined(gateway, early=frame(b"early")) as (websocket, peer, recorder):
            peer.send(frame(END))
            await recorder.until(lambda: END in recorder.log)
            assert recorder.messages == [b"early", END]
            websocket.write([b"x"])
            assert await peer.frame() == (BINARY, b"x")
        assert len(proxy.requests) == 1


async def test_no_proxy_for_hosts_that_are_named(
    gateway: RawGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert await received(gateway) == [END, "burst ended"]
        assert proxy.requests == []


async def test_a_netrc_file_does_not_meddle(
    gateway: RawGateway, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    opening = asyncio.ensure_future(
        connect(gateway.url, Recorder(), headers={"Authorization": "AWS4-HMAC-SHA256 signed"})
    )
    await gateway.accept()
    websocket = await opening
    websocket.abort()
    await websocket.wait_closed()


async def test_a_proxy_that_refuses_is_told_without_its_password(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with http_proxy() as proxy:
        proxy.refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.replace("//", "//user:hunter2@"))
        with pytest.raises(ConnectError, match="Proxy Authentication Required") as caught:
            await connect("wss://localhost:1/?secret=token", Recorder())
        assert "hunter2" not in str(caught.value)
        assert "token" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "proxy-authorization: basic" in proxy.headers[0].lower()


async def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectError, match=f"cannot reach the gateway.*{port}"):
        await connect("wss://localhost:1/", Recorder())


async def test_a_proxy_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_gateway() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(ConnectError, match="did not answer within"):
            await connect("wss://localhost:1/", Recorder(), timeout=0.2)
        await (await proxy.connections.get()).rest()


# Receiving.


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, MAX_MESSAGE_SIZE])
async def test_a_message_of_each_form_of_length(gateway: RawGateway, size: int) -> None:
    blob = random.randbytes(size)
    async with joined(gateway) as (_, peer, recorder):
        peer.send(frame(blob), frame(END))
        await recorder.until(lambda: END in recorder.log)
        assert recorder.messages == [blob, END]


async def test_lengths_that_are_longer_than_need_be(gateway: RawGateway) -> None:
    log = await received(gateway, frame(b"a", length=126), frame(b"b" * 200, length=127))
    assert log == [b"a", b"b" * 200, END, "burst ended"]


async def test_many_messages_in_one_segment_are_one_burst(gateway: RawGateway) -> None:
    messages = [b"%d" % number for number in range(1000)]
    log = await received(gateway, *map(frame, messages))
    assert log == [*messages, END, "burst ended"]


async def test_fragments(gateway: RawGateway) -> None:
    log = await received(
        gateway,
        frame(b"one, ", BINARY, final=False),
        frame(b"", CONTINUATION, final=False),
        frame(b"two, ", CONTINUATION, final=False),
        frame(b"three", CONTINUATION),
        frame(b"alone"),
    )
    assert log == [b"one, two, three", b"alone", END, "burst ended"]


async def test_control_frames_between_fragments(gateway: RawGateway) -> None:
    async with joined(gateway) as (_, peer, recorder):
        peer.send(
            frame(b"one, ", BINARY, final=False),
            frame(b"are you there?", PING),
            frame(b"two", CONTINUATION, final=False),
            frame(b"", PONG),
            frame(b"", CONTINUATION),
            frame(END),
        )
        await recorder.until(lambda: END in recorder.log)
        assert recorder.messages == [b"one, two", END]
        assert await peer.frame() == (PONG, b"are you there?")


async def test_text_is_ignored(gateway: RawGateway) -> None:
    log = await received(
        gateway,
        frame(b"text", TEXT),
        frame(b"more ", TEXT, final=False),
        frame(b"text", CONTINUATION),
        frame(b"\xff\xfe", TEXT),
        frame(b"message"),
    )
    assert log == [b"message", END, "burst ended"]


@pytest.mark.parametrize("payload", [b"", b"p", b"p" * 125])
async def test_a_ping_is_answered(gateway: RawGateway, payload: bytes) -> None:
    async with joined(gateway) as (_, peer, _):
        peer.send(frame(payload, PING))
        assert await peer.frame() == (PONG, payload)


@pytest.mark.parametrize(
    ("frames", "text"),
    [
        ([b"\x82\x85abcdhello"], "masked"),
        ([b"\x82\xfe"], "masked"),
        ([b"\x82\xff"], "masked"),
        ([b"\xc2\x01x"], "reserved bits"),
        ([b"\xa2\x01x"], "reserved bits"),
        ([b"\x92\x01x"], "reserved bits"),
        ([b"\xc9\x00"], "reserved bits"),
        ([frame(b"x", 3)], "out of its turn"),
        ([frame(b"x", 7)], "out of its turn"),
        ([frame(b"x", 11)], "unknown kind"),
        ([frame(b"x", 15)], "unknown kind"),
        ([frame(b"x", CONTINUATION)], "out of its turn"),
        ([frame(b"x", CONTINUATION, final=False)], "out of its turn"),
        ([frame(b"x", BINARY, final=False), frame(b"y", BINARY)], "out of its turn"),
        ([frame(b"x", BINARY, final=False), frame(b"y", TEXT)], "out of its turn"),
        ([frame(b"x", PING, final=False)], "fragmented or long control"),
        ([frame(b"x" * 126, PING)], "fragmented or long control"),
        ([frame(b"x" * 126, CLOSE)], "fragmented or long control"),
        ([b"\x82\x7f" + struct.pack(">Q", MAX_MESSAGE_SIZE + 1)], "too large"),
        ([b"\x82\x7f" + b"\xff" * 8], "too large"),
        ([b"\x82\x7f" + b"\x80" + b"\x00" * 7], "too large"),
        (
            [frame(b"x" * (MAX_MESSAGE_SIZE // 2), BINARY, final=False)]
            + [frame(b"x" * (MAX_MESSAGE_SIZE // 2), CONTINUATION)],
            "too large",
        ),
        (
            [frame(b"x", BINARY, final=False)] + [frame(b"", CONTINUATION, final=False)] * 20000,
            "too large",
        ),
    ],
)
async def test_what_breaks_the_rules_ends_the_connection(
    gateway: RawGateway, frames: list[bytes], text: str
) -> None:
    assert text in await failure(gateway, *frames)


async def test_what_came_before_a_broken_frame_is_handed_over(gateway: RawGateway) -> None:
    async with joined(gateway) as (_, peer, recorder):
        peer.send(frame(b"good"), b"\x82\x85")
        await recorder.until_lost()
        assert recorder.log[:2] == [b"good", "burst ended"]
        assert len(recorder.log) == 3


@pytest.mark.parametrize(
    ("payload", "text", "answered"),
    [
        (struct.pack(">H", 1000) + b"Bye", "code 1000 Bye", struct.pack(">H", 1000)),
        (struct.pack(">H", 1008), "code 1008", struct.pack(">H", 1008)),
        (b"", "code 1005", b""),
        (struct.pack(">H", 1001) + b"\xff\xfe", "code 1001 \ufffd", struct.pack(">H", 1001)),
    ],
)
async def test_a_close_is_answered_and_told(
    gateway: RawGateway, payload: bytes, text: str, answered: bytes
) -> None:
    async with joined(gateway) as (_, peer, recorder):
        peer.send(frame(b"before"), frame(payload, CLOSE), frame(b"after"))
        assert text in await recorder.until_lost()
        assert recorder.log[:2] == [b"before", "burst ended"]
        assert b"after" not in recorder.log
        assert await peer.frame() == (CLOSE, answered)
        assert await peer.rest() == b""


async def test_a_connection_that_ends_without_a_close(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        peer.send(frame(b"whole"), frame(b"not whole")[:5])
        await recorder.until(lambda: b"whole" in recorder.log)
        peer.writer.close()
        assert await recorder.until_lost()
        assert recorder.messages == [b"whole"]
        await websocket.wait_closed()


async def test_a_connection_that_is_reset(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        peer.reset()
        reason = await recorder.until_lost()
        assert "reset" in reason.lower()
        await websocket.wait_closed()


MIXED = (
    frame(b"fast"),
    frame(b"a" * 200),
    frame(b"", PING),
    frame(b"one ", BINARY, final=False),
    frame(b"ping", PING),
    frame(b"two", CONTINUATION),
    frame(b"text", TEXT),
    frame(b"", BINARY),
    frame(b"b" * 300, length=127),
    frame(END),
)
MIXED_MESSAGES = [b"fast", b"a" * 200, b"one two", b"", b"b" * 300, END]


async def test_split_at_every_byte(gateway: RawGateway) -> None:
    """The parser gets the two halves as two reads."""
    wire = b"".join(MIXED)
    async with joined(gateway) as (websocket, _, recorder):
        for cut in range(len(wire) + 1):
            recorder.log.clear()
            websocket.data_received(wire[:cut])
            websocket.data_received(wire[cut:])
            assert recorder.messages == MIXED_MESSAGES, cut
            assert recorder.log.count("burst ended") <= 2


async def test_a_big_message_is_put_together_once(gateway: RawGateway) -> None:
    """And not anew with each read, which would copy its beginning a thousand times."""
    blob = random.randbytes(MAX_MESSAGE_SIZE)
    wire = frame(blob)
    async with joined(gateway) as (websocket, _, recorder):
        for count, start in enumerate(range(0, len(wire) - 1000, 1000), 1):
            websocket.data_received(wire[start : start + 1000])
            assert len(websocket._parts) == count
        websocket.data_received(wire[start + 1000 :])
        assert recorder.messages == [blob]


async def test_byte_by_byte_over_the_wire(gateway: RawGateway) -> None:
    async with joined(gateway) as (_, peer, recorder):
        for byte in b"".join(MIXED):
            peer.send(bytes((byte,)))
            await asyncio.sleep(0)
        await recorder.until(lambda: END in recorder.log)
        assert recorder.messages == MIXED_MESSAGES
        assert await peer.frame() == (PONG, b"")
        assert await peer.frame() == (PONG, b"ping")


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    messages=st.lists(
        st.tuples(st.binary(max_size=300), st.integers(1, 4), st.booleans()), max_size=12
    ),
    cuts=st.lists(st.floats(0, 1), max_size=12),
)
async def test_order_and_content_however_frames_are_made_and_split(
    gateway: RawGateway, messages: list[tuple[bytes, int, bool]], cuts: list[float]
) -> None:
    wire = b""
    for content, pieces, pinged in messages:
        step = len(content) // pieces + 1
        parts = [content[at : at + step] for at in range(0, len(content), step)] or [b""]
        for index, part in enumerate(parts):
            opcode = CONTINUATION if index else BINARY
            wire += frame(part, opcode, final=index == len(parts) - 1)
            wire += frame(b"p", PING) if pinged else b""
    wire += frame(END)
    edges = [0, *sorted(round(cut * len(wire)) for cut in cuts), len(wire)]
    async with joined(gateway) as (_, peer, recorder):
        for start, end in zip(edges, edges[1:], strict=False):
            peer.send(wire[start:end])
            await asyncio.sleep(0)
        await recorder.until(lambda: recorder.messages[-1:] == [END])
        assert recorder.messages == [*(content for content, _, _ in messages), END]


# Sending.


@pytest.mark.parametrize("size", [0, 1, 3, 125, 126, 127, 1144, 65535, 65536, 1_000_000])
async def test_a_message_goes_out_masked(gateway: RawGateway, size: int) -> None:
    blob = random.randbytes(size)
    async with joined(gateway) as (websocket, peer, _):
        websocket.write([blob])
        websocket.write_text("text \N{SNOWMAN}")
        assert await peer.frame() == (BINARY, blob)
        assert await peer.frame() == (TEXT, "text \N{SNOWMAN}".encode())


async def test_what_is_written_is_not_changed(gateway: RawGateway) -> None:
    """It is kept for sending it again."""
    blob = random.randbytes(1000)
    message = bytes(blob)
    async with joined(gateway) as (websocket, peer, _):
        websocket.write([message])
        websocket.write([message])
        assert message == blob
        assert [await peer.frame() for _ in range(2)] == [(BINARY, blob)] * 2


async def test_a_batch_is_one_write(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, _):
        counting = CountingTransport(websocket._transport)
        websocket._transport = counting  # type: ignore[assignment]
        messages = [random.randbytes(1144) for _ in range(64)]
        websocket.write(messages)
        assert counting.writes == 1
        assert [await peer.frame() for _ in messages] == [(BINARY, each) for each in messages]


class CountingTransport:
    """A real transport that counts its writes."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        self._transport.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


async def test_every_frame_has_a_mask_of_its_own(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, _):
        websocket.write([bytes(8)] * 50)
        frames = await peer.reader.readexactly(50 * 14)
        masks = {frames[at + 2 : at + 6] for at in range(0, len(frames), 14)}
        assert len(masks) > 40


def test_the_mask_without_c_gives_the_same_bytes() -> None:
    """The fallback, taken from the source: aiohttp's own is used where there is one."""
    source = Path(ssmnet.websocket.__file__).read_text(encoding="utf-8")
    start = source.index("    def websocket_mask(")
    end = source.index("\n\n", start)
    lines = [line.removeprefix("    ") for line in source[start:end].splitlines()]
    namespace: dict[str, object] = {}
    exec("\n".join(lines), namespace)
    fallback = namespace["websocket_mask"]
    in_use = vars(ssmnet.websocket)["websocket_mask"]
    assert callable(fallback)
    for size in (*range(20), 125, 126, 1144, 65536, 100_001):
        mask, data = random.randbytes(4), random.randbytes(size)
        masked, by_aiohttp = bytearray(data), bytearray(data)
        fallback(mask, masked)
        in_use(mask, by_aiohttp)
        assert masked == by_aiohttp
        assert bytes(masked) == unmask(mask, data)


async def fill(websocket: WebSocket, recorder: Recorder) -> list[bytes]:
    """Write until the handler is told to pause; what was written."""
    written: list[bytes] = []
    async with asyncio.timeout(TIMEOUT):
        while "pause writing" not in recorder.log:
            written.append(random.randbytes(1000))
            websocket.write([written[-1]])
            await asyncio.sleep(0)
    return written


async def test_a_far_end_that_does_not_read() -> None:
    async with raw_gateway(receive_buffer=4096) as gateway:
        async with joined(gateway) as (websocket, peer, recorder):
            assert websocket.write_buffer_size == 0
            written = await fill(websocket, recorder)
            # What was written, and the frames' own 8 bytes each.
            assert 0 < websocket.write_buffer_size <= len(written) * 1008
            assert websocket.write_buffer_size < 200_000
            assert "resume writing" not in recorder.log
            frames = [await peer.frame() for _ in written]
            assert frames == [(BINARY, each) for each in written]
            await recorder.until(lambda: "resume writing" in recorder.log)
            assert [entry for entry in recorder.log if "writing" in str(entry)] == [
                "pause writing",
                "resume writing",
            ]


async def test_reading_can_be_paused(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        websocket.pause_reading()
        websocket.pause_reading()
        assert websocket.reading_paused
        peer.send(frame(b"one"))
        await asyncio.sleep(0.05)
        assert recorder.log == []
        websocket.resume_reading()
        websocket.resume_reading()
        assert not websocket.reading_paused
        await recorder.until(lambda: recorder.messages == [b"one"])


async def test_a_handler_may_pause_within_a_burst(gateway: RawGateway) -> None:
    class Pausing(Recorder):
        def messages_received(self, messages: list[bytes]) -> None:
            websocket.pause_reading()
            super().messages_received(messages)

    async with joined(gateway, Pausing()) as (websocket, peer, recorder):
        peer.send(frame(b"one"), frame(b"two"))
        await recorder.until(lambda: "burst ended" in recorder.log)
        # What was read already still comes: it has nowhere else to stay.
        assert recorder.log == [b"one", b"two", "burst ended"]
        peer.send(frame(b"three"))
        await asyncio.sleep(0.05)
        assert recorder.messages == [b"one", b"two"]
        websocket.resume_reading()
        await recorder.until(lambda: b"three" in recorder.log)


async def test_reading_paused_before_the_early_bytes_came_stays_paused(
    gateway: RawGateway,
) -> None:
    recorder = Recorder()
    websocket, peer = await asyncio.gather(
        opened_and_paused(gateway, recorder), gateway.accept(early=frame(b"early"))
    )
    await recorder.until(lambda: recorder.messages == [b"early"])
    peer.send(frame(b"late"))
    await asyncio.sleep(0.05)
    assert recorder.messages == [b"early"]
    websocket.resume_reading()
    await recorder.until(lambda: recorder.messages == [b"early", b"late"])
    websocket.abort()
    await websocket.wait_closed()


async def opened_and_paused(gateway: RawGateway, recorder: Recorder) -> WebSocket:
    websocket = await connect(gateway.url, recorder)
    websocket.pause_reading()
    return websocket


# Liveness.


async def test_a_ping_is_answered_and_heard(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        websocket.heard = False
        websocket.ping()
        assert await peer.frame() == (PING, b"")
        assert not websocket.heard
        peer.send(frame(b"", PONG))
        await eventually(lambda: websocket.heard)
        assert recorder.lost is None


async def test_any_byte_is_a_sign_of_life(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        websocket.heard = False
        peer.send(frame(b"xyz")[:3])
        await eventually(lambda: websocket.heard)
        assert recorder.messages == []


# Ends.


async def test_close_sends_what_was_written(gateway: RawGateway) -> None:
    blob = random.randbytes(4_000_000)
    async with joined(gateway) as (websocket, peer, recorder):
        websocket.write([blob[at : at + 1000] for at in range(0, len(blob), 1000)])
        websocket.close()
        websocket.close()
        got = [await peer.frame() for _ in range(4000)]
        assert b"".join(payload for _, payload in got) == blob
        assert await peer.frame() == (CLOSE, struct.pack(">H", 1000))
        assert await peer.rest() == b""
        await websocket.wait_closed()
        assert recorder.lost is None


async def test_close_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssmnet.websocket, "CLOSE_TIMEOUT", 0.1)
    async with raw_gateway(receive_buffer=4096) as gateway:
        async with joined(gateway) as (websocket, _, recorder):
            await fill(websocket, recorder)
            websocket.close()
            async with asyncio.timeout(5):
                await websocket.wait_closed()


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_the_handler_hears_no_more(gateway: RawGateway, end: str) -> None:
    async with joined(gateway) as (websocket, peer, recorder):
        peer.send(frame(b"one"))
        await recorder.until(lambda: "burst ended" in recorder.log)
        getattr(websocket, end)()
        peer.send(frame(b"two"), close_frame(1000))
        peer.writer.close()
        await websocket.wait_closed()
        assert recorder.log == [b"one", "burst ended"]
        websocket.write([b"late"])
        websocket.write_text("late")
        websocket.pause_reading()
        websocket.resume_reading()
        websocket.close()
        websocket.abort()
        await websocket.wait_closed()
        assert recorder.log == [b"one", "burst ended"]


@pytest.mark.parametrize("end", ["close", "abort"])
async def test_a_handler_may_end_it_within_a_burst(gateway: RawGateway, end: str) -> None:
    class Ending(Recorder):
        def messages_received(self, messages: list[bytes]) -> None:
            getattr(websocket, end)()
            super().messages_received(messages)

    async with joined(gateway, Ending()) as (websocket, peer, recorder):
        peer.send(frame(b"one"), frame(b"two"), close_frame(1000))
        await recorder.until(lambda: recorder.log)
        peer.writer.close()
        await websocket.wait_closed()
        assert recorder.log == [b"one", b"two", "burst ended"]


async def test_abort_drops_what_was_written() -> None:
    async with raw_gateway(receive_buffer=4096) as gateway:
        async with joined(gateway) as (websocket, peer, recorder):
            written = await fill(websocket, recorder)
            websocket.abort()
            async with asyncio.timeout(2):
                await websocket.wait_closed()
            assert len(await peer.rest()) < len(written) * 1000


async def test_nothing_is_left_when_it_is_closed(gateway: RawGateway) -> None:
    before = asyncio.all_tasks()
    recorder = Recorder()
    websocket, peer = await asyncio.gather(connect(gateway.url, recorder), gateway.accept())
    assert asyncio.all_tasks() == before, "an open WebSocket has no task"
    websocket.close()
    await peer.frame()
    peer.writer.close()
    await websocket.wait_closed()
    await websocket.wait_closed()
    assert asyncio.all_tasks() == before
    assert websocket._http.closed


async def test_a_loss_leaves_nothing_either(gateway: RawGateway) -> None:
    before = asyncio.all_tasks()
    recorder = Recorder()
    websocket, peer = await asyncio.gather(connect(gateway.url, recorder), gateway.accept())
    peer.reset()
    await recorder.until_lost()
    await websocket.wait_closed()
    assert asyncio.all_tasks() == before
    assert websocket._abort_timer is None
    assert websocket._http.closed


async def test_waiting_for_the_end_can_be_cancelled(gateway: RawGateway) -> None:
    async with joined(gateway) as (websocket, _, _):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await websocket.wait_closed()
        websocket.abort()
        await websocket.wait_closed()


async def test_no_task_is_made_for_a_message(gateway: RawGateway) -> None:
    made = 0

    def factory(loop: asyncio.AbstractEventLoop, coro: object, **more: object) -> object:
        nonlocal made
        made += 1
        return asyncio.Task(coro, loop=loop, **more)  # type: ignore[arg-type]

    loop = asyncio.get_running_loop()
    async with joined(gateway) as (websocket, peer, recorder):
        loop.set_task_factory(factory)  # type: ignore[arg-type]
        peer.send(*[frame(b"x")] * 500)
        await recorder.until(lambda: len(recorder.messages) == 500)
        websocket.write([b"y"] * 500)
        for _ in range(500):
            await peer.frame()
        loop.set_task_factory(None)
        assert made == 0
