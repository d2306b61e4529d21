"""``ssmnet loopback``: a far end on this machine, for other programs."""

from __future__ import annotations

import contextlib
import os
import re
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import Debug, run_command
from .duration import parse_duration
from .errors import ListenError, UsageError
from .status import tell

if TYPE_CHECKING:
    import asyncio
    import ssl
    from collections.abc import Iterable

# These settings would lead an AWS client past the loopback's own.
_IN_THE_WAY = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_CA_BUNDLE",
    "AWS_ENDPOINT_URL_SSMMESSAGES",
)


def loopback(
    port: Annotated[
        int,
        typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 for a free one."),
    ] = 0,
    allow_unsigned: Annotated[
        bool,
        typer.Option(
            "--allow-unsigned", help="Let clients that do not sign the WebSocket forward ports."
        ),
    ] = False,
    pace: Annotated[
        bool,
        typer.Option(
            "--pace",
            help="Send at the pace of the real agent: 0.95 MB/s a session. Without it, megabytes"
            " are on their way when a WebSocket is cut, and agents repeat them slowly.",
        ),
    ] = False,
    first_output_delay: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="Hold a shell's first output back for so long; the real agent does for 1s.",
        ),
    ] = None,
    ideal: Annotated[
        bool, typer.Option("--ideal", help="Without the real agent's bad habits.")
    ] = False,
    agent_version: Annotated[
        str, typer.Option(metavar="VERSION", help="Version that the agent announces.")
    ] = "3.3.0.0",
    kms: Annotated[
        bool, typer.Option("--kms", help="Encrypt shells and commands with a KMS key.")
    ] = False,
    require_challenge: Annotated[
        bool,
        typer.Option(
            "--require-challenge",
            help="With --kms, refuse clients that ignore the agent's random challenge.",
        ),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST=ADDRESS",
            help="A host name that the agent knows, as db.internal=127.0.0.1; may be repeated.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Certificate (PEM) for localhost: use https and wss."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its private key (PEM).")
    ] = None,
    idle_timeout: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="End a session without data for so long; AWS does after 20m.",
        ),
    ] = None,
    max_duration: Annotated[
        float | None,
        typer.Option(metavar="TIME", parser=parse_duration, help="End a session that is so old."),
    ] = None,
    agent_away: Annotated[
        float | None,
        typer.Option(
            metavar="TIME",
            parser=parse_duration,
            help="End a session that has lost its agent for so long; 5s by default.",
        ),
    ] = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Run a far end on this machine.

    It is a gateway and an agent, for tries and tests without AWS. Prints the settings that make any
    AWS client use it; give them to another shell:

    \b
    ssmnet loopback --port 8080
    aws ssm start-session --target i-0123456789abcdef0 ...
    aws ecs execute-command --cluster loopback --task 0123456789abcdef0123456789abcdef \\
                            --interactive --command /bin/sh

    Only this machine can reach it, and only with the credentials printed: who has them can run
    commands here as you. With these, too, things go wrong on demand, to see what a tunnel makes of
    it:

    \b
    fault() { curl -u $AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY -d "$2" \\
              $AWS_ENDPOINT_URL_SSM/faults/$1; }
    fault cut_clients
    fault close_clients '{"code": 1000, "reason": "Bye"}'
    fault blackhole_clients '{"seconds": 60, "new": false}'
    fault impair '{"delay": 0.1, "jitter": 0.05, "loss": 0.01, "duplicate": 0.01,
                   "reorder": true, "direction": "to_agent", "seconds": 30, "seed": 1}'
    fault police '{"rate": 500000, "queue": 262144, "direction": "to_agent"}'
    fault fail_next '{"code": "ThrottlingException", "times": 5, "action": "ResumeSession"}'
    fault expire_tokens
    fault kill_agents
    fault end_sessions '{"output": "maximum duration"}'
    """
    from .loopback import AGENT_AWAY, FIRST_OUTPUT_DELAY, Loopback

    if not re.fullmatch(r"\d+(\.\d+){0,3}", agent_version):
        raise UsageError(f"{agent_version!r} is not a version such as 3.3.0.0")
    if require_challenge and not kms:
        raise UsageError("--require-challenge needs --kms")

    names = _names(name or ())

    async def main(stop: asyncio.Event) -> None:
        far_end = Loopback(
            port,
            tls=_server_context(tls_cert, tls_key),
            ca_file=str(tls_cert.resolve()) if tls_cert else None,
            allow_unsigned=allow_unsigned,
            pace=pace,
            first_output_delay=first_output_delay or FIRST_OUTPUT_DELAY,
            ideal=ideal,
            agent_version=agent_version,
            kms=kms,
            require_challenge=require_challenge,
            names=names,
            idle_timeout=idle_timeout,
            max_duration=max_duration,
            agent_away_limit=agent_away or AGENT_AWAY,
        )
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(far_end)
            except OSError as error:
                what = os.strerror(error.errno) if error.errno else str(error)
                raise ListenError(f"cannot listen on port {port}: {what}") from error
            typer.echo(f"unset {' '.join(_IN_THE_WAY)}")
            for name, value in far_end.environment.items():
                typer.echo(f"export {name}={value}")
            tell(f"{far_end.target} is online at {far_end.endpoint_url}; Ctrl-C ends it")
            await stop.wait()
            tell(f"{far_end.sessions_started} sessions started, {far_end.sessions} still open")

    run_command(main)


def _names(texts: Iterable[str]) -> dict[str, str]:
    """Addresses by host name."""
    names = {}
    for text in texts:
        host, _, address = text.partition("=")
        try:
            names[host] = str(ip_address(address))
        except ValueError:
            host = ""
        if not host:
            raise UsageError(f"--name {text} is not HOST=ADDRESS, such as db.internal=127.0.0.1")
    return names


def _server_context(cert: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("--tls-cert and --tls-key go together")
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        raise UsageError(f"cannot use {cert} and {key}: {error}") from error
    return context
