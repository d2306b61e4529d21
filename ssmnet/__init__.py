"""Fast, durable AWS Systems Manager sessions.

::

    async with ssmnet.connect("i-0123456789abcdef0", region="eu-west-1") as target:
        async with target.forward(5432, host="db.internal") as listener:
            ...  # a local port, listener.port
        reader, writer = await target.open_connection("db.internal", 5432)

Names are imported when they are first used: ``import ssmnet`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from . import blocking
    from .attached import AttachedSession, attach
    from .aws_credentials import Credentials
    from .connecting import connect
    from .errors import (
        AccessDenied,
        ConnectError,
        CredentialsError,
        DestinationForbidden,
        DestinationNotFound,
        DestinationRefused,
        Error,
        HandshakeError,
        ListenError,
        ServiceError,
        SessionClosed,
        TargetNotConnected,
        UsageError,
    )
    from .event_stream import EventStream
    from .events import Event
    from .listening import TunnelListener
    from .process import RemoteShell
    from .remote import Target
    from .snapshot import Snapshot, State
    from .statistics import Statistics

__all__ = [
    "AccessDenied",
    "AttachedSession",
    "ConnectError",
    "Credentials",
    "CredentialsError",
    "DestinationForbidden",
    "DestinationNotFound",
    "DestinationRefused",
    "Error",
    "Event",
    "EventStream",
    "HandshakeError",
    "ListenError",
    "RemoteShell",
    "ServiceError",
    "SessionClosed",
    "Snapshot",
    "State",
    "Statistics",
    "Target",
    "TargetNotConnected",
    "TunnelListener",
    "UsageError",
    "__version__",
    "attach",
    "blocking",
    "connect",
]

_PLACES = {
    "attached": ("AttachedSession", "attach"),
    "aws_credentials": ("Credentials",),
    "connecting": ("connect",),
    "errors": (
        "AccessDenied",
        "ConnectError",
        "CredentialsError",
        "DestinationForbidden",
        "DestinationNotFound",
        "DestinationRefused",
        "Error",
        "HandshakeError",
        "ListenError",
        "ServiceError",
        "SessionClosed",
        "TargetNotConnected",
        "UsageError",
    ),
    "event_stream": ("EventStream",),
    "events": ("Event",),
    "listening": ("TunnelListener",),
    "process": ("RemoteShell",),
    "remote": ("Target",),
    "snapshot": ("Snapshot", "State"),
    "statistics": ("Statistics",),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> object:
    """PEP 562: the module of a name is imported when the name is first used."""
    if name in ("blocking", "errors", "events", "testing"):
        return import_module(f".{name}", __name__)
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
