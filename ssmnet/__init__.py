"""Fast, durable AWS Systems Manager sessions."""

from ._version import __version__

__all__ = ["__version__"]
