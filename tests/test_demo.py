"""The demo does on this machine what a user would do, and shows it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from ssmnet.demo import CONNECTIONS

ROOT = Path(__file__).parent.parent
# What someone has set for AWS and for the web must not get into its way.
HOSTILE = {
    "AWS_PROFILE": "nobody",
    "AWS_SESSION_TOKEN": "x",
    "AWS_CA_BUNDLE": "/nowhere",
    "AWS_ENDPOINT_URL_SSMMESSAGES": "https://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "no_proxy": "example.org",
}


def test_the_demo_succeeds_and_shows_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ssmnet", "demo"],
        cwd=ROOT,
        env=os.environ | HOSTILE,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done
    rows = (
        r"^  download +\d+\.\d MB/s   SHA-256 equal$",
        r"^  upload +\d+\.\d MB/s   SHA-256 equal$",
        r"^  HTTP round trip +\d+\.\d\d ms   median of \d+$",
        rf"^  connections at once +{CONNECTIONS}   {CONNECTIONS} answered$",
        r"^  a closed port +refused   the target could not connect to the destination$",
    )
    for row in rows:
        assert re.search(row, done.stdout, re.MULTILINE), row
    assert done.stdout.endswith("All checksums are equal.\n")
    assert done.stderr == ""
