import pytest

from ssmnet.protocol.events import ChannelEnded, Event, SessionReady


def test_a_driver_can_tell_the_events_apart() -> None:
    def name(event: Event) -> str:
        match event:
            case SessionReady(session_type=session_type, properties=properties):
                return f"{session_type} {properties['portNumber']}"
            case ChannelEnded(output=output):
                return output

    assert name(SessionReady("Port", {"portNumber": "80"}, "3.3.0.0", "")) == "Port 80"
    assert name(ChannelEnded("timed out")) == "timed out"


def test_what_has_happened_can_not_be_changed() -> None:
    ended = ChannelEnded("over")
    with pytest.raises(AttributeError):
        ended.output = ""  # type: ignore[misc]
