"""A network of its own: two namespaces joined by a pair of veth interfaces.

Nothing of it can be seen from outside, and nothing of it reaches the outside. It needs root, and
the programs ip, tc and nft.
"""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# Addresses for documentation: nowhere else are they in use.
FAR_ADDRESS = "192.0.2.1"
NEAR_ADDRESS = "192.0.2.2"
OTHER_ADDRESS = "192.0.2.3"
_MASK = "/24"
_INTERFACE = "veth0"
_PREFIX = "ssmnet-test-"
_COMMAND_TIMEOUT = 10
# Where such programs are, though not for everyone.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])

_numbers = itertools.count()


class NotAllowed(Exception):
    """A command was refused; the text is what it said."""


def find(program: str) -> str:
    return shutil.which(program, path=_PATH) or program


def execute(program: str, *arguments: str) -> str:
    command = (find(program), *arguments)
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_COMMAND_TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise NotAllowed(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Network:
    """Two namespaces, ``far`` and ``near``, that reach each other at the addresses above."""

    def __init__(self) -> None:
        name = f"{_PREFIX}{os.getpid()}-{next(_numbers)}"
        self.far = f"{name}-far"
        self.near = f"{name}-near"

    def inside(self, namespace: str, *command: str | Path) -> tuple[str | Path, ...]:
        """The command that runs ``command`` in a namespace, as the same process."""
        return (find("ip"), "netns", "exec", namespace, *command)

    def make(self) -> None:
        """Make it. Raises NotAllowed."""
        for namespace in (self.far, self.near):
            execute("ip", "netns", "add", namespace)
        ends = (_INTERFACE, "netns", self.far, "type", "veth", "peer", "name", _INTERFACE)
        execute("ip", "link", "add", *ends, "netns", self.near)
        for namespace, address in ((self.far, FAR_ADDRESS), (self.near, NEAR_ADDRESS)):
            execute("ip", "-n", namespace, "link", "set", "lo", "up")
            execute("ip", "-n", namespace, "addr", "add", address + _MASK, "dev", _INTERFACE)
            # Or else the system hands on 64 KiB as one packet, and loses them as one.
            execute("ip", "-n", namespace, "link", "set", _INTERFACE, "gso_max_segs", "1")
            execute("ip", "-n", namespace, "link", "set", _INTERFACE, "up")

    def remove(self) -> None:
        """Remove what there is of it, interfaces and rules included."""
        there = namespaces()
        for namespace in (self.far, self.near):
            if namespace in there:
                execute("ip", "netns", "del", namespace)

    def shape(self, *qdisc: str) -> None:
        """Give both directions a queueing discipline, such as ``tbf rate 8mbit...``."""
        for namespace in (self.far, self.near):
            execute("tc", "-n", namespace, "qdisc", "replace", "dev", _INTERFACE, "root", *qdisc)

    def lose(self, percent: int) -> None:
        """Drop so many of the packets that come in at either end, by chance."""
        chain = "{ type filter hook input priority 0; }"
        for namespace in (self.far, self.near):
            script = (
                f"add table inet loss; add chain inet loss input {chain};"
                f" add rule inet loss input iifname {_INTERFACE}"
                f" numgen random mod 100 < {percent} counter drop"
            )
            execute(*map(str, self.inside(namespace, find("nft"), script)))

    def lost(self) -> list[int]:
        """How many packets have been dropped by ``lose``, at either end."""
        tables = (
            execute(*map(str, self.inside(namespace, find("nft"), "list", "table", "inet", "loss")))
            for namespace in (self.far, self.near)
        )
        return [int(number) for table in tables for number in re.findall(r"packets (\d+)", table)]

    def set_link(self, state: str) -> None:
        """Take the near end's interface ``down``, or ``up`` again."""
        execute("ip", "-n", self.near, "link", "set", _INTERFACE, state)

    def change_address(self) -> None:
        """Give the near end another address, as a laptop gets one in another place."""
        for action, address in (("del", NEAR_ADDRESS), ("add", OTHER_ADDRESS)):
            execute("ip", "-n", self.near, "addr", action, address + _MASK, "dev", _INTERFACE)


def remove_left_over() -> None:
    """Remove the namespaces of tests that were killed."""
    for name in namespaces():
        owner = re.match(rf"{_PREFIX}(\d+)-", name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            execute("ip", "netns", "del", name)


def namespaces() -> set[str]:
    """The names of those that there are."""
    return {line.split()[0] for line in execute("ip", "netns", "list").splitlines()}


@contextmanager
def network() -> Iterator[Network]:
    """Make a Network, or skip the test and say why. It is removed in any case."""
    for program in ("ip", "tc", "nft"):
        if shutil.which(program, path=_PATH) is None:
            pytest.skip(f"NO NETWORK: no {program}: run tests/e2e/install.sh as root")
    made = Network()
    try:
        try:
            remove_left_over()
            made.make()
        except NotAllowed as error:
            pytest.skip(f"NO NETWORK: namespaces are not allowed here: {error}")
        yield made
    finally:
        made.remove()
    assert not {made.far, made.near} & namespaces()
