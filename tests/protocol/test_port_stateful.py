"""A BasicPort between its owners, one after the other, and an agent, against what each knows."""

import sys

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.errors import LocalProtocolError
from ssmnet.protocol.port import BasicPort, PortStream

SIZES = st.sampled_from([30, 1, 0, 2000])


class Life:
    """One connection, as its owner and the agent know it."""

    def __init__(self, stream: PortStream) -> None:
        self.stream = stream
        self.written = b""
        self.arrived = b""
        self.came = b""  # from the agent, and not read by the owner
        self.closed = self.aborted = self.refused = False
        self.ended = False  # all of it has gone out
        self.low_water: int | None = None

    @property
    def unsent(self) -> int:
        return 0 if self.aborted or self.refused else len(self.written) - len(self.arrived)


class Port(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lives: list[Life] = []
        self.flags_due = self.flags_sent = 0
        self.agent_can_dial = True
        self.touched: list[PortStream] = []
        self.relieved: list[PortStream] = []
        self.start(reusable=True)

    @initialize(reusable=st.booleans())
    def start(self, reusable: bool) -> None:
        self.reusable = reusable
        self.port = BasicPort(reusable=reusable)

    @property
    def current(self) -> Life | None:
        last = self.lives[-1] if self.lives else None
        return None if last is None or last.ended or last.refused else last

    # --- the owners

    @rule(size=SIZES, close=st.booleans())
    def open(self, size: int, close: bool) -> None:
        first_or_next = self.reusable or not self.lives
        possible = self.current is None and self.agent_can_dial and first_or_next
        stream = self.port.open_stream()
        assert (stream is not None) is possible
        if stream is not None:
            assert all(life.stream is not stream for life in self.lives)
            self.lives.append(Life(stream))
            self.write(1, size)
            if close:
                self.close(1)

    @rule(last=st.integers(1, 2), size=SIZES)
    @precondition(lambda self: self.lives)
    def write(self, last: int, size: int) -> None:
        life = self.lives[-min(last, len(self.lives))]
        data = bytes([len(self.lives) % 251, len(life.written) % 251]) * size
        if life.closed:
            try:
                life.stream.write(data)
            except LocalProtocolError:
                return
            raise AssertionError("a closed stream takes no data")
        life.stream.write(memoryview(data))
        if not life.refused:
            life.written += data

    @rule(last=st.integers(1, 2))
    @precondition(lambda self: self.lives)
    def close(self, last: int) -> None:
        life = self.lives[-min(last, len(self.lives))]
        life.stream.close()
        life.closed = True
        life.came = b""

    @rule(last=st.integers(1, 2))
    @precondition(lambda self: self.lives)
    def abort(self, last: int) -> None:
        life = self.lives[-min(last, len(self.lives))]
        life.stream.abort()
        life.closed = life.aborted = True
        life.came = b""

    @rule(size=st.sampled_from([0, 1, 1000]))
    @precondition(lambda self: self.lives)
    def wish_to_be_told(self, size: int) -> None:
        life = self.lives[-1]
        if life.unsent > size:
            life.stream.low_water = life.low_water = size

    @rule(last=st.integers(1, 2))
    @precondition(lambda self: self.lives)
    def read(self, last: int) -> None:
        life = self.lives[-min(last, len(self.lives))]
        assert life.stream.take_received() == life.came
        life.came = b""

    # --- out

    @rule(size=st.one_of(st.integers(0, 50), st.just(1024)))
    def take(self, size: int) -> None:
        life = self.current
        data = self.port.take(size, 0.0)
        if life is None:
            assert data == b""
            return
        assert len(data) == min(size, life.unsent)
        life.arrived += data
        assert life.written.startswith(life.arrived)
        if life.low_water is not None and life.unsent <= life.low_water:
            self.relieved, life.low_water = [life.stream], None
        if life.closed and not life.unsent:
            life.ended = True
            if self.reusable:
                self.flags_due += 1
                self.agent_can_dial = False

    @rule()
    def take_disconnect(self) -> None:
        due = self.port.take_disconnect()
        assert due is (self.flags_due > self.flags_sent)
        self.flags_sent += due

    # --- the agent

    @rule()
    def acknowledge_all(self) -> None:
        """As the channel tells it: also when nothing was in flight."""
        self.port.disconnected()
        self.agent_can_dial = self.flags_sent == self.flags_due

    @rule(size=st.sampled_from([1, 100]))
    def receive(self, size: int) -> None:
        data = bytes([size]) * size
        self.port.receive(data)
        life = self.current
        if life is not None and not life.closed:
            life.came += data
            self.touched = [life.stream]

    @rule()
    def refuse(self) -> None:
        life = self.current
        self.port.connect_failed()
        if life is not None:
            life.refused = True
            self.touched = [life.stream]

    # --- what always holds

    @invariant()
    def the_stream_that_changed_is_told_once(self) -> None:
        assert list(self.port.touched()) == self.touched
        assert list(self.port.touched()) == []
        self.touched = []

    @invariant()
    def the_stream_with_room_again_is_told_once(self) -> None:
        assert list(self.port.relieved()) == self.relieved
        assert list(self.port.relieved()) == []
        self.relieved = []

    @invariant()
    def there_is_one_connection_at_the_most(self) -> None:
        life = self.current
        assert len(self.port) == (life is not None)
        assert self.port.idle is (life is None or not (life.unsent or life.closed))
        assert self.port.ready is bool(self.lives)
        assert self.port.get_timer() is None

    @invariant()
    def each_stream_is_what_it_should_be(self) -> None:
        for life in self.lives:
            assert life.stream.unsent == life.unsent
            assert life.stream.closed_by_peer is life.stream.refused is life.refused

    @invariant()
    def the_agent_is_told_of_each_end_once(self) -> None:
        ends = sum(life.ended for life in self.lives)
        assert self.flags_sent <= self.flags_due <= self.flags_sent + 1
        assert self.flags_due == (ends if self.reusable else 0)

    def teardown(self) -> None:
        """All that was written goes out, the agent is told, and the next can begin."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        if self.current is not None:
            self.close(1)
        while not self.port.idle:
            self.take(1024)
        self.take_disconnect()
        self.acknowledge_all()
        assert self.current is None
        for life in self.lives:
            assert life.refused or life.aborted or life.arrived == life.written
        possible = self.reusable or not self.lives
        self.open(1, close=False)
        assert (self.current is not None) is possible


TestPort = Port.TestCase
TestPort.settings = settings(max_examples=max(200, settings().max_examples), stateful_step_count=60)
