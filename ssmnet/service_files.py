"""What has systemd or launchd run ``ssmnet up``, from login on and again whenever it fails."""

from __future__ import annotations

import plistlib
import re
import string
from collections.abc import Sequence
from pathlib import Path

from .errors import UsageError

# Names of forwards and most paths stand as they are; all else is quoted.
_PLAIN = frozenset(string.ascii_letters + string.digits + "@+=:,./_-")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
RETRY_TIME = 10  # seconds until it is started again
STOP_TIME = 20  # seconds for connections and sessions to end


def systemd_unit(command: Sequence[str]) -> str:
    """A unit for ``systemctl --user`` that runs ``command``, whose first word is a whole path.

    Raises UsageError for what can't stand in one.
    """
    _check(command)
    if re.search(r"[\"'\\]", command[0]):
        raise UsageError(
            f"systemd starts no program with a quote or backslash in its path: {command[0]}"
        )
    words = [_quote(command[0]), *(_quote(word).replace("$", "$$") for word in command[1:])]
    # A usage error is the same at the next start.
    return f"""\
[Unit]
Description=ssmnet: forwards and proxies through AWS Systems Manager
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={" ".join(words)}
Restart=on-failure
RestartSec={RETRY_TIME}
RestartPreventExitStatus=2
KillSignal=SIGTERM
TimeoutStopSec={STOP_TIME}

[Install]
WantedBy=default.target
"""


def launchd_plist(command: Sequence[str], log: Path) -> str:
    """An agent for ``~/Library/LaunchAgents`` that runs ``command`` and writes to ``log``.

    Raises UsageError for what can't stand in one.
    """
    _check([*command, str(log)])
    agent = {
        "Label": "ssmnet",
        "ProgramArguments": list(command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": RETRY_TIME,
        "ExitTimeOut": STOP_TIME,
        "StandardErrorPath": str(log),
    }
    return plistlib.dumps(agent, sort_keys=False).decode()


def _check(command: Sequence[str]) -> None:
    for word in command:
        if _CONTROL.search(word):
            raise UsageError(f"{word!a} has a control character: no service file can hold it")
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{word!a} is not UTF-8 text, as a service file is") from None


def _quote(word: str) -> str:
    """One word for systemd, which expands % everywhere, and $ in all but the first."""
    word = word.replace("%", "%%")
    if word and _PLAIN.issuperset(word.replace("%", "")):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'
