"""asyncssh through a tunnel: a target is what it takes as `tunnel=`. No local port, no ssh."""

import asyncio

import asyncssh

import ssmnet


async def main() -> None:
    async with (
        ssmnet.connect("i-0123456789abcdef0") as target,
        asyncssh.connect("bastion.internal", tunnel=target) as ssh,
    ):
        done = await ssh.run("echo hello from the bastion", check=True)
        print(done.stdout, end="")


asyncio.run(main())
