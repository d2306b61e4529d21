import random
from collections.abc import Callable

import pytest

from ssmnet.errors import RemoteProtocolError
from ssmnet.loopback.byte_queue import ByteQueue
from ssmnet.loopback.smux_server import SmuxServer
from tests import wire

Log = list[tuple[str, int, bytes]]


def server(log: Log, may_parse: Callable[[], bool] = lambda: True) -> SmuxServer:
    return SmuxServer(
        opened=lambda stream: log.append(("opened", stream, b"")),
        received=lambda stream, pieces: log.append(("received", stream, b"".join(pieces))),
        ended=lambda stream: log.append(("ended", stream, b"")),
        may_parse=may_parse,
    )


FRAMES = (
    wire.frame(wire.SYN, 3)
    + wire.frame(wire.PSH, 3, b"hello")
    + wire.frame(wire.NOP, 0)
    + wire.frame(wire.SYN, 5)
    + wire.frame(wire.PSH, 5, b"w" * 300)
    + wire.frame(wire.PSH, 3)
    + wire.frame(wire.FIN, 3)
)


@pytest.mark.parametrize("seed", range(20))
def test_frames_and_pieces_do_not_align(seed: int) -> None:
    log: Log = []
    smux = server(log)
    rest, chance = FRAMES, random.Random(seed)
    while rest:
        size = chance.randint(1, 40)
        smux.receive(rest[:size])
        rest = rest[size:]
    assert log == [
        ("opened", 3, b""),
        ("received", 3, b"hello"),
        ("opened", 5, b""),
        ("received", 5, b"w" * 300),
        ("ended", 3, b""),
    ]
    assert smux.frames == 7


def test_stops_where_it_may_not_parse_and_goes_on_there() -> None:
    log: Log = []
    allowed = [True, True, False]
    smux = server(log, lambda: allowed.pop(0) if allowed else True)
    smux.receive(FRAMES)
    assert smux.blocked
    assert [entry[0] for entry in log] == ["opened", "received"]
    smux.resume()
    assert not smux.blocked
    assert log[-1] == ("ended", 3, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"\x02" + wire.frame(wire.SYN, 3)[1:],
        wire.frame(4, 3),
        wire.frame(wire.SYN, 3, b"x"),
        wire.frame(wire.FIN, 3, b"x"),
    ],
    ids=["version", "command", "syn with data", "fin with data"],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        server([]).receive(data)


def test_output_is_cut_in_frames_of_32_kib() -> None:
    smux = server([])
    smux.send(3, b"a" * 70_000)
    smux.close(3)
    smux.keep_alive()
    frames = wire.Frames()
    while smux.output:
        piece = smux.output.take(1024)
        assert 1 <= len(piece) <= 1024
        frames.feed(bytes(piece))
    lengths = [len(data) for command, _, data in frames.frames if command == wire.PSH]
    assert lengths == [32768, 32768, 4464]
    assert frames.frames[-2:] == [(wire.FIN, 3, b""), (wire.NOP, 0, b"")]


def test_a_byte_queue_reads_across_pieces() -> None:
    queue = ByteQueue()
    for piece in (b"abc", b"de", b"fghij"):
        queue.append(piece)
    assert len(queue) == 10
    assert bytes(queue.take(4)) == b"abcd"
    assert bytes(queue.take(1)) == b"e"
    assert bytes(queue.take(100)) == b"fghij"
    assert bytes(queue.take(1)) == b""
    assert len(queue) == 0
