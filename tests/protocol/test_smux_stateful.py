"""A Multiplexer between any number of owners and an agent, against what each of them knows.

The agent is a model: it reads frames field by field, insists on the order of a stream's life, and
sends its own frames in any pieces. Nothing here waits: time is a number.
"""

import struct
import sys
from collections import Counter, deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ssmnet.errors import LocalProtocolError
from ssmnet.protocol.smux import Multiplexer, MuxStream
from tests.protocol.far_end import FIN, NOP, PSH, SYN, smux_frame, smux_frames

HEADER = 8
OPENING_TIME = 1.0
KEEP_ALIVE = 10.0

# Of one among however many there are, most often one of the latest.
CHOICES = st.one_of(st.integers(0, 2), st.integers(0, 10_000))
OFTEN = st.sampled_from([True, True, False])
SIZES = st.sampled_from([1, 3, 12, 500, 3000])
LOW_WATERS = st.sampled_from([None, 0, 1, 100])
TAKES = st.one_of(st.just(0), st.integers(9, 40), st.sampled_from([1024, 10_000, 7, 8]))


class Life:
    """One stream, as its owner and the agent know it."""

    def __init__(self, stream: MuxStream) -> None:
        self.stream = stream
        self.id = stream.id
        self.written = b""
        self.read = b""
        self.closed = self.aborted = False
        self.low_water: int | None = None
        # What the agent has got, and what it has sent.
        self.opened = self.finished = False
        self.arrived = b""
        self.answers = b""
        self.agent_done = self.refused = False
        # What of that has come.
        self.came = b""
        self.agent_told = False
        # While it waits for a turn: the turns that each of the others had.
        self.turns_of_others: Counter[int] | None = None

    @property
    def withdrawn(self) -> bool:
        return self.aborted and not self.opened

    @property
    def over(self) -> bool:
        return self.agent_told or self.withdrawn

    @property
    def unsent(self) -> int:
        return 0 if self.over or self.aborted else len(self.written) - len(self.arrived)

    @property
    def owes(self) -> bool:
        """Whether there is something to send of it, now that it is open."""
        unfinished = self.unsent > 0 or (self.closed and not self.finished)
        return self.opened and not self.over and unfinished

    def update_turn(self) -> None:
        """Begin to wait for a turn, or end it."""
        if not self.owes:
            self.turns_of_others = None
        elif self.turns_of_others is None:
            self.turns_of_others = Counter()


class Mux(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.lives: dict[int, Life] = {}
        self.unanswered: dict[int, float] = {}  # when they were opened
        self.in_transit: deque[bytes | None] = deque()  # None for a refusal's flag
        self.partial = b""  # of a frame of the agent's, what has come
        self.refusals = 0
        self.must_be_told: set[MuxStream] = set()
        self.may_be_told: set[MuxStream] = set()
        self.relieved: list[MuxStream] = []
        self.keep_alive_due: float | None = None
        self.start(3, None, 0)

    @initialize(
        max_opening=st.sampled_from([3, 1, 256]),
        keep_alive=st.sampled_from([None, KEEP_ALIVE]),
        amount=st.integers(1, 4),
    )
    def start(self, max_opening: int, keep_alive: float | None, amount: int) -> None:
        self.max_opening, self.keep_alive = max_opening, keep_alive
        self.multiplexer = Multiplexer(
            max_opening=max_opening, opening_time=OPENING_TIME, keep_alive=keep_alive
        )
        for _ in range(amount):
            self.open_one()

    # --- the owners

    @rule(amount=st.sampled_from([1, 1, 4]), size=st.one_of(st.just(0), SIZES), close=st.booleans())
    @precondition(lambda self: sum(not life.over for life in self.lives.values()) < 8)
    def open(self, amount: int, size: int, close: bool) -> None:
        for _ in range(amount):
            self.open_one()
        if size:
            self.write(0, size, None, 0)
        if close:
            self.close(0, False, 0)

    @rule(choice=CHOICES, size=SIZES, low_water=LOW_WATERS, take=TAKES)
    @precondition(lambda self: self.lives)
    def write(self, choice: int, size: int, low_water: int | None, take: int) -> None:
        life = self.any_life(choice)
        data = life.id.to_bytes(2) * size
        try:
            life.stream.write(memoryview(data))
        except LocalProtocolError:
            assert life.closed
        else:
            assert not life.closed
            if not life.over:
                life.written += data
                life.update_turn()
        if low_water is not None and life.unsent > low_water:
            life.stream.low_water = life.low_water = low_water
        self.take_once(take)

    @rule(choice=CHOICES, abort=st.booleans(), take=TAKES)
    @precondition(lambda self: self.lives)
    def close(self, choice: int, abort: bool, take: int) -> None:
        life = self.any_life(choice)
        if abort:
            life.stream.abort()
        else:
            life.stream.close()
        life.closed = True
        life.aborted |= abort
        life.update_turn()
        life.read = life.came  # whatever that was: it is dropped
        self.take_once(take)

    # --- out

    @rule(
        size=TAKES,
        times=st.integers(1, 4),
        milliseconds=st.sampled_from([0, 0, 400, 1000, 9000, 11_000]),
    )
    def take(self, size: int, times: int, milliseconds: int) -> None:
        self.now += milliseconds / 1000
        for _ in range(times):
            self.take_once(size)

    # --- the agent

    @rule(choice=CHOICES, size=st.sampled_from([100, 7, 1, 0]), end=st.booleans(), receive=OFTEN)
    @precondition(lambda self: self.talking())
    def answer(self, choice: int, size: int, end: bool, receive: bool) -> None:
        life = self.talking()[-1 - choice % len(self.talking())]
        data = bytes([len(life.answers) % 251]) * size
        life.answers += data
        self.in_transit.append(smux_frame(PSH, life.id, data))
        if end:
            self.agent_ends(life)
        if receive:
            self.receive_all()
            self.read_all()

    @rule(choice=CHOICES, refuse=st.booleans(), another=st.booleans(), receive=OFTEN)
    @precondition(lambda self: any(not life.answers for life in self.talking()))
    def end(self, choice: int, refuse: bool, another: bool, receive: bool) -> None:
        """Of one that had no answer. A refusal's flag names no stream, and others may end first."""
        silent = [life for life in self.talking() if not life.answers]
        others = [life for life in self.talking() if life.answers]
        life = silent[-1 - choice % len(silent)]
        if refuse:
            life.refused = True
            self.in_transit.append(None)
        if another and others:
            self.agent_ends(others[choice % len(others)])
        self.agent_ends(life)
        if receive:
            self.receive_all()
            self.read_all()

    @rule(command=st.sampled_from([PSH, FIN, SYN, NOP]), choice=CHOICES)
    def send_what_means_nothing(self, command: int, choice: int) -> None:
        """Frames of streams that never were, or are not open yet."""
        unopened = [n for n, life in self.lives.items() if not life.opened]
        stream_id = (0, 1, 2, 100_001, *unopened)[-1 - choice % (4 + len(unopened))]
        frame = smux_frame(command, stream_id, b"nobody's" if command == PSH else b"")
        if stream_id not in unopened:
            self.in_transit.append(frame)
        elif not self.partial and not self.in_transit:
            self.multiplexer.receive(frame)

    @rule(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20), read=st.booleans())
    @precondition(lambda self: self.in_transit)
    def receive(self, sizes: list[int], read: bool) -> None:
        for size in sizes:
            self.receive_once(size)
        if read:
            self.read_all()

    # --- what always holds

    @invariant()
    def streams_that_changed_are_told_once(self) -> None:
        touched = list(self.multiplexer.touched())
        assert len(touched) == len(set(touched))
        assert self.must_be_told <= set(touched) <= self.may_be_told
        self.must_be_told.clear()
        self.may_be_told.clear()
        assert list(self.multiplexer.touched()) == []

    @invariant()
    def streams_with_room_again_are_told_once(self) -> None:
        assert list(self.multiplexer.relieved()) == self.relieved
        self.relieved.clear()
        assert list(self.multiplexer.relieved()) == []

    @invariant()
    def each_stream_is_what_it_should_be(self) -> None:
        for life in self.lives.values():
            assert life.stream.unsent == life.unsent
            assert life.stream.closed_by_peer is life.over
            assert life.stream.refused is (life.agent_told and life.refused)

    @invariant()
    def streams_are_forgotten_when_they_are_over(self) -> None:
        alive = {number for number, life in self.lives.items() if not life.over}
        assert self.multiplexer._streams.keys() == alive
        assert len(self.multiplexer) == len(alive)
        assert [stream.id for stream in self.multiplexer._to_open] == [
            number for number in sorted(alive) if not self.lives[number].opened
        ]
        assert len(self.multiplexer._unanswered) <= self.max_opening

    @invariant()
    def who_has_something_to_send_has_a_turn(self) -> None:
        turns = [*self.multiplexer._beginners, *self.multiplexer._turns]
        assert len(turns) == len(set(turns))
        assert {life.stream for life in self.lives.values() if life.owes} <= set(turns)

    @invariant()
    def refusals_in_a_row_are_counted(self) -> None:
        assert self.multiplexer.refusals == self.refusals

    def teardown(self) -> None:
        """All that was written goes out, all ends are told, and nothing is left."""
        if sys.exc_info()[0] is not None:
            return  # a failure is told already
        self.receive_all()
        self.take_all()
        for life in self.lives.values():
            if not life.over:
                assert life.aborted or life.arrived == life.written
                assert life.finished is life.closed
                if not life.agent_done:
                    self.agent_ends(life)
        self.receive_all()
        self.take_all()
        assert len(self.multiplexer) == 0
        assert not self.multiplexer._unanswered
        self.read_all()
        assert all(life.closed or life.read == life.answers for life in self.lives.values())

    # --- the model: out

    def open_one(self) -> None:
        stream = self.multiplexer.open_stream()
        assert stream.id % 2 == 1
        assert stream.id > max(self.lives, default=1)
        self.lives[stream.id] = Life(stream)

    def any_life(self, choice: int) -> Life:
        return list(self.lives.values())[-1 - choice % len(self.lives)]

    def take_all(self) -> None:
        unsent = sum(life.unsent for life in self.lives.values())
        for _ in range(10 * len(self.lives) + unsent + 1):
            taken = self.take_once(1024)
            if self.multiplexer.idle:
                return
            if not taken:
                timer = self.multiplexer.get_timer()
                assert timer is not None
                self.now = max(self.now, timer)
        assert self.multiplexer.idle

    def take_once(self, size: int) -> bytes:
        before = {number: life.unsent for number, life in self.lives.items()}
        owed, openings = any(life.owes for life in self.lives.values()), self.openings_possible()
        data = self.multiplexer.take(size, self.now)
        assert len(data) <= size
        frames = list(smux_frames(data))
        assert sum(HEADER + len(payload) for _, _, payload in frames) == len(data)
        assert data or size <= HEADER or not (owed or openings)
        self.check_keep_alive(frames, size)
        self.check_openings(frames, size, openings)
        last = 0
        for command, stream_id, payload in frames:
            if command != NOP:
                self.agent_receives(command, self.lives[stream_id], payload)
                if stream_id != last and command != SYN:
                    self.has_a_turn(self.lives[stream_id])
                self.lives[stream_id].update_turn()
                last = stream_id
        self.check_relieved(before)
        return data

    def agent_receives(self, command: int, life: Life, payload: bytes) -> None:
        assert not life.over
        assert not life.finished
        assert life.opened is (command != SYN)
        if command == SYN:
            life.opened = True
            self.unanswered[life.id] = self.now
        elif command == PSH:
            assert payload
            life.arrived += payload
            assert life.written.startswith(life.arrived)
        else:
            assert life.closed
            assert life.aborted or life.arrived == life.written
            life.finished = True

    def has_a_turn(self, life: Life) -> None:
        """Nobody has two turns while another waits for its first."""
        life.turns_of_others = None
        for other in self.lives.values():
            if other.turns_of_others is not None:
                assert not other.turns_of_others[life.id]
                other.turns_of_others[life.id] = 1

    def openings_possible(self) -> int:
        young = sum(self.now < since + OPENING_TIME for since in self.unanswered.values())
        waiting = sum(not life.opened and not life.over for life in self.lives.values())
        return max(0, min(self.max_opening - young, waiting))

    def check_openings(self, frames: list[tuple[int, int, bytes]], size: int, most: int) -> None:
        opened = [stream_id for command, stream_id, _ in frames if command == SYN]
        assert opened == sorted(opened)
        keep_alives = sum(command == NOP for command, _, _ in frames)
        assert len(opened) == min(most, size // HEADER - keep_alives)

    def check_keep_alive(self, frames: list[tuple[int, int, bytes]], size: int) -> None:
        due = self.keep_alive_due is not None and self.now >= self.keep_alive_due
        assert (frames[:1] == [(NOP, 0, b"")]) is (due and size >= HEADER)
        assert all(command != NOP for command, _, _ in frames[1:])
        if self.keep_alive is not None and (frames or self.keep_alive_due is None):
            self.keep_alive_due = self.now + self.keep_alive

    def check_relieved(self, before: dict[int, int]) -> None:
        """Whoever wished to be told is told as soon as its queue has come down, and only then."""
        relieved = list(self.multiplexer._relieved)[len(self.relieved) :]
        for stream in relieved:
            life = self.lives[stream.id]
            assert life.low_water is not None
            assert life.unsent <= life.low_water
            life.low_water = None
        for number, life in self.lives.items():
            if life.low_water is not None and life.unsent < before[number]:
                assert life.unsent > life.low_water
        self.relieved += relieved

    # --- the model: in

    def talking(self) -> list[Life]:
        return [life for life in self.lives.values() if life.opened and not life.agent_done]

    def agent_ends(self, life: Life) -> None:
        life.agent_done = True
        self.in_transit.append(smux_frame(FIN, life.id))

    def receive_all(self) -> None:
        while self.in_transit:
            self.receive_once(1 << 20)

    def read_all(self) -> None:
        for life in self.lives.values():
            data = life.stream.take_received()
            assert data == (b"" if life.closed else life.came[len(life.read) :])
            life.read += data

    def receive_once(self, size: int) -> None:
        """A piece of the agent's byte stream; a refusal's flag comes between two of them."""
        if not self.in_transit:
            return
        piece = self.in_transit.popleft()
        if piece is None:
            self.multiplexer.connect_failed()
            return
        while len(piece) < size and self.in_transit and (more := self.in_transit[0]) is not None:
            piece += more
            self.in_transit.popleft()
        if len(piece) > size:
            self.in_transit.appendleft(piece[size:])
            piece = piece[:size]
        self.multiplexer.receive(memoryview(piece))
        self.has_come(piece)

    def has_come(self, piece: bytes) -> None:
        """Read it a byte at a time, which no reader of frames can get wrong."""
        for position in range(len(piece)):
            self.partial += piece[position : position + 1]
            if len(self.partial) >= HEADER:
                _, command, length, stream_id = struct.unpack_from("<BBHI", self.partial)
                if life := self.lives.get(stream_id):
                    self.frame_grows(life, command, length)
                if len(self.partial) == HEADER + length:
                    self.partial = b""

    def frame_grows(self, life: Life, command: int, length: int) -> None:
        if life.over or not life.opened:
            return
        if len(self.partial) > HEADER:
            life.came += self.partial[-1:]
            self.may_be_told.add(life.stream)
            if not life.closed:
                self.must_be_told.add(life.stream)
        elif length:
            self.refusals = 0
            self.is_answered(life)
        elif command == FIN:
            life.agent_told = True
            life.update_turn()
            self.refusals += life.refused
            self.is_answered(life)
            self.may_be_told.add(life.stream)
            self.must_be_told.add(life.stream)

    def is_answered(self, life: Life) -> None:
        """The agent dials one after the other."""
        for number in [number for number in self.unanswered if number <= life.id]:
            del self.unanswered[number]


TestMux = Mux.TestCase
TestMux.settings = settings(max_examples=max(200, settings().max_examples), stateful_step_count=60)
