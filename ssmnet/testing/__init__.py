"""For tests of programs that use Systems Manager, and of protocols that have to bear a bad network.

Public, and as stable as ``ssmnet`` itself, are the names in ``__all__``, and of the pytest plugin
the fixtures ``ssm_loopback`` and ``ssm_loopback_options`` and the marker ``ssm_loopback``. All else
in this folder tests ssmnet and may change in any release.

``SsmLoopback`` is a far end for tests of programs. ``run`` runs a coroutine in virtual time, in a
``VirtualLoop`` that may raise ``Deadlock`` or ``Livelock``. ``MemoryLink`` is a bad line between
two protocols, in virtual time or real; ``TcpLink`` is one between real programs.

Names are imported when they are first used: ``import ssmnet.testing`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .clock import Deadlock, Livelock, VirtualLoop, run
    from .memory_link import MemoryLink
    from .session_seen import SessionSeen
    from .ssm_loopback import SsmLoopback
    from .tcp_link import TcpLink

__all__ = [
    "Deadlock",
    "Livelock",
    "MemoryLink",
    "SessionSeen",
    "SsmLoopback",
    "TcpLink",
    "VirtualLoop",
    "run",
]

_PLACES = {
    "clock": ("Deadlock", "Livelock", "VirtualLoop", "run"),
    "memory_link": ("MemoryLink",),
    "session_seen": ("SessionSeen",),
    "ssm_loopback": ("SsmLoopback",),
    "tcp_link": ("TcpLink",),
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
