"""The blocking face: a private loop in a thread, and nothing else. No test here has a loop."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ssmnet
from ssmnet import blocking
from ssmnet.blocking import LoopThread
from ssmnet.loopback import Loopback
from ssmnet.starting import Starting
from tests.io.sessions import closed_port

from .targets import keys, serving

DEADLINE = 20.0


@pytest.fixture
def far() -> Iterator[Loopback]:
    """A far end in a loop of its own; threads, sessions and ports do not outlive a test."""
    threads = set(threading.enumerate())
    with LoopThread() as loop:
        loopback = Loopback(first_output_delay=0.0)
        loop.call(loopback.__aenter__())
        yield loopback
        left = loopback.sessions
        loop.call(loopback.__aexit__(None, None, None))
    assert left == 0
    assert set(threading.enumerate()) <= threads


@pytest.fixture
def port() -> Iterator[int]:
    with LoopThread() as loop:
        server = serving()
        yield loop.call(server.__aenter__())
        loop.call(server.__aexit__(None, None, None))


@pytest.fixture
def interrupt() -> Iterator[Callable[[], None]]:
    """Ctrl-C, which the main thread has noticed when the call returns."""
    if sys.platform == "win32":
        pytest.skip("signals go to no thread there")
    main = threading.get_ident()
    seen = threading.Event()

    def notice(*_: object) -> None:
        if not seen.is_set():
            seen.set()
            raise KeyboardInterrupt

    def send() -> None:
        seen.clear()
        signal.pthread_kill(main, signal.SIGINT)
        # One that comes just before the main thread blocks does not wake it.
        while not seen.wait(0.1):
            signal.pthread_kill(main, signal.SIGINT)

    before = signal.signal(signal.SIGINT, notice)
    yield send
    signal.signal(signal.SIGINT, before)


def place(far: Loopback) -> dict[str, Any]:
    return {
        "region": far.region,
        "credentials": keys(far),
        "endpoint_url": far.endpoint_url,
        "messages_endpoint_url": far.endpoint_url,
    }


def echoed(port: int, data: bytes = b"hello") -> bytes:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as client:
        client.sendall(data)
        return client.makefile("rb").read(len(data))


def test_a_forward(far: Loopback, port: int) -> None:
    events: list[ssmnet.Event] = []
    with ssmnet.blocking.forward(far.target, port, **place(far), on_event=events.append) as local:
        assert echoed(local) == b"hello"
        assert far.sessions == 1
    assert far.sessions == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", local))
    assert events


def test_several_things_on_one_target(far: Loopback, port: int) -> None:
    with ssmnet.blocking.connect(far.target, **place(far)) as target:
        with target.forward(port) as one, target.forward(port, host="127.0.0.1") as two:
            assert one != two
            assert echoed(one) == echoed(two) == b"hello"
            with target.proxy(kind="http") as proxy:
                with socket.create_connection(("127.0.0.1", proxy), DEADLINE) as client:
                    client.sendall(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
                    assert client.makefile("rb").readline().startswith(b"HTTP/1.1 200")
            assert len(target.statistics().listeners) == 2
        assert not target.statistics().listeners
    with pytest.raises(ssmnet.SessionClosed):
        target.statistics()


@pytest.mark.skipif(sys.platform == "win32", reason="the far end has no commands there")
def test_a_command(far: Loopback) -> None:
    with ssmnet.blocking.connect(far.target, **place(far)) as target:
        done = target.run("sh", "-c", "echo out; exit 3", timeout=DEADLINE)
        assert (done.returncode, done.stdout) == (3, b"out\n")
        with pytest.raises(TimeoutError):
            target.run("sleep", "1000", timeout=0.3)


def test_errors_come_as_they_are(far: Loopback, port: int) -> None:
    with pytest.raises(ssmnet.UsageError):
        with ssmnet.blocking.forward(far.target, 0, **place(far)):
            pass
    with pytest.raises(ssmnet.DestinationRefused):
        with ssmnet.blocking.forward(far.target, closed_port(), check=True, **place(far)):
            pass
    with pytest.raises(KeyError):
        with ssmnet.blocking.forward(far.target, port, **place(far)):
            raise KeyError
    assert far.sessions == 0


def test_ctrl_c_while_it_waits(far: Loopback, port: int, interrupt: Callable[[], None]) -> None:
    far.impair(delay=0.5)  # so that a session takes its time

    def watch() -> None:
        while not far.sessions_started:
            time.sleep(0.01)
        interrupt()

    watching = threading.Thread(target=watch)
    with pytest.raises(KeyboardInterrupt):
        watching.start()
        with ssmnet.blocking.forward(far.target, port, **place(far)):
            threading.Event().wait(DEADLINE)
    watching.join()
    far.impair()


def test_ctrl_c_twice_while_it_leaves(
    far: Loopback, port: int, interrupt: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = Starting.__aexit__
    left = []

    async def interrupted(self: Starting[Any], *exc_info: Any) -> None:
        interrupt()
        await leave(self, *exc_info)
        left.append(self)

    monkeypatch.setattr(Starting, "__aexit__", interrupted)
    monkeypatch.setattr(blocking, "EXIT_TIMEOUT", DEADLINE)
    with socket.socket() as client, pytest.raises(KeyboardInterrupt):
        with ssmnet.blocking.forward(far.target, port, **place(far)) as local:
            client.connect(("127.0.0.1", local))
            client.sendall(b"hello")
            assert client.recv(5)
    assert len(left) == 2
    assert far.sessions == 0


def test_ctrl_c_while_the_loop_starts(interrupt: Callable[[], None]) -> None:
    class Interrupted(LoopThread):
        def _work(self) -> None:
            interrupt()
            super()._work()

    loop = Interrupted()
    with pytest.raises(KeyboardInterrupt), loop:
        pass
    loop._thread.join(DEADLINE)
    assert not loop._thread.is_alive()


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit there")
@pytest.mark.parametrize("made", ["ssmnet.blocking.connect('loopback')", "SsmLoopback()"])
def test_no_loop_can_be_made(made: str) -> None:
    script = f"""
import os, resource, ssmnet
from ssmnet.testing import SsmLoopback
with {made}:
    pass
entered = {made}
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
try:
    while True:
        os.open(os.devnull, os.O_RDONLY)
except OSError as error:
    full = error.errno
try:
    entered.__enter__()
except OSError as error:
    print(error.errno == full)
"""
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "True\n"  # the loop that was half made complains of itself


def test_an_event_s_callback_must_not_wait(far: Loopback, port: int) -> None:
    errors: list[ssmnet.UsageError] = []

    def ask(_: ssmnet.Event) -> None:
        for work in (lambda: target.statistics(), lambda: target.run("true")):
            with pytest.raises(ssmnet.UsageError, match="another thread") as caught:
                work()
            errors.append(caught.value)

    with ssmnet.blocking.connect(far.target, **place(far), on_event=ask) as target:
        with target.forward(port) as local:
            assert echoed(local) == b"hello"
    assert errors


def test_in_several_threads(far: Loopback, port: int) -> None:
    said: list[bytes] = []

    def work() -> None:
        with ssmnet.blocking.forward(far.target, port, **place(far)) as local:
            said.append(echoed(local))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said == [b"hello"] * 4


@pytest.mark.parametrize("end", ["pass", "sys.exit()", "raise KeyError"])
@pytest.mark.parametrize("within", [False, True])
def test_a_script_leaves_no_session(far: Loopback, port: int, end: str, within: bool) -> None:
    enter = "with entered as local: " if within else "local = entered.__enter__(); "
    script = f"""
import socket, sys, ssmnet
target, port, endpoint, key, secret = sys.argv[1:]
entered = ssmnet.blocking.forward(
    target, int(port), region="us-east-1", credentials=ssmnet.Credentials(key, secret),
    endpoint_url=endpoint, messages_endpoint_url=endpoint)
def use(local):
    global client
    client = socket.create_connection(("127.0.0.1", local))
    client.sendall(b"hello")
    print(client.recv(5).decode(), flush=True)
{enter}use(local); {end}
"""
    arguments = (str(port), far.endpoint_url, far.access_key_id, far.secret_access_key)
    done = subprocess.run(
        (sys.executable, "-c", script, far.target, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "hello\n"
    assert done.returncode == ("raise" in end)
    assert ("KeyError" in done.stderr) == ("raise" in end)
    assert done.stderr == "" or "raise" in end
    assert far.sessions == 0
    assert far.sessions_terminated == 1


def test_a_script_that_ends_without_leaving_is_not_kept(far: Loopback) -> None:
    script = """
import sys, ssmnet
target, endpoint, key, secret = sys.argv[1:]
entered = ssmnet.blocking.connect(
    target, region="us-east-1", credentials=ssmnet.Credentials(key, secret),
    endpoint_url=endpoint, messages_endpoint_url=endpoint)
entered.__enter__()
print("entered")
"""
    arguments = far.target, far.endpoint_url, far.access_key_id, far.secret_access_key
    done = subprocess.run(
        (sys.executable, "-c", script, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("entered\n", "")


@pytest.mark.skipif(sys.platform == "win32", reason="no fork there")
def test_a_fork_leaves_what_is_its_parent_s(far: Loopback, port: int) -> None:
    script = """
import os, socket, sys, ssmnet
target, port, endpoint, key, secret = sys.argv[1:]
def ask(local):
    with socket.create_connection(("127.0.0.1", local)) as client:
        client.sendall(b"hello")
        return client.recv(5).decode()
with ssmnet.blocking.forward(
    target, int(port), region="us-east-1", credentials=ssmnet.Credentials(key, secret),
    endpoint_url=endpoint, messages_endpoint_url=endpoint) as local:
    ask(local)
    if not (child := os.fork()):
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(ask(local))
"""
    arguments = (str(port), far.endpoint_url, far.access_key_id, far.secret_access_key)
    done = subprocess.run(
        (sys.executable, "-W", "ignore", "-c", script, far.target, *arguments),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello\n", "")
    assert far.sessions == 0


def test_a_far_end_in_this_process(port: int) -> None:
    with ssmnet.blocking.forward("loopback", port) as local:
        assert echoed(local) == b"hello"
    with ssmnet.blocking.connect("loopback") as target, target.forward(port) as local:
        assert echoed(local) == b"hello"
