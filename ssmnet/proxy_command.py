"""``ssmnet proxy``: one SOCKS or HTTP proxy to all that a target reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .command import (
    Debug,
    EndpointUrl,
    KeepAlive,
    Profile,
    Reason,
    Region,
    Target,
    reach,
    run_command,
)
from .duration import parse_duration
from .errors import UsageError
from .status import Output, printer, warn

if TYPE_CHECKING:
    import asyncio

SOCKS_PORT = 1080
PASSWORD_VARIABLE = "SSMNET_PROXY_PASSWORD"  # noqa: S105 - its name


def proxy(
    target: Target = None,
    socks: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="Port of a SOCKS 4, 4a and 5 proxy; 0 for a free one. 1080 where --http is not "
            "given either.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        int | None,
        typer.Option(
            metavar="PORT",
            min=0,
            max=65535,
            help="Port of an HTTP proxy, for CONNECT and plain requests; 0 for a free one. It "
            "serves /proxy.pac, too.",
        ),
    ] = None,
    bind: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Listen here instead of on 127.0.0.1 and ::1; needs --user unless others can't "
            "reach it. May be repeated.",
            show_default=False,
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Ask clients for this name, and the password that is in {PASSWORD_VARIABLE}.",
        ),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Allow only such destinations: a network such as 10.0.0.0/8, an address, or a "
            "name such as *.internal, with or without :port. May be repeated.",
        ),
    ] = None,
    deny: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Allow no such destinations; comes before --allow. A name is not looked up here: "
            "one that leads to a network that is denied passes. Use --allow as a barrier.",
        ),
    ] = None,
    route: Annotated[
        list[str] | None,
        typer.Option(
            metavar="'PATTERN via TARGET'",
            help="Reach such destinations through another target; the first that fits. May be "
            "repeated.",
        ),
    ] = None,
    max_sessions: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=200,
            help="Have at most so many sessions at once, one for each destination in use; 20 by "
            "default.",
        ),
    ] = None,
    sessions: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Share the connections to one destination among up to so many of them, as for "
            "'ssmnet forward'.",
        ),
    ] = "1",
    idle: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="Keep a destination's session for so long without connections; 60s by default.",
        ),
    ] = None,
    profile: Profile = None,
    region: Region = None,
    endpoint_url: EndpointUrl = None,
    reason: Reason = None,
    keep_alive: KeepAlive = None,
    output: Annotated[
        Output, typer.Option(help="Status on stderr, or JSON objects on stdout, one a line.")
    ] = Output.TEXT,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a proxy to all that a target reaches.

    Each destination gets a session when it is first asked for. Names are looked up by the target.

    \b
    ssmnet proxy -t i-0123456789abcdef0
    curl --socks5-hostname 127.0.0.1:1080 http://site.internal/
    ssmnet proxy -t i-0123456789abcdef0 --http 8080 --allow '*.internal:443'
    HTTPS_PROXY=http://127.0.0.1:8080 git clone https://git.internal/it.git
    ssmnet proxy -t i-0123456789abcdef0 --route '*.prod.internal via i-0fedcba9876543210'

    Ends with Ctrl-C: open connections may finish for a moment, then all sessions are terminated.
    Exit status: 0 after Ctrl-C or SIGTERM, 1 after an error, 2 for a usage error.
    """
    from .bind import LOOPBACK
    from .config import NamedProxy, Place
    from .forwards import Request, is_exposed, parse_sessions
    from .rules import Rules
    from .service import ProxyService
    from .targets import pick_target
    from .up import run_together

    addresses = tuple(bind or LOOPBACK)
    if socks is not None and socks == http != 0:
        raise UsageError(f"--socks and --http can't both have port {socks}")
    if is_exposed(addresses):
        if user is None:
            raise UsageError("others could use this proxy: it needs --user, or no --bind")
        warn(f"listening on {', '.join(addresses)}: others that know the password can use it")
    width = parse_sessions(sessions)
    Rules(allow or (), deny or (), route or ())
    chosen = target or (None if route else pick_target(profile, region, endpoint_url))

    async def main(stop: asyncio.Event) -> bool:
        async with reach(chosen or "", profile, region, endpoint_url) as (client, reached):
            wanted = NamedProxy(
                name="proxy",
                place=Place(profile, region, endpoint_url),
                socks=SOCKS_PORT if socks is None and http is None else socks,
                http=http,
                bind=addresses,
                allow=tuple(allow or ()),
                deny=tuple(deny or ()),
                routes=tuple(route or ()),
                max_sessions=max_sessions,
                idle=idle,
                user=user,
                password_env=PASSWORD_VARIABLE if user is not None else None,
                request=Request(reached, reason, sessions=width, keep_alive=keep_alive),
            )
            service = ProxyService(client, wanted, printer(output, stop))
            return await run_together([service], stop)

    raise typer.Exit(0 if run_command(main) else 1)
