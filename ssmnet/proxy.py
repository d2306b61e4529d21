"""ProxyServer: a SOCKS or HTTP proxy whose destinations a target reaches."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator

from .events import Event
from .forward import Server
from .greeting import (
    DIAL_TIMEOUT,
    GREETING_TIMEOUT,
    MAX_DIALLING,
    MAX_GREETING,
    Dialer,
    Greetings,
    ProxyClient,
)
from .http_client import HttpClient
from .socks_client import SocksClient

SOCKS = "socks"
HTTP = "http"


class ProxyServer(Server):
    """Accepts clients of ``kind``, SOCKS or HTTP; see Server and Acceptor.

    ``connections`` and ``accepted`` count clients that have made a request. ``credentials`` are the
    user name and the password that every client needs, or None. An HTTP proxy also serves the text
    of ``pac``, for a browser that reaches this machine at the host which that gets. For the others
    see Greetings.
    """

    def __init__(
        self,
        dialer: Dialer,
        *,
        kind: str,
        credentials: tuple[str, str] | None = None,
        on_event: Callable[[Event], None],
        pac: Callable[[str], str] | None = None,
        numbers: Iterator[int] | None = None,
        timeout: float = GREETING_TIMEOUT,
        dial_timeout: float = DIAL_TIMEOUT,
        max_greeting: int = MAX_GREETING,
        max_dialling: int = MAX_DIALLING,
    ) -> None:
        super().__init__(self._make_client, on_event, numbers)
        self.kind = kind
        self._pac = pac
        self._check_password = None if credentials is None else password_check(*credentials)
        self._greetings = Greetings(
            dialer,
            self.begin,
            timeout=timeout,
            dial_timeout=dial_timeout,
            max_greeting=max_greeting,
            max_dialling=max_dialling,
        )

    async def wait_closed(self, timeout: float) -> bool:  # noqa: ASYNC109 - then it acts
        """As Server's. Clients that have no connection yet are dropped at once."""
        await self._greetings.close()
        return await super().wait_closed(timeout)

    def _make_client(self) -> ProxyClient:
        if self.kind == HTTP:
            return HttpClient(self._greetings, self._check_password, self._pac)
        return SocksClient(self._greetings, self._check_password)


def password_check(user: str, password: str) -> Callable[[str, str], bool]:
    """Whether others are the same, in a time that tells nothing of where they differ."""
    expected = user.encode(), password.encode()

    def check(user: str, password: str) -> bool:
        right_user = hmac.compare_digest(user.encode(), expected[0])
        right_password = hmac.compare_digest(password.encode(), expected[1])
        return right_user and right_password

    return check
