"""``ssmnet proxy`` in front of a far end that knows names which nobody else does."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ssmnet.loopback import Loopback

from . import site
from .processes import SSMNET, FarEnd, started

# Nobody but the far end knows them, which is how we see where they are looked up.
NAMES = site.NAMES | {
    "db.internal": "127.0.0.1",
    "files.internal": "127.0.0.1",
    "git.internal": "127.0.0.1",
    "host.internal": "127.0.0.1",
}
# Not asked for, they are not known there either; and what the agent never goes to.
UNKNOWN = "nowhere.internal"
FORBIDDEN = "169.254.169.254"


class Proxy(NamedTuple):
    """The ports on 127.0.0.1 at which a running one listens."""

    socks: int
    http: int

    @property
    def socks_address(self) -> str:
        return f"127.0.0.1:{self.socks}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.http}"


@asynccontextmanager
async def proxy_running(env: Mapping[str, str], *options: str) -> AsyncIterator[Proxy]:
    """Run one, for SOCKS and for HTTP. It has to end well on Ctrl-C."""
    command: tuple[str | Path, ...] = (SSMNET, "proxy", "-t", FarEnd.target)
    async with started(*command, "--socks", "0", "--http", "0", *options, env=env) as program:
        ports = {}
        for _ in range(2):
            line = await program.err_line(r"^Listening on \S+:(\d+), (SOCKS|HTTP) proxy")
            ports[line[2].lower()] = int(line[1])
        yield Proxy(**ports)


@asynccontextmanager
async def far_end_with_names() -> AsyncIterator[Loopback]:
    """A far end in this process, in which no session may be left open."""
    for name in NAMES:
        assert not known_here(name), f"{name} would be found without the far end"
    async with Loopback(names=NAMES) as running:
        yield running
        assert running.sessions == 0


@cache
def known_here(name: str) -> bool:
    """Whether this machine can look a name up."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
