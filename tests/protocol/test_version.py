import re

from ssmnet.protocol.version import CLIENT_VERSION


def test_it_is_what_the_aws_cli_accepts_and_above_all_that_switches_something_off() -> None:
    assert re.fullmatch(r"\d+(\.\d+){3}", CLIENT_VERSION)
    assert tuple(map(int, CLIENT_VERSION.split("."))) > (1, 2, 764, 0)
