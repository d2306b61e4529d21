"""The public names for the site: links in docstrings, values of defaults, fields of structs."""

from __future__ import annotations

import ast
import inspect
import re
from importlib import import_module
from textwrap import dedent
from typing import Any

import griffe

import ssmnet
from ssmnet import errors

# ``ssmnet.connect`` or ``Target.forward``; and the names of classes as they stand in the prose.
# Blocks of code are passed over.
_NAME = re.compile(
    r"^```(?s:.*?)^```"
    r"|``(?:ssmnet\.)?(?P<quoted>\w+(?:\.\w+)*)``"
    r"|(?<![\w.`\[/])(?:ssmnet\.(?P<ours>\w+(?:\.\w+)*)|(?P<plain>[A-Z]\w+(?:\.[a-z]\w*)*))\b",
    re.MULTILINE,
)
_LITERAL = re.compile(r"^::\n\n((?:    .*\n|\n(?=    ))+)", re.MULTILINE)
# These tell readers nothing.
_LABELS = frozenset({"class-attribute", "instance-attribute", "module-attribute"})
# All other classes are made by functions.
_MADE_BY_USERS = frozenset({"SsmLoopback", "TcpLink", "MemoryLink", "VirtualLoop"})


class Docstrings(griffe.Extension):
    """What ``mkdocstrings`` is to show, once the package has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object."""
        obj.labels -= _LABELS
        if obj.docstring is not None:
            text = _LITERAL.sub(_as_fence, obj.docstring.value)
            obj.docstring.value = _link(text, obj.path)
        if isinstance(obj, griffe.Function):
            for parameter in obj.parameters:
                if isinstance(parameter.default, griffe.ExprName):
                    parameter.default = _value(obj.module.path, parameter.default.name)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        """Called for each class."""
        if cls.name not in _MADE_BY_USERS:
            cls.members.pop("__init__", None)
        bases = [str(base) for base in cls.bases]
        if "msgspec.Struct" in bases:
            _fields_as_parameters(cls)
        elif "StrEnum" in bases:
            _values_as_text(cls)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called at the end: what the blocking face makes of functions has their parameters."""
        blocking = pkg["blocking"]
        for holder, name, original, gives in (
            (blocking, "connect", "connecting.connect", "Target"),
            (blocking["Target"], "forward", "remote.Target.forward", "int"),
            (blocking["Target"], "proxy", "remote.Target.proxy", "int"),
        ):
            wrapped = griffe.Function(
                name,
                parameters=pkg[original].parameters,
                returns=f"AbstractContextManager[{gives}]",
                docstring=holder[name].docstring,
                lineno=holder[name].lineno,
            )
            holder.set_member(name, wrapped)


def _fields_as_parameters(cls: griffe.Class) -> None:
    struct = getattr(import_module(cls.module.path), cls.name)
    kinds = {one.name: one.kind for one in inspect.signature(struct).parameters.values()}
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for field in _attributes(cls):
        kind = griffe.ParameterKind(kinds[field.name].description)
        parameters.append(
            griffe.Parameter(
                field.name, annotation=field.annotation, default=field.value, kind=kind
            )
        )
        del cls.members[field.name]
    init = griffe.Function("__init__", parameters=griffe.Parameters(*parameters))
    cls.set_member("__init__", init)


def _values_as_text(cls: griffe.Class) -> None:
    if cls.docstring is not None:
        values = ", ".join(f"``{field.name}`` = ``{field.value}``" for field in _attributes(cls))
        cls.docstring.value += f"\n\n{values}."


def _attributes(cls: griffe.Class) -> list[griffe.Attribute]:
    return [
        member
        for name, member in cls.members.items()
        if isinstance(member, griffe.Attribute)
        and not name.startswith("_")
        and "property" not in member.labels
    ]


def _as_fence(found: re.Match[str]) -> str:
    code = dedent(found[1])
    try:
        compile(code, "", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    except SyntaxError:
        return f"```text\n{code}```\n"
    return f"```python\n{code}```\n"


def _value(module: str, name: str) -> str:
    """What a constant is, as the default of an argument."""
    value = getattr(import_module(module), name)
    return f"{value:_}" if isinstance(value, int) else repr(value)


def _link(text: str, own: str) -> str:
    """The same, with public names as links, but for its own."""

    def link(found: re.Match[str]) -> str:
        name = found["quoted"] or found["ours"] or found["plain"]
        place, path = _place(name or "")
        return found[0] if path in ("", own) else f"[`{name}`][{place}.{name}]"

    return _NAME.sub(link, text)


def _place(name: str) -> tuple[str, str]:
    """The module that has a public name, and where that is defined; nothing for other names."""
    first, *others = name.split(".")
    for module, names in ((ssmnet, ssmnet.__all__), (errors, vars(errors))):
        if first in names and not first.startswith("_"):
            value: Any = module
            for part in (first, *others):
                value = getattr(value, part, None)
            defined = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', name)}"
            return module.__name__, "" if value is None else defined
    return "", ""
