"""What holds at every step of a session, whatever the network does: looked at from outside.

Where only the client itself knows, its insides are looked at, and nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

from ..driver import WRITE_LIMIT, Driver
from ..message_socket import Handler
from ..protocol.stream import MAX_REORDERED_BYTES, MAX_REORDERED_MESSAGES, RESERVE
from ..protocol.window import MAX_MESSAGES
from .transcript import ACKNOWLEDGE, INPUT, OUTPUT, Transcript
from .websocket import READ_SIZE, SimulatedWebSocket

# So often a message may go out: whoever repeats it more often does so without looking.
MAX_TRANSMISSIONS = 100
_OUTPUT_PAYLOAD = b"\x00\x00\x00\x01"
_PAYLOAD_TYPE = slice(112, 116)
_TELLS_PAUSE = {
    "pause_publication": True,
    "start_publication": False,
    OUTPUT: False,
    ACKNOWLEDGE: False,
}
# Handshake and flags do not ask the window.
_CONTROL_MESSAGES = 8
_LARGEST_WRITE = 512 * 1024


class _Session:
    """What was seen of one session's client."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []  # by number
        self.transmissions: list[int] = []
        self.acknowledged: set[int] = set()
        self.unanswered: list[int] = []
        self.lowest = 0
        self.most_waiting = 0
        # What the last message said of the agent, if there was one that said something.
        self.paused: bool | None = None


class Invariants:
    """Looks at every message that a client writes and takes in."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._sessions: dict[Handler, _Session] = {}

    @property
    def drivers(self) -> Iterator[Driver]:
        """Those of all sessions that there were."""
        return (cast(Driver, handler) for handler in self._sessions)

    def client_gets(self, handler: Handler, kind: str, number: int) -> None:
        """Acknowledgements take messages off the client's list."""
        session = self._session(handler)
        if kind == OUTPUT:
            session.unanswered.append(number)
        if kind in _TELLS_PAUSE:
            session.paused = _TELLS_PAUSE[kind]
        if kind != ACKNOWLEDGE:
            return
        session.acknowledged.add(number)
        while session.lowest in session.acknowledged:
            session.lowest += 1

    def client_answers(self, handler: Handler, number: int) -> None:
        """What comes is acknowledged once, over the next connection if the last is gone."""
        unanswered = self._session(handler).unanswered
        if number in unanswered:
            unanswered.remove(number)
        else:
            self._transcript.fail(f"the client acknowledged {number}, which had not come")

    def check_answers(self, handler: Handler) -> None:
        """What comes is acknowledged soon."""
        unanswered = self._session(handler).unanswered
        self._transcript.require(
            not unanswered, f"the client took and did not acknowledge {unanswered}"
        )

    def client_wrote(self, handler: Handler, messages: list[tuple[str, int, bytes]]) -> None:
        """What is sent is in order, the same each time, and within the window."""
        session = self._session(handler)
        last: bytes | None = None
        for kind, number, data in messages:
            if kind == INPUT:
                last = data
                self._check_message(session, number, data)
        if last is not None and last[_PAYLOAD_TYPE] == _OUTPUT_PAYLOAD:
            window = cast(Driver, handler).channel._sender.window
            before = window.in_flight - len(last)
            if before >= min(window.limit + RESERVE, window.max_bytes):
                self._transcript.fail(
                    f"{before} bytes were in flight before the last message, of {window.limit}"
                )

    def client_read(self, handler: Handler, websocket: SimulatedWebSocket) -> None:
        """What the client holds is bounded."""
        driver = cast(Driver, handler)
        session = self._session(handler)
        receiver = driver.channel._receiver
        session.most_waiting = max(session.most_waiting, receiver._waiting_bytes)
        require = self._transcript.require
        require(
            len(receiver._waiting) <= MAX_REORDERED_MESSAGES
            and receiver._waiting_bytes <= MAX_REORDERED_BYTES,
            "more messages wait for a gap to close than are allowed",
        )
        if session.paused is not None:
            require(
                driver.channel._paused is session.paused,
                f"the client thinks that paused is {driver.channel._paused}",
            )
            session.paused = None
        require(
            websocket.write_buffer_size <= WRITE_LIMIT + _LARGEST_WRITE,
            f"{websocket.write_buffer_size} bytes wait to be written",
        )
        unread = sum(transport.unread_size for transport in driver._transports.values())
        require(
            driver._slow_readers.total == unread,
            f"{driver._slow_readers.total} bytes are counted, {unread} unread",
        )
        if unread > driver._slow_readers.limit:
            require(websocket.reading_paused, f"{unread} bytes are unread, and more is read")
            most = driver._slow_readers.limit + READ_SIZE + session.most_waiting
            require(unread <= most, f"{unread} bytes are unread")

    def check_end(self) -> None:
        """Nothing is left of the sessions."""
        for driver in self.drivers:
            left = {
                "streams": len(driver._transports),
                "streams to open": len(driver._waiting),
                "probes": len(driver._probes),
            }
            self._transcript.require(not any(left.values()), f"left behind: {left}")

    def _check_message(self, session: _Session, number: int, data: bytes) -> None:
        fail = self._transcript.fail
        if number == len(session.sent):
            session.sent.append(data)
            session.transmissions.append(1)
            if number - session.lowest >= MAX_MESSAGES + _CONTROL_MESSAGES:
                fail(f"message {number} is sent, and {session.lowest} has not arrived")
            return
        if not 0 <= number < len(session.sent):
            fail(f"message {number} is sent after {len(session.sent) - 1}")
            return
        session.transmissions[number] += 1
        if data != session.sent[number]:
            fail(f"message {number} is not what it was")
        if number in session.acknowledged:
            fail(f"message {number} is sent again, though it is acknowledged")
        if session.transmissions[number] > MAX_TRANSMISSIONS:
            fail(f"message {number} is sent for the {session.transmissions[number]}th time")

    def _session(self, handler: Handler) -> _Session:
        session = self._sessions.get(handler)
        if session is None:
            session = self._sessions[handler] = _Session()
        return session
