import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.errors import LocalProtocolError, RemoteProtocolError
from ssmnet.protocol.message import PayloadType, parse
from ssmnet.protocol.port import PortStream
from ssmnet.protocol.shell import ShellPort, decode_exit_code, encode_size
from tests.protocol import vectors


def opened() -> tuple[ShellPort, PortStream]:
    port = ShellPort()
    stream = port.open_stream()
    assert stream is not None
    return port, stream


# --- input and output


def test_input_and_output_are_one_stream() -> None:
    port, stream = opened()
    stream.write(b"uptime\r")
    assert port.take(100, 0.0) == b"uptime\r"
    port.receive(b"up 3 days")
    assert list(port.touched()) == [stream]
    assert stream.take_received() == b"up 3 days"


def test_there_is_one_in_all() -> None:
    port, stream = opened()
    assert not stream.exclusive
    assert port.open_stream() is None
    stream.close()
    assert port.take(100, 0.0) == b""
    assert len(port) == 0
    assert not port.take_disconnect()
    assert not port.closing
    assert port.open_stream() is None


def test_nothing_is_taken_before_there_is_a_reader() -> None:
    port = ShellPort()
    assert not port.ready
    port.open_error_stream()
    assert not port.ready, "the beginning of its output has no reader"
    port.open_stream()
    assert port.ready


# --- standard error


def test_standard_error_is_apart_where_there_is_a_stream_for_it() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    stream = port.open_stream()
    assert stream is not None
    port.receive(b"out")
    port.receive_error(memoryview(b"err"))
    assert list(port.touched()) == [stream, errors]
    assert list(port.touched()) == []
    assert stream.take_received() == b"out"
    assert errors.take_received() == b"err"


def test_without_one_all_is_one_stream_in_its_order() -> None:
    port, stream = opened()
    port.receive(b"out ")
    port.receive_error(b"err ")
    port.receive(b"out")
    assert list(port.touched()) == [stream]
    assert stream.take_received() == b"out err out"


def test_there_is_one_stream_of_standard_error() -> None:
    port = ShellPort()
    port.open_error_stream()
    with pytest.raises(LocalProtocolError):
        port.open_error_stream()


def test_nothing_can_be_written_to_standard_error() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    with pytest.raises(LocalProtocolError):
        errors.write(b"nobody would read this")
    assert errors.unsent == 0


def test_standard_error_that_is_closed_is_dropped_and_the_rest_goes_on() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    stream = port.open_stream()
    assert stream is not None
    port.receive_error(b"not read yet")
    list(port.touched())
    errors.close()
    port.receive_error(b"late")
    assert list(port.touched()) == []
    assert errors.take_received() == b""
    port.receive(b"out")
    assert stream.take_received() == b"out"
    assert port.open_stream() is None


def test_output_that_is_closed_is_dropped_and_standard_error_goes_on() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    stream = port.open_stream()
    assert stream is not None
    stream.close()
    port.take(1, 0.0)
    port.receive(b"late")
    port.receive_error(b"err")
    assert list(port.touched()) == [errors]
    assert errors.take_received() == b"err"


def test_the_text_of_the_exit_code_is_told_to_who_wants_all_in_one_stream() -> None:
    port, stream = opened()
    port.receive_exit_code(b"EXIT_CODE: 7")
    assert list(port.touched()) == [stream]
    assert stream.take_received() == b"EXIT_CODE: 7"


def test_and_to_nobody_else() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    stream = port.open_stream()
    assert stream is not None
    port.receive_exit_code(b"EXIT_CODE: 7")
    assert list(port.touched()) == []
    assert stream.take_received() == errors.take_received() == b""


# --- the end


def test_both_streams_end_with_the_session() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    stream = port.open_stream()
    assert stream is not None
    port.receive(b"last words")
    port.ended()
    assert list(port.touched()) == [stream, errors]
    assert stream.closed_by_peer
    assert errors.closed_by_peer
    assert not stream.refused
    assert stream.take_received() == b"last words"


def test_the_one_there_is_ends_alone() -> None:
    port, stream = opened()
    port.ended()
    assert list(port.touched()) == [stream]
    assert stream.closed_by_peer


def test_standard_error_ends_though_the_other_was_never_opened() -> None:
    port = ShellPort()
    errors = port.open_error_stream()
    port.ended()
    assert errors.closed_by_peer


# --- what is sent and told beside


def test_the_recorded_client_told_its_size_in_the_same_words() -> None:
    sizes = [
        bytes(parse(line.data).payload)
        for line in vectors.read("shell")
        if line.data and parse(line.data).payload_type == PayloadType.SIZE
    ]
    assert sizes == [encode_size(132, 40)]


def test_a_size_is_columns_and_rows() -> None:
    assert json.loads(encode_size(80, 24)) == {"cols": 80, "rows": 24}


def test_the_recorded_exit_code_is_read() -> None:
    (payload,) = [
        parse(memoryview(line.data)).payload
        for line in vectors.read("noninteractive_command_separate_output")
        if line.data and parse(line.data).payload_type == PayloadType.EXIT_CODE
    ]
    assert decode_exit_code(payload) == 7


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"EXIT_CODE: 0", 0),
        (b"EXIT_CODE: 255", 255),
        (b"EXIT_CODE: -1", -1),
        (b"EXIT_CODE: 3221225786", 3221225786),  # of Windows: ended by Ctrl-C
        (b"EXIT_CODE:7", 7),
        (b"EXIT_CODE: 7\r\n", 7),
        (b"\nEXIT_CODE:\t7 ", 7),
        (b"EXIT_CODE: 007", 7),
    ],
)
def test_an_exit_code_is_a_number_after_a_word(payload: bytes, code: int) -> None:
    assert decode_exit_code(payload) == code


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"7",
        b"EXIT_CODE:",
        b"EXIT_CODE: seven",
        b"EXIT_CODE: 7 8",
        b"EXIT_CODE: 7.5",
        b"EXIT_CODE: --7",
        b"EXIT_CODE: 12345678901",
        b"exit_code: 7",
        "EXIT_CODE: \N{ARABIC-INDIC DIGIT SEVEN}".encode(),
        b"EXIT_CODE: 7\0",
    ],
)
def test_anything_else_is_none(payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="can't be read"):
        decode_exit_code(payload)


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=20).map(b"EXIT_CODE: ".__add__)))
def test_any_bytes_are_a_code_or_none(payload: bytes) -> None:
    try:
        code = decode_exit_code(payload)
    except RemoteProtocolError:
        return
    assert str(code).lstrip("-").encode() in payload or b"0" in payload


@given(st.integers(-(2**31), 2**32 - 1))
def test_every_code_of_every_system_is_read(code: int) -> None:
    assert decode_exit_code(f"EXIT_CODE: {code}".encode()) == code
