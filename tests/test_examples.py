"""Every example runs as it stands, says what it is to say, and is short."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SAID = {
    "forward_in_process": ["Connected(", "b'Hello, Ada\\n'", "Disconnected("],
    "without_a_port": ["220 mail.internal ready"],
    "is_it_up": ["while it listens: True", "afterwards: False"],
}


def test_each_example_is_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", SAID)
def test_an_example(name: str) -> None:
    path = ROOT / "examples" / f"{name}.py"
    assert len(path.read_text("utf-8").splitlines()) < 40
    done = subprocess.run(
        [sys.executable, path], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    for text in SAID[name]:
        assert text in done.stdout
