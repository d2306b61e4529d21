"""The far side of a network of two namespaces, as a program: gateway, agent and a destination.

It runs where the client is not: the gateway listens on that namespace's loopback address, and a
TcpLink brings clients to it, with delay. Prints a line of JSON when it is ready: the environment
for clients, and the destination's port.
"""

import argparse
import asyncio
import hashlib
import json
import random
import ssl

from ssmnet.loopback import Loopback
from ssmnet.runner import run
from ssmnet.testing.tcp_link import TcpLink


def content(seed: int, size: int) -> bytes:
    """What a transfer carries; both sides know it."""
    return random.Random(seed).randbytes(size)


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """``up SIZE`` is answered with the digest of what follows, ``down SIZE SEED`` with content."""
    try:
        way, size, *seed = (await reader.readline()).split()
        if way == b"up":
            digest = hashlib.sha256(await reader.readexactly(int(size)))
            writer.write(digest.digest())
        else:
            writer.write(content(int(seed[0]), int(size)))
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(stop: asyncio.Event) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("address")
    parser.add_argument("certificate")
    parser.add_argument("key")
    parser.add_argument("--delay", type=float, required=True)
    parser.add_argument("--ideal", action="store_true")
    options = parser.parse_args()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(options.certificate, options.key)
    far = Loopback(tls=tls, ca_file=options.certificate, ideal=options.ideal)
    async with far, await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24) as server:
        port = int(far.endpoint_url.rpartition(":")[2])
        async with TcpLink(
            "127.0.0.1", port, listen_host=options.address, delay=options.delay
        ) as link:
            url = f"https://{options.address}:{link.port}"
            endpoints = ("AWS_ENDPOINT_URL_SSM", "AWS_ENDPOINT_URL_SSMMESSAGES")
            environment = far.environment | dict.fromkeys(endpoints, url)
            destination = server.sockets[0].getsockname()[1]
            print(json.dumps({"environment": environment, "port": destination}), flush=True)
            await stop.wait()


if __name__ == "__main__":
    run(main)
