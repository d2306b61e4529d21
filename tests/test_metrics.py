"""What Prometheus reads: with its own parser, with curl, and with clients that mean no good."""

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest
from prometheus_client import Metric
from prometheus_client import parser as text_parser
from prometheus_client.openmetrics import parser as openmetrics_parser

import ssmnet
from ssmnet import metrics
from ssmnet.bind import LOOPBACK, is_loopback
from ssmnet.errors import ListenError, UsageError
from ssmnet.metrics import MAX_CAUSES, MetricsServer, causes, parse_address
from ssmnet.snapshot import Snapshot, State

TIMEOUT = 20.0
# Names that a file may not have, and values that only just fit.
AWKWARD = 'a "quoted" \\ name\nof two lines \u00e9\u65e5'
DB = Snapshot(
    name="db",
    kind="forward",
    target="i-0123456789abcdef0",
    destination="db.internal:5432",
    state=State.UP,
    sessions=2,
    connections=3,
    accepted=40,
    sent=5_000,
    received=2**53 + 2,
    round_trip_time=0.0234,
    retransmissions=6,
    resumes=7,
    restarts=8,
    errors={"DestinationRefused": 9, "what the far end said": 1},
)
PROXY = Snapshot(name=AWKWARD, kind="socks", target="i-1", destination="*", state=State.RESUMING)


@asynccontextmanager
async def serving(
    snapshots: Sequence[Snapshot], hosts: Sequence[str] = ("127.0.0.1",)
) -> AsyncIterator[int]:
    server = MetricsServer(lambda: snapshots)
    await server.listen(hosts, 0)
    assert server.port is not None
    try:
        yield server.port
    finally:
        await server.close()


def parse_text(text: str) -> list[Metric]:
    return list(text_parser.text_string_to_metric_families(text))


def parse_openmetrics(text: str) -> list[Metric]:
    parse: Callable[[str], Iterator[Metric]] = openmetrics_parser.text_string_to_metric_families
    return list(parse(text))


async def converse(port: int, *pieces: bytes) -> bytes:
    async with asyncio.timeout(TIMEOUT):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for piece in pieces:
            writer.write(piece)
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def get(
    port: int, path: str = "/metrics", method: str = "GET", **headers: str
) -> tuple[int, str, str]:
    """Status, content type and text."""
    headers = {"Host": f"localhost:{port}", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {headers[name]}" for name in headers), "", ""]
    answer = await converse(port, "\r\n".join(lines).encode())
    head, _, text = answer.decode().partition("\r\n\r\n")
    kind = next((x[14:] for x in head.split("\r\n") if x.startswith("Content-Type: ")), "")
    return int(head.split()[1]), kind, text


def values(families: Sequence[Metric], **labels: str) -> dict[str, float]:
    """The values of the samples with these labels, by name and what other labels say."""
    usual = {"name", "kind", "destination", "target"}
    return {
        " ".join([one.name, *(v for k, v in one.labels.items() if k not in usual)]): one.value
        for family in families
        for one in family.samples
        if labels.items() <= one.labels.items()
    }


OF_DB = {
    "ssmnet_up": 1,
    "ssmnet_sessions": 2,
    "ssmnet_connections": 3,
    "ssmnet_connections_accepted_total": 40,
    "ssmnet_bytes_total sent": 5_000,
    "ssmnet_bytes_total received": 2**53 + 2,
    "ssmnet_round_trip_seconds": 0.0234,
    "ssmnet_retransmissions_total": 6,
    "ssmnet_resumes_total": 7,
    "ssmnet_restarts_total": 8,
    "ssmnet_errors_total DestinationRefused": 9,
    "ssmnet_errors_total other": 1,
}


@pytest.mark.parametrize(
    "accept", ["", "text/plain", "*/*", "application/openmetrics-text; x=\xff"]
)
async def test_prometheus_reads_what_a_snapshot_says(accept: str) -> None:
    async with serving([DB, PROXY]) as port:
        status, kind, text = await get(port, Accept=accept)
    assert status == 200
    if "openmetrics" in accept:
        assert kind.startswith("application/openmetrics-text; version=1.")
        families = parse_openmetrics(text)
    else:
        assert kind == "text/plain; version=0.0.4; charset=utf-8"
        families = parse_text(text)
    labels = {"kind": "forward", "target": "i-0123456789abcdef0", "destination": "db.internal:5432"}
    assert values(families, name="db", **labels) == OF_DB
    of_proxy = values(families, name=AWKWARD, kind="socks")
    assert of_proxy["ssmnet_up"] == 0
    assert "ssmnet_round_trip_seconds" not in of_proxy
    assert values(families, version=ssmnet.__version__) == {
        f"ssmnet_build_info {ssmnet.__version__}": 1
    }
    assert all(family.documentation for family in families)


async def test_a_page_is_made_anew_each_time() -> None:
    snapshots = [DB]
    async with serving(snapshots) as port:
        assert values(parse_text((await get(port))[2]), name="db") == OF_DB
        snapshots.clear()
        assert values(parse_text((await get(port))[2]), name="db") == {}


async def test_what_is_no_text_is_still_served() -> None:
    odd = Snapshot(name="\udcff", kind="http", target="", destination="", state=State.STOPPED)
    async with serving([odd]) as port:
        status, _, text = await get(port)
    assert status == 200
    assert values(parse_text(text), name="?")["ssmnet_up"] == 0


async def test_promtool_finds_nothing_to_say() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    async with serving([DB, PROXY]) as port:
        _, _, text = await get(port)
    process = await asyncio.create_subprocess_exec(
        promtool, "check", "metrics", stdin=-1, stdout=-1, stderr=-1
    )
    out, err = await process.communicate(text.encode())
    assert process.returncode == 0, (out, err)


async def test_curl_gets_it() -> None:
    if (curl := shutil.which("curl")) is None:
        pytest.skip("curl is not installed")
    async with serving([DB], LOOPBACK) as port:
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sSf", "--noproxy", "*", "-m", "20", f"http://localhost:{port}/metrics"),
            stdout=-1,
        )
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert values(parse_text(out.decode()), name="db") == OF_DB


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 404),
        ("/metrics/", "GET", 404),
        ("/../metrics", "GET", 404),
        ("/metrics", "POST", 405),
        ("/metrics", "HEAD", 405),
        ("/metrics", "DELETE", 405),
        ("/metrics?x=y", "GET", 200),
    ],
)
async def test_there_is_only_one_thing_to_get(path: str, method: str, status: int) -> None:
    async with serving([DB]) as port:
        assert (await get(port, path, method))[0] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.9.9.9:80", 200),
        ("[::1]:9464", 200),
        ("LOCALHOST:1", 200),
        ("evil.example", 403),
        ("evil.example:9464", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("localhost@evil.example", 403),
        ("192.0.2.1", 403),
        ("", 403),
    ],
)
async def test_no_page_of_the_web_is_led_here_by_its_own_name(host: str, status: int) -> None:
    async with serving([DB]) as port:
        got, _, text = await get(port, Host=host)
    assert got == status
    assert ("ssmnet_up" in text) == (status == 200)


async def test_beyond_loopback_it_has_any_name() -> None:
    async with serving([DB], ["0.0.0.0"]) as port:
        assert (await get(port, Host="box.internal:9464"))[0] == 200


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000,
        b"GET /" + b"x" * 100_000,
        b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_garbage_is_refused_without_a_word_in_the_log(
    data: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async with serving([DB]) as port:
        try:
            answer = await converse(port, data)
            assert answer.startswith(b"HTTP/1.") or not answer
            assert b" 200 " not in answer
        except ConnectionError:
            pass
        assert (await get(port))[0] == 200
    assert capfd.readouterr() == ("", "")


async def test_slow_clients_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "CLIENT_TIMEOUT", 0.05)
    async with serving([DB]) as port:
        for begun in (b"", b"GET /metrics HTTP/1.1\r\nHost: loc"):
            with suppress(ConnectionError):
                assert await converse(port, begun) == b""


async def test_there_are_only_so_many_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_CLIENTS", 2)
    async with serving([DB]) as port:
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        with pytest.raises((ConnectionError, IndexError)):
            await get(port)
        for _, writer in silent:
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(TIMEOUT):
            while True:
                try:
                    assert (await get(port))[0] == 200
                    break
                except (ConnectionError, IndexError):
                    await asyncio.sleep(0.01)


async def test_a_close_drops_who_is_connected() -> None:
    server = MetricsServer(lambda: [DB])
    await server.listen(["127.0.0.1"], 0)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /metr")
    await asyncio.sleep(0)
    await asyncio.wait_for(server.close(), TIMEOUT)
    with suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), TIMEOUT) == b""
    writer.close()
    with pytest.raises(OSError, match=r"refused|Connect call failed"):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = MetricsServer(lambda: [DB])
        with pytest.raises(ListenError, match=rf"^cannot listen on port {port} .* in use$"):
            await server.listen(["127.0.0.1"], port)
        await server.close()


@pytest.mark.parametrize(
    ("text", "hosts", "port"),
    [
        ("127.0.0.1:9464", ("127.0.0.1",), 9464),
        ("[::1]:9464", ("::1",), 9464),
        ("localhost:0", LOOPBACK, 0),
        ("9464", LOOPBACK, 9464),
        ("0.0.0.0:65535", ("0.0.0.0",), 65535),
        ("box.internal:80", ("box.internal",), 80),
    ],
)
def test_where_to_listen(text: str, hosts: tuple[str, ...], port: int) -> None:
    assert parse_address(text) == (hosts, port)


@pytest.mark.parametrize(
    "text",
    ["", ":", ":9464", "127.0.0.1", "127.0.0.1:", "::1:9464", "[::1]", "[::1]9464", "a:b:1"]
    + ["127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:\u0669", "9464\n", "[]:1", "http://x:1"],
)
def test_what_is_no_place_to_listen(text: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT"):
        parse_address(text)


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "")))


def test_the_causes_of_errors_are_few_words() -> None:
    assert causes({}) == {}
    assert causes({"A": 1, "b-c_D9": 2}) == {"A": 1, "b-c_D9": 2}
    assert causes({"a text of the far end": 3, "\n": 4, "x" * 51: 5}) == {"other": 12}
    many = {f"C{number}": number for number in range(100)}
    counted = causes(many)
    assert len(counted) == MAX_CAUSES + 1
    assert sum(counted.values()) == sum(many.values())
    assert counted["C99"] == 99
