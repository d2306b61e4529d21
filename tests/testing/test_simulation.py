"""Whole sessions in virtual time; what must hold is in ssmnet/testing/simulation.py."""

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from ssmnet.testing.link import Network
from ssmnet.testing.scenario import MIN_BYTES, Fault, Kind, Scenario, draw
from ssmnet.testing.simulation import Failure, simulate
from ssmnet.testing.traffic import Plan

# CI runs the tests on other Pythons, too: there fewer are enough.
SEEDS = 1000 if sys.version_info >= (3, 13) else 200


def run_seeds(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "perf.simulate", *arguments)
    return subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(600)
def test_seeds() -> None:
    done = run_seeds("--seeds", str(SEEDS))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{SEEDS} seeds in ")


@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_a_seed_gives_the_same_again_in_another_process(seed: int) -> None:
    scenario = draw(seed)
    here = [*scenario.lines(), *simulate(scenario, last_lines=None).lines]
    assert len(here) > 1000
    for hash_seed in ("1", "2"):
        done = run_seeds("--seed", str(seed), PYTHONHASHSEED=hash_seed)
        assert done.stdout.splitlines() == here


def test_each_seed_has_enough_of_everything() -> None:
    kinds: set[Kind] = set()
    ideal = 0
    for seed in range(500):
        scenario = draw(seed)
        assert len(scenario.plans) >= 3
        assert sum(plan.up for plan in scenario.plans) >= MIN_BYTES == 200 * 1024
        assert sum(plan.down for plan in scenario.plans) >= MIN_BYTES
        assert len(scenario.faults) >= 2
        assert scenario.network.loss <= (0.2 if scenario.ideal else 0.03)
        kinds.update(fault.kind for fault in scenario.faults)
        ideal += scenario.ideal
    assert kinds == set(Kind)
    assert 150 < ideal < 350


def test_a_thousand_messages_lost_at_a_cut_are_repaired_one_by_one() -> None:
    """Against the real agent's habits: it repairs one message per 100 ms and nothing faster."""
    scenario = Scenario(
        seed=1,
        ideal=False,
        pace=True,
        # As much as that is taken over from the agent before it is stopped.
        network=Network(delay=0.02, buffer=8 * 1024 * 1024),
        plans=(Plan(0.0, up=1, down=3 * 1024 * 1024), Plan(0.0, 1, 1000), Plan(0.0, 1000, 1)),
        faults=(
            Fault(Kind.HALF_DEAD_AND_CUT, messages=500, seconds=1.1),
            Fault(Kind.CUT, messages=500),
        ),
    )
    result = simulate(scenario, last_lines=None)
    sent = Counter(
        found[1]
        for line in result.lines
        if (found := re.search(r" < output_stream_data (\d+),", line))
    )
    assert sum(times > 1 for times in sent.values()) >= 1000
    assert 100 < result.seconds < 140


def test_a_failure_tells_the_seed_the_scenario_and_the_transcript() -> None:
    # The agent is gone for longer than anybody waits.
    scenario = Scenario(
        seed=77,
        ideal=True,
        pace=False,
        network=Network(delay=0.01),
        plans=(Plan(0.0, 1000, 100_000),),
        faults=(Fault(Kind.AGENT_AWAY, 20, seconds=3600), Fault(Kind.CUT, 1000)),
    )
    with pytest.raises(Failure) as caught:
        simulate(scenario, last_lines=50)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("seed 77: Violation: ")
    assert "Network(delay=0.01" in lines[3]
    assert len(lines) == 1 + len(scenario.lines()) + 50
    assert re.fullmatch(r" *\d+\.\d{6} .+", lines[-1])


def test_the_command_tells_what_it_did() -> None:
    done = run_seeds("--seeds", "16", "--first", "100", "--jobs", "1")
    assert done.returncode == 0
    assert "16 seeds in" in done.stdout
    assert done.stdout.rstrip().endswith("0 failed")
