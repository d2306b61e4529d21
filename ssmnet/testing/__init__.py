"""For tests of programs that use Systems Manager, and of protocols that have to bear a bad network.

Public, and as stable as ``ssmnet`` itself, are the names in ``__all__`` and the fixture
``ssm_loopback`` of the pytest plugin. Other modules in this folder test ssmnet and may change in
any release.

Names are imported when they are first used: ``import ssmnet.testing`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .session_seen import SessionSeen
    from .ssm_loopback import SsmLoopback

__all__ = ["SessionSeen", "SsmLoopback"]

_PLACES = {
    "session_seen": ("SessionSeen",),
    "ssm_loopback": ("SsmLoopback",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    """PEP 562: the module of a name is imported when the name is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
