"""``ssmnet plugin``: about the drop-in ``session-manager-plugin``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .command import Debug, Once, run_command
from .status import Output

if TYPE_CHECKING:
    import asyncio

    from .plugin_status import Plugin

plugin = typer.Typer(help="Tell about the session-manager-plugin that programs run.")


@plugin.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Tell about the session-manager-plugin that the AWS CLI and other programs run."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@plugin.command(cls=Once)
def status(
    output: Annotated[Output, typer.Option(help="For people, or as a JSON object.")] = Output.TEXT,
    debug: Debug = False,  # noqa: ARG001 - acts by its callback
) -> None:
    """Tell which session-manager-plugin runs, and how to have another.

    Asks every one there is for its version: those on PATH, and those where AWS's installers put
    theirs. Exit status: 0 when ssmnet's is the one that runs, 1 otherwise.
    """
    from .plugin_status import as_json, as_text, find_plugins, is_chosen
    from .runner import unless

    async def main(stop: asyncio.Event) -> list[Plugin] | None:
        return await unless(stop, find_plugins())

    plugins = run_command(main)
    if plugins is None:
        raise typer.Exit(130)
    typer.echo(as_json(plugins) if output is Output.JSON else as_text(plugins))
    raise typer.Exit(0 if is_chosen(plugins) else 1)
