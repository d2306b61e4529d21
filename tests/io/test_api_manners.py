"""What a library must not do to the process it is in."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

import ssmnet

from .targets import DEADLINE, echoed, hang_up, serving

# Sessions, streams, forwards and commands, and what has changed in the process by then.
CHANGES = """
import asyncio, logging, os, signal, sys, threading

def state():
    logging.getLogger("ssmnet")
    return {
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "wakeup": wakeup(),
        "handlers": [logging.root.handlers[:], logging.root.level, logging.lastResort,
                     logging.getLogger("ssmnet").handlers[:], logging.getLogger("ssmnet").level],
        "hooks": [sys.excepthook, threading.excepthook, sys.unraisablehook],
        "policy": asyncio.get_event_loop_policy(),
        "environment": dict(os.environ),
        "threads": [one for one in threading.enumerate() if "asyncio_" not in one.name],
        "directory": os.getcwd(),
        "umask": os.umask(os.umask(0o22)),
        "streams": [sys.stdin, sys.stdout, sys.stderr],
    }

def wakeup():
    number = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(number)
    return number

async def use():
    async def answer(reader, writer):
        writer.write(await reader.read(100))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    inside = []
    before = state()
    async with ssmnet.connect("loopback") as target:
        reader, writer = await target.open_connection("127.0.0.1", port)
        writer.write(b"x")
        assert await reader.read() == b"x"
        async with target.forward(port), target.proxy():
            if sys.platform != "win32":
                await target.run("true")
            inside = state()
        writer.close()
    server.close()
    return before, inside, state()

import ssmnet
for before, *after in (asyncio.run(use()), asyncio.run(use())):
    for now in after:
        for name, value in before.items():
            assert now[name] == value, f"{name}: {value} -> {now[name]}"
with ssmnet.blocking.connect("loopback"):
    pass
handlers = {name: [type(one).__name__ for one in logger.handlers]
            for name, logger in logging.Logger.manager.loggerDict.items()
            if isinstance(logger, logging.Logger) and logger.handlers}
print({name for name in handlers if name.startswith("ssmnet")} or "no handlers")
print([name for name in ("uvloop", "typer", "prometheus_client", "pytest")
       if name in sys.modules])
"""


def run_python(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-W", "ignore::DeprecationWarning", *options),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.filterwarnings("ignore")
def test_nothing_of_the_process_is_changed() -> None:
    done = run_python("-c", CHANGES)
    assert (done.stderr, done.stdout) == ("", "no handlers\n[]\n")


HEAVY = {"asyncio", "ssl", "socket", "logging", "aiohttp", "botocore", "aiobotocore", "msgspec"}


def modules_after(code: str) -> set[str]:
    done = run_python("-c", f"import sys, ssmnet; {code}; print(*sys.modules)")
    assert done.stderr == ""
    return set(done.stdout.split())


def test_import_costs_next_to_nothing() -> None:
    imported = modules_after("ssmnet.__version__, dir(ssmnet)")
    assert {name for name in imported if name.startswith("ssmnet")} == {"ssmnet", "ssmnet._version"}
    assert not imported & HEAVY


def test_an_error_can_be_named_without_the_rest() -> None:
    imported = modules_after("ssmnet.SessionClosed, ssmnet.errors.Error")
    assert "ssmnet.errors" in imported
    assert not imported & HEAVY


def test_a_target_needs_no_botocore_before_it_is_used() -> None:
    assert not modules_after("ssmnet.connect('i-0123456789abcdef0')") & {"botocore", "aiobotocore"}


IMPORTED_BY = """
import asyncio, sys, threading

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("botocore", "aiobotocore"):
            print(name, threading.current_thread() is threading.main_thread())

async def main():
    import ssmnet
    async with ssmnet.connect("loopback") as target:
        await target.run("true")

sys.meta_path.insert(0, Watch())
asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such command there")
def test_botocore_is_not_imported_in_the_event_loop() -> None:
    """It takes a good part of a second, in which a service has others to serve."""
    command = (sys.executable, "-c", IMPORTED_BY)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert sorted(done.stdout.splitlines()) == ["aiobotocore False", "botocore False"]


@pytest.mark.parametrize(
    "loops",
    [
        (asyncio.new_event_loop, asyncio.new_event_loop),
        (uvloop.new_event_loop, uvloop.new_event_loop),
        (asyncio.new_event_loop, uvloop.new_event_loop, asyncio.new_event_loop),
    ],
)
def test_loops_in_threads_side_by_side(
    loops: tuple[Callable[[], asyncio.AbstractEventLoop], ...],
) -> None:
    """Each with an account of its own; they are in the middle of it together."""
    together = threading.Barrier(len(loops))
    said: list[bytes] = []

    async def use() -> None:
        async with serving() as port, ssmnet.connect("loopback") as target:
            async with target.forward(port) as listener:
                await asyncio.to_thread(together.wait, DEADLINE)
                reader, writer = await target.open_connection("127.0.0.1", port)
                said.append(await echoed(reader, writer))
                await hang_up(writer)
                reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
                said.append(await echoed(reader, writer))
                await hang_up(writer)
                await asyncio.to_thread(together.wait, DEADLINE)

    def work(make: Callable[[], Any]) -> None:
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(use())

    threads = [threading.Thread(target=work, args=(make,)) for make in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == [b"hello"] * 2 * len(loops)
