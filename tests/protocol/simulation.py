"""One direction of a session in virtual time; see there."""

from ssmnet.testing.one_way import CREATED, Transfer, acknowledged_number

__all__ = ["CREATED", "Transfer", "acknowledged_number"]
