"""Which destinations are allowed, and which target leads there."""

import string
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.destination import Destination
from ssmnet.errors import DestinationForbidden, UsageError
from ssmnet.rules import Rules, parse_pattern, parse_route, read_host

LABELS = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=10)
NAMES = st.builds(
    lambda labels, last: ".".join([*labels, last]),
    st.lists(LABELS, max_size=4),
    st.text(string.ascii_lowercase, min_size=1, max_size=6),
)
PORTS = st.integers(1, 65535)


def fits(pattern: str, host: str, port: int = 443) -> bool:
    return parse_pattern(pattern).fits(read_host(host), port)


def allows(rules: Rules, host: str, port: int = 443) -> bool:
    try:
        rules.target_of(Destination(host, port))
    except DestinationForbidden:
        return False
    return True


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        ("10.1.0.0/16", "10.1.255.255"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "192.0.2.7."),
        ("fd00::/8", "fdff::1"),
        ("fd00::1", "FD00:0:0::1"),
        ("[fd00::1]", "fd00::1"),
        ("[fd00::]/8", "fd00::1"),
        ("10.0.0.0/8", "::ffff:10.1.2.3"),
        ("10.0.0.0/8", "::ffff:a01:203"),
        ("*.prod.internal", "db.prod.internal"),
        ("*.prod.internal", "a.b.prod.internal"),
        ("*.Prod.Internal.", "DB.pROD.internal."),
        ("db?.x", "db1.x"),
        ("db?.x", "DB1.X"),
        ("db-1_a.x", "db-1_a.x"),
        ("*", "anything"),
        ("*", "10.0.0.1"),
        ("*", "fd00::1"),
        ("db*", "db"),
        ("*1.example", "db1.example"),
    ],
)
def test_a_pattern_fits(pattern: str, host: str) -> None:
    assert fits(pattern, host)


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        ("10.1.0.0/16", "10.2.0.0"),
        ("10.1.0.0/16", "fd00::1"),
        ("10.1.0.0/16", "db.internal"),
        ("::/0", "10.0.0.1"),
        ("*.prod.internal", "prod.internal"),
        ("*.prod.internal", "db.prod.internal.example"),
        ("*.prod.internal", "dbxprod.internal"),
        ("db?.x", "db.x"),
        ("db?.x", "db12.x"),
        ("*.*", "10.0.0.1"),  # names only, but for * alone
        ("?*", "10.0.0.1"),
    ],
)
def test_a_pattern_does_not_fit(pattern: str, host: str) -> None:
    assert not fits(pattern, host)


@pytest.mark.parametrize(
    ("pattern", "host", "ports"),
    [
        ("*.internal:443", "a.internal", {443}),
        ("10.0.0.0/8:5432-5439", "10.0.0.1", {5432, 5435, 5439}),
        ("10.0.0.1:22", "10.0.0.1", {22}),
        ("[fd00::]/8:22", "fd00::1", {22}),
        ("[fd00::1]:22", "fd00::1", {22}),
        ("*:443", "anything", {443}),
        ("*:1-65535", "anything", {1, 22, 443, 5431, 5432, 5435, 5439, 5440, 65535}),
    ],
)
def test_a_pattern_with_ports(pattern: str, host: str, ports: set[int]) -> None:
    tried = (1, 22, 443, 5431, 5432, 5435, 5439, 5440, 65535)
    assert {port for port in tried if fits(pattern, host, port)} == ports


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":443",
        "a b",
        "a:",
        "a:0",
        "a:65536",
        "a:2-1",
        "a:-5",
        "a:x",
        "a:443,444",
        "a..b",
        ".a",
        "a/8",
        "[ab]",
        "[ab].x",
        "x[0-9]",
        "[10.0.0.1]:22",
        "[fd00::1",
        "fd00::1]:22",
        "[fd00::1]22",
        "10.0.0.0/33",
        "10.0.0.0/255.0.0.0",
        "10.1.2.3/8",
        "10.0.0",
        "010.0.0.1",
        "10.*",
        "10.0.0.?",
        "10.0.*.*",
        "db.1*",
        "0x7f.1",
        "fd00::/129",
        "fe80::1%eth0",
        "::ffff:10.0.0.0/104",
        "::ffff:10.0.0.1",
        "b\xfccher.example",
        "a\n",
        "https://a.example",
        "-" * 5 + "\x00",
    ],
)
def test_what_is_no_pattern_is_told_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_pattern(text)
    line = str(caught.value)
    assert line.isprintable()
    assert ascii(text)[1:-1] in line


def test_a_network_with_bits_of_a_host_is_put_right_in_the_error() -> None:
    with pytest.raises(UsageError, match=r"write 10\.1\.0\.0/16"):
        parse_pattern("10.1.2.3/16")


@pytest.mark.parametrize(
    "text", ["", "a", "a via", "via b", "a via b c", "a b via c", "a=b", "avia b"]
)
def test_what_is_no_route_is_told_in_one_line(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_route(text)
    assert str(caught.value).isprintable()


def test_a_route_has_a_pattern_and_a_target() -> None:
    route = parse_route("  *.prod.internal:443   via  i-0123 ")
    assert route.target == "i-0123"
    assert route.pattern == parse_pattern("*.prod.internal:443")


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "0x7f.1",
        "0x7f000001",
        "0X7F000001",
        "0177.0.0.1",
        "127.0.0.01",
        "2130706433",
        "127.0.0.0x1",
        "1.2.3.4.5",
        "256.1.1.1",
        "127.0.0.1..",
        "0x",
        "fe80::1%eth0",
        "fe80::1%251",
        "[::1]",
        "::ffff:127.1",
        "0.0.0.0",
        "::",
        "::ffff:0.0.0.0",
        "\uff11\uff12\uff17.0.0.1",
        "127\u30020.0.1",
        "db\u3002internal",
        "",
        ".",
        "..",
        "a..b",
        ".a",
        "a b",
        "a\0",
        "a\n",
        "a/b",
        "a:b",
        "a@b",
        "a%2eb",
        "*",
        "a" * 64,
        "a." * 127 + "a",
    ],
)
def test_a_host_that_may_be_read_in_two_ways_is_refused(host: str) -> None:
    with pytest.raises(DestinationForbidden) as caught:
        Rules(default_target="i-a").target_of(Destination(host, 443))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(DestinationForbidden):
        Rules(default_target="i-a").target_of(Destination("a", port))


@pytest.mark.parametrize(
    "host",
    [
        "10.1.2.3",
        "10.1.2.3.",
        "::ffff:10.1.2.3",
        "::FFFF:0a01:0203",
        "0:0:0:0:0:ffff:a01:203",
        "64:ff9b::10.1.2.3",  # NAT64
        "2002:a01:203::1",  # 6to4
    ],
)
def test_an_address_written_oddly_does_not_slip_by_a_deny_rule(host: str) -> None:
    assert not allows(Rules(deny=["10.0.0.0/8"], default_target="i-a"), host)
    assert allows(Rules(deny=["11.0.0.0/8"], default_target="i-a"), host)


def test_what_stands_for_another_address_is_not_allowed_as_that() -> None:
    assert not allows(Rules(allow=["10.0.0.0/8"], default_target="i-a"), "64:ff9b::10.1.2.3")
    assert allows(Rules(allow=["64:ff9b::/96"], default_target="i-a"), "64:ff9b::10.1.2.3")


def test_deny_wins_over_allow() -> None:
    rules = Rules(allow=["*.internal"], deny=["db.internal", "*:22"], default_target="i-a")
    assert allows(rules, "web.internal")
    assert not allows(rules, "DB.internal.")
    assert not allows(rules, "web.internal", 22)


def test_with_allow_all_else_is_denied() -> None:
    rules = Rules(allow=["*.internal:443", "10.0.0.0/8"], default_target="i-a")
    assert allows(rules, "web.internal")
    assert allows(rules, "10.9.9.9", 1)
    assert not allows(rules, "web.internal", 80)
    assert not allows(rules, "example.com")
    assert not allows(rules, "11.0.0.1")


def test_without_rules_all_is_allowed() -> None:
    rules = Rules(default_target="i-a")
    for host in ("web.internal", "10.0.0.1", "fd00::1"):
        assert rules.target_of(Destination(host, 1)) == "i-a"


def test_the_first_route_that_fits_wins() -> None:
    rules = Rules(
        routes=["db.prod via i-db", "*.prod via i-prod", "10.1.0.0/16 via i-net", "*:22 via i-ssh"],
        default_target="i-rest",
    )
    found = [
        rules.target_of(Destination(host, port))
        for host, port in (
            ("DB.prod.", 443),
            ("web.prod", 22),
            ("::ffff:10.1.0.1", 443),
            ("x", 22),
            ("x", 23),
        )
    ]
    assert found == ["i-db", "i-prod", "i-net", "i-ssh", "i-rest"]


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        (Rules(deny=["a", "*.c:443"], default_target="i"), "b.c:443 is denied by the rule *.c:443"),
        (Rules(allow=["a", "d"], default_target="i"), "b.c:443 is not in what is allowed: a, d"),
        (Rules(routes=["a via i"]), "no route leads to b.c:443, and no target is default"),
    ],
)
def test_what_is_forbidden_says_by_which_rule(rules: Rules, text: str) -> None:
    with pytest.raises(DestinationForbidden) as caught:
        rules.target_of(Destination("b.c", 443))
    assert str(caught.value) == text


def test_an_address_is_told_with_brackets() -> None:
    with pytest.raises(DestinationForbidden, match=r"^\[fd00::1\]:22 is denied"):
        Rules(deny=["fd00::/8"]).target_of(Destination("fd00::1", 22))


def error_of(call: Callable[[], object]) -> str:
    try:
        call()
    except (UsageError, DestinationForbidden) as error:
        return str(error)
    return ""


@given(st.text(max_size=60))
def test_any_text_is_a_pattern_or_a_usage_error(text: str) -> None:
    assert error_of(lambda: parse_pattern(text)).isprintable()


@given(st.text(max_size=300) | st.ip_addresses().map(str) | NAMES, st.integers())
def test_any_host_gets_a_target_or_is_forbidden(host: str, port: int) -> None:
    rules = Rules(default_target="i-a")
    assert error_of(lambda: rules.target_of(Destination(host, port))).isprintable()


@given(NAMES, st.integers(0, 2**32), PORTS)
def test_a_name_is_one_however_it_is_written(name: str, cases: int, port: int) -> None:
    written = "".join(
        letter.upper() if cases >> at % 32 & 1 else letter for at, letter in enumerate(name)
    )
    denied = Rules(deny=[name], default_target="i-a")
    assert not allows(denied, written, port)
    assert not allows(denied, f"{written}.", port)


@given(st.ip_addresses(v=4), st.integers(0, 32), PORTS)
def test_an_ipv4_address_is_one_however_it_is_written(
    address: IPv4Address, length: int, port: int
) -> None:
    network = IPv4Network((address, length), strict=False)
    denied = Rules(deny=[str(network)], default_target="i-a")
    number = int(address)
    written = [
        str(address),
        f"{address}.",
        f"::ffff:{address}",
        f"::FFFF:{number >> 16:04X}:{number & 0xFFFF:x}",
        IPv6Address((0xFFFF << 32) | number).exploded,
        f"64:ff9b::{address}",
        str(number),
        hex(number),
        f"0x{number >> 24:x}.{number & 0xFFFFFF}",
    ]
    assert not any(allows(denied, host, port) for host in written)


@given(st.ip_addresses(v=6), st.integers(0, 128), PORTS)
def test_an_ipv6_address_is_one_however_it_is_written(
    address: IPv6Address, length: int, port: int
) -> None:
    if address.ipv4_mapped is not None:
        return
    network = IPv6Network((address, length), strict=False)
    if network.network_address.ipv4_mapped is not None:
        return
    for written in (str(address), address.exploded, address.exploded.upper(), f"{address}."):
        assert not allows(Rules(deny=[str(network)], default_target="i-a"), written, port)
        assert not allows(
            Rules(deny=[f"[{network.network_address}]/{length}:{port}"], default_target="i-a"),
            written,
            port,
        )
