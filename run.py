#!/usr/bin/env python3
"""Run a command in this project's own environment, which is set up first where it is missing.

    python3 run.py ssmnet demo
    python3 run.py pytest

Only Python 3.11 or newer is needed, and that interpreter is the one used: none is fetched. Nothing
is installed outside this folder: uv goes to ``.tools/``, the packages named in ``uv.lock`` to
``.venv/``. It works where ``pip install`` is refused (Debian, Ubuntu, Homebrew) and where Python
comes without pip and ensurepip.
"""

from __future__ import annotations

import hashlib
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
TOOLS = ROOT / ".tools"
WINDOWS = sys.platform == "win32"
UV = TOOLS / ("uv.exe" if WINDOWS else "uv")

PIP_TIMEOUT = 60  # s without a byte


def main(command: list[str]) -> None:
    """Set up what is missing, then run ``command``; its exit status is ours."""
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts it with an old one must be told
        sys.exit(
            "run.py: ssmnet needs Python 3.11 or newer; this is {}.{} ({})".format(
                *sys.version_info[:2], sys.executable
            )
        )
    if not command:
        sys.exit("usage: python3 run.py COMMAND [ARGUMENT...]   for example: python3 run.py pytest")
    if not UV.exists():
        install_uv()
    arguments = [str(UV), "run", "--directory", str(ROOT), "--python", sys.executable, *command]
    if WINDOWS:
        sys.exit(subprocess.call(arguments, env=environment()))
    os.execve(arguments[0], arguments, environment())


def install_uv() -> None:
    """Put uv, one program in one file, into ``.tools/``; nothing half done is ever left there."""
    print(f"run.py: installing uv into {TOOLS} ...", file=sys.stderr)
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        home = Path(scratch) / "venv"
        binaries = home / ("Scripts" if WINDOWS else "bin")
        try:
            pip = make_venv(home, binaries / ("python.exe" if WINDOWS else "python3"))
            install = [*pip, "install", "--quiet", "--disable-pip-version-check", "uv"]
            subprocess.run(install, check=True, stdout=sys.stderr)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(
                f"run.py: uv could not be installed: {error}\n"
                "run.py: is PyPI reachable? See HTTPS_PROXY, PIP_INDEX_URL and PIP_CERT.\n"
                "run.py: on Debian and Ubuntu, `apt-get install python3-venv` may help too."
            )
        os.replace(binaries / UV.name, UV)


def make_venv(home: Path, python: Path) -> list[str]:
    """Make a virtual environment at ``home`` and return the command that runs pip in it."""
    create = [sys.executable, "-m", "venv", str(home)]
    if subprocess.run(create, capture_output=True).returncode == 0:
        return [str(python), "-m", "pip"]
    # Debian and Ubuntu keep ensurepip, or the wheels that it unpacks, in packages of their own.
    subprocess.run([*create, "--clear", "--without-pip"], check=True)
    return [str(python), str(fetch_pip(home) / "pip")]


def fetch_pip(home: Path) -> Path:
    """Fetch the wheel of pip that ``uv.lock`` names, which runs as it is, into ``home``."""
    import tomllib  # Python 3.11

    packages = tomllib.loads((ROOT / "uv.lock").read_text("utf-8"))["package"]
    (locked,) = next(package["wheels"] for package in packages if package["name"] == "pip")
    with urllib.request.urlopen(locked["url"], timeout=PIP_TIMEOUT) as response:
        content: bytes = response.read()
    if "sha256:" + hashlib.sha256(content).hexdigest() != locked["hash"]:
        raise OSError(f"{locked['url']} is not the file that uv.lock names")
    wheel = home / str(locked["url"]).rpartition("/")[2]
    wheel.write_bytes(content)
    return wheel


def environment() -> dict[str, str]:
    """Return the environment of uv and its child: uv on PATH, no other virtual environment."""
    env = dict(os.environ)
    env.pop("VIRTUAL_ENV", None)  # uv would warn that it is not the project's
    env["PATH"] = os.pathsep.join([str(TOOLS), env.get("PATH", os.defpath)])
    if has_system_certificates():
        # A company's own certificate authority is known to the system, not to uv's built-in list.
        env.setdefault("UV_SYSTEM_CERTS", "true")
    return env


def has_system_certificates() -> bool:
    """Tell whether the system has a list of certificate authorities; a bare container has none."""
    paths = ssl.get_default_verify_paths()
    return (
        sys.platform in ("win32", "darwin")
        or bool(paths.cafile)
        or bool(paths.capath and any(Path(paths.capath).iterdir()))
    )


if __name__ == "__main__":
    main(sys.argv[1:])
