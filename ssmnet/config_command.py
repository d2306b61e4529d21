"""``ssmnet config`` and ``ssmnet service``: the file of forwards, and what runs it at login."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .command import ConfigFile, Debug, Once
from .destination import in_url
from .errors import Error, UsageError
from .output import abandon
from .status import tell, warn

if TYPE_CHECKING:
    from .config import NamedForward, NamedProxy

config = typer.Typer(help="Check ssmnet.toml, find it, or see how one is written.")
service = typer.Typer(help="Have the system run 'ssmnet up'.")

EXAMPLE = """\
# ssmnet.toml: forwards and proxies by name, for `ssmnet up` and `ssmnet run`.
# It is looked for in this folder and those above it, up to that of the git repository or the home
# folder, and then in ~/.config/ssmnet. `ssmnet config check` tells what is wrong in it.

[defaults]                          # for all below that say nothing else
target = "i-0123456789abcdef0"      # an instance, an ECS task (ecs:...), or "loopback"
# profile = "dev"                   # of ~/.aws/config
# region = "eu-central-1"
# endpoint_url = "https://..."      # of the SSM API, as for the AWS CLI
# reason = "development"
keep_alive = "10m"                  # the session's idle timeout is not reached then
# max_session_age = "8h"            # new connections get another session after so long
# resume_timeout = "1h"
# sessions = 4                      # to share the connections among; or "auto"

[forwards.web]
remote = 80                         # a port of the target itself
local = 8080                        # the same as remote by default; 0 for a free one

[forwards.db]
host = "db.internal"                # a name or address that the target reaches
remote = 5432
bind = "127.0.0.1"                  # or a list; 127.0.0.1 and ::1 by default
check = true                        # fail unless the destination accepts a connection
# local = "./db.sock"               # a unix socket, beside this file

# [forwards."cache.prod"]           # a name with a dot stands in quotes
# target = "i-0fedcba9876543210"
# host = "cache.internal"
# remote = 6379
# document = "MyDocument"           # a session document of your own
# parameters = { key = "value" }
# max_restarts = 10

[proxies.corp]
socks = 1080
http = 3128
allow = ["*.internal", "10.0.0.0/8:443"]
deny = ["admin.internal"]
# routes = ["*.prod.internal via i-0fedcba9876543210"]
max_sessions = 20                   # a session for each destination
idle = "60s"                        # closed after so long without use
# user = "me"                       # needed by what listens beyond this machine
# password_env = "SSMNET_PROXY_PASSWORD"     # the variable that holds the password
"""


@config.callback(invoke_without_command=True)
def config_group(context: typer.Context) -> None:
    """Check ssmnet.toml, find it, or see how one is written."""
    _help(context)


@service.callback(invoke_without_command=True)
def service_group(context: typer.Context) -> None:
    """Have the system run 'ssmnet up'."""
    _help(context)


@config.command(cls=Once)
def check(
    file: ConfigFile = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Tell what the file names, or all that is wrong in it.

    Exit status: 0, or 2 when there is something wrong or no file.
    """
    from .config import check_config

    found, problems = check_config(_find(file))
    for problem in problems:
        tell(f"error: {problem}")
    if problems:
        raise typer.Exit(2)
    named = [
        *map(_describe_forward, found.forwards.values()),
        *map(_describe_proxy, found.proxies.values()),
    ]
    _print("\n".join([f"{found.path}:", *(named or ["no forward and no proxy"])]))
    for forward in found.forwards.values():
        if forward.forward.is_exposed:
            warn(f"forward {forward.name}: all that can reach this machine can use it")


@config.command(cls=Once)
def example(debug: Debug = False) -> None:  # noqa: ARG001 - acts by its callback
    """Print a file that shows all that can stand in one.

    \b
    ssmnet config example >ssmnet.toml
    """
    _print(EXAMPLE, end="")


@config.command(cls=Once)
def path(
    file: ConfigFile = None,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Print which file is used from here. Exit status: 0, or 2 when there is none."""
    _print(_absolute(_find(file)))


@service.command("print", cls=Once)
def print_service(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Forwards and proxies to run; all by default."),
    ] = None,
    file: ConfigFile = None,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="A user unit of systemd; the default but on macOS.")
    ] = False,
    launchd: Annotated[
        bool, typer.Option("--launchd", help="An agent of launchd; the default on macOS.")
    ] = False,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Print what has the system run 'ssmnet up' from login on, and again when it fails.

    \b
    ssmnet service print >~/.config/systemd/user/ssmnet.service
    systemctl --user enable --now ssmnet

    \b
    ssmnet service print >~/Library/LaunchAgents/ssmnet.plist
    launchctl bootstrap gui/$UID ~/Library/LaunchAgents/ssmnet.plist

    It names this ssmnet and the file by their whole paths. Settings of a shell, AWS_PROFILE among
    them, do not reach it: put profile and region into the file.
    """
    from .config import load_config
    from .service_files import launchd_plist, systemd_unit
    from .ssh_config import own_command

    if systemd and launchd:
        raise UsageError("--systemd and --launchd are given both")
    if sys.platform == "win32" and not (systemd or launchd):
        raise UsageError("this system has neither systemd nor launchd: choose one")
    found = load_config(_find(file))
    found.check_names(names or [])
    command = [*own_command(), "up", "--config", _absolute(found.path), *(names or [])]
    if launchd or (sys.platform == "darwin" and not systemd):
        text = launchd_plist(command, Path.home() / "Library" / "Logs" / "ssmnet.log")
    else:
        text = systemd_unit(command)
    _print(text, end="")


def _print(text: str, end: str = "\n") -> None:
    """Print all of it. Raises Error when there is no room for it."""
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        # What is still buffered must not fail at the exit.
        with contextlib.suppress(OSError):
            abandon(sys.stdout.fileno())
        raise Error(f"cannot write: {error.strerror or error}") from error


def _absolute(path: Path) -> str:
    try:
        return os.path.abspath(path)
    except OSError as error:
        raise UsageError(f"cannot tell the working folder: {error.strerror or error}") from error


def _help(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _find(file: Path | None) -> Path:
    from .config_file import find_config, user_file

    found = file or find_config()
    if found is None:
        raise UsageError(f"there is no ssmnet.toml, neither here nor above, and no {user_file()}")
    return found


def _describe_forward(one: NamedForward) -> str:
    local = one.forward.local
    where = local if isinstance(local, str) else _places(one.forward.bind, local)
    target = one.request.target or "the target of SSMNET_TARGET or --target"
    if one.forward.host is None:
        return f"forward {one.name}: {where} -> {one.forward.destination(target)}"
    return f"forward {one.name}: {where} -> {one.forward.destination(target)} through {target}"


def _describe_proxy(one: NamedProxy) -> str:
    kinds = [("socks", one.socks), ("http", one.http)]
    ports = [f"{kind} on {_places(one.bind, port)}" for kind, port in kinds if port is not None]
    target = one.request.target or "the targets of its routes"
    return f"proxy {one.name}: {', '.join(ports)} through {target}"


def _places(bind: tuple[str, ...], port: int) -> str:
    places = [in_url(address) for address in bind]
    if port == 0:
        return f"a free port of {' and '.join(places)}"
    return ", ".join(f"{place}:{port}" for place in places)
