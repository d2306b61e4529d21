"""SocksClient: the protocol of a SOCKS proxy's clients."""

from __future__ import annotations

from collections.abc import Callable

from .destination import Destination
from .greeting import Greetings, ProxyClient
from .protocol.socks import Outcome, SocksError, SocksRequest


class SocksClient(ProxyClient):
    """One client, of any version. ``check_password`` is as SocksRequest has it."""

    def __init__(
        self, greetings: Greetings, check_password: Callable[[str, str], bool] | None
    ) -> None:
        super().__init__(greetings)
        self._request = SocksRequest(check_password)

    def receive(self, data: bytes) -> None:
        """Read more of the request."""
        request = self._request
        try:
            answer = request.receive(data)
        except SocksError as error:
            self.refuse(str(error))
            return
        if request.outcome is not None:
            self.refuse(request.error, answer)
            return
        self.answer(answer)
        if request.destination is not None:
            self.dial(Destination(*request.destination), request.rest)

    def reply(self, outcome: Outcome, error: str) -> bytes:  # noqa: ARG002 - there is no place for it
        """What became of the request."""
        return self._request.reply(outcome)
