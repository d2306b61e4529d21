"""The grammar of forwards is ssh's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.bind import LOOPBACK
from ssmnet.errors import UsageError
from ssmnet.forwards import Forward, check_distinct, make_forward, parse_forward

EVERYWHERE = ("0.0.0.0", "::")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", Forward(8080, 80)),
        ("0:80", Forward(0, 80)),
        ("5432:db.internal:5432", Forward(5432, 5432, "db.internal")),
        ("127.0.0.2:5432:db:5433", Forward(5432, 5433, "db", ("127.0.0.2",))),
        ("localhost:5432:db:5433", Forward(5432, 5433, "db", ("localhost",))),
        ("[::1]:1:[fd00::2]:3", Forward(1, 3, "fd00::2", ("::1",))),
        ("1:[fd00::2]:3", Forward(1, 3, "fd00::2")),
        (":1:host:2", Forward(1, 2, "host", EVERYWHERE)),
        ("*:1:host:2", Forward(1, 2, "host", EVERYWHERE)),
        ("0.0.0.0:1:host:2", Forward(1, 2, "host", ("0.0.0.0",))),
        ("/run/db.sock:5432", Forward("/run/db.sock", 5432)),
        ("./db.sock:db.internal:5432", Forward("./db.sock", 5432, "db.internal")),
    ],
)
def test_what_is_understood(text: str, expected: Forward) -> None:
    assert parse_forward(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "80",
        "80:",
        ":80",
        "::80",
        "a:80",
        "80:a",
        "80:host:",
        "80::80",
        "bind:1:host:0",
        "a:1:b:2:c",
        "65536:80",
        "80:65536",
        "-1:80",
        "+1:80",
        " 1:80",
        "1 :80",
        "\u0661:80",  # a digit, though not of this alphabet
        "1:80\n",
        "1:0",
        "::1:80:host:80",
        "[::1:80",
        "[]:1:host:80",
        "[::1]80:host:1",
        "1:[host:80",
        "1:ho st:80",
        "1:ho/st:80",
        "/run/a:b:c:80",
        "bind:/run/a.sock:host:80",
    ],
)
def test_what_is_not(text: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_forward(text)
    assert "\n" not in str(error.value)


@given(st.text(st.sampled_from("0123456789:[]/.*ab \n\u0661"), max_size=24) | st.text(max_size=24))
def test_any_text_is_a_forward_or_a_usage_error(text: str) -> None:
    try:
        forward = parse_forward(text)
    except UsageError:
        return
    assert isinstance(forward.local, str) or 0 <= forward.local <= 65535
    assert forward.remote is not None
    assert 1 <= forward.remote <= 65535
    assert forward.bind


def test_bind_is_for_those_that_name_no_address() -> None:
    assert parse_forward("1:2", "::1").bind == ("::1",)
    assert parse_forward("1:2", "*").bind == EVERYWHERE
    with pytest.raises(UsageError, match="and so does --bind"):
        parse_forward("127.0.0.1:1:host:2", "::1")


def test_the_parts_alone() -> None:
    assert make_forward("0", None) == Forward(0, None)
    assert make_forward("/tmp/s", "80", "fd00::2") == Forward("/tmp/s", 80, "fd00::2")
    with pytest.raises(UsageError, match="no address to listen on"):
        make_forward("/tmp/s", "80", bind="127.0.0.1")
    with pytest.raises(UsageError, match="not a host"):
        make_forward("1", "80", "")


def test_what_it_leads_to_for_people() -> None:
    assert Forward(1, 80).destination("i-1") == "i-1:80"
    assert Forward(1, 80, "db").destination("i-1") == "db:80"
    assert Forward(1, 80, "fd00::2").destination("i-1") == "[fd00::2]:80"
    assert Forward(1, None).destination("ecs:a_b_c") == "ecs:a_b_c"


@pytest.mark.parametrize(
    ("bind", "exposed"),
    [
        (LOOPBACK, False),
        (("127.0.0.9",), False),
        (("localhost",), False),
        (("::1",), False),
        (("0.0.0.0",), True),
        (("::",), True),
        (("192.0.2.1",), True),
        (("my.host",), True),
    ],
)
def test_which_addresses_others_can_reach(bind: tuple[str, ...], exposed: bool) -> None:
    assert Forward(1, 2, bind=bind).is_exposed is exposed
    assert not Forward("/tmp/s", 2, bind=bind).is_exposed


def test_no_two_listen_in_the_same_place() -> None:
    same = [Forward(1, 2, bind=("127.0.0.1",)), Forward(1, 3)]
    with pytest.raises(UsageError, match="two forwards listen on 1"):
        check_distinct(same)
    with pytest.raises(UsageError, match="two forwards listen on /tmp/s"):
        check_distinct([Forward("/tmp/s", 2), Forward("/tmp/s", 3)])
    check_distinct([Forward(0, 2), Forward(0, 2)])
    check_distinct([Forward(1, 2, bind=("127.0.0.1",)), Forward(1, 2, bind=("127.0.0.2",))])
