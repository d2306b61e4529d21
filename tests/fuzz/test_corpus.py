"""What fuzzing has found worth keeping, replayed; and a few thousand inputs more, from a seed.

Longer runs are made by hand: ``python -m tests.fuzz.run``.
"""

import sys
from random import Random

import pytest

from ssmnet import plugin
from ssmnet.errors import UsageError
from tests.fuzz.engine import Branches, Failed, Mutator, run
from tests.fuzz.run import CORPUS, NAMES, corpus_of, harness_of

MAX_CORPUS = 300_000  # bytes
# Each takes about as long as the others.
INPUTS = {
    "message": 5000,
    "handshake": 5000,
    "smux": 3000,
    "channel": 1000,
    "websocket": 1500,
    "plugin_argv": 3000,
    "socks": 3000,
    "http_request": 500,
}


@pytest.mark.parametrize("name", NAMES)
def test_what_was_found_is_replayed(name: str) -> None:
    corpus = corpus_of(name)
    assert corpus
    harness = harness_of(name)
    for data in (*corpus, *harness.seeds(), b""):
        harness.fuzz(data)


@pytest.mark.parametrize("name", NAMES)
def test_mutations_of_it_from_a_seed(name: str) -> None:
    harness = harness_of(name)
    pool = [*corpus_of(name), *harness.seeds()]
    mutator = Mutator(Random(3), pool, harness.TOKENS, getattr(harness, "mutate", None))
    run(harness.fuzz, mutator, Branches(()), INPUTS[name])


def test_the_corpus_is_small() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(NAMES)
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) < MAX_CORPUS


def test_a_response_that_is_nested_too_deep() -> None:
    response = '{"a":' * 100_000
    with pytest.raises(UsageError):
        plugin._read_call([response, "eu-west-1", "StartSession"])


def planted(data: bytes) -> None:
    """A bug behind four steps, none of which is likely to be found by chance together."""
    for place, expected in enumerate(b"bug!"):
        if len(data) <= place or data[place] != expected:
            return
    raise ValueError("found")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="branches are not told before 3.12")
def test_new_branches_lead_to_a_bug() -> None:
    mutator = Mutator(Random(1), [b"bu.."], (b"g", b"!"), None)
    with Branches((planted,)) as branches, pytest.raises(Failed) as failed:
        run(planted, mutator, branches, 200_000)
    assert failed.value.data[:4] == b"bug!"
    assert isinstance(failed.value.__cause__, ValueError)
    assert len(branches.taken) == branches.count


def test_a_seed_repeats_its_inputs() -> None:
    def some() -> list[bytes]:
        mutator = Mutator(Random(7), [b"a seed", b"another"], (b"token",), None)
        return [mutator.next() for _ in range(100)]

    assert some() == some()
    assert len(set(some())) > 90
