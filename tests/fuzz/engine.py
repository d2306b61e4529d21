"""Inputs from a seed: a corpus, mutated without end, that grows by what takes a new branch.

Which branches are taken is told by ``sys.monitoring`` (Python 3.12 and later), where one that has
gone both ways costs nothing more. Without that the corpus does not grow.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterable, Iterator
from random import Random
from types import CodeType, FunctionType, ModuleType

MAX_SIZE = 6000
Fuzz = Callable[[bytes], None]
Mutate = Callable[[bytes, Random], bytes]
Side = tuple[CodeType, int, int]
"""A branch and where it goes: code, offset, offset of the destination."""

INTERESTING = (0, 1, 2, 7, 8, 9, 63, 64, 125, 126, 127, 128, 253, 254, 255)
INTERESTING_WIDE = (0, 1, 116, 117, 120, 1024, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)


class Mutator:
    """Makes an input of others. ``tokens`` are bytes that mean something in them."""

    def __init__(
        self, random: Random, pool: list[bytes], tokens: tuple[bytes, ...], mutate: Mutate | None
    ) -> None:
        self.pool = pool
        self._random = random
        self._tokens = tokens or (b"\0",)
        self._mutate = mutate

    def next(self) -> bytes:
        random = self._random
        data = random.choice(self.pool)
        if self._mutate is not None and random.random() < 0.6:
            data = self._mutate(data, random)
            if random.random() < 0.5:
                return data
        changed = bytearray(data)
        for _ in range(1 << random.randrange(4)):
            random.choice(self.CHANGES)(self, changed)
        return bytes(changed[:MAX_SIZE])

    def _place(self, data: bytearray) -> int:
        return self._random.randint(0, len(data))

    def _range(self, data: bytes | bytearray) -> slice:
        start = self._random.randint(0, len(data))
        size = 1 << self._random.randrange(8)
        return slice(start, start + self._random.randint(1, size))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            value = self._random.choice((*INTERESTING, self._random.randrange(256)))
            data[self._random.randrange(len(data))] = value

    def _step(self, data: bytearray) -> None:
        if data:
            place = self._random.randrange(len(data))
            data[place] = (data[place] + self._random.randint(-4, 4)) & 0xFF

    def _set_wide(self, data: bytearray) -> None:
        size = self._random.choice((2, 4, 8))
        value = self._random.choice(INTERESTING_WIDE) & (1 << 8 * size) - 1
        place = self._place(data)
        data[place : place + size] = value.to_bytes(size, self._random.choice(("big", "little")))

    def _insert(self, data: bytearray) -> None:
        place = self._place(data)
        data[place:place] = self._random.randbytes(self._random.randint(1, 12))

    def _token(self, data: bytearray) -> None:
        token = self._random.choice(self._tokens)
        place = self._place(data)
        data[place : place + self._random.choice((0, len(token)))] = token

    def _delete(self, data: bytearray) -> None:
        del data[self._range(data)]

    def _truncate(self, data: bytearray) -> None:
        del data[self._place(data) :]

    def _repeat(self, data: bytearray) -> None:
        place = self._place(data)
        data[place:place] = data[self._range(data)] * self._random.choice((1, 1, 2, 10))

    def _splice(self, data: bytearray) -> None:
        other = self._random.choice(self.pool)
        place = self._place(data)
        data[place : place + self._random.choice((0, 1000))] = other[self._range(other)]

    def _cross(self, data: bytearray) -> None:
        other = self._random.choice(self.pool)
        data[self._place(data) :] = other[self._random.randint(0, len(other)) :]

    CHANGES = (
        _flip,
        _set,
        _set,
        _step,
        _set_wide,
        _insert,
        _token,
        _delete,
        _truncate,
        _repeat,
        _splice,
        _cross,
    )


def codes(subjects: Iterable[object]) -> Iterator[CodeType]:
    """The code of all functions of modules, of classes, or just of functions."""
    for subject in subjects:
        if isinstance(subject, ModuleType):
            own = [v for v in vars(subject).values() if is_of(v, subject.__name__)]
            yield from codes(own)
        elif isinstance(subject, type):
            own = [v for v in vars(subject).values() if is_of(v, subject.__module__)]
            yield from codes(own)
        elif isinstance(subject, property):
            yield from codes((subject.fget, subject.fset))
        elif isinstance(subject, FunctionType):
            yield from nested(subject.__code__)


def is_of(value: object, module: str) -> bool:
    if isinstance(value, property):
        return is_of(value.fget, module)
    return isinstance(value, FunctionType | type) and value.__module__ == module


def nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from nested(constant)


class Branches:
    """Which sides of the branches of ``subjects`` were taken: ``taken`` in all, ``new`` since it
    was last emptied."""

    def __init__(self, subjects: Iterable[object]) -> None:
        self.taken: set[Side] = set()
        self.new: set[Side] = set()
        self._codes = list(dict.fromkeys(codes(subjects)))
        self._seen: dict[tuple[CodeType, int], int] = {}

    @property
    def count(self) -> int:
        """How many sides there are."""
        return 2 * sum(1 for _ in self._branches())

    def missing(self) -> list[str]:
        """Where a side was never taken: function and line."""
        taken = [(code, offset) for code, offset, _ in self.taken]
        lines = {
            (code.co_qualname, line)
            for code, offset, line in self._branches()
            if taken.count((code, offset)) < 2
        }
        return [f"{name}:{line}" for name, line in sorted(lines)]

    def _branches(self) -> Iterator[tuple[CodeType, int, int]]:
        for code in self._codes:
            line = code.co_firstlineno
            for instruction in dis.get_instructions(code):
                line = (instruction.positions and instruction.positions.lineno) or line
                if instruction.opname.startswith(("POP_JUMP_IF", "FOR_ITER")):
                    yield code, instruction.offset, line

    if sys.version_info >= (3, 12):
        _TOOL = 4  # those that have names are for others

        def __enter__(self) -> Branches:
            sys.monitoring.use_tool_id(self._TOOL, "fuzz")
            sys.monitoring.register_callback(
                self._TOOL, sys.monitoring.events.BRANCH, self._branch_taken
            )
            for code in self._codes:
                sys.monitoring.set_local_events(self._TOOL, code, sys.monitoring.events.BRANCH)
            return self

        def __exit__(self, *_: object) -> None:
            for code in self._codes:
                sys.monitoring.set_local_events(self._TOOL, code, 0)
            sys.monitoring.register_callback(self._TOOL, sys.monitoring.events.BRANCH, None)
            sys.monitoring.free_tool_id(self._TOOL)

        def restart(self) -> None:
            """Tell of all sides as if none had been taken."""
            self.taken = set()
            self.new = set()
            self._seen.clear()
            sys.monitoring.restart_events()

        def _branch_taken(self, code: CodeType, offset: int, destination: int) -> object:
            side = (code, offset, destination)
            if side in self.taken:
                return None
            self.taken.add(side)
            self.new.add(side)
            sides = self._seen[code, offset] = self._seen.get((code, offset), 0) + 1
            return sys.monitoring.DISABLE if sides > 1 else None

    else:

        def __enter__(self) -> Branches:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def restart(self) -> None:
            pass


class Failed(Exception):
    """An input broke a promise; the cause says which."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"input {data.hex()}")
        self.data = data


def run(fuzz: Fuzz, mutator: Mutator, branches: Branches, inputs: int) -> None:
    """Run ``inputs`` of them. Raises Failed."""
    for _ in range(inputs):
        data = mutator.next()
        attempt(fuzz, data)
        if branches.new:
            branches.new.clear()
            mutator.pool.append(data)


def attempt(fuzz: Fuzz, data: bytes) -> None:
    try:
        fuzz(data)
    except Exception as error:
        raise Failed(data) from error


def smallest(fuzz: Fuzz, pool: Iterable[bytes], branches: Branches, limit: int) -> list[bytes]:
    """The shortest inputs that take together what all of them take, and up to ``limit`` more.

    Those go each another way, as no shorter one does.
    """
    kept: list[bytes] = []
    others: list[bytes] = []
    all_sides: set[Side] = set()
    ways: set[frozenset[Side]] = set()
    for data in sorted(set(pool), key=lambda data: (len(data), data)):
        branches.restart()
        fuzz(data)
        way = frozenset(branches.taken)
        if way - all_sides:
            kept.append(data)
        elif way not in ways:
            others.append(data)
        all_sides |= way
        ways.add(way)
    return kept + others[: max(0, limit - len(kept))]
