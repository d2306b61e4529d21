"""The public names, as users see them: frozen in api.txt, and each with a docstring.

``python -m tests.test_api`` writes api.txt anew. What it takes away or changes breaks programs:
docs/reference/compatibility.md says when that may be.
"""

import ast
import difflib
import enum
import inspect
import itertools
import sys
import textwrap
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest

FILE = Path(__file__).with_name("api.txt")
RENEW = f"{Path(sys.executable).name} -m tests.test_api"
MODULES = ("ssmnet", "ssmnet.blocking", "ssmnet.errors", "ssmnet.events", "ssmnet.testing")

# Applications get these from us: how they are made, and set going, is our own affair.
MADE_BY_US = {"Target", "TunnelListener", "RemoteShell", "AttachedSession", "EventStream"}
OUR_OWN = {"RemoteShell.open", "RemoteShell.begin"}
# What ``async with``, ``async for`` and the like are made of. Their classes tell what they do.
PROTOCOLS = {
    *("__enter__", "__exit__", "__aenter__", "__aexit__", "__aiter__", "__anext__"),
    *("__await__", "__len__", "__iter__"),
}


class Name(NamedTuple):
    """One public name or member."""

    path: str
    kind: str
    value: Any

    @property
    def short(self) -> str:
        """As ``Target.forward``."""
        return ".".join(self.path.removeprefix("ssmnet.").split(".")[-2:])


def public_names() -> Iterator[Name]:
    """All, with the members of classes after each."""
    for module_name in MODULES:
        module = import_module(module_name)
        for name in sorted(module.__all__):
            value = getattr(module, name)
            yield Name(f"{module_name}.{name}", kind_of(value), value)
            if inspect.isclass(value):
                yield from members(f"{module_name}.{name}", value)


def kind_of(value: Any) -> str:
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, types.UnionType):
        return "union"
    if inspect.isclass(value):
        return "exception" if issubclass(value, BaseException) else "class"
    if inspect.isfunction(value):
        return "coroutine" if inspect.iscoroutinefunction(value) else "function"
    return "property" if isinstance(value, property) else "value"


def members(path: str, owner: type) -> Iterator[Name]:
    """What a class of ours has, by itself or from another of ours."""
    found: dict[str, Any] = {}
    for base in reversed(owner.__mro__):
        if base.__module__.startswith("ssmnet") and not issubclass(base, enum.Enum):
            found |= vars(base) | dict.fromkeys(attributes(base))
    fields = getattr(owner, "__struct_fields__", getattr(owner, "__dataclass_fields__", ()))
    for name, value in sorted(found.items()):
        full = f"{path}.{name}"
        if name in fields or ".".join(full.split(".")[-2:]) in OUR_OWN:
            continue
        if name.startswith("_") and name not in PROTOCOLS:
            continue
        if isinstance(value, staticmethod | classmethod):
            value = value.__func__
        yield Name(full, kind_of(value), value)


def attributes(owner: type) -> Iterator[str]:
    """What ``__init__`` sets."""
    tree = syntax(vars(owner).get("__init__"))
    for node in ast.walk(tree) if tree else ():
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Store):
            continue
        if ast.unparse(node.value) == "self" and not node.attr.startswith("_"):
            yield node.attr


def syntax(function: Any) -> ast.AST | None:
    function = inspect.unwrap(function) if inspect.isfunction(function) else None
    if function is None or not function.__module__.startswith("ssmnet"):
        return None
    try:
        return ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:
        return None  # a dataclass has made it


class Plain(str):
    """An annotation without quotes around it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def signature(function: Any) -> str:
    """A signature as it is written, whatever the annotations are."""

    def plain(annotation: Any) -> Any:
        return Plain(annotation) if isinstance(annotation, str) else annotation

    found = inspect.signature(function)
    parameters = [
        one.replace(annotation=plain(one.annotation)) for one in found.parameters.values()
    ]
    return str(
        found.replace(parameters=parameters, return_annotation=plain(found.return_annotation))
    )


def shown(name: Name) -> str:
    """One line of the file."""
    value = name.value
    line = f"{name.kind} {name.path}"
    if name.kind in ("function", "coroutine"):
        own = name.path.rpartition(".")[2] in PROTOCOLS
        return line if own else line + signature(value).replace("(self, /, ", "(self, ")
    if name.kind == "property":
        return f"{line} -> {inspect.signature(value.fget).return_annotation}"
    if name.kind == "exception":
        return f"{line}({', '.join(base.__name__ for base in value.__bases__)})"
    if name.kind == "union":
        return f"{line} = {' | '.join(sorted(one.__name__ for one in get_args(value)))}"
    if name.kind == "class" and issubclass(value, enum.Enum):
        return f"{line} = {' | '.join(repr(one.value) for one in value)}"
    if name.kind == "class" and value.__name__ not in MADE_BY_US:
        return line + signature(value).removesuffix(" -> None")
    return line


def listing() -> str:
    """What api.txt is to hold."""
    return "".join(f"{shown(name)}\n" for name in public_names())


def test_public_names_are_as_they_were() -> None:
    before, now = FILE.read_text(encoding="utf-8"), listing()
    changes = difflib.unified_diff(before.splitlines(), now.splitlines(), "api.txt", "now", "", "")
    assert before == now, (
        "\n".join(changes) + f"\nIf that is meant, and in CHANGELOG.md, run {RENEW} and commit it."
    )


def test_the_listing_tells_what_would_break_programs() -> None:
    lines = listing().splitlines()
    assert "function ssmnet.Target.close(self) -> None" in lines
    assert any(line.startswith("exception ssmnet.SessionClosed(Error") for line in lines)
    assert "value ssmnet.SessionClosed.reason" in lines
    assert "value ssmnet.TunnelListener.port" in lines
    assert "property ssmnet.TunnelListener.sockets -> tuple[socket.socket, ...]" in lines
    assert any(line.startswith("class ssmnet.Credentials(access_key: str, ") for line in lines)
    assert "coroutine ssmnet.Target.__aenter__" in lines
    private = [line for line in lines if "._" in line.split("(")[0].replace(".__", "")]
    assert not private


NAMES = list(public_names())


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.path)
def test_each_has_a_docstring(name: Name) -> None:
    last = name.path.rpartition(".")[2]
    if last in PROTOCOLS or name.kind in ("value", "union"):
        return  # told by the class, or by the module
    doc = inspect.getdoc(name.value) or ""
    assert doc, f"{name.path} has no docstring"
    assert name.kind != "class" or doc != f"{last}()", "that is a dataclass's own"
    assert doc[0].isupper() or doc[0] in "`\"'", doc
    assert doc.splitlines()[0].endswith((".", ":", "?")), doc.splitlines()[0]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if name.kind == "value"], ids=lambda name: name.path
)
def test_attributes_are_told_by_their_class(name: Name) -> None:
    owner, _, attribute = name.path.rpartition(".")
    if attribute == "__version__":
        return
    (found,) = [one.value for one in NAMES if one.path == owner]
    assert f"``{attribute}``" in told_of(found), f"{owner} does not tell of it"


def told_of(owner: type) -> str:
    """What a class says of its attributes: its docstring, and strings below assignments."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    told = [inspect.getdoc(owner) or ""]
    for block in (node for node in ast.walk(tree) if hasattr(node, "body")):
        for one, below in itertools.pairwise(block.body if isinstance(block.body, list) else ()):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                names = [ast.unparse(target) for target in getattr(one, "targets", ())]
                told += [f"``{name.removeprefix('self.')}``" for name in names]
                told.append(str(below.value.value))
    return " ".join(told)


@pytest.mark.parametrize(
    "name",
    [name for name in NAMES if name.kind in ("function", "coroutine")],
    ids=lambda name: name.path,
)
def test_errors_are_told(name: Name) -> None:
    """Those that a function raises itself, by their name or the name of what they are kinds of."""
    if name.path.rpartition(".")[2] in PROTOCOLS:
        return
    doc = " ".join((inspect.getdoc(name.value) or "").split())
    for error in () if "errors see" in doc else raised(name.value):
        kinds = [base.__name__ for base in error.__mro__ if base not in (Exception, object)]
        assert any(kind in doc for kind in kinds), f"{name.path} does not tell of {error.__name__}"
    if name.kind == "coroutine" or "Starting[" in str(inspect.signature(name.value)):
        told = [
            *("Raises", "raises", "return why", "errors see"),
            *("Wait until nothing is left", "Wait until all has ended"),
        ]
        assert any(words in doc for words in told), f"{name.path} does not tell what it raises"


def raised(function: Any) -> Iterator[type[BaseException]]:
    """What a function raises itself, or what it calls of its own class or module."""
    function = inspect.unwrap(function)
    seen: set[Any] = set()
    left = [function]
    while left:
        one = left.pop()
        tree = syntax(one)
        if tree is None or one in seen:
            continue
        seen.add(one)
        there = vars(sys.modules[one.__module__])
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                error = there.get(ast.unparse(node.exc.func))
                if inspect.isclass(error) and issubclass(error, BaseException):
                    yield error
            if isinstance(node, ast.Call):
                left += called(ast.unparse(node.func), one, there)


def called(name: str, caller: Any, there: dict[str, Any]) -> list[Any]:
    owner, _, method = name.rpartition(".")
    if owner == "self":
        owner = caller.__qualname__.rpartition(".")[0].partition(".<locals>")[0]
        found = getattr(there.get(owner.partition(".")[0]), method, None)
    else:
        found = there.get(name)
        if not inspect.isfunction(found) or found.__module__ != caller.__module__:
            found = None
    return [found] if inspect.isfunction(found) else []


def test_the_look_for_errors_finds_them() -> None:
    from ssmnet import Target, UsageError, connect
    from ssmnet.errors import SessionClosed

    assert UsageError in set(raised(connect))
    assert {UsageError, SessionClosed} <= set(raised(Target.open_connection))


def test_all_that_can_be_got_is_listed() -> None:
    for module_name in MODULES:
        module = import_module(module_name)
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) <= set(dir(module))


if __name__ == "__main__":
    FILE.write_text(listing(), encoding="utf-8")
