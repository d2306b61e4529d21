"""The import rules of docs/explanation/design.md, held by walking the syntax tree of ssmnet/.

``violations`` takes sources, not files, so that the tests below can show each rule failing.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "ssmnet"

# From the bottom up. A part (a module, or a folder of them) imports from lower lines only.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "watch screen destination snapshot starting",
        "_version errors output signals parent alarm patience escapes console descriptor"
        " testing.link testing.clock",
        "events terminal stdio message_socket bind stream_url sigv4 aws_credentials aws_errors",
        "runner acceptor event_stream credentials",
        "protocol",
        "transport websocket reading access",
        "driver upgrade aws_api",
        "session",
        "forward waiting load shell_ends",
        "pool bridge",
        "aws loopback outlet streams",
        "tally dialer shell forwards duration target targets status metrics table rules http_head"
        " ssh_config plugin_status config_file child_process",
        "greeting http_request pac statistics",
        "socks_client http_client config_schema",
        "proxy config control_client",
        "service",
        "up testing command execute plugin_port control service_files listening",
        "demo loopback_command plugin_command ssh_proxy forwarded_command process",
        "session_command commands arguments",
        "remote",
        "connecting attached",
        "blocking",
        "testing.ssm_loopback",
        "testing.pytest_plugin testing.__init__",
        "ssh_command shell_command proxy_command up_command status_command config_command"
        " run_command completion",
        "__init__",
        "cli plugin",
        "entry",
        "__main__",
    )
)
RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}

# What would let time, chance or the outside world into protocol/, under any name.
# fmt: off
NOT_SANS_IO = frozenset([
    "asyncio", "socket", "time", "threading", "random",
    "_thread", "concurrent", "datetime", "http", "importlib", "multiprocessing", "os", "pathlib",
    "queue", "sched", "secrets", "select", "selectors", "signal", "socketserver", "ssl",
    "subprocess", "tempfile", "urllib",
])
# fmt: on
PROTOCOL_LIBRARIES = frozenset({"msgspec", "cryptography"})
# These know nothing of the session around them, only a queue of bytes that knows nothing at all.
STANDALONE = frozenset({"protocol.smux", "protocol.socks", "protocol.buffer"})
FOR_STANDALONE = frozenset({"protocol.buffer"})

# The loopback agent has a sender and a receiver of its own, so that two wrongs cannot agree.
NOT_FOR_LOOPBACK = frozenset(
    f"protocol.{name}" for name in ("stream", "window", "congestion", "delay", "channel")
)

# library -> the parts that may import it; "lazily" = inside a function or for type checking only.
IMPORTERS: Mapping[str, frozenset[str]] = {
    "aiohttp": frozenset({"websocket", "upgrade", "loopback", "demo", "metrics", "aws lazily"}),
    "yarl": frozenset({"upgrade", "loopback", "aws lazily"}),
    "aiobotocore": frozenset({"aws_api"}),
    "botocore": frozenset({"aws_api"}),
    "h11": frozenset({"http_head", "http_request"}),
    "prometheus_client": frozenset({"metrics"}),
    "rich": frozenset({"table"}),
    "pytest": frozenset({"testing.pytest_plugin"}),
}
# Whoever uses the pytest plugin has pytest: it is not for everyone to install.
NOT_DECLARED = frozenset({"pytest"})
# Not declared by themselves: they are part of the other's face, which pins their versions.
COMES_WITH = {"botocore": "aiobotocore", "yarl": "aiohttp"}
NO_SUCH_MODULE = frozenset({"utils", "util", "base", "manager", "registry", "types"})


class Import(NamedTuple):
    """One imported name: a dotted module, of ssmnet without the ``ssmnet.`` in front."""

    line: int
    module: str
    ours: bool
    lazy: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def violations(sources: Mapping[str, str], libraries: frozenset[str]) -> list[str]:
    """Check ``{"protocol/smux.py": source}`` against every rule; ``libraries`` are the declared."""
    imports = parse(sources)
    found = [*bad_names(imports), *cycles(imports), *loopback_reaches(imports)]
    for name, used in imports.items():
        for one in used:
            rules = (layering, sans_io, third_party, start_up)
            found += [
                f"{name}, line {one.line}: {text}"
                for rule in rules
                for text in rule(name, one, libraries)
            ]
    return found


# --- reading


def parse(sources: Mapping[str, str]) -> dict[str, list[Import]]:
    """Return every module's imports, by the module's dotted name (``__init__`` for a package)."""
    modules = {path.removesuffix(".py").replace("/", "."): text for path, text in sources.items()}
    known = {name.removesuffix(".__init__") for name in modules}
    return {
        name: sorted(set(find_imports(name, ast.parse(text), known)))
        for name, text in modules.items()
    }


def find_imports(name: str, tree: ast.AST, known: set[str], lazy: bool = False) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield make_import(node.lineno, alias.name.split("."), known, lazy)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield make_import(node.lineno, [*origin(name, node), alias.name], known, lazy)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from find_imports(name, node, known, lazy=True)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from find_imports(name, ast.Module(node.body, []), known, lazy=True)
            yield from find_imports(name, ast.Module(node.orelse, []), known, lazy)
        else:
            yield from find_imports(name, node, known, lazy)


def origin(name: str, node: ast.ImportFrom) -> list[str]:
    """Return the absolute parts of what stands between ``from`` and ``import``."""
    module = node.module.split(".") if node.module else []
    here = [PACKAGE, *name.split(".")]
    return here[: len(here) - node.level] + module if node.level else module


def make_import(line: int, parts: list[str], known: set[str], lazy: bool) -> Import:
    if parts[0] != PACKAGE:
        return Import(line, ".".join(parts), ours=False, lazy=lazy)
    parts = parts[1:]
    while parts and ".".join(parts) not in known and parts[:-1] and ".".join(parts[:-1]) in known:
        parts = parts[:-1]  # the last was a name in a module, not a module
    if len(parts) == 1 and parts[0] not in known:
        parts = ["__init__"]
    return Import(line, ".".join(parts) or "__init__", ours=True, lazy=lazy)


# --- the rules


def part(name: str) -> str:
    """Return the line's entry that a module belongs to: itself, if it has one, or its folder."""
    return name if name in RANK else name.partition(".")[0]


def layering(name: str, one: Import, _: frozenset[str]) -> Iterator[str]:
    if not one.ours or part(name) not in RANK or (name == "__init__" and one.lazy):
        return  # an unknown place is told of by bad_names; __init__ hands out names of every layer
    if part(name) == "protocol":
        alone = name in STANDALONE
        inside = one.module in FOR_STANDALONE if alone else one.top == "protocol"
        if one.module != "errors" and not inside:
            more = ", and this module stands alone" if alone else ""
            yield f"imports {one.module}; protocol/ knows only errors and itself{more}"
    elif part(one.module) != part(name) and RANK.get(part(one.module), -1) >= RANK[part(name)]:
        yield f"imports {one.module}, which is not below it"


def sans_io(name: str, one: Import, _: frozenset[str]) -> Iterator[str]:
    if part(name) != "protocol" or one.ours:
        return
    if one.top in NOT_SANS_IO:
        yield f"imports {one.module}: no clock, chance or outside world in protocol/"
    elif one.top not in sys.stdlib_module_names | PROTOCOL_LIBRARIES:
        yield f"imports {one.module}: protocol/ may use {sorted(PROTOCOL_LIBRARIES)} only"


def third_party(name: str, one: Import, libraries: frozenset[str]) -> Iterator[str]:
    if one.ours or one.top in sys.stdlib_module_names:
        return
    if COMES_WITH.get(one.top, one.top) not in libraries | NOT_DECLARED:
        yield f"imports {one.module}, which pyproject.toml does not declare"
    allowed = IMPORTERS.get(one.top)
    if allowed is not None and part(name) not in allowed:
        if f"{part(name)} lazily" not in allowed:
            yield f"imports {one.module}; only {sorted(allowed)} may"
        elif not one.lazy:
            yield f"imports {one.module} at start; only inside a function that needs it"


def start_up(name: str, one: Import, _: frozenset[str]) -> Iterator[str]:
    if name == "__init__" and not one.lazy and one.ours and one.top not in ("_version", "errors"):
        yield f"imports {one.module} at start; `import ssmnet` is to cost little"


def bad_names(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    for name in imports:
        if NO_SUCH_MODULE & set(name.split(".")):
            yield f"{name}: a module is named for what it does"
        elif part(name) not in RANK:
            yield f"{name}: has no place in LAYERS of tests/test_layers.py"


def cycles(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    for name in imports:
        if name != "__init__" and name in reach(name, imports):
            yield f"{name}: imports itself through {reach(name, imports)[name]}"


def loopback_reaches(imports: Mapping[str, list[Import]]) -> Iterator[str]:
    for name in imports:
        if part(name) == "loopback":
            for module, via in reach(name, imports).items():
                told_of_another = part(via) == "loopback" and via != name
                if module in NOT_FOR_LOOPBACK and not told_of_another:
                    yield f"{name}: comes to import {module}, through {via}"


def reach(start: str, imports: Mapping[str, list[Import]]) -> dict[str, str]:
    """Return every module of ours that ``start`` comes to import, each with its importer."""
    via: dict[str, str] = {}
    todo = [start]
    while todo:
        importer = todo.pop()
        for one in imports.get(importer, imports.get(f"{importer}.__init__", [])):
            if one.ours and one.module not in via:
                via[one.module] = importer
                todo.append(one.module)
    return via


# --- the project itself


def declared_libraries() -> frozenset[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = (re.split(r"[^\w-]", text)[0] for text in project["dependencies"])
    return frozenset(name.replace("-", "_") for name in names)


def test_the_package_keeps_the_rules() -> None:
    package = ROOT / PACKAGE
    sources = {
        path.relative_to(package).as_posix(): path.read_text(encoding="utf-8")
        for path in package.rglob("*.py")
    }
    assert "protocol/message.py" in sources
    found = violations(sources, declared_libraries())
    assert not found, "\n".join(found)


def test_the_independent_decoder_imports_nothing_of_ours() -> None:
    decoder = ROOT / "tests" / "wire.py"
    found = parse({"wire.py": decoder.read_text(encoding="utf-8")})["wire"]
    assert [one.module for one in found if one.top not in sys.stdlib_module_names] == []


# --- the rules themselves

LIBRARIES = frozenset({"aiobotocore", "aiohttp", "cryptography", "msgspec", "typer", "uvloop"})
GOOD = {
    "__init__.py": (
        "from typing import TYPE_CHECKING\nfrom ._version import __version__\n"
        "if TYPE_CHECKING:\n    from .pool import SessionPool"
    ),
    "_version.py": "__version__ = '0'",
    "errors.py": "",
    "protocol/__init__.py": "",
    "protocol/message.py": "import msgspec\nfrom struct import Struct\nfrom ..errors import Error",
    "protocol/stream.py": "from .message import parse\nfrom . import message",
    "protocol/buffer.py": "from collections import deque",
    "protocol/smux.py": "from ..errors import Error\nfrom .buffer import Buffer",
    "protocol/channel.py": "from . import smux, stream\nfrom cryptography.hazmat import primitives",
    "transport.py": "import asyncio",
    "websocket.py": "import aiohttp\nfrom aiohttp import web",
    "session.py": "from .protocol.channel import DataChannel\nfrom . import transport",
    "forward.py": "from .transport import StreamTransport",
    "pool.py": "from .session import Session",
    "aws.py": "async def connect():\n    import aiohttp\n    from . import aws_api",
    "aws_api.py": "from aiobotocore.session import get_session\nimport botocore.auth",
    "loopback/__init__.py": "from .agent import Agent",
    "loopback/agent.py": "import aiohttp\nfrom ..protocol import message, smux",
    "testing/pytest_plugin.py": "import pytest",
    "cli.py": "import typer\nfrom . import __version__, aws\nfrom ssmnet.pool import SessionPool",
}


def test_good_sources_pass() -> None:
    assert violations(GOOD, LIBRARIES) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("session.py", "from . import aws", "imports aws, which is not below"),
        ("session.py", "from .aws import start_session", "imports aws, which is not below"),
        ("session.py", "import ssmnet.aws", "imports aws, which is not below"),
        ("session.py", "def f():\n    from .aws import x", "imports aws, which is not below"),
        ("session.py", "if TYPE_CHECKING:\n    from .aws import x", "imports aws"),
        ("transport.py", "from .websocket import WebSocket", "imports websocket"),
        ("websocket.py", "from .session import Session", "imports session"),
        ("forward.py", "from .pool import SessionPool", "imports pool"),
        ("pool.py", "from .cli import main", "imports cli"),
        ("pool.py", "from . import __version__", "imports __init__"),
        ("pool.py", "import ssmnet", "imports __init__"),
        ("loopback/gateway.py", "from ..aws import x", "imports aws"),
        ("errors.py", "from .protocol import message", "imports protocol.message"),
        ("protocol/message.py", "from ..session import Session", "knows only errors"),
        ("protocol/message.py", "from .. import events", "knows only errors"),
        ("protocol/smux.py", "from .message import parse", "stands alone"),
        ("protocol/socks.py", "from . import message", "stands alone"),
        ("protocol/buffer.py", "from . import message", "stands alone"),
        ("protocol/socks.py", "from .. import events", "stands alone"),
        *(
            ("protocol/recovery.py", f"import {name}", "no clock, chance or outside world")
            for name in sorted(NOT_SANS_IO)
        ),
        ("protocol/recovery.py", "from time import monotonic", "no clock"),
        ("protocol/recovery.py", "def f():\n    from time import monotonic", "no clock"),
        ("protocol/recovery.py", "import concurrent.futures", "no clock"),
        ("protocol/recovery.py", "import aiohttp", "may use"),
        ("protocol/recovery.py", "import typer", "may use"),
        (
            "session.py",
            "import aiohttp",
            "only ['aws lazily', 'demo', 'loopback', 'metrics', 'upgrade', 'websocket'] may",
        ),
        ("pool.py", "async def f():\n    from aiohttp import web", "only ['aws lazily'"),
        ("aws.py", "import aiohttp", "only inside a function"),
        ("aws.py", "try:\n    import aiohttp\nexcept ImportError:\n    pass", "only inside"),
        ("plugin.py", "import botocore.session", "only ['aws_api'] may"),
        ("loopback/gateway.py", "from aiobotocore import session", "only ['aws_api'] may"),
        ("loopback/agent.py", "import pytest", "only ['testing.pytest_plugin'] may"),
        ("cli.py", "import click", "pyproject.toml does not declare"),
        ("loopback/agent.py", "from ..protocol.stream import StreamSender", "protocol.stream"),
        ("loopback/agent.py", "from ..protocol import window", "protocol.window"),
        ("loopback/agent.py", "def f():\n    from ..protocol import congestion", "congestion"),
        (
            "loopback/gateway.py",
            "from ..session import Session",
            "protocol.channel, through session",
        ),
        ("protocol/message.py", "from .channel import DataChannel", "imports itself"),
        ("__init__.py", "from .pool import SessionPool", "at start; `import ssmnet`"),
        ("utils.py", "", "named for what it does"),
        ("protocol/types.py", "", "named for what it does"),
        ("loopback/base.py", "", "named for what it does"),
        ("manager/pool.py", "", "named for what it does"),
        ("protocol/registry.py", "", "named for what it does"),
        ("novelty.py", "", "has no place in LAYERS"),
    ],
)
def test_bad_sources_fail(path: str, source: str, expected: str) -> None:
    others = {"protocol/window.py": "", "protocol/congestion.py": "", "events.py": ""}
    found = violations({**others, **GOOD, path: source}, LIBRARIES)
    where = path.removesuffix(".py").replace("/", ".")
    assert any(text.startswith(where) and expected in text for text in found), found


def test_an_import_chain_between_good_modules_is_followed_to_its_end() -> None:
    sources = {
        **GOOD,
        "protocol/handshake.py": "from . import channel",
        "loopback/agent.py": "from ..protocol.handshake import Request",
    }
    assert (
        "loopback.agent: comes to import protocol.channel, through protocol.handshake"
        in violations(sources, LIBRARIES)
    )
