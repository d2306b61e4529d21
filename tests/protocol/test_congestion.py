from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssmnet.protocol.congestion import INITIAL_WINDOW, MIN_WINDOW, CongestionControl
from ssmnet.protocol.delay import FIRST_LIFETIME, LIFETIME, NOTABLE
from ssmnet.testing.link import Path
from tests.protocol.simulation import Transfer

KIB = 1024
MAX = 4 * 1024 * KIB
# Of what goes through the bottleneck, the share that is payload.
PAYLOAD = 1024 / 1144


def rounds(control: CongestionControl, round_trip: float, amount: int, now: float = 0.0) -> float:
    """Let ``amount`` round trips of this length pass, each with a full window; the time after."""
    for _ in range(amount):
        control.limited()
        now += round_trip * 1.001
        control.acknowledged(control.window, round_trip, now)
    return now


def measured(transfer: Transfer, seconds: float) -> tuple[float, int]:
    """Bytes/s in the next ``seconds`` as they go through the bottleneck, and its longest queue."""
    before, started = transfer.delivered, transfer.now
    transfer.there.peak = 0
    transfer.run(started + seconds)
    rate = (transfer.delivered - before) / PAYLOAD / (transfer.now - started)
    return rate, transfer.there.peak


# --- the rules


def test_starts_small_and_doubles_while_the_path_is_empty() -> None:
    control = CongestionControl(MAX)
    assert control.window == INITIAL_WINDOW
    rounds(control, 0.05, 3)
    assert control.window == 8 * INITIAL_WINDOW


def test_never_grows_beyond_the_maximum() -> None:
    control = CongestionControl(100 * KIB)
    rounds(control, 0.05, 100)
    assert control.window == 100 * KIB


def test_a_window_that_is_not_used_does_not_grow() -> None:
    control = CongestionControl(MAX)
    for n in range(1, 100):
        control.acknowledged(1000, 0.05, n * 0.06)
    assert control.window == INITIAL_WINDOW


def test_a_window_that_is_not_used_does_not_shrink() -> None:
    control = CongestionControl(MAX)
    for n in range(1, 100):
        control.acknowledged(1000, 0.05 if n == 1 else 0.5, n * 0.06)
    assert control.window == INITIAL_WINDOW
    rounds(control, 0.5, 3, 9.0)
    assert control.window == 8 * INITIAL_WINDOW


def test_queueing_ends_the_fast_start() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 2)
    before = control.window
    now = rounds(control, 0.25, 1, now)
    assert control.window == before // 2
    rounds(control, 0.05, 2, now)
    assert control.window < before


def test_queueing_is_seen_while_it_builds_up() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 2)
    before = control.window
    control.limited()
    for n in range(20):  # all of one round, the fastest of which shows no queue
        control.acknowledged(1000, 0.05 + n * 0.005, now + n * 0.001)
    assert control.window < before + 16_000


def test_a_few_slow_acknowledgements_now_and_then_do_not_end_the_fast_start() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 1)
    before = control.window
    for n in range(32):
        control.limited()
        control.acknowledged(1000, 0.05 if n % 4 == 3 else 0.3, now + n * 0.001)
    assert control.window == before + 32_000


def test_queueing_shrinks_the_window_by_no_more_than_half_a_round() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 4)
    for _ in range(3):
        before = control.window
        now = rounds(control, 1.0, 1, now)
        assert control.window == before // 2


def test_the_window_becomes_what_the_samples_say() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.08, 3)
    before = control.window
    now = rounds(control, 0.1, 1, now)  # where it would be 80 ms, and 10 ms for the target
    assert abs(control.window - 0.9 * before) < 0.01 * before
    rounds(control, 0.09, 5, now)
    assert abs(control.window - 0.9 * before) < 0.02 * before


def test_a_window_that_has_grown_is_given_time_to_show() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.08, 3)
    now = rounds(control, 0.1, 1, now)
    windows = []
    for _ in range(6):
        now = rounds(control, 0.08, 1, now)
        windows.append(control.window)
    grown = [late / early for early, late in pairwise(windows)]
    assert max(grown) <= 1.26
    assert grown.count(1.0) == 3


def test_one_slow_acknowledgement_of_a_round_says_nothing() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 1)
    before = control.window
    control.limited()
    control.acknowledged(1000, 0.5, now + 0.01)
    control.acknowledged(1000, 0.05, now + 0.06)
    assert control.window >= before


def test_loss_shrinks_the_window_once_a_round() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    before = control.window
    for _ in range(10):
        control.lost(now - 0.05, now)
    assert before / 2 <= control.window < before
    after = control.window
    control.lost(now + 0.01, now + 0.06)
    assert control.window < after


def test_loss_beside_a_queue_shrinks_it_more() -> None:
    empty, queueing = CongestionControl(MAX), CongestionControl(MAX)
    rounds(empty, 0.05, 3)
    rounds(queueing, 0.2, 2, rounds(queueing, 0.05, 3))
    shares = []
    for control in (empty, queueing):
        before = control.window
        control.lost(10.0, 10.0)
        shares.append(control.window / before)
    assert shares[1] < 0.8 <= shares[0]


def test_loss_and_queueing_leave_a_few_messages() -> None:
    control = CongestionControl(MAX)
    for n in range(100):
        control.lost(float(n), n + 0.5)
        control.limited()
        control.acknowledged(0, 0.01 if n < 50 else 1.0, n + 0.6)
    assert control.window == MIN_WINDOW


def test_begins_anew_after_a_restart() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    control.restart()
    assert control.window == MIN_WINDOW
    rounds(control, 0.05, 3, now)
    assert control.window == 8 * MIN_WINDOW


def test_grows_again_after_a_restart_up_to_what_was_good_even_without_samples() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    before = control.window
    control.restart()
    control.restart()
    for _ in range(100):
        control.limited()
        control.acknowledged(10_000, None, now)
    assert before / 2 <= control.window <= before + 10_000


def test_grows_no_further_without_a_sample() -> None:
    control = CongestionControl(MAX)
    for _ in range(1000):
        control.limited()
        control.acknowledged(10_000, None, 1.0)
    assert control.window <= 2 * INITIAL_WINDOW


def test_a_restart_that_was_wrong_is_undone() -> None:
    control = CongestionControl(MAX)
    rounds(control, 0.05, 3)
    before = control.window
    control.undo_restart()
    control.restart()
    control.restart()
    control.undo_restart()
    assert control.window == before
    control.undo_restart()
    assert control.window == before


def test_a_restart_is_not_undone_once_there_is_news_of_the_path() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    control.restart()
    rounds(control, 0.05, 1, now)
    small = control.window
    control.undo_restart()
    assert control.window == small


def test_a_restart_that_was_right_is_not_undone_and_neither_are_those_before() -> None:
    control = CongestionControl(MAX)
    rounds(control, 0.05, 3)
    control.restart()
    control.restart()
    control.forget_restart()
    control.undo_restart()
    assert control.window == MIN_WINDOW


def until_measured(control: CongestionControl, round_trip: float, now: float) -> tuple[float, int]:
    """Let rounds pass until there is less in flight; the time, and the window before."""
    full = 0
    while control.window > 0.95 * full:
        assert now < 2 * FIRST_LIFETIME
        full = control.window
        now = rounds(control, round_trip, 1, now)
    return now, full


def test_a_busy_path_is_measured_with_a_smaller_window_and_then_as_before() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    now = rounds(control, 0.07, 1, now)
    now, full = until_measured(control, 0.0595, now)
    assert now > FIRST_LIFETIME
    assert 0.73 * full < control.window < 0.74 * full  # the path holds 0.05 / 0.0595 of it
    now = rounds(control, 0.05, 2, now)
    assert control.window == full
    windows = []
    while now < LIFETIME:
        now = rounds(control, 0.06, 1, now)
        windows.append(control.window)
    assert max(windows) < 1.02 * full, "no more than before"
    assert min(windows) > 0.98 * full, "and not again"
    while control.window > 0.95 * full:
        assert now < LIFETIME + 2 * FIRST_LIFETIME
        now = rounds(control, 0.0595, 1, now)


def test_a_path_that_turns_out_to_be_shorter_is_measured_until_it_is_empty() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.2, 3)
    now = rounds(control, 0.23, 1, now)
    now, full = until_measured(control, 0.22, now)
    for round_trip in (0.15, 0.1, 0.05):
        before = control.window
        now = rounds(control, round_trip, 2, now)
        assert control.window < 0.8 * before
    now = rounds(control, 0.05, 4, now)
    assert control.window == full
    rounds(control, 0.22, 2, now)
    assert control.window == full // 2


def test_a_loss_after_a_measurement_ends_the_way_back() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    now = rounds(control, 0.07, 1, now)
    now, full = until_measured(control, 0.0595, now)
    control.lost(now, now)
    before = control.window
    control.limited()
    control.acknowledged(100_000, None, now)
    assert control.window == before < 0.75 * full


def test_a_path_that_idles_is_measured_without_a_pause() -> None:
    control = CongestionControl(MAX)
    now = rounds(control, 0.05, 3)
    now = rounds(control, 0.25, 1, now)
    window = control.window
    now += LIFETIME
    control.acknowledged(1000, 0.08, now)  # seldom a message: the path has become longer
    assert control.window == window
    now = rounds(control, 0.08, 3, now)
    assert control.window > window


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("sample"), st.floats(0.0, 10.0)),
            st.tuples(st.just("lost"), st.floats(0.0, 10.0)),
            st.tuples(st.just("acknowledged"), st.floats(0, 1e6)),
            st.tuples(st.sampled_from(["limited", "restart", "undo"]), st.just(0.0)),
        ),
        max_size=100,
    )
)
def test_the_window_stays_within_its_bounds(steps: list[tuple[str, float]]) -> None:
    control, now = CongestionControl(MAX), 0.0
    for verb, amount in steps:
        now += 0.05
        match verb:
            case "sample":
                control.acknowledged(1000, amount, now)
            case "lost":
                control.lost(now - amount, now)
            case "acknowledged":
                control.acknowledged(int(amount), None, now)
            case "limited":
                control.limited()
            case "undo":
                control.undo_restart()
            case _:
                control.restart()
        assert MIN_WINDOW <= control.window <= MAX


# --- paths

PATHS = [
    pytest.param(500e3, 0.04, id="500 kB/s, 40 ms"),
    pytest.param(50e3, 0.04, id="50 kB/s, 40 ms"),
    pytest.param(10e6, 0.001, id="10 MB/s, 1 ms"),
    pytest.param(1e6, 0.1, id="1 MB/s, 100 ms"),
    pytest.param(1e6, 0.0003, id="1 MB/s, 0.3 ms"),
]


@pytest.mark.parametrize(("rate", "rtt"), PATHS)
def test_fills_a_path_and_not_its_queue(rate: float, rtt: float) -> None:
    queue = 256 * KIB
    transfer = Transfer(Path(rtt / 2, rate=rate, queue=queue), Path(rtt / 2))
    transfer.run(0.5 + 150 * rtt)
    throughput, peak = measured(transfer, 0.5 + 50 * rtt)
    assert throughput >= 0.9 * rate
    assert peak <= queue / 2
    assert peak <= 3 * max(MIN_WINDOW, rate * max(NOTABLE, rtt / 4))


@pytest.mark.parametrize(("rate", "rtt"), PATHS)
def test_is_fast_soon(rate: float, rtt: float) -> None:
    transfer = Transfer(Path(rtt / 2, rate=rate, queue=256 * KIB), Path(rtt / 2))
    transfer.run(10 * rtt + 0.1)
    throughput, _ = measured(transfer, 10 * rtt + 0.5)
    assert throughput >= 0.9 * rate


@pytest.mark.parametrize(
    ("rate", "rtt", "queue"), [(10e6, 0.1, 1024 * KIB), (2e6, 0.1, 256 * KIB), (10e6, 0.01, 256e3)]
)
def test_the_fast_start_ends_before_a_queue_of_the_paths_own_size_is_full(
    rate: float, rtt: float, queue: float
) -> None:
    transfer = Transfer(Path(rtt / 2, rate=rate, queue=queue), Path(rtt / 2))
    transfer.run(20 * rtt)
    assert transfer.there.lost == 0


def test_a_path_slower_than_a_second_a_window_is_used_without_repeating_it_all() -> None:
    transfer = Transfer(Path(0.02, rate=5e3, queue=256 * KIB), Path(0.02))
    transfer.run(30.0)
    throughput, _ = measured(transfer, 60.0)
    assert throughput >= 0.9 * 5e3
    assert transfer.sender.retransmissions < 120


def test_a_satellite_path_is_filled() -> None:
    transfer = Transfer(Path(0.3, rate=500e3, queue=512 * KIB), Path(0.3))
    transfer.run(20.0)
    throughput, _ = measured(transfer, 20.0)
    assert throughput >= 0.9 * 500e3


def test_a_loopback_path_grows_to_a_large_window() -> None:
    transfer = Transfer(Path(0.00015), Path(0.00015))
    while transfer.sender.window.limit < 1024 * KIB:
        assert transfer.now < 0.02
        transfer.run(transfer.now + 0.0001)


@pytest.mark.parametrize(("rate", "rtt"), [(500e3, 0.04), (4e6, 0.001), (1e6, 0.04)])
def test_follows_a_rate_that_drops_to_a_tenth_and_returns(rate: float, rtt: float) -> None:
    there = Path(rtt / 2, rate=rate, queue=256 * KIB)
    transfer = Transfer(there, Path(rtt / 2))
    transfer.run(2.0)
    there.rate = rate / 10
    # A message takes ten times as long as it did: the next measurement knows.
    transfer.run(transfer.now + 1.5 * LIFETIME)
    throughput, peak = measured(transfer, 2.0)
    assert throughput >= 0.9 * rate / 10
    assert peak <= 256 * KIB / 3
    there.rate = rate
    transfer.run(transfer.now + 2.0)
    throughput, peak = measured(transfer, 2.0)
    assert throughput >= 0.9 * rate
    assert peak <= 256 * KIB / 2
    assert there.lost == 0


@pytest.mark.parametrize(
    ("rate", "rtt", "extra"), [(500e3, 0.04, 0.02), (500e3, 0.04, 0.1), (2e6, 0.001, 0.006)]
)
def test_a_path_that_has_become_longer_is_used_again_within_seconds(
    rate: float, rtt: float, extra: float
) -> None:
    transfer = Transfer(Path(rtt / 2, rate=rate), Path(rtt / 2))
    transfer.run(3.0)
    transfer.there.delay += extra
    transfer.run(transfer.now + 8.0)
    throughput, _ = measured(transfer, 3.0)
    assert throughput >= 0.9 * rate


def test_a_path_that_has_become_shorter_is_used() -> None:
    transfer = Transfer(Path(0.1, rate=500e3), Path(0.1))
    transfer.run(5.0)
    transfer.there.delay = transfer.back.delay = 0.01
    # The old queue hides it: each measurement halves what is left of that.
    transfer.run(transfer.now + 6 * LIFETIME)
    throughput, peak = measured(transfer, 4.0)
    assert throughput >= 0.9 * 500e3
    assert peak <= 3 * 500e3 * 0.02 / 4 + 10_000


def test_the_queue_does_not_grow_over_ten_minutes() -> None:
    transfer = Transfer(Path(0.02, rate=50e3), Path(0.02))
    transfer.run(20.0)
    _, early = measured(transfer, 60.0)
    transfer.run(600.0)
    throughput, late = measured(transfer, 60.0)
    assert late <= 1.5 * early
    assert throughput >= 0.9 * 50e3


@pytest.mark.parametrize("rtt", [0.001, 0.04])
@pytest.mark.parametrize("period", [0.005, 0.02, 0.05])
def test_a_path_that_delivers_in_batches_is_filled(rtt: float, period: float) -> None:
    # As radio does, and a busy agent.
    back = Path(rtt / 2, fate=lambda n, now: (-now % period,))
    transfer = Transfer(Path(rtt / 2, rate=500e3), back)
    transfer.run(3.0)
    throughput, _ = measured(transfer, 12.0)
    assert throughput >= 0.9 * 500e3


@pytest.mark.parametrize(("rtt", "jitter"), [(0.001, 0.005), (0.04, 0.02)])
def test_jitter_is_no_queue(rtt: float, jitter: float) -> None:
    random = Random(1)
    back = Path(rtt / 2, fate=lambda n, now: (random.random() * jitter,))
    transfer = Transfer(Path(rtt / 2, rate=500e3), back)
    transfer.run(3.0)
    throughput, _ = measured(transfer, 12.0)
    assert throughput >= 0.9 * 500e3


def test_a_path_that_holds_its_breath_is_used_at_once_when_it_goes_on() -> None:
    there = Path(0.05, rate=4e6)
    transfer = Transfer(there, Path(0.05))
    transfer.run(2.0)
    before = transfer.delivered
    for _ in range(2):
        there.stop()
        transfer.run(transfer.now + 0.2)
        there.go_on(transfer.now)
        transfer.run(transfer.now + 1.8)
    throughput = (transfer.delivered - before) / PAYLOAD / 4.0
    assert throughput >= 0.9 * 4e6 * (1.8 / 2.0)


def test_a_rare_loss_on_an_empty_path_costs_little() -> None:
    there = Path(0.05, rate=1e6, fate=lambda n, now: () if n % 500 == 499 else (0.0,))
    transfer = Transfer(there, Path(0.05))
    transfer.run(4.0)
    throughput, _ = measured(transfer, 8.0)
    assert throughput >= 0.8 * 1e6
