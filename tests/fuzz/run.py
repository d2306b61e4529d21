"""Run a harness by hand::

    python -m tests.fuzz.run smux --inputs 1000000 --seed 7

With atheris, where it is installed, its coverage leads; else, or with ``--plain``, the engine here,
whose runs repeat exactly from their seed. ``--keep`` then puts what it found into the corpus.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.engine import Branches, Failed, Mutator, attempt, run, smallest

NAMES = (
    "message",
    "handshake",
    "smux",
    "channel",
    "websocket",
    "plugin_argv",
    "socks",
    "http_request",
)
CORPUS = Path(__file__).parent / "corpus"
MAX_KEPT = 40  # but all that take a branch of their own
REPORT_INTERVAL = 30.0  # s


def harness_of(name: str) -> Any:
    """The module of a harness: fuzz, seeds, SUBJECTS, TOKENS, and mutate where it has its own."""
    return importlib.import_module(f"tests.fuzz.{name}")


def corpus_of(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plain", action="store_true", help="without atheris")
    parser.add_argument("--keep", action="store_true", help="renew the corpus")
    options = parser.parse_args()
    if not options.plain and not options.keep:
        try:
            atheris = importlib.import_module("atheris")
        except ImportError:
            print("atheris is not installed: going on without")
        else:
            run_atheris(atheris, options.name, options.inputs, options.seed)
    return run_plain(options.name, options.inputs, options.seed, options.keep)


def run_plain(name: str, inputs: int, seed: int, keep: bool) -> int:
    harness = harness_of(name)
    pool = [*dict.fromkeys([*corpus_of(name), *harness.seeds()])]
    mutator = Mutator(Random(seed), pool, harness.TOKENS, getattr(harness, "mutate", None))
    began = time.monotonic()
    with Branches(harness.SUBJECTS) as branches:
        try:
            for data in pool:
                attempt(harness.fuzz, data)
            branches.new.clear()
            run_and_report(harness.fuzz, mutator, branches, inputs, began)
        except Failed as failed:
            return report_failure(name, failed)
        if not branches.taken:
            print("which branches were taken is not known before Python 3.12")
            return 0
        print(f"branches: {len(branches.taken)} of {branches.count} sides taken; not both at:")
        print("  " + " ".join(branches.missing()))
        if keep:
            write_corpus(name, smallest(harness.fuzz, pool, branches, MAX_KEPT))
    return 0


def run_and_report(
    fuzz: Any, mutator: Mutator, branches: Branches, inputs: int, began: float
) -> None:
    done, batch, reported = 0, 1000, began
    while done < inputs:
        run(fuzz, mutator, branches, min(batch, inputs - done))
        done = min(inputs, done + batch)
        now = time.monotonic()
        if done == inputs or now > reported + REPORT_INTERVAL:
            reported = now
            print(
                f"{done} inputs in {now - began:.0f} s, {done / (now - began):.0f}/s;"
                f" {len(branches.taken)} sides of branches, {len(mutator.pool)} inputs kept",
                flush=True,
            )


def report_failure(name: str, failed: Failed) -> int:
    with tempfile.NamedTemporaryFile(prefix=f"{name}-", delete=False) as file:
        file.write(failed.data)
    print(f"FAILED, and the input is in {file.name}")
    raise failed


def write_corpus(name: str, inputs: list[bytes]) -> None:
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*"):
        path.unlink()
    for data in inputs:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(f"{len(inputs)} inputs, {sum(map(len, inputs))} bytes in {folder}")


def run_atheris(atheris: Any, name: str, inputs: int, seed: int) -> None:
    """Does not return: atheris ends the process, with its own report."""
    with atheris.instrument_imports(include=["ssmnet"]):
        harness = harness_of(name)
    arguments = [name, f"-runs={inputs}", f"-seed={seed}", "-max_len=6000", "-print_final_stats=1"]
    with tempfile.TemporaryDirectory() as found:
        for index, data in enumerate(harness.seeds()):
            Path(found, str(index)).write_bytes(data)
        arguments += [f"-artifact_prefix={tempfile.gettempdir()}/{name}-", found]
        if (CORPUS / name).is_dir():
            arguments.append(str(CORPUS / name))
        atheris.Setup(arguments, harness.fuzz, **own_mutator(atheris, harness))
        atheris.Fuzz()


def own_mutator(atheris: Any, harness: Any) -> dict[str, Any]:
    mutate = getattr(harness, "mutate", None)
    if mutate is None:
        return {}

    def custom(data: bytes, max_size: int, seed: int) -> bytes:
        if seed % 2:
            return bytes(atheris.Mutate(data, max_size))
        return bytes(mutate(data, Random(seed)))[:max_size]

    return {"custom_mutator": custom}


if __name__ == "__main__":
    sys.exit(main())
