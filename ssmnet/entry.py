"""Where both commands begin: with the signals, before all the rest is imported.

That takes a good part of a second, in which Python would answer Ctrl-C with a traceback. Nothing
that is imported becomes garbage, so none is looked for before ``runner.run``.
"""

from __future__ import annotations

import gc
import os
import sys

from .signals import exit_on_interrupt, hold_signals, interrupt_as_usual


def ssmnet() -> None:
    """The entry point of ``ssmnet``."""
    exit_on_interrupt()
    if "_SSMNET_COMPLETE" in os.environ:
        from .cli import app
        from .completion import answer

        answer(app)
        return
    if sys.argv[1:] == ["--version"]:
        # Scripts ask for it; the rest of the command line takes ten times as long to import.
        from ._version import __version__
        from .output import write

        write(sys.stdout, f"ssmnet {__version__}")
        return
    gc.disable()
    from .cli import main

    interrupt_as_usual()
    main()


def plugin() -> None:
    """The entry point of ``session-manager-plugin``; its session has been started already."""
    hold_signals()
    gc.disable()
    from .plugin import main

    main()
