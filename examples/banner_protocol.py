"""A Protocol of one's own on a tunnel: ask a server what it is, by its first line."""

import asyncio

import ssmnet


class Banner(asyncio.Protocol):
    def __init__(self) -> None:
        self.line: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        if b"\n" in self.received and not self.line.done():
            self.line.set_result(self.received.partition(b"\n")[0].decode().rstrip())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.line.done():
            self.line.set_exception(exc or EOFError("closed before its first line"))


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        transport, banner = await target.create_connection(Banner, "bastion.internal", 22)
        print(await asyncio.wait_for(banner.line, 10))
        transport.close()


asyncio.run(main())
