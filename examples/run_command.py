"""A command on the instance, without a shell or ssh: exit status, stdout and stderr, each apart."""

import asyncio

import ssmnet


async def main() -> None:
    async with ssmnet.connect("i-0123456789abcdef0") as target:
        done = await target.run("sh", "-c", "echo out; echo err >&2; exit 3", timeout=30)
    print(done.returncode, done.stdout.decode().strip(), done.stderr.decode().strip())


asyncio.run(main())
