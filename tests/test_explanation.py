"""What docs/explanation/ tells of the wire and of measurements is so."""

import hashlib
import re
import struct
from pathlib import Path

import pytest

from docs.pictures.charts import rows
from tests import wire
from tests.protocol import vectors

FOLDER = Path(__file__).parent.parent / "docs/explanation"
PROTOCOL = (FOLDER / "protocol.md").read_text("utf-8")
PERFORMANCE = (FOLDER / "performance.md").read_text("utf-8")
COMPARISON = (FOLDER / "comparison.md").read_text("utf-8")


def layout() -> list[tuple[int, int, str]]:
    """Offset, bytes and name of each field in the page's table."""
    table = re.findall(r"^\| (\d+) \| ?(\d*) \| (\w+) \|", PROTOCOL, re.MULTILINE)
    return [(int(offset), int(size or 0), name) for offset, size, name in table]


def recorded() -> tuple[str, bytes]:
    """The message that the page shows: whose it is, and its bytes."""
    found = re.search(r"<!-- recorded (\w+) -->\n```text\n(.*?)```", PROTOCOL, re.DOTALL)
    assert found
    lines = re.findall(r"^ *(\d+)  ((?:[0-9a-f]{2} ?)+)  ", found[2], re.MULTILINE)
    data = b""
    for offset, line in lines:
        assert int(offset) == len(data)
        data += bytes.fromhex(line)
    return found[1], data


def test_the_message_is_a_recorded_one() -> None:
    name, data = recorded()
    assert data in [line.data for line in vectors.read(name)]


def test_the_layout_is_that_of_the_message() -> None:
    _, data = recorded()
    fields = layout()
    assert [name for *_, name in fields][-1] == "Payload"
    ends = [offset + size for offset, size, _ in fields]
    assert ends[:-1] == [offset for offset, *_ in fields][1:], "one after the other"
    message = wire.decode(data)
    value = {name: data[offset : offset + size] for offset, size, name in fields}
    assert struct.unpack(">I", value["HeaderLength"]) == (116,)
    assert value["MessageType"].decode().strip() == message.type == "input_stream_data"
    assert struct.unpack(">I", value["SchemaVersion"]) == (1,)
    assert struct.unpack(">Q", value["CreatedDate"]) == (message.created,)
    assert struct.unpack(">q", value["SequenceNumber"]) == (message.number,)
    assert struct.unpack(">Q", value["Flags"]) == (message.flags,)
    assert wire.uuid_text(value["MessageId"]) == message.id
    assert value["PayloadDigest"] == hashlib.sha256(message.payload).digest()
    assert struct.unpack(">I", value["PayloadType"]) == (message.payload_type,)
    assert struct.unpack(">I", value["PayloadLength"]) == (len(message.payload),)
    assert data[fields[-1][0] :] == message.payload


def test_its_frames_are_told_apart() -> None:
    _, data = recorded()
    payload = data[120:]
    told = re.findall(r"^((?:[0-9a-f]{2,8} )+) .*?(SYN|PSH), stream (\d+)", PROTOCOL, re.MULTILINE)
    assert len(told) == 3
    for header, _, number in told:
        frame = bytes.fromhex(header.replace(" ", ""))[:8]
        assert payload.startswith(frame)
        version, command, size, stream = struct.unpack("<BBHI", frame)
        assert (version, stream) == (1, int(number))
        assert command in (wire.SYN, wire.PSH)
        payload = payload[8 + size :]
    assert payload == b""


@pytest.mark.parametrize("name", ["HandshakeRequest", "HandshakeResponse", "HandshakeComplete"])
def test_the_handshake_is_the_recorded_one(name: str) -> None:
    kinds = {"HandshakeRequest": 5, "HandshakeResponse": 6, "HandshakeComplete": 7}
    assert re.search(rf"stream_data \d +{name}$", PROTOCOL, re.MULTILINE)
    data = [line.data for line in vectors.read("port_multiplexed_two_streams") if line.data]
    (payload,) = [m.json() for m in map(wire.decode, data) if m.payload_type == kinds[name]]
    for key in payload:
        assert f'"{key}"' in PROTOCOL


def figures(table: str, column: str) -> set[str]:
    return {row[column] for row in rows(table) if row[column]}


@pytest.mark.parametrize(
    ("table", "column", "told"),
    [
        ("codec", "ratio", ["1.89", "1.93"]),
        ("latency", "p50_ms", ["0.611", "1.5", "0.226", "13"]),
        ("pool_latency", "p50_ms", ["0.45"]),
        ("upload", "ssmnet MB/s", ["58.9"]),
        ("upload", "calibrator MB/s", ["0.863"]),
        ("pool", "MB/s", ["0.948", "7.58"]),
        ("round_trip_times", "most MB/s", ["14"]),
        ("memory", "private_dirty_mib", ["73.5"]),
    ],
)
def test_figures_are_those_that_were_measured(table: str, column: str, told: list[str]) -> None:
    for figure in told:
        assert figure in figures(table, column)
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d.]\d)", PERFORMANCE)


def test_the_comparison_rounds_them() -> None:
    (median,) = [row for row in rows("upload") if row["round"] == "median"]
    assert f"{float(median['ssmnet MB/s']):.0f} MB/s, with a window" in COMPARISON
    assert f"{float(rows('pool')[-1]['MB/s']):.1f} MB/s, over eight sessions" in COMPARISON
    assert f"{float(rows('latency')[0]['p50_ms']):.2f} ms" in COMPARISON
