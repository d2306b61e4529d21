"""The command line as Markdown, from the app itself: commands, arguments and options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from typer.main import get_command

from ssmnet.cli import app

# An option, a command or a variable of ours within a text.
_CODE = re.compile(r"(?<![\w'-])(--[a-z][a-z0-9-]+)|'(ssmnet [^']+)'|\b(SSMNET_[A-Z_]*[A-Z])\b")


def describe_commands() -> str:
    """Markdown for all of it, from headings of the second level on."""
    root: Any = get_command(app)
    context = root.context_class(root, info_name="ssmnet", **root.context_settings)
    return "\n".join(_describe(root, context, level=2))


def _describe(command: Any, context: Any, level: int) -> Iterator[str]:
    path = context.command_path
    yield f"{'#' * level} `{path}`\n"
    groups = getattr(command, "commands", {})
    yield from _text(command.help or "")
    yield f"```text\n{path} {_usage(command, context)}\n```\n"
    parameters = [one for one in command.get_params(context) if not one.hidden]
    arguments = [one for one in parameters if one.param_type_name == "argument"]
    options = [one for one in parameters if one.param_type_name == "option"]
    yield from _parameters("Arguments", path, context, arguments)
    yield from _parameters("Options", path, context, options)
    if groups and level == 2 and context.parent is None:
        yield from _overview(groups)
    for name, child in groups.items():
        if not child.hidden:
            below = child.context_class(
                child, info_name=name, parent=context, **child.context_settings
            )
            yield from _describe(child, below, level=2 if context.parent is None else 3)


def _overview(groups: dict[str, Any]) -> Iterator[str]:
    yield "| command | what it does |\n|---|---|"
    for name, child in groups.items():
        short = child.get_short_help_str(limit=200)
        yield f"| [`ssmnet {name}`](#ssmnet-{name}) | {_prose(short)} |"
    yield ""


def _usage(command: Any, context: Any) -> str:
    """As --help has it, without the braces around what must be given."""
    pieces = (piece.strip("{}") for piece in command.collect_usage_pieces(context))
    return " ".join(re.sub(r"\]\.\.\.\]\.\.\.$", "]...]", piece) for piece in pieces)


def _text(help_text: str) -> Iterator[str]:
    """Paragraphs, and what must stay as it is as blocks of code."""
    for paragraph in re.split(r"\n\s*\n", help_text.strip()):
        if paragraph.startswith("\b"):
            lines = paragraph.removeprefix("\b").strip("\n")
            yield f"```sh\n{lines}\n```\n"
        else:
            yield f"<p>{_prose(' '.join(paragraph.split()))}</p>\n"


def _parameters(title: str, path: str, context: Any, parameters: list[Any]) -> Iterator[str]:
    if not parameters:
        return
    yield f'<p class="parameters">{title}</p>\n<dl class="parameters">'
    for parameter in parameters:
        names, told = parameter.get_help_record(context)
        anchor = path.replace(" ", "-") + max(parameter.opts, key=len)
        if parameter.param_type_name == "argument":
            names = parameter.metavar or parameter.name.upper()
            anchor = f"{path.replace(' ', '-')}-{parameter.name}"
        text, _, extra = told.partition("  [")
        extra = re.sub(r"(\d+)<=x<=(\d+)", r"\1 to \2", extra.removesuffix("]"))
        extra = f" <small>{_prose(extra.replace('x>=', 'at least '))}</small>" if extra else ""
        yield f'<dt id="{anchor}"><code>{escape(names)}</code></dt>'
        yield f"<dd>{_prose(text)}{extra}</dd>"
    yield "</dl>\n"


def _prose(text: str) -> str:
    """As HTML, with options and commands as code."""

    def code(found: re.Match[str]) -> str:
        return f"<code>{found[1] or found[2] or found[3]}</code>"

    html = _CODE.sub(code, escape(text, quote=False))
    return html.replace("Exit status:", "<strong>Exit status:</strong>")
