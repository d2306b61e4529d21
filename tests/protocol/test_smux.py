import struct
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssmnet.errors import LocalProtocolError, RemoteProtocolError
from ssmnet.protocol.smux import Command, Multiplexer, MuxStream, frame

SIZE = 1024
SYN, FIN, PSH, NOP = 0, 1, 2, 3


def frames(data: bytes) -> list[tuple[int, int, bytes]]:
    """(command, stream id, data) of complete frames, read field by field."""
    found = []
    while data:
        version, command, length, stream_id = struct.unpack_from("<BBHI", data)
        assert version == 1
        assert len(data) >= 8 + length
        found.append((command, stream_id, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def take_all(multiplexer: Multiplexer, now: float = 0.0) -> list[tuple[int, int, bytes]]:
    taken = []
    while data := multiplexer.take(SIZE, now):
        assert len(data) <= SIZE
        taken += frames(data)
    return taken


def opened(count: int = 1) -> tuple[Multiplexer, Sequence[MuxStream]]:
    """A multiplexer whose streams have been announced to the agent."""
    multiplexer = Multiplexer()
    streams = [multiplexer.open_stream() for _ in range(count)]
    assert [f[0] for f in take_all(multiplexer)] == [SYN] * count
    return multiplexer, streams


# --- frames out


def test_a_frame_has_a_small_endian_header() -> None:
    assert frame(Command.PSH, 0x01020304, b"abc") == b"\x01\x02\x03\x00\x04\x03\x02\x01abc"
    assert frame(Command.SYN, 3) == b"\x01\x00\x00\x00\x03\x00\x00\x00"


def test_streams_have_odd_numbers_from_three() -> None:
    multiplexer = Multiplexer()
    assert [multiplexer.open_stream().id for _ in range(3)] == [3, 5, 7]
    assert len(multiplexer) == 3
    assert take_all(multiplexer) == [(SYN, 3, b""), (SYN, 5, b""), (SYN, 7, b"")]


def test_nothing_to_do_is_nothing_to_take() -> None:
    multiplexer = Multiplexer()
    assert multiplexer.idle
    assert multiplexer.take(SIZE, 0.0) == b""
    assert multiplexer.get_timer() is None


def test_the_first_bytes_ride_with_the_opening() -> None:
    multiplexer = Multiplexer()
    stream = multiplexer.open_stream()
    stream.write(b"hello")
    assert not multiplexer.idle
    assert frames(multiplexer.take(SIZE, 0.0)) == [(SYN, 3, b""), (PSH, 3, b"hello")]
    assert multiplexer.idle


def test_a_whole_short_life_fits_one_message() -> None:
    multiplexer = Multiplexer()
    stream = multiplexer.open_stream()
    stream.write(b"hello")
    stream.close()
    assert [f[0] for f in frames(multiplexer.take(SIZE, 0.0))] == [SYN, PSH, FIN]


def test_all_that_is_written_goes_out_in_order() -> None:
    multiplexer, (stream,) = opened()
    stream.write(b"ab")
    stream.write(b"")
    stream.write(memoryview(bytes(3000)))
    stream.write(b"yz")
    assert stream.unsent == 3004
    taken = take_all(multiplexer)
    assert {f[:2] for f in taken} == {(PSH, 3)}
    assert b"".join(f[2] for f in taken) == b"ab" + bytes(3000) + b"yz"
    assert stream.unsent == 0


def test_the_end_comes_after_the_last_byte() -> None:
    multiplexer, (stream,) = opened()
    stream.write(bytes(5000))
    stream.close()
    stream.close()
    taken = take_all(multiplexer)
    assert sum(len(f[2]) for f in taken) == 5000
    assert [f[0] for f in taken].count(FIN) == 1
    assert taken[-1] == (FIN, 3, b"")


@pytest.mark.parametrize("written", range(985, 1020))
def test_an_end_that_does_not_fit_any_more_goes_into_the_next_message(written: int) -> None:
    multiplexer, (stream,) = opened()
    stream.write(bytes(written))
    stream.close()
    taken = take_all(multiplexer)
    assert sum(len(f[2]) for f in taken) == written
    assert taken[-1] == (FIN, 3, b"")
    assert multiplexer.idle


def test_a_closed_stream_takes_no_data() -> None:
    _, (stream,) = opened()
    stream.close()
    with pytest.raises(LocalProtocolError):
        stream.write(b"x")


def test_an_aborted_stream_drops_what_is_queued_and_ends() -> None:
    multiplexer, (stream,) = opened()
    stream.write(bytes(5000))
    stream.abort()
    stream.abort()
    assert stream.unsent == 0
    assert take_all(multiplexer) == [(FIN, 3, b"")]


def test_the_agent_hears_nothing_of_a_stream_that_was_aborted_before_its_turn() -> None:
    multiplexer = Multiplexer()
    first, second = multiplexer.open_stream(), multiplexer.open_stream()
    first.write(b"x")
    first.abort()
    first.abort()
    second.write(b"y")
    assert len(multiplexer) == 1
    assert take_all(multiplexer) == [(SYN, 5, b""), (PSH, 5, b"y")]


def test_a_stream_that_was_closed_before_its_turn_can_still_be_aborted() -> None:
    multiplexer = Multiplexer()
    stream = multiplexer.open_stream()
    stream.close()
    stream.abort()
    assert take_all(multiplexer) == []
    assert len(multiplexer) == 0


def test_a_stream_whose_turn_has_come_but_not_its_syn_can_be_aborted() -> None:
    multiplexer = Multiplexer()
    streams = [multiplexer.open_stream() for _ in range(200)]
    first = frames(multiplexer.take(SIZE, 0.0))
    assert len(first) < 200
    streams[-1].abort()
    rest = take_all(multiplexer)
    assert {f[1] for f in first + rest} == {stream.id for stream in streams[:-1]}


def test_abort_of_a_stream_that_waited_too_long_for_its_turn() -> None:
    # Finding 5: ValueError; its opening was counted before its SYN went out, and has expired.
    multiplexer = Multiplexer(max_opening=3)
    streams = [multiplexer.open_stream() for _ in range(6)]
    multiplexer.take(8, 0.0)
    multiplexer.take(8, 5.0)
    streams[2].abort()
    assert streams[2].closed_by_peer
    assert streams[2].id not in {f[1] for f in take_all(multiplexer, 100.0)}


# --- turns


def test_streams_take_turns() -> None:
    multiplexer, streams = opened(4)
    for stream in streams:
        stream.write(bytes(10_000))
    turns = [frames(multiplexer.take(SIZE, 0.0))[0][1] for _ in range(8)]
    assert turns == [3, 5, 7, 9, 3, 5, 7, 9]


def test_a_stream_that_is_alone_has_all_the_room_in_one_frame() -> None:
    multiplexer, (stream,) = opened(1)
    stream.write(bytes(100_000))
    sizes = [len(data) for _, _, data in frames(multiplexer.take(20_000, 0.0))]
    assert sizes == [20_000 - 8]
    sizes = [len(data) for _, _, data in frames(multiplexer.take(100_000, 0.0))]
    assert sizes == [32_768, 32_768, 80_008 - 2 * 32_768]


def test_streams_take_turns_within_what_goes_out_at_once() -> None:
    multiplexer, (first, second) = opened(2)
    first.write(bytes(5000))
    second.write(b"k")
    taken = [(stream_id, len(data)) for _, stream_id, data in frames(multiplexer.take(9000, 0.0))]
    # The second waits for one more turn of the first's before it could begin again.
    assert taken == [(first.id, 1016), (second.id, 1), (first.id, 1016), (first.id, 5000 - 2032)]


def test_who_begins_to_send_has_the_first_turn_but_not_again_and_again() -> None:
    multiplexer, (bulk, other, typist) = opened(3)
    bulk.write(bytes(100_000))
    other.write(bytes(100_000))
    multiplexer.take(2 * SIZE, 0.0)
    served = []
    for _ in range(9):
        typist.write(b"k")
        served += [stream_id for _, stream_id, _ in frames(multiplexer.take(SIZE - 8, 0.0))]
    assert served[0] == typist.id
    # Each of the others has had a turn before the next of the same stream.
    turns = "".join({bulk.id: "b", other.id: "o", typist.id: "t"}[one] for one in served)
    assert "tt" not in turns
    assert all(set("bo") <= set(turn) for turn in turns.split("t")[1:-1]), turns


def test_what_is_urgent_is_what_a_beginner_has_and_comes_first() -> None:
    multiplexer, (bulk, typist) = opened(2)
    assert multiplexer.urgent == 0
    bulk.write(bytes(100_000))
    assert multiplexer.urgent == SIZE
    multiplexer.take(SIZE, 0.0)
    assert multiplexer.urgent == 0
    typist.write(b"key")
    urgent = multiplexer.urgent
    assert 8 + 3 <= urgent <= SIZE
    assert (PSH, typist.id, b"key") in frames(multiplexer.take(urgent, 0.0))
    assert multiplexer.urgent == 0


def test_what_is_urgent_is_taken_without_those_who_have_had_their_turn() -> None:
    multiplexer, (bulk, typist) = opened(2)
    bulk.write(bytes(100_000))
    multiplexer.take(SIZE, 0.0)
    assert multiplexer.take(SIZE, 0.0, urgent=True) == b""
    typist.write(b"k")
    assert frames(multiplexer.take(SIZE, 0.0, urgent=True)) == [(PSH, typist.id, b"k")]
    assert multiplexer.take(SIZE, 0.0, urgent=True) == b""


def test_streams_that_may_not_open_yet_are_not_urgent() -> None:
    multiplexer = Multiplexer(max_opening=2)
    for _ in range(5):
        multiplexer.open_stream()
    assert multiplexer.urgent == 2 * 8
    assert len(frames(multiplexer.take(SIZE, 0.0, urgent=True))) == 2
    assert multiplexer.urgent == 0


def test_who_has_had_a_turn_and_has_nothing_more_does_not_keep_it_from_being_idle() -> None:
    multiplexer, (bulk, typist) = opened(2)
    bulk.write(bytes(2 * 1016))
    multiplexer.take(SIZE, 0.0)
    typist.write(b"k")
    multiplexer.take(9, 0.0, urgent=True)
    assert not multiplexer.idle
    multiplexer.take(SIZE, 0.0)
    assert bulk.unsent == typist.unsent == 0
    assert multiplexer.idle


def test_a_keystroke_goes_out_within_one_round_of_the_others() -> None:
    multiplexer, streams = opened(10)
    for stream in streams[:-1]:
        stream.write(bytes(1_000_000))
    for _ in range(50):
        multiplexer.take(SIZE, 0.0)
    streams[-1].write(b"k")
    for _turn in range(10):
        if (PSH, streams[-1].id, b"k") in frames(multiplexer.take(SIZE, 0.0)):
            break
    else:
        pytest.fail("not within a round")


@given(st.lists(st.integers(1, 4000), min_size=2, max_size=8), st.integers(0, 30))
def test_a_late_small_write_waits_for_one_turn_of_each_other_stream(
    sizes: list[int], before: int
) -> None:
    multiplexer, streams = opened(len(sizes) + 1)
    for stream, size in zip(streams, sizes, strict=False):
        stream.write(bytes(size))
    for _ in range(before):
        multiplexer.take(SIZE, 0.0)
    streams[-1].write(b"k")
    sent = b"".join(multiplexer.take(SIZE, 0.0) for _ in range(len(sizes) + 1))
    assert (PSH, streams[-1].id, b"k") in frames(sent)


def test_shares_are_equal_over_time() -> None:
    multiplexer, streams = opened(5)
    for stream in streams:
        stream.write(bytes(100_000))
    for _ in range(250):
        multiplexer.take(SIZE, 0.0)
    left = [stream.unsent for stream in streams]
    assert max(left) - min(left) <= SIZE


def test_a_stream_tells_when_its_queue_has_come_down() -> None:
    multiplexer, (stream, other) = opened(2)
    stream.write(bytes(5000))
    other.write(bytes(5000))
    stream.low_water = 2000
    while stream.unsent > 2000:
        assert list(multiplexer.relieved()) == []
        multiplexer.take(SIZE, 0.0)
    assert list(multiplexer.relieved()) == [stream]
    take_all(multiplexer)
    assert list(multiplexer.relieved()) == []  # once, until low_water is set again


# --- openings


def test_openings_are_bounded_until_the_agent_answers() -> None:
    multiplexer = Multiplexer(max_opening=4)
    for _ in range(10):
        multiplexer.open_stream()
    assert [f[1] for f in take_all(multiplexer)] == [3, 5, 7, 9]
    multiplexer.receive(frame(Command.PSH, 7, b"x"))  # the agent dials in order: 3, 5 and 7 are up
    assert [f[1] for f in take_all(multiplexer)] == [11, 13, 15]
    multiplexer.receive(frame(Command.FIN, 9))
    assert [f[1] for f in take_all(multiplexer)] == [17]


def test_an_opening_without_an_answer_stops_counting_after_a_while() -> None:
    multiplexer = Multiplexer(max_opening=2, opening_time=1.0)
    for _ in range(5):
        multiplexer.open_stream()
    assert [f[1] for f in take_all(multiplexer, 10.0)] == [3, 5]
    assert multiplexer.get_timer() == 11.0
    assert take_all(multiplexer, 10.9) == []
    assert [f[1] for f in take_all(multiplexer, 11.0)] == [7, 9]
    assert [f[1] for f in take_all(multiplexer, 12.0)] == [11]
    assert multiplexer.get_timer() is None


def test_no_more_openings_are_sent_in_a_second_than_the_bound_even_after_a_closed_window() -> None:
    # Finding 5: what has expired without its SYN having gone out makes room for more.
    multiplexer = Multiplexer(max_opening=3, opening_time=1.0)
    for _ in range(30):
        multiplexer.open_stream()
    sent = 0
    for now in (0.0, 5.0, 10.0, 15.0):  # the window lets one opening go each time
        sent += len(frames(multiplexer.take(8, now)))
    assert sent == 4
    at_once = take_all(multiplexer, 15.0)
    assert len(at_once) <= 3


def test_an_answer_is_no_answer_for_later_streams() -> None:
    multiplexer = Multiplexer(max_opening=2)
    for _ in range(4):
        multiplexer.open_stream()
    take_all(multiplexer)
    multiplexer.receive(frame(Command.PSH, 3, b"x"))
    assert [f[1] for f in take_all(multiplexer)] == [7]
    multiplexer.receive(frame(Command.PSH, 3, b"x"))
    assert take_all(multiplexer) == []


def test_a_withdrawn_opening_makes_room() -> None:
    multiplexer = Multiplexer(max_opening=1)
    first = multiplexer.open_stream()
    multiplexer.open_stream()
    first.abort()
    assert [f[1] for f in take_all(multiplexer)] == [5]


@given(st.lists(st.sampled_from(["open", "take", "answer", "wait", "abort"]), max_size=60))
def test_openings_in_flight_never_exceed_the_bound(steps: list[str]) -> None:
    multiplexer, now = Multiplexer(max_opening=3, opening_time=1.0), 0.0
    waiting: list[MuxStream] = []
    unanswered: dict[int, float] = {}
    for step in steps:
        match step:
            case "open":
                waiting.append(multiplexer.open_stream())
            case "take":
                for _, stream_id, _ in take_all(multiplexer, now):
                    unanswered[stream_id] = now
            case "answer" if unanswered:
                multiplexer.receive(frame(Command.FIN, oldest := min(unanswered)))
                del unanswered[oldest]
            case "wait":
                now += 0.5
            case "abort" if waiting:
                waiting.pop().abort()
        waiting = [stream for stream in waiting if stream.id not in unanswered]
        assert sum(now - since < 1.0 for since in unanswered.values()) <= 3


# --- frames in


def test_data_goes_to_its_stream() -> None:
    multiplexer, (first, second) = opened(2)
    multiplexer.receive(frame(Command.PSH, 5, b"two") + frame(Command.PSH, 3, b"one"))
    assert set(multiplexer.touched()) == {first, second}
    assert list(multiplexer.touched()) == []
    assert first.take_received() == b"one"
    assert second.take_received() == b"two"
    assert second.take_received() == b""


def test_data_is_handed_on_before_its_frame_is_complete() -> None:
    multiplexer, (stream,) = opened()
    data = frame(Command.PSH, 3, bytes(30_000))
    multiplexer.receive(data[:1000])
    assert list(multiplexer.touched()) == [stream]
    assert len(stream.take_received()) == 992


def test_the_agents_end_is_told_after_its_last_data() -> None:
    multiplexer, (stream,) = opened()
    multiplexer.receive(frame(Command.PSH, 3, b"last") + frame(Command.FIN, 3))
    assert list(multiplexer.touched()) == [stream]
    assert stream.closed_by_peer
    assert not stream.refused
    assert stream.take_received() == b"last"
    assert len(multiplexer) == 0


def test_after_the_agents_end_nothing_is_sent_any_more() -> None:
    multiplexer, (stream,) = opened()
    stream.write(b"queued")
    multiplexer.receive(frame(Command.FIN, 3))
    stream.write(b"nobody reads this")
    assert stream.unsent == 0
    stream.close()
    stream.abort()
    assert take_all(multiplexer) == []
    assert multiplexer.idle


def test_what_comes_for_a_closed_stream_is_dropped() -> None:
    multiplexer, (stream,) = opened()
    multiplexer.receive(frame(Command.PSH, 3, b"not read yet"))
    stream.close()
    multiplexer.receive(frame(Command.PSH, 3, b"late"))
    assert stream.take_received() == b""
    multiplexer.receive(frame(Command.FIN, 3))
    assert stream.closed_by_peer


def test_frames_of_unknown_streams_are_dropped() -> None:
    multiplexer, (stream,) = opened()
    multiplexer.receive(frame(Command.PSH, 99, b"x" * 100) + frame(Command.FIN, 99))
    multiplexer.receive(frame(Command.SYN, 4) + frame(Command.NOP, 0))
    multiplexer.receive(frame(Command.PSH, 3, b"mine"))
    assert stream.take_received() == b"mine"
    assert list(multiplexer.touched()) == [stream]


def test_frames_for_a_stream_that_the_agent_can_not_know_are_dropped() -> None:
    multiplexer = Multiplexer()
    stream = multiplexer.open_stream()
    multiplexer.receive(frame(Command.PSH, 3, b"x") + frame(Command.FIN, 3))
    assert not stream.closed_by_peer
    assert [f[0] for f in take_all(multiplexer)] == [SYN]


def test_a_stream_is_known_until_both_ends_are_done() -> None:
    multiplexer, (stream,) = opened()
    stream.close()
    take_all(multiplexer)
    assert len(multiplexer) == 1
    multiplexer.receive(frame(Command.FIN, 3))
    assert len(multiplexer) == 0


@pytest.mark.parametrize(
    "data",
    [
        b"\x02\x00\x00\x00\x03\x00\x00\x00",  # version 2
        b"\x00" * 8,
        b"\x01\x04\x00\x00\x03\x00\x00\x00",  # a window update, of version 2
        b"\x01\x01\x01\x00\x03\x00\x00\x00",  # an end with data
        b"\x01\x03\x01\x00\x00\x00\x00\x00",
    ],
)
def test_what_is_no_frame_ends_the_session(data: bytes) -> None:
    multiplexer, _ = opened()
    with pytest.raises(RemoteProtocolError):
        multiplexer.receive(data)


def test_a_stream_is_closing_until_the_agent_is_done_with_it() -> None:
    multiplexer, (stream, _) = opened(2)
    assert not multiplexer.closing
    stream.write(b"x")
    stream.close()
    take_all(multiplexer)
    assert multiplexer.closing
    multiplexer.receive(frame(Command.FIN, 3))
    assert not multiplexer.closing


# --- refusals


def test_a_refusal_is_of_the_next_stream_that_ends_without_a_byte() -> None:
    multiplexer, (first, second, third) = opened(3)
    multiplexer.receive(frame(Command.PSH, 3, b"x"))
    multiplexer.connect_failed()
    multiplexer.receive(frame(Command.FIN, 3))
    multiplexer.receive(frame(Command.FIN, 5))
    multiplexer.receive(frame(Command.FIN, 7))
    assert [stream.refused for stream in (first, second, third)] == [False, True, False]
    assert all(stream.closed_by_peer for stream in (first, second, third))


def test_two_refusals_are_of_two_streams() -> None:
    multiplexer, streams = opened(2)
    multiplexer.connect_failed()
    multiplexer.connect_failed()
    multiplexer.receive(frame(Command.FIN, 3) + frame(Command.FIN, 5))
    assert all(stream.refused for stream in streams)


def test_an_empty_data_frame_is_no_byte() -> None:
    multiplexer, (stream,) = opened()
    multiplexer.receive(frame(Command.PSH, 3))
    multiplexer.connect_failed()
    multiplexer.receive(frame(Command.FIN, 3))
    assert stream.refused


def test_refusals_are_counted_until_a_destination_speaks() -> None:
    multiplexer, _ = opened(5)
    for number in (3, 5, 7):
        multiplexer.connect_failed()
        multiplexer.receive(frame(Command.FIN, number))
    multiplexer.receive(frame(Command.FIN, 9))  # closed without a word: that says nothing
    assert multiplexer.refusals == 3
    multiplexer.receive(frame(Command.PSH, 11, b"x"))
    assert multiplexer.refusals == 0


# --- keep-alive


def test_agents_that_want_it_are_kept_alive() -> None:
    multiplexer = Multiplexer(keep_alive=10.0)
    assert multiplexer.take(SIZE, 0.0) == b""
    assert multiplexer.get_timer() == 10.0
    assert multiplexer.take(SIZE, 9.9) == b""
    assert frames(multiplexer.take(SIZE, 10.0)) == [(NOP, 0, b"")]
    assert multiplexer.get_timer() == 20.0


def test_whatever_is_sent_keeps_alive() -> None:
    multiplexer = Multiplexer(keep_alive=10.0)
    multiplexer.take(SIZE, 0.0)
    multiplexer.open_stream()
    multiplexer.take(SIZE, 5.0)
    assert multiplexer.get_timer() == 15.0


def test_a_keep_alive_leaves_room_for_others() -> None:
    multiplexer = Multiplexer(keep_alive=10.0)
    multiplexer.take(SIZE, 0.0)
    stream = multiplexer.open_stream()
    stream.write(bytes(5000))
    taken = take_all(multiplexer, 10.0)
    assert taken[0] == (NOP, 0, b"")
    assert sum(len(f[2]) for f in taken) == 5000


def test_a_keep_alive_waits_for_room() -> None:
    multiplexer = Multiplexer(keep_alive=10.0)
    multiplexer.take(SIZE, 0.0)
    assert multiplexer.take(7, 10.0) == b""
    assert frames(multiplexer.take(8, 10.0)) == [(NOP, 0, b"")]


def test_the_earlier_of_two_timers_counts() -> None:
    multiplexer = Multiplexer(keep_alive=10.0, max_opening=1, opening_time=1.0)
    multiplexer.open_stream()
    multiplexer.open_stream()
    multiplexer.take(SIZE, 0.0)
    assert multiplexer.get_timer() == 1.0


# --- any bytes, any split


@settings(max_examples=300)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(
            st.builds(
                struct.Struct("<BBHI").pack,
                st.sampled_from([1, 1, 1, 0, 2]),
                st.integers(0, 4),
                st.integers(0, 20),
                st.sampled_from([0, 3, 5, 9]),
            )
        ).map(b"".join),
    )
)
def test_any_bytes_are_taken_or_an_error_of_the_far_end(data: bytes) -> None:
    multiplexer, _ = opened(2)
    try:
        multiplexer.receive(data)
    except RemoteProtocolError:
        return
    assert take_all(multiplexer) == []


received = st.one_of(
    st.builds(frame, st.just(Command.PSH), st.sampled_from([3, 5, 9]), st.binary(max_size=40)),
    st.sampled_from([frame(Command.NOP, 0), frame(Command.FIN, 3), frame(Command.SYN, 2)]),
)


@settings(max_examples=300)
@given(st.lists(received, max_size=12), st.lists(st.integers(1, 30), min_size=1))
@example([frame(Command.PSH, 3, bytes(20)), frame(Command.FIN, 3)], [1])
@example([frame(Command.PSH, 3, bytes(20)), frame(Command.FIN, 3)], [7])
def test_every_split_of_a_stream_gives_the_same(sent: list[bytes], sizes: list[int]) -> None:
    data = b"".join(sent)

    def outcome(pieces: list[bytes]) -> list[tuple[bytes, bool]]:
        multiplexer, streams = opened(2)
        for piece in pieces:
            multiplexer.receive(piece)
        return [(stream.take_received(), stream.closed_by_peer) for stream in streams]

    pieces, position, turn = [], 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        pieces.append(data[position : position + size])
        position, turn = position + size, turn + 1
    assert outcome(pieces) == outcome([data])


class Agent:
    """The far end's state of each stream, as its library would have it."""

    def __init__(self) -> None:
        self.streams: dict[int, bytearray] = {}
        self.closed: set[int] = set()

    def receive(self, data: bytes) -> None:
        for command, stream_id, payload in frames(data):
            if command == SYN:
                assert stream_id not in self.streams
                assert stream_id > max(self.streams, default=1)
                self.streams[stream_id] = bytearray()
            else:
                assert stream_id not in self.closed
                assert payload or command == FIN
                self.streams[stream_id] += payload
                if command == FIN:
                    self.closed.add(stream_id)


class Owner:
    """Of one stream: what was written to it, and how it ended."""

    def __init__(self, stream: MuxStream) -> None:
        self.stream = stream
        self.written = b""
        self.state = "open"

    def do(self, verb: str) -> None:
        if verb == "write" and self.state == "open":
            data = bytes([self.stream.id]) * 30
            self.stream.write(data)
            self.written += data
        elif verb == "close" and self.state == "open":
            self.stream.close()
            self.state = "closed"
        elif verb == "abort":
            self.stream.abort()
            self.state = "aborted"

    def check(self, agent: Agent) -> None:
        if self.state == "aborted":
            assert self.written.startswith(bytes(agent.streams.get(self.stream.id, b"")))
            assert self.stream.id in agent.closed or self.stream.id not in agent.streams
        else:
            assert bytes(agent.streams[self.stream.id]) == self.written
            assert (self.stream.id in agent.closed) is (self.state == "closed")


@given(
    st.lists(
        st.one_of(
            st.just("open"),
            st.tuples(st.sampled_from(["write", "close", "abort"]), st.integers(0, 5)),
            st.integers(16, 40),
        ),
        max_size=50,
    )
)
def test_the_agent_sees_every_stream_open_carry_its_bytes_and_end_once(
    steps: list[str | int | tuple[str, int]],
) -> None:
    multiplexer, agent = Multiplexer(), Agent()
    owners: list[Owner] = []
    for step in steps:
        if step == "open":
            owners.append(Owner(multiplexer.open_stream()))
        elif isinstance(step, int):
            agent.receive(multiplexer.take(step, 0.0))
        elif isinstance(step, tuple) and step[1] < len(owners):
            owners[step[1]].do(step[0])
    while data := multiplexer.take(SIZE, 0.0):
        agent.receive(data)
    for owner in owners:
        owner.check(agent)
