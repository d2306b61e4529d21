"""A shell or command of a session, from its start until nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..parent import open_process
from . import child
from .descriptor import Descriptor, OutputFile
from .destination import Owner
from .events import STDOUT, Spawn, Wiring

# Hung up on, processes get this long to end before they are killed, in seconds.
KILL_TIMEOUT = 1.0


class Process:
    """Starts a process in a session of its own. Raises OSError, with the agent's text.

    ``streams`` are its connections by number; nothing is read from them before resume_reading().
    ``exited(code)`` is called at its end; -1 if a signal was that. After hang_up() or kill()
    ``gone()`` is called once nobody is left of its session, background jobs included.
    """

    def __init__(
        self,
        spawn: Spawn,
        owner: Owner,
        *,
        exited: Callable[[int], None],
        gone: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._exited = exited
        self._gone = gone
        self._pid, descriptors = child.start(spawn.arguments, spawn.wiring)
        self._wiring = spawn.wiring
        kind = OutputFile if spawn.wiring is Wiring.FILE else Descriptor
        self.streams: dict[int, Descriptor | OutputFile] = {
            number: kind(number, descriptor, owner) for number, descriptor in descriptors.items()
        }
        self._running = True
        self._hung_up = False
        self._killed = False
        self._killing: asyncio.TimerHandle | None = None
        self._all_gone = asyncio.Event()
        self._watch()

    def set_size(self, columns: int, rows: int) -> None:
        """Give the terminal its size."""
        terminal = self.streams[STDOUT]
        if isinstance(terminal, Descriptor):
            terminal.set_size(columns, rows)

    def signal(self, number: int, *, group: bool) -> None:
        """Send a signal to the process, or to its group."""
        if self._running:
            child.send_signal(-self._pid if group else self._pid, number)

    def hang_up(self) -> None:
        """Close the streams, tell the session to end, and kill what has not ended soon."""
        if self._hung_up:
            return
        self._hung_up = True
        for stream in self.streams.values():
            stream.close(0.0)
        child.hang_up(self._pid)
        self._killing = self._loop.call_later(KILL_TIMEOUT, self.kill)
        self._look()

    def kill(self) -> None:
        """End the whole session now."""
        self._killed = True
        self.hang_up()
        child.kill(self._pid)
        self._look()

    async def wait_gone(self) -> None:
        """Wait until nobody is left."""
        await self._all_gone.wait()

    def _watch(self) -> None:
        """Have the loop say when the process ends."""
        try:
            descriptor, close = open_process(self._pid)
        except OSError:
            for stream in self.streams.values():
                stream.close(0.0)
            child.kill(self._pid)
            child.wait(self._pid)
            raise

        def ended() -> None:
            self._loop.remove_reader(descriptor)
            close()
            self._end(child.wait(self._pid))

        self._loop.add_reader(descriptor, ended)

    def _end(self, code: int) -> None:
        self._running = False
        # What it has started may write to its pipes on and on.
        if self._wiring is not Wiring.PIPES:
            for stream in self.streams.values():
                stream.expect_end()
        self._exited(code)
        if self._hung_up:
            self._look()

    def _look(self) -> None:
        """Is anybody left?"""
        if self._running or self._all_gone.is_set():
            return
        if self._killed or not child.has_members(self._pid):
            if self._killing is not None:
                self._killing.cancel()
            self._all_gone.set()
            self._gone()
