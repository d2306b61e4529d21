"""A port session without multiplexing: its whole payload is one byte stream.

The agent dials the destination when the session starts, and what the destination says before there
is a reader is not acknowledged, so that the agent sends it again.

Old agents forward ports in this way too ("basic mode"), one connection after the other: the client
says DisconnectToPort when a connection ends, and the agent dials again at the next Output. What
still comes of the old connection until that flag is acknowledged has no reader and is dropped.

BasicPort and PortStream have the faces of smux.Multiplexer and smux.MuxStream.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..errors import LocalProtocolError
from .buffer import Buffer, SendBuffer


class PortStream:
    """The one connection that a session without multiplexing has at a time.

    ``exclusive`` says that the next one can't begin before its end.
    """

    __slots__ = (
        "_buffer",
        "_closing",
        "_received",
        "closed_by_peer",
        "exclusive",
        "low_water",
        "refused",
    )

    def __init__(self, *, exclusive: bool = False) -> None:
        self.exclusive = exclusive
        self._buffer = SendBuffer()
        self._received: list[Buffer] = []
        self._closing = False
        self.low_water: int | None = None
        self.closed_by_peer = False
        self.refused = False

    @property
    def unsent(self) -> int:
        """The bytes that were written and not yet taken."""
        return self._buffer.size

    def write(self, data: Buffer) -> None:
        """Queue ``data``. It is dropped when the connection was refused."""
        if self._closing:
            raise LocalProtocolError("a closed stream takes no data")
        if not self.closed_by_peer:
            self._buffer.append(data)

    def close(self) -> None:
        """End the connection after all that was written. What still comes is dropped."""
        self._closing = True
        self._received.clear()

    def abort(self) -> None:
        """End the connection and drop what is queued."""
        self._buffer.clear()
        self.close()

    def take_received(self) -> bytes:
        """All that has come since the last call."""
        received, self._received = self._received, []
        return b"".join(received)


class BasicPort:
    """The client's end of a port session without multiplexing.

    ``reusable`` says that the agent dials again for a next connection. ``refusals`` counts those
    that the destination has refused since it last said anything.
    """

    urgent = 0  # there is one stream at a time

    def __init__(self, *, reusable: bool) -> None:
        self._reusable = reusable
        self.refusals = 0
        self._stream: PortStream | None = None
        self._used = False
        self._flag_due = False
        self._disconnecting = False
        self._touched: dict[PortStream, None] = {}
        self._relieved: tuple[PortStream, ...] = ()

    def __len__(self) -> int:
        """How many connections are open: one at the most."""
        return int(self._stream is not None)

    @property
    def ready(self) -> bool:
        """Whether what the agent sends has a reader, or can't have one any more."""
        return self._used

    @property
    def idle(self) -> bool:
        """Whether there is nothing to take."""
        return not self._stream or not (self._stream.unsent or self._stream._closing)

    @property
    def closing(self) -> bool:
        """Whether the end of a connection has not been confirmed."""
        return self._disconnecting

    def open_stream(self) -> PortStream | None:
        """The next connection; None while there is one, or where there can't be another."""
        if self._stream or self._disconnecting or (self._used and not self._reusable):
            return None
        self._used = True
        self._stream = PortStream(exclusive=self._reusable)
        return self._stream

    def take(self, size: int, now: float, *, urgent: bool = False) -> bytes:  # noqa: ARG002 - as the multiplexer's
        """Bytes to send, at most ``size``; empty when there is nothing to send."""
        stream = self._stream
        if stream is None:
            return b""
        data = b"".join(stream._buffer.take(size))
        if stream.low_water is not None and stream.unsent <= stream.low_water:
            stream.low_water = None
            self._relieved = (stream,)
        if stream._closing and not stream.unsent:
            self._stream = None
            self._flag_due = self._disconnecting = self._reusable
        return data

    def take_disconnect(self) -> bool:
        """Whether DisconnectToPort is to be sent now, after the last bytes of a connection."""
        due, self._flag_due = self._flag_due, False
        return due

    def disconnected(self) -> None:
        """All that was sent has been acknowledged, the flag among it: the agent can dial again."""
        if not self._flag_due:
            self._disconnecting = False

    def get_timer(self) -> float | None:
        """No time matters here."""
        return None

    def receive(self, data: Buffer) -> None:
        """Take in the agent's bytes; without a connection they have no reader."""
        stream = self._stream
        if stream is not None:
            self.refusals = 0
            self._deliver(stream, data)

    def connect_failed(self) -> None:
        """The agent could not dial the destination for the present connection."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self.refusals += 1
            stream._buffer.clear()
            stream.refused = True
            self._end(stream)

    def ended(self) -> None:
        """The session has ended in order: so has a connection after which there is no other."""
        if self._stream is not None and not self._reusable:
            self._end(self._stream)

    def touched(self) -> Iterable[PortStream]:
        """The streams that got data or their end since the last call."""
        touched, self._touched = self._touched, {}
        return touched

    def relieved(self) -> Iterable[PortStream]:
        """The stream, if its queue has come down to ``low_water`` since the last call."""
        relieved, self._relieved = self._relieved, ()
        return relieved

    def _deliver(self, stream: PortStream, data: Buffer) -> None:
        if not stream._closing:
            stream._received.append(data)
            self._touched[stream] = None

    def _end(self, stream: PortStream) -> None:
        stream.closed_by_peer = True
        self._touched[stream] = None
