"""A destination for measurements. ``python -m perf.destination`` prints its port and serves.

The first byte of a connection says what is wanted, the next 8 how many bytes (0: without end):
``e`` echoes, ``u`` takes so many bytes and answers with one, ``d`` sends so many, ``n`` tells in 8
bytes how many have been taken on all connections.
"""

import asyncio
from typing import cast

import uvloop

PIECE = bytes(64 * 1024)
HEADER = 9


def request(what: str, size: int = 0) -> bytes:
    """What to send first."""
    return what.encode() + size.to_bytes(8)


class Destination(asyncio.Protocol):
    """One connection."""

    __slots__ = ("_left", "_started", "_taken", "_transport", "_what")

    def __init__(self, taken: list[int]) -> None:
        self._taken = taken
        self._started = b""
        self._what = ""
        self._left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not self._what:
            self._started += data
            if len(self._started) < HEADER:
                return
            self._what, self._left = chr(self._started[0]), int.from_bytes(self._started[1:HEADER])
            data, self._started = self._started[HEADER:], b""
            if self._what == "d":
                self.resume_writing()
            elif self._what == "n":
                self._transport.write(self._taken[0].to_bytes(8))
        if self._what == "e":
            self._transport.write(data)
        elif self._what == "u":
            self._taken[0] += len(data)
            if self._left:
                self._left -= len(data)
                if not self._left:
                    self._transport.write(b"!")

    def pause_writing(self) -> None:
        self._what = "paused" if self._what == "d" else self._what

    def resume_writing(self) -> None:
        if self._what not in ("d", "paused"):
            return
        self._what = "d"
        endless = not self._left
        while self._what == "d" and not self._transport.is_closing() and (endless or self._left):
            piece = PIECE if endless else PIECE[: self._left]
            self._left = max(0, self._left - len(piece))
            self._transport.write(piece)
            if not endless and not self._left:
                self._what = "done"


async def serve() -> None:
    loop = asyncio.get_running_loop()
    taken = [0]
    server = await loop.create_server(lambda: Destination(taken), "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
