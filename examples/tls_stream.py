"""TLS inside the tunnel, without a local port: the certificate must be that of the real host."""

import asyncio

import ssmnet


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        reader, writer = await target.open_connection("site.internal", 443, ssl=True)
        certificate = writer.get_extra_info("peercert")
        print("certificate of", certificate["subjectAltName"][0][1])
        writer.write(b"GET / HTTP/1.1\r\nHost: site.internal\r\nConnection: close\r\n\r\n")
        print((await reader.readline()).decode(), end="")
        writer.close()
        await writer.wait_closed()


asyncio.run(main())
