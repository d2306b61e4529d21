"""Tunnels over a network that is narrow, loses packets, goes down, or changes its address.

Client and far end are in namespaces of their own, with the kernel's TCP on real packets between
them: tbf limits the rate, nft drops packets, and a TcpLink in front of the gateway adds the delay.
"""

import asyncio
import hashlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from ssmnet.loopback import Loopback

from .far_side import content
from .network import FAR_ADDRESS, Network, NotAllowed, execute, namespaces, network
from .processes import SSMNET, Program, started

pytestmark = pytest.mark.long

if sys.platform != "linux":
    pytest.skip("NO NETWORK: only Linux has network namespaces", allow_module_level=True)

FAR_SIDE = Path(__file__).with_name("far_side.py")
ONE_WAY = 0.02  # s: 40 ms there and back
NARROW = ("tbf", "rate", "8mbit", "burst", "16kb", "latency", "100ms")
LOSS = 2  # percent, each way
SIZE = 2_000_000  # bytes each way
TIMEOUT = 100.0

Environment = dict[str, str]


class Tunnel:
    """``ssmnet forward`` in one namespace, to a destination in the other."""

    def __init__(self, net: Network, program: Program, socket: Path) -> None:
        self.net = net
        self.program = program
        self._socket = socket

    async def transfer(self, half_way: Callable[[], Awaitable[None]] | None = None) -> None:
        """Move bytes both ways at once. When half of the download is there something begins, and
        only then the second half of the upload goes out.
        """
        begun = asyncio.Event()

        async def begin() -> None:
            begun.set()
            if half_way is not None:
                await half_way()

        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._upload(content(1, SIZE), begun))
            tasks.create_task(self._download(content(2, SIZE), begin))

    async def _upload(self, data: bytes, begun: asyncio.Event) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"up %d\n" % len(data) + data[: SIZE // 2])
            await begun.wait()
            writer.write(data[SIZE // 2 :])
            assert await reader.readexactly(32) == hashlib.sha256(data).digest()
        finally:
            writer.transport.abort()

    async def _download(self, data: bytes, begin: Callable[[], Awaitable[None]]) -> None:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            writer.write(b"down %d 2\n" % len(data))
            received = await reader.readexactly(SIZE // 2)
            # It is read on meanwhile: who does not read does not see that nothing comes.
            rest, _ = await asyncio.gather(reader.read(), begin())
            assert received + rest == data
        finally:
            writer.transport.abort()


@asynccontextmanager
async def tunnel(
    env: Environment, folder: Path, name: str = "a", *options: str
) -> AsyncIterator[Tunnel]:
    """Make a network with a tunnel through it; ``options`` are the far side's."""
    certificate, key, socket = (folder / f"{name}.{end}" for end in ("pem", "key", "socket"))
    authority = trustme.CA()
    issued = authority.issue_cert(FAR_ADDRESS)
    for part in (*issued.cert_chain_pems, authority.cert_pem):
        part.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    with network() as net:
        far_side = (sys.executable, FAR_SIDE, FAR_ADDRESS, certificate, key)
        command = net.inside(net.far, *far_side, "--delay", str(ONE_WAY), *options)
        async with started(*command, env=env) as far:
            ready = json.loads((await far.out_line())[0])
            forward = (SSMNET, "forward", "-t", Loopback.target, "--remote", str(ready["port"]))
            command = net.inside(net.near, *forward, "--local", socket)
            async with started(*command, env=env | ready["environment"]) as program:
                await program.err_line("^Listening")
                yield Tunnel(net, program, socket)


async def test_every_byte_arrives_over_a_narrow_line_that_loses_packets(
    aws_env: Environment, tmp_path: Path
) -> None:
    async with tunnel(aws_env, tmp_path) as it:
        it.net.shape(*NARROW)
        it.net.lose(LOSS)
        started_at = asyncio.get_running_loop().time()
        await it.transfer()
        # No faster than the line: 8 Mbit/s are 1 MB/s, and a burst.
        assert asyncio.get_running_loop().time() - started_at > 0.9 * SIZE / 1e6
        assert all(number > 10 for number in it.net.lost())


async def test_every_byte_arrives_with_the_kernel_s_own_bad_line(
    aws_env: Environment, tmp_path: Path
) -> None:
    async with tunnel(aws_env, tmp_path) as it:
        bad = ("delay", "20ms", "5ms", "loss", "1%", "duplicate", "1%", "reorder", "10%")
        try:
            it.net.shape("netem", *bad, "rate", "8mbit")
        except NotAllowed as error:
            pytest.skip(f"NO NETEM: this kernel has none: {error}")
        await it.transfer()


async def test_a_transfer_outlives_a_link_that_is_down_for_some_seconds(
    aws_env: Environment, tmp_path: Path
) -> None:
    async with tunnel(aws_env, tmp_path) as it:
        it.net.shape(*NARROW)

        async def go_down() -> None:
            it.net.set_link("down")
            await asyncio.sleep(3)
            it.net.set_link("up")

        await it.transfer(go_down)


async def changed_address(env: Environment, folder: Path) -> None:
    """Nobody says that the old connection is dead; only its silence does."""
    async with tunnel(env, folder, "address", "--ideal") as it:

        async def move() -> None:
            it.net.change_address()

        await it.transfer(move)
        await it.program.err_line("resumed after")


async def long_down(env: Environment, folder: Path) -> None:
    """Longer than silence is borne: the session is resumed once the link is back."""
    async with tunnel(env, folder, "down", "--ideal") as it:

        async def go_down() -> None:
            it.net.set_link("down")
            await it.program.err_line("resuming")
            it.net.set_link("up")

        await it.transfer(go_down)
        await it.program.err_line("resumed after")


async def test_silence_tells_that_a_connection_is_dead(
    aws_env: Environment, tmp_path: Path
) -> None:
    """Both at once: each is silent for half a minute. Much is lost with the connection, and the
    real agent repairs ten messages in a second: this one is ideal.
    """
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(changed_address(aws_env, tmp_path))
        tasks.create_task(long_down(aws_env, tmp_path))


def test_a_network_is_removed_after_a_failure() -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=-1)
    left_over = f"ssmnet-test-{int(gone.stdout)}-0-far"
    made = set()
    with pytest.raises(ZeroDivisionError), network() as net:
        made |= {net.far, net.near}
        assert made <= namespaces()
        execute("ip", "netns", "add", left_over)
        raise ZeroDivisionError
    assert made
    assert not made & namespaces()
    # What a killed test has left goes with the next one.
    with network():
        assert left_over not in namespaces()
