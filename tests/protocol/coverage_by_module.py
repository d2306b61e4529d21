"""Check that the tests of each module of ssmnet/protocol, alone, cover every branch of it.

Run as ``python tests/protocol/coverage_by_module.py [MODULE...]``. A module that is only covered in
passing, by the tests of another, has behaviour that nobody wrote down.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent.parent
MODULES = ROOT / "ssmnet" / "protocol"
TIMEOUT = 600  # s a module


def main(names: list[str]) -> int:
    names = names or sorted(path.stem for path in MODULES.glob("[!_]*.py"))
    lacking = [name for name in names if not is_covered(name)]
    if lacking:
        print(f"not covered in full by tests of its own: {', '.join(lacking)}")
        return 1
    print(f"each of {len(names)} modules is covered in full by its own tests")
    return 0


def is_covered(name: str) -> bool:
    tests = TESTS / f"test_{name}.py"
    print(f"--- {name}", flush=True)
    if not tests.exists():
        print(f"there is no {tests.relative_to(ROOT)}")
        return False
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"COVERAGE_FILE": str(Path(folder) / "coverage")}
        include = f"--include=ssmnet/protocol/{name}.py"
        return coverage(env, "run", "--branch", "-m", "pytest", "-q", str(tests)) and coverage(
            env, "report", include, "--fail-under=100", "--precision=2"
        )


def coverage(env: dict[str, str], *arguments: str) -> bool:
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, timeout=TIMEOUT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
