"""``ssmnet ssh-proxy`` and ``ssmnet ssh-config``: ssh through a session."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import (
    Debug,
    Document,
    EndpointUrl,
    KeepAlive,
    Parameter,
    Profile,
    Reason,
    Region,
    read_parameters,
)
from .errors import UsageError
from .session_command import What, Where, run_session
from .status import tell

if TYPE_CHECKING:
    import asyncio

    from .session import Session


def ssh_proxy(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="Instance (i-... or mi-...), or 'loopback': a far end on this machine.",
        ),
    ],
    port: Annotated[
        int, typer.Argument(metavar="PORT", min=1, max=65535, help="Port of the target.")
    ] = 22,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Reason = None,
    document: Document = None,
    parameter: Parameter = None,
    keep_alive: KeepAlive = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Join stdin and stdout to a port of a target, for ssh.

    \b
    ssh -o ProxyCommand='ssmnet ssh-proxy %h %p' ec2-user@i-0123456789abcdef0

    'ssmnet ssh-config --install' has ssh do so for every instance. Nothing but the connection's
    bytes comes on stdout, and nothing but errors on stderr.

    After the end of stdin it ends once all has arrived and no byte has moved for five seconds; when
    stdout is closed, at once. The session is terminated either way. Exit status: 0 when the
    connection has ended in good order, 1 after an error or when stdout's reader is gone, 2 for a
    usage error, 130 after a signal.
    """
    from .ssh_proxy import DOCUMENT, run_ssh_proxy

    parameters = {"portNumber": [str(port)]} | (read_parameters(parameter, document) or {})

    async def run(session: Session, stop: asyncio.Event, _: float | None) -> int:
        return await run_ssh_proxy(session, stop)

    where = Where(target, profile, region, endpoint_url, _asker())
    what = What(document or DOCUMENT, parameters, reason, keep_alive, shell=False)
    raise typer.Exit(run_session(where, what, run))


def ssh_config(
    install: Annotated[
        bool, typer.Option("--install", help="Put the block into the file, or bring it up to date.")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take it out of the file.")] = False,
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="The file to change instead of ~/.ssh/config.", show_default=False
        ),
    ] = None,
    profile: Profile = None,
    region: Region = None,
    user: Annotated[
        str | None, typer.Option(metavar="NAME", help="User to log in as, such as ec2-user.")
    ] = None,
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Hosts to reach so, instead of i-* and mi-*; may be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Print, install or remove what has ssh reach instances by id.

    \b
    ssmnet ssh-config --install --region eu-central-1 --user ec2-user
    ssh i-0123456789abcdef0

    The block for ~/.ssh/config names this ssmnet by its whole path, since cron and editors have a
    PATH of their own. --install puts it at the top, because ssh takes the first value it finds, or
    in the place of the one that is there. Nothing else in the file is changed.
    """
    from .ssh_config import HOSTS, edit_file, host_block, own_command

    _check_options(install, remove, file, (profile, region, user, host))
    options = [f"--profile={profile}"] if profile else []
    options += [f"--region={region}"] if region else []
    block = host_block(
        [*own_command(), "ssh-proxy", *options], hosts=host or HOSTS, user=user or None
    )
    if not install and not remove:
        typer.echo(block, nl=False)
        return
    path = file or Path.home() / ".ssh" / "config"
    changed = edit_file(path, None if remove else block)
    if remove:
        tell(f"{path}: {'the block is taken out' if changed else 'there was no block'}")
    else:
        tell(f"{path}: {'the block is installed' if changed else 'the block was there already'}")


def _check_options(
    install: bool, remove: bool, file: Path | None, others: tuple[object, ...]
) -> None:
    if install and remove:
        raise UsageError("--install and --remove are given both")
    if file is not None and not (install or remove):
        raise UsageError("--file goes with --install or --remove")
    if remove and any(others):
        raise UsageError("--remove takes the whole block out: give --file at most")


def _asker() -> Callable[[str], str] | None:
    """How to ask for a code: on the terminal that ssh itself asks on, while stdin is for data."""
    if sys.platform == "win32":
        return None
    try:
        terminal = os.open(os.ctermid(), os.O_RDWR | os.O_NOCTTY)
    except OSError:
        return None
    try:
        # In the background we would be stopped.
        in_foreground = os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return None
    finally:
        os.close(terminal)
    return getpass.getpass if in_foreground else None
