"""Plain TCP in ssmnet's place: ``python -m perf.relay PORT`` prints a port that leads to PORT."""

import asyncio
import sys
from typing import cast

import uvloop


class Side(asyncio.Protocol):
    """One of two connections; what it gets goes to the other."""

    def __init__(self, other: "Side | None" = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early = b""  # uvloop begins to read though connection_made has paused it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.other is None:
            self.transport.pause_reading()
            self.connecting = asyncio.create_task(connect(self))
        else:
            self.other.other = self
            assert self.other.transport is not None
            self.transport.write(self.other.early)
            self.other.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.peer.write(data)
        elif self.transport is not None:
            self.early += data
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self.peer.pause_reading()

    def resume_writing(self) -> None:
        self.peer.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()

    @property
    def peer(self) -> asyncio.Transport:
        assert self.other is not None
        assert self.other.transport is not None
        return self.other.transport


async def connect(side: Side) -> None:
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: Side(side), "127.0.0.1", int(sys.argv[1]))


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Side, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
