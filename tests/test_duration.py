import pytest

from ssmnet.duration import parse_duration
from ssmnet.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("8h", 28_800), ("1d", 86_400), ("0.25s", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0h", "-1", "1 h", "h", "1w", "1h30m", "1e3", "٣s", "1_0"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration such as 90s"):
        parse_duration(text)
