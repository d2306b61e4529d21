"""The WebSocket's parser against any bytes and any splits, over a real connection.

More examples: ``pytest tests/fuzz --hypothesis-profile=fuzz``.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ssmnet.websocket import MAX_MESSAGE_SIZE, WebSocket
from tests.io.raw_gateway import BINARY, CONTINUATION, RawGateway, frame, joined, raw_gateway

settings.register_profile("fuzz", max_examples=20_000, deadline=None)
QUICK = settings(
    max_examples=max(150, settings().max_examples),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

OPCODES = st.integers(0, 15)
# Lengths that a header may announce, whatever follows.
ANNOUNCED = st.sampled_from([0, 1, 125, 126, 127, 128, 253, 254, 255])


@st.composite
def odd_frames(draw: st.DrawFn) -> bytes:
    """A frame that is right in some ways."""
    first = draw(OPCODES) | draw(st.sampled_from([0x80, 0x80, 0x80, 0x00, 0xC0, 0x90]))
    payload = draw(st.binary(max_size=200))
    proper = frame(payload, length=draw(st.sampled_from([0, 126, 127])))
    second = draw(st.one_of(st.just(proper[1]), ANNOUNCED))
    return bytes((first, second)) + proper[2:]


@st.composite
def cut(draw: st.DrawFn, wires: st.SearchStrategy[bytes]) -> list[bytes]:
    """Bytes in pieces of any size."""
    wire = draw(wires)
    edges = sorted(draw(st.lists(st.integers(0, len(wire)), max_size=10)))
    return [wire[start:end] for start, end in zip([0, *edges], [*edges, len(wire)], strict=True)]


@pytest.fixture
async def gateway() -> AsyncIterator[RawGateway]:
    async with raw_gateway() as gateway:
        yield gateway


def kept(websocket: WebSocket) -> int:
    """How many bytes the parser holds on to."""
    fragments = websocket._fragments or []
    return sum(map(len, websocket._parts)) + sum(map(len, fragments))


@QUICK
@given(
    pieces=cut(
        st.one_of(st.binary(max_size=500), st.lists(odd_frames(), max_size=12).map(b"".join))
    )
)
async def test_any_bytes_give_messages_or_an_end(gateway: RawGateway, pieces: list[bytes]) -> None:
    """Nothing is raised, told twice, or told after the end; and nothing is kept without bound."""
    async with joined(gateway) as (websocket, _, recorder):
        fed = 0
        for piece in pieces:
            fed += len(piece)
            websocket.data_received(piece)
            assert kept(websocket) <= fed
        assert sum(map(len, recorder.messages)) <= fed
        if recorder.lost is not None:
            assert recorder.log[-1] == f"lost: {recorder.lost}"
            websocket.data_received(frame(b"more"))
            assert recorder.messages[-1:] != [b"more"]


@QUICK
@given(
    pieces=cut(
        st.one_of(st.binary(max_size=500), st.lists(odd_frames(), max_size=12).map(b"".join))
    )
)
async def test_splits_change_nothing(gateway: RawGateway, pieces: list[bytes]) -> None:
    """What comes in pieces means the same as in one."""
    async with joined(gateway) as (websocket, _, recorder):
        for piece in pieces:
            websocket.data_received(piece)
    async with joined(gateway) as (websocket, _, whole):
        websocket.data_received(b"".join(pieces))
    assert recorder.messages == whole.messages
    assert recorder.lost == whole.lost


@QUICK
@given(
    pieces=cut(
        st.lists(
            st.tuples(st.binary(max_size=400), st.sampled_from([0, 126, 127])), max_size=20
        ).map(lambda made: b"".join(frame(data, length=form) for data, form in made))
    )
)
async def test_good_frames_all_come(gateway: RawGateway, pieces: list[bytes]) -> None:
    wire, expected = b"".join(pieces), []
    while wire:
        size, start = wire[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(wire[2:start])
        expected.append(wire[start : start + size])
        wire = wire[start + size :]
    async with joined(gateway) as (websocket, _, recorder):
        for piece in pieces:
            websocket.data_received(piece)
        assert recorder.messages == expected
        assert recorder.lost is None
        assert kept(websocket) == 0


@pytest.mark.parametrize("size", [1, 1000])
async def test_fragments_without_end_are_bounded(gateway: RawGateway, size: int) -> None:
    async with joined(gateway) as (websocket, _, recorder):
        websocket.data_received(frame(b"", BINARY, final=False))
        piece = frame(bytes(size), CONTINUATION, final=False)
        for _ in range(2 * MAX_MESSAGE_SIZE // size):
            websocket.data_received(piece)
            if recorder.log:
                break
        assert "too large" in (recorder.lost or "")
        assert recorder.messages == []
        await asyncio.sleep(0)
