"""What the commands of ``ssmnet`` have in common: options, and how they are run."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from .errors import UsageError

if TYPE_CHECKING:
    import asyncio

_T = TypeVar("_T")


class Once(TyperCommand):
    """A command whose options mean one thing each: giving one twice is an error."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As the base, after a look for what was given twice."""
        _, _, given = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, times in Counter(given).items():
            if times > 1 and not parameter.multiple and not getattr(parameter, "count", False):
                raise UsageError(f"{parameter.opts[-1]} is given twice")
        return super().parse_args(ctx, args)


def _set_debug(value: bool) -> bool:
    if value:
        os.environ["SSMNET_DEBUG"] = "1"
    return value


Debug = Annotated[
    bool,
    typer.Option("--debug", help="Log what happens, and show tracebacks.", callback=_set_debug),
]


def run_command(main: Callable[[asyncio.Event], Coroutine[Any, Any, _T]]) -> _T:
    """Run ``main`` until it ends by itself, or by a signal that sets its argument."""
    from .runner import run

    if os.environ.get("SSMNET_DEBUG"):
        logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
        logging.getLogger("ssmnet").setLevel(logging.DEBUG)
    return run(main)
