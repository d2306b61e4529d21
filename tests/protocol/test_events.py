import pytest

from ssmnet.protocol.events import ChannelEnded, DataKeyNeeded, Event, ExitCode, SessionReady


def test_a_driver_can_tell_the_events_apart() -> None:
    def name(event: Event) -> str:
        match event:
            case SessionReady(session_type=session_type, properties=properties):
                return f"{session_type} {properties['portNumber']}"
            case DataKeyNeeded(key_id=key_id):
                return key_id
            case ExitCode(code=code):
                return str(code)
            case ChannelEnded(output=output):
                return output

    assert name(SessionReady("Port", {"portNumber": "80"}, "3.3.0.0", "")) == "Port 80"
    assert name(DataKeyNeeded("alias/sessions", "")) == "alias/sessions"
    assert name(ExitCode(7)) == "7"
    assert name(ChannelEnded("timed out")) == "timed out"


def test_what_has_happened_can_not_be_changed() -> None:
    ended = ChannelEnded("over")
    with pytest.raises(AttributeError):
        ended.output = ""  # type: ignore[misc]
