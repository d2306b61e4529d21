import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import LocalProtocolError
from ssmnet.protocol.port import BasicPort, PortStream


def opened(*, reusable: bool = True) -> tuple[BasicPort, PortStream]:
    port = BasicPort(reusable=reusable)
    stream = port.open_stream()
    assert stream is not None
    return port, stream


def take_all(port: BasicPort) -> bytes:
    taken = b""
    while data := port.take(10, 0.0):
        assert len(data) <= 10
        taken += data
    return taken


# --- one connection


def test_there_is_one_connection_at_a_time() -> None:
    port, _ = opened()
    assert len(port) == 1
    assert port.open_stream() is None


def test_the_agent_has_to_wait_until_somebody_reads() -> None:
    port = BasicPort(reusable=False)
    assert not port.ready
    port.open_stream()
    assert port.ready


def test_bytes_go_both_ways_as_they_are() -> None:
    port, stream = opened()
    stream.write(b"hello ")
    stream.write(memoryview(b"agent"))
    assert stream.unsent == 11
    assert not port.idle
    assert take_all(port) == b"hello agent"
    assert port.idle
    port.receive(b"hello ")
    port.receive(memoryview(b"client"))
    assert list(port.touched()) == [stream]
    assert list(port.touched()) == []
    assert stream.take_received() == b"hello client"
    assert stream.take_received() == b""


def test_nothing_to_do_is_nothing_to_take() -> None:
    port = BasicPort(reusable=True)
    assert port.idle
    assert len(port) == 0
    assert port.take(10, 0.0) == b""
    assert not port.take_disconnect()
    assert port.get_timer() is None


def test_a_stream_tells_when_its_queue_has_come_down() -> None:
    port, stream = opened()
    stream.write(bytes(25))
    stream.low_water = 10
    port.take(10, 0.0)
    assert list(port.relieved()) == []
    port.take(10, 0.0)
    assert list(port.relieved()) == [stream]
    port.take(10, 0.0)
    assert list(port.relieved()) == []


def test_a_closed_stream_takes_no_data_and_what_comes_is_dropped() -> None:
    port, stream = opened()
    port.receive(b"not read yet")
    stream.close()
    port.receive(b"late")
    assert stream.take_received() == b""
    with pytest.raises(LocalProtocolError):
        stream.write(b"x")


def test_an_aborted_stream_drops_what_is_queued() -> None:
    port, stream = opened()
    stream.write(b"hello")
    stream.abort()
    assert stream.unsent == 0
    assert take_all(port) == b""


# --- one after the other


def test_the_agent_is_told_of_the_end_after_the_last_byte() -> None:
    port, stream = opened()
    stream.write(bytes(15))
    stream.close()
    assert not port.idle
    assert len(port.take(10, 0.0)) == 10
    assert not port.take_disconnect()
    assert len(port.take(10, 0.0)) == 5
    assert port.take_disconnect()
    assert not port.take_disconnect()
    assert len(port) == 0


def test_the_next_connection_waits_until_the_agent_knows_of_the_end_of_the_last() -> None:
    port, stream = opened()
    stream.close()
    assert port.open_stream() is None
    port.take(10, 0.0)
    port.disconnected()  # the acknowledgement of something else: the flag has not been sent
    assert port.open_stream() is None
    assert port.take_disconnect()
    assert port.open_stream() is None
    port.disconnected()
    second = port.open_stream()
    assert second is not None
    assert second is not stream


def test_what_still_comes_of_the_last_connection_is_not_given_to_the_next() -> None:
    port, stream = opened()
    stream.close()
    port.take(10, 0.0)
    port.receive(b"late")
    assert port.take_disconnect()
    port.disconnected()
    second = port.open_stream()
    assert second is not None
    assert list(port.touched()) == []
    assert second.take_received() == b""


def test_a_raw_stream_has_one_connection_for_ever() -> None:
    port, stream = opened(reusable=False)
    stream.close()
    port.take(10, 0.0)
    assert not port.take_disconnect()
    port.disconnected()
    assert port.open_stream() is None
    assert port.ready  # there is no reader and never will be: nothing should be sent again


# --- refusals


def test_a_refusal_ends_the_present_connection() -> None:
    port, stream = opened()
    stream.write(b"hello")
    port.connect_failed()
    assert stream.closed_by_peer
    assert stream.refused
    assert list(port.touched()) == [stream]
    stream.write(b"nobody reads this")
    assert stream.unsent == 0
    assert take_all(port) == b""
    assert port.open_stream() is not None


def test_a_refusal_without_a_connection_means_nothing() -> None:
    port = BasicPort(reusable=True)
    port.connect_failed()
    assert list(port.touched()) == []
    assert port.refusals == 0
    assert port.open_stream() is not None


def test_a_connection_is_closing_until_its_end_is_confirmed() -> None:
    port, stream = opened()
    assert not port.closing
    stream.close()
    take_all(port)
    assert port.closing
    assert port.take_disconnect()
    port.disconnected()
    assert not port.closing


def test_refusals_are_counted_until_a_destination_speaks() -> None:
    port = BasicPort(reusable=True)
    for _ in range(3):
        assert port.open_stream() is not None
        port.connect_failed()
    assert port.refusals == 3
    assert port.open_stream() is not None
    port.receive(b"hello")
    assert port.refusals == 0


@given(st.lists(st.one_of(st.binary(max_size=25), st.integers(1, 12)), max_size=30))
def test_any_way_of_taking_gives_the_same_bytes(steps: list[bytes | int]) -> None:
    port, stream = opened()
    written = taken = b""
    for step in steps:
        if isinstance(step, bytes):
            stream.write(step)
            written += step
        else:
            data = port.take(step, 0.0)
            assert len(data) <= step
            taken += data
    assert taken + take_all(port) == written


# --- the session's end


def test_the_end_of_the_session_is_that_of_a_raw_stream() -> None:
    port, stream = opened(reusable=False)
    port.receive(b"last words")
    port.ended()
    assert list(port.touched()) == [stream]
    assert stream.closed_by_peer
    assert not stream.refused
    assert stream.take_received() == b"last words"


def test_a_connection_that_another_could_follow_was_cut_off_by_it() -> None:
    port, stream = opened(reusable=True)
    port.ended()
    assert list(port.touched()) == []
    assert not stream.closed_by_peer


@pytest.mark.parametrize("reusable", [False, True])
def test_where_there_is_no_connection_none_ends(reusable: bool) -> None:
    port = BasicPort(reusable=reusable)
    port.ended()
    assert list(port.touched()) == []


@pytest.mark.parametrize("reusable", [False, True])
def test_a_stream_knows_whether_the_next_has_to_wait_for_its_end(reusable: bool) -> None:
    _, stream = opened(reusable=reusable)
    assert stream.exclusive is reusable
