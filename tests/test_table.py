"""The table of what runs: what it shows where there is little room, and how it is drawn anew."""

import asyncio
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TextIO

import pytest
from msgspec.structs import replace
from rich.cells import cell_len

from ssmnet import table
from ssmnet.snapshot import Snapshot, State
from ssmnet.table import LiveTable, Rate, Rates, as_text, can_draw, plain, size_text, time_text

TIMEOUT = 20.0
DB = Snapshot(
    name="db",
    kind="forward",
    target="i-0123456789abcdef0",
    destination="db.internal:5432",
    state=State.UP,
    addresses=("127.0.0.1:5432", "[::1]:5432"),
    connections=12,
    sent=12_345,
    received=99_999_999,
    round_trip_time=0.0234,
)
PROXY = Snapshot(
    name="proxy-of-production",
    kind="socks",
    target="i-0123456789abcdef0",
    destination="*",
    state=State.RESTARTING,
    addresses=("127.0.0.1:1080",),
    connections=3,
    last_error="the session was ended \u65e5\u672c\u8a9e",
)
BOTH = (DB, PROXY)
TITLES = ("name", "local address", "destination", "target", "state", "open", "in", "out")


def test_a_proxy_shows_both_ports() -> None:
    both = replace(PROXY, addresses=("127.0.0.1:1080", "127.0.0.1:8080"))
    assert "127.0.0.1:1080,8080" in as_text([both])


def header(text: str) -> list[str]:
    return re.split("  +", text.splitlines()[0].strip())


def test_all_of_it_where_there_is_room() -> None:
    first, db, proxy = as_text(BOTH).splitlines()
    assert header(first) == [*TITLES, "round trip", "last error"]
    assert db.split() == [
        *("db", "127.0.0.1:5432", "db.internal:5432", "i-0123456789abcdef0", "up", "12"),
        *("95.4", "MiB", "12.1", "KiB", "23", "ms"),
    ]
    assert proxy.endswith("the session was ended \u65e5\u672c\u8a9e")


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (100, ["name", "local address", "destination", "state", "open", "in", "last error"]),
        (80, ["name", "local address", "destination", "state", "last error"]),
        (60, ["name", "local address", "destination", "state"]),
        (40, ["name", "local address", "state"]),
        (22, ["name", "state"]),
    ],
)
def test_what_matters_least_has_no_place_in_a_narrow_one(width: int, titles: list[str]) -> None:
    text = as_text(BOTH, width)
    assert header(text) == titles
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert "127.0.0.1:5432" in text or width < 40
    assert "restarting" in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_forwards_to_one_instance_are_told_apart(width: int) -> None:
    ports = ("22", "5432", "65535")
    rows = [
        replace(PROXY, state=State.UP, destination=f"i-0123456789abcdef0:{port}") for port in ports
    ]
    for port, line in zip(ports, as_text(rows, width).splitlines()[1:], strict=True):
        assert re.search(rf" i-0[0-9a-f]+\u2026?:{port} ", line)
        assert f"i-0123456789abcdef0:{port} " in line or width < 100


@pytest.mark.parametrize(
    ("text", "columns", "cut"),
    [
        ("db.internal:5432", 16, "db.internal:5432"),
        ("db.internal:5432", 15, "db.intern\u2026:5432"),
        ("db.internal:5432", 7, "d\u2026:5432"),
        # What has no port, or no room for one, is cut at its end by the table.
        ("db.internal:5432", 6, "db.internal:5432"),
        ("/var/run/docker.sock", 10, "/var/run/docker.sock"),
        ("\u65e5\u672c\u8a9e:80", 7, "\u65e5 \u2026:80"),
    ],
)
def test_the_port_is_cut_last(text: str, columns: int, cut: str) -> None:
    assert table._with_port(text, columns) == cut


@pytest.mark.parametrize("width", [*range(1, 30), 50, 79, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_row_has_two(width: int) -> None:
    wide = Snapshot(
        name="\u65e5\u672c" * 40,
        kind="http",
        target="t" * 300,
        destination="d" * 300,
        state=State.FAILED,
        addresses=("/" + "very/" * 60,),
        last_error="\u00e9\u0301" * 200,
    )
    lines = as_text([*BOTH, wide], width).splitlines()
    assert len(lines) == 4
    assert max(map(cell_len, lines)) <= width


def test_a_column_of_nothing_has_no_place() -> None:
    assert header(as_text([DB])) == [*TITLES, "round trip"]
    assert header(as_text([])) == ["name", "state"]


def test_nothing_from_the_far_end_controls_the_terminal() -> None:
    evil = "\x1b[2J\x1b]0;title\x07\r\n\t\x9b31m\u202e\u2028[bold]red[/bold] \\[x]"
    one = Snapshot(
        name=evil, kind=evil, target=evil, destination=evil, state=State.UP, last_error=evil
    )
    text = as_text([one], colours=True)
    # Only colours and bold, which are ours.
    assert re.findall("[^ -~]+", re.sub(r"\x1b\[[0-9;]*m", "", text)) == ["\n", "\n"]
    assert "[bold]red[/bold] \\[x]" in text
    assert len(text.splitlines()) == 2


def test_a_text_has_an_end() -> None:
    assert len(plain("x" * 100_000)) == table.MAX_TEXT


@pytest.mark.parametrize(
    ("state", "code"),
    [(State.UP, "32"), (State.RESUMING, "33"), (State.FAILED, "31"), (State.STOPPED, "2")],
)
def test_the_state_has_its_colour(state: State, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    one = Snapshot(name="a", kind="forward", target="t", destination="d", state=state)
    assert f"\x1b[{code}m{state}" in as_text([one], colours=True)
    assert "\x1b" not in as_text([one])
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", as_text([one], colours=True))


def test_every_state_has_a_style() -> None:
    assert set(table._STYLES) == set(State)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (102_400, "100 KiB"),
        (1023 * 1024, "1.0 MiB"),
        (5 * 1024**3, "5.0 GiB"),
        (2**60, "1024 PiB"),
        (12.7, "13 B"),
    ],
)
def test_a_size_is_short(size: float, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.00042, "0.4 ms"), (0.00996, "10 ms"), (0.0234, "23 ms"), (12.0, "12000 ms")],
)
def test_a_time_is_in_milliseconds(seconds: float | None, text: str) -> None:
    assert time_text(seconds) == text


# --- rates


def moved(sent: int, received: int, name: str = "db") -> Snapshot:
    return Snapshot(
        name=name,
        kind="forward",
        target="t",
        destination="d",
        state=State.UP,
        sent=sent,
        received=received,
    )


def test_a_rate_is_what_has_moved_since() -> None:
    rates = Rates()
    assert rates.look([moved(100, 1000)], 10.0) == {}
    assert rates.look([moved(300, 5000)], 12.0) == {"db": Rate(100.0, 2000.0)}
    assert rates.look([moved(300, 5000), moved(9, 9, "new")], 13.0) == {"db": Rate(0.0, 0.0)}


def test_a_look_too_soon_says_what_the_last_did() -> None:
    rates = Rates()
    rates.look([moved(0, 0)], 10.0)
    rates.look([moved(100, 0)], 11.0)
    assert rates.look([moved(200, 0)], 11.1) == {"db": Rate(100.0, 0.0)}
    # It is not lost for the next.
    assert rates.look([moved(200, 0)], 12.0) == {"db": Rate(100.0, 0.0)}


def test_what_was_started_anew_moves_nothing_backwards() -> None:
    rates = Rates()
    rates.look([moved(100, 1000)], 10.0)
    assert rates.look([moved(0, 2000)], 11.0) == {"db": Rate(0.0, 1000.0)}
    assert rates.look([], 12.0) == {}
    assert rates.look([moved(5, 5)], 13.0) == {}


def test_the_rate_of_both_ways_is_shown() -> None:
    (_, line) = table._lines(table.render([DB], {"db": Rate(1024, 2048)}, 200), 200, colours=False)
    assert "3.0 KiB/s" in line


# --- drawn anew

if sys.platform != "win32":
    import fcntl
    import pty
    import struct
    import termios
    import tty

    @pytest.fixture
    def terminal() -> Iterator["Terminal"]:
        screen = Terminal()
        yield screen
        screen.close()

    class Terminal:
        """A pseudo-terminal, and what stands on its screen, which has no bottom."""

        def __init__(self) -> None:
            self._far, near = pty.openpty()
            tty.setraw(near)
            os.set_blocking(self._far, False)
            self.stream: TextIO = os.fdopen(near, "w", encoding="utf-8")
            self.lines = [""]
            self._row = 0
            self.resize(24, 100)

        def resize(self, rows: int, columns: int) -> None:
            fcntl.ioctl(self.stream, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

        def hold(self) -> None:
            """As ^S does."""
            termios.tcflow(self.stream.fileno(), termios.TCOOFF)

        def go_on(self) -> None:
            termios.tcflow(self.stream.fileno(), termios.TCOON)

        def read(self) -> list[str]:
            """What stands there now."""
            while True:
                try:
                    data = os.read(self._far, 65536).decode()
                except BlockingIOError:
                    return self.lines
                for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", data):
                    self._show(part)

        def _show(self, part: str) -> None:
            if part == "\n":
                self._row += 1
                self.lines += [""] * (self._row + 1 - len(self.lines))
            elif re.fullmatch(r"\x1b\[\d+A", part):
                self._row -= int(part[2:-1])
                assert self._row >= 0
            elif part == "\x1b[J":
                del self.lines[self._row + 1 :]
                self.lines[self._row] = ""
            elif part != "\r" and not part.endswith("m"):
                assert not part.startswith("\x1b"), part
                self.lines[self._row] += part

        def close(self) -> None:
            os.close(self._far)
            # What a write that was held up has left has nobody to wait for now.
            with suppress(OSError):
                self.stream.close()

    @contextmanager
    def drawn(screen: Terminal, snapshots: Sequence[Snapshot]) -> Iterator[LiveTable]:
        with LiveTable(lambda: snapshots, screen.stream) as live:
            yield live

    async def until_it_stands(screen: Terminal, pattern: str) -> str:
        """Wait until the screen is such; what stands there."""
        async with asyncio.timeout(TIMEOUT):
            while not re.search(pattern, text := "\n".join(screen.read())):
                await asyncio.sleep(0.005)
        return text

    @pytest.fixture(autouse=True)
    def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(table, "REFRESH_INTERVAL", 0.01)

    async def test_the_table_stands_where_it_stood(terminal: Terminal) -> None:
        snapshots = [DB]
        with drawn(terminal, snapshots):
            before = await until_it_stands(terminal, r"db +127\.0\.0\.1:5432")
            assert before.splitlines()[0].startswith("name ")
            snapshots[:] = BOTH
            await until_it_stands(terminal, "restarting")
            snapshots[:] = [PROXY]
            text = await until_it_stands(terminal, r"\Aname[^\n]*\nproxy[^\n]*\n\Z")
            assert len(text.splitlines()) == 2
        # The last state stays, and the cursor is below it.
        assert len(terminal.read()) == 3
        assert terminal.lines[-1] == ""

    async def test_lines_stand_above_it_in_their_order(terminal: Terminal) -> None:
        with drawn(terminal, [DB]) as live:
            await until_it_stands(terminal, "db")
            live.log("first \x1b[2J evil")
            live.log("second")
            await until_it_stands(terminal, "second")
            live.log("third")
            await until_it_stands(terminal, "third")
            live.log("last")
        lines = terminal.read()
        assert lines[:4] == ["first  [2J evil", "second", "third", "last"]
        assert [line.split()[0] for line in lines[4:6]] == ["name", "db"]
        assert len(lines) == 7

    async def test_more_rows_than_the_terminal_has_are_cut(terminal: Terminal) -> None:
        terminal.resize(5, 80)
        many = [
            Snapshot(name=f"n{number}", kind="", target="", destination="", state=State.UP)
            for number in range(9)
        ]
        with drawn(terminal, many):
            text = await until_it_stands(terminal, "more")
        # The header, two of nine, and the line below, where the cursor is.
        assert "n2" not in text
        assert "and 7 more" in text
        assert len(terminal.read()) == 5

    async def test_a_new_size_is_heeded_at_once(
        terminal: Terminal, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(table, "REFRESH_INTERVAL", 1000.0)
        with drawn(terminal, [DB]):
            await until_it_stands(terminal, "target")
            terminal.resize(24, 200)
            os.kill(os.getpid(), signal.SIGWINCH)
            await until_it_stands(terminal, "i-0123456789abcdef0")

    async def test_a_line_that_now_takes_several_is_overwritten_whole(terminal: Terminal) -> None:
        with drawn(terminal, [DB]) as live:
            for number in range(10):
                live.log(f"line {number}")
            width = cell_len((await until_it_stands(terminal, "\nname.*\ndb.*\n")).splitlines()[-1])
            terminal.resize(24, 30)
            # The screen here does not break lines: so more lines are gone than were drawn.
            taken = 2 * -(-width // 30)
            text = await until_it_stands(terminal, rf"line {11 - taken}\nname")
        assert text.count("name") == 1

    async def test_a_terminal_that_is_held_holds_up_nothing(terminal: Terminal) -> None:
        snapshots = [DB]
        with drawn(terminal, snapshots) as live:
            await until_it_stands(terminal, "db")
            terminal.hold()
            for number in range(3 * table.MAX_LINES):
                live.log(f"line {number}")
                if number % 100 == 0:
                    await asyncio.sleep(0)
            snapshots[:] = BOTH
            await asyncio.sleep(0.05)
            assert "line" not in "".join(terminal.read())
            terminal.go_on()
            text = await until_it_stands(
                terminal, f"line {3 * table.MAX_LINES - 1}\nname.*\ndb.*\nproxy"
            )
        lines = text.splitlines()
        # What comes late is whole and in its order, and the oldest lines are lost.
        kept = range(2 * table.MAX_LINES, 3 * table.MAX_LINES)
        assert lines[-3 - table.MAX_LINES : -3] == [f"line {number}" for number in kept]
        assert len(lines) <= table.MAX_LINES + 4

    async def test_after_a_stop_it_begins_below(terminal: Terminal) -> None:
        with drawn(terminal, [DB]):
            await until_it_stands(terminal, "db")
            os.kill(os.getpid(), signal.SIGCONT)
            text = await until_it_stands(terminal, "name.*\ndb.*\nname.*\ndb")
        assert text.count("name") == 2

    async def test_signals_are_left_as_they_were(terminal: Terminal) -> None:
        numbers = (signal.SIGWINCH, signal.SIGCONT, signal.SIGTSTP)
        before = [signal.getsignal(one) for one in numbers]
        with drawn(terminal, [DB]):
            assert signal.getsignal(signal.SIGWINCH) != before[0]
        after = [signal.getsignal(one) for one in numbers]
        assert after == [signal.SIG_DFL, signal.SIG_DFL, before[2]]

    async def test_at_the_end_it_stands_as_it_was_last(terminal: Terminal) -> None:
        snapshots = [DB]
        with drawn(terminal, snapshots) as live:
            await until_it_stands(terminal, "db")
            snapshots.clear()
            live.log("closed")
            await until_it_stands(terminal, r"\Aclosed\nname.*\ndb.*\n\Z")
        assert [line[:6].strip() for line in terminal.read()] == ["closed", "name", "db", ""]

    async def test_what_never_ran_has_no_table(terminal: Terminal) -> None:
        with drawn(terminal, []) as live:
            live.log("nothing to do")
            await until_it_stands(terminal, "nothing")
        assert terminal.read() == ["nothing to do", ""]

    STOPPED = """
import asyncio, os, signal, sys
from ssmnet import table
from ssmnet.snapshot import Snapshot, State
table.REFRESH_INTERVAL = 0.02
one = Snapshot(name="db", kind="", target="", destination="", state=State.UP)
async def main():
    with table.LiveTable(lambda: [one], sys.stderr):
        await asyncio.sleep(60)
asyncio.run(main())
"""

    async def test_a_shell_after_ctrl_z_finds_no_table(terminal: Terminal) -> None:
        child = subprocess.Popen(  # noqa: ASYNC220 - it starts at once
            # The session stays ours: a process of a group without a parent elsewhere never stops.
            [sys.executable, "-c", STOPPED],
            stderr=terminal.stream,
            process_group=0,
        )
        try:
            await until_it_stands(terminal, "name.*\ndb.*\n")
            for _ in range(2):
                child.send_signal(signal.SIGTSTP)
                _, status = os.waitpid(child.pid, os.WUNTRACED)  # noqa: ASYNC222 - nothing else runs
                assert os.WIFSTOPPED(status)
                assert terminal.read()[-1:] == [""]
                assert "name" not in "".join(terminal.lines)
                terminal.stream.write("$ fg\n")
                terminal.stream.flush()
                # A frame is long due when it goes on.
                await asyncio.sleep(0.05)
                child.send_signal(signal.SIGCONT)
                await until_it_stands(terminal, r"\$ fg\nname.*\ndb.*\n\Z")
        finally:
            child.kill()
            child.wait()

    @pytest.mark.timeout(TIMEOUT)
    async def test_a_terminal_that_is_full_holds_up_nothing(terminal: Terminal) -> None:
        # With two characters to end a line, for which there may be no room where there is for one.
        attributes = termios.tcgetattr(terminal.stream)
        attributes[1] |= termios.OPOST | termios.ONLCR
        termios.tcsetattr(terminal.stream, termios.TCSANOW, attributes)
        with drawn(terminal, [DB]) as live:
            for number in range(300):
                live.log(f"line {number} {'x' * (number % 290)}")
                await asyncio.sleep(0)
            await until_it_stands(terminal, r"line 299 x+\nname.*\ndb.*")
        lines = [line.split()[:2] for line in terminal.read()[:300]]
        assert lines == [["line", str(number)] for number in range(300)]

    async def test_a_terminal_that_is_gone_is_no_fault(terminal: Terminal) -> None:
        with drawn(terminal, [DB]) as live:
            await until_it_stands(terminal, "db")
            os.close(terminal._far)
            live.log("who reads this?")
            await asyncio.sleep(0.05)
        terminal._far = os.open(os.devnull, os.O_RDONLY)

    async def test_what_the_terminal_can_t_show_is_a_question_mark(terminal: Terminal) -> None:
        assert isinstance(terminal.stream, io.TextIOWrapper)
        terminal.stream.reconfigure(encoding="ascii")
        terminal.resize(24, 200)
        with drawn(terminal, [PROXY]):
            await until_it_stands(terminal, r"ended \?")

    def test_where_it_can_be_drawn(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TERM", "xterm")
        assert can_draw(terminal.stream)
        with open(os.devnull, "w") as nowhere:
            assert not can_draw(nowhere)
        assert not can_draw(nowhere)  # closed
        assert not can_draw(None)
        assert not can_draw(io.StringIO())
        for value in ("dumb", ""):
            monkeypatch.setenv("TERM", value)
            assert can_draw(terminal.stream) is (value == "")
        monkeypatch.delenv("TERM")
        assert not can_draw(terminal.stream)
