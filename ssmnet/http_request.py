"""What a client of the HTTP proxy asks for, and what it is answered: bytes in, bytes out.

There is one request to a connection: every answer says ``Connection: close``, and what a client
sends after its request is not read. So a request can't reach the destination of another one. After
CONNECT, and after a WebSocket's upgrade, the connection is a tunnel.

Both sides are parsed and written anew by h11, so that what one side could read otherwise than the
other (two lengths, folded lines) never gets through. See RFC 9110, RFC 9112 and, for the answers
that are the proxy's own, RFC 9209.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from http import HTTPStatus

import h11

from .http_head import (
    MAX_HEAD,
    UPGRADE,
    BadRequest,
    check_head,
    credentials_of,
    destination_of,
    end_to_end,
    for_client,
    for_destination,
)

PAC_PATHS = frozenset({b"/proxy.pac", b"/wpad.dat"})
PAC_TYPE = "application/x-ns-proxy-autoconfig"

_AUTHENTICATE = ("Proxy-Authenticate", 'Basic realm="ssmnet", charset="UTF-8"')

_HTTP = b"HTTP/"
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class Failure(Enum):
    """Why a client does not get its destination: the status, and the word of RFC 9209 for it."""

    REFUSED = 502, "connection_refused"
    NOT_FOUND = 502, "dns_error"
    FORBIDDEN = 403, "http_request_denied"
    TIMED_OUT = 504, "connection_timeout"
    UNAVAILABLE = 503, "destination_unavailable"
    NOT_HTTP = 502, "http_protocol_error"
    CUT_OFF = 502, "connection_terminated"


class HttpRequest:
    """One connection's request and its answer.

    ``destination`` is host and port once they are known; then call ``connected`` or ``fail``.
    ``is_tunnel`` says that all bytes go through as they are from now on, ``over`` that the answer
    is whole, and ``is_broken`` that it can't be made whole any more: the client has to see a reset.
    After each call, take what is to be sent from ``data_for_client`` and ``data_for_destination``.

    ``error`` says why the proxy itself has answered, in one line without secrets; it is empty
    while it has not, and after the PAC file.

    ``check_password`` says whether a name and password are right. ``pac`` gives the text of the PAC
    file, which is for everyone.
    """

    def __init__(
        self,
        check_password: Callable[[str, str], bool] | None = None,
        pac: Callable[[], str] | None = None,
    ) -> None:
        self.destination: tuple[str, int] | None = None
        self.is_tunnel = False
        self.over = False
        self.is_broken = False
        self.error = ""
        self._check_password = check_password
        self._pac = pac
        self._client = h11.Connection(h11.SERVER, MAX_HEAD)
        self._far = h11.Connection(h11.CLIENT, MAX_HEAD)
        self._asked: h11.Request | None = None
        self._connected = False
        self._first = b""  # bytes of the destination
        self._for_client: list[bytes] = []
        self._for_destination: list[bytes] = []

    @property
    def wants_data(self) -> bool:
        """Whether more of the client's bytes are of use now; otherwise do not read them."""
        if self.destination is not None and not self._connected:
            return False
        # Else what is a tunnel's, should it become one.
        return self._client.their_state in (h11.IDLE, h11.SEND_BODY, h11.DONE, h11.MUST_CLOSE)

    def data_for_client(self) -> bytes:
        """What is to be sent to the client now."""
        data = b"".join(self._for_client)
        self._for_client.clear()
        return data

    def data_for_destination(self) -> bytes:
        """What is to be sent to the destination now: nothing before ``connected``."""
        data = b"".join(self._for_destination)
        self._for_destination.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Take what the client sent."""
        if self.over or self.is_broken or self._client.their_state in (h11.DONE, h11.MUST_CLOSE):
            return  # of another request, if anything
        self._client.receive_data(data)
        self._read_client()

    def connected(self) -> None:
        """The destination answers: let the request through."""
        self._connected = True
        if self._asked is None or self.over:
            return
        if self._asked.method == b"CONNECT":
            self._become_tunnel(_ESTABLISHED)
        else:
            self._for_destination.append(self._far.send(for_destination(self._asked)))
            self._read_client()

    def fail(self, failure: Failure, text: str) -> None:
        """Answer that the destination can't be had; ``text`` says why."""
        status, word = failure.value
        self._refuse(status, text, [("Proxy-Status", f"ssmnet; error={word}")])

    def receive_response(self, data: bytes) -> None:
        """Take what the destination sent, after ``connected`` only; b"" is its end."""
        if self.over or self.is_broken:
            return
        if len(self._first) < len(_HTTP):
            self._first += data[: len(_HTTP) - len(self._first)]
            if not _HTTP.startswith(self._first):
                # Others speak first, and then wait: h11 would, too.
                self.fail(Failure.NOT_HTTP, "the destination's answer is not HTTP")
                return
        self._far.receive_data(data)
        try:
            while not (self.over or self.is_tunnel) and self._pass_on(self._far.next_event()):
                pass
        except h11.RemoteProtocolError:
            if data:
                self.fail(Failure.NOT_HTTP, "the destination's answer is not HTTP")
            else:
                self.fail(Failure.CUT_OFF, "the destination closed the connection")

    def _read_client(self) -> None:
        try:
            if self._asked is None:
                self._read_head(self._client.next_event())
            if self._connected:
                self._read_body()
        except h11.RemoteProtocolError as error:
            # What follows the colon would be a line of the request.
            text, _, _ = str(error).partition(": b")
            self._refuse(error.error_status_hint, f"bad request: {text}")
        except BadRequest as error:
            self._refuse(error.status, str(error), error.headers)

    def _read_head(self, event: object) -> None:
        if not isinstance(event, h11.Request):
            return
        self._asked = event
        check_head(event)
        if event.target.startswith(b"/"):
            self._serve(event)
            return
        if self._check_password is not None:
            credentials = credentials_of(event)
            if credentials is None or not self._check_password(*credentials):
                raise BadRequest(407, "the proxy wants a name and password", _AUTHENTICATE)
        self.destination = destination_of(event)

    def _read_body(self) -> None:
        while not self.over:
            event = self._client.next_event()
            if isinstance(event, h11.Data):
                self._for_destination.append(self._far.send(event))
            elif isinstance(event, h11.EndOfMessage):
                # Trailers are for the proxy as much as for the destination; it may drop them.
                self._for_destination.append(self._far.send(h11.EndOfMessage()))
                return  # what follows is another request, or nothing that anybody reads
            else:
                return

    def _pass_on(self, event: object) -> bool:
        """Pass on one event of the destination's; whether there may be more."""
        if isinstance(event, h11.InformationalResponse):
            self._pass_on_informational(event)
        elif isinstance(event, h11.Response):
            self._for_client.append(self._client.send(for_client(event)))
        elif isinstance(event, h11.Data):
            self._for_client.append(self._client.send(event))
        elif isinstance(event, h11.EndOfMessage):
            self._for_client.append(self._client.send(h11.EndOfMessage()))
            self.over = True
        else:
            return False
        return True

    def _pass_on_informational(self, event: h11.InformationalResponse) -> None:
        headers = end_to_end(event)
        if event.status_code == 101:
            headers += UPGRADE
        elif self._client.their_http_version == b"1.0":
            return  # It knows of no such answers.
        data = self._client.send(
            h11.InformationalResponse(
                status_code=event.status_code, headers=headers, reason=event.reason
            )
        )
        if event.status_code == 101:
            self._become_tunnel(data)
        else:
            self._for_client.append(data)

    def _become_tunnel(self, answer: bytes) -> None:
        """From now on each side gets what the other sends, first what it has sent early."""
        self._for_client += [answer, self._far.trailing_data[0]]
        self._for_destination.append(self._client.trailing_data[0])
        self.is_tunnel = True

    def _serve(self, request: h11.Request) -> None:
        """Answer a request to the proxy itself."""
        path, _, _ = request.target.partition(b"?")
        reads = request.method in (b"GET", b"HEAD")
        if self._pac is None or path not in PAC_PATHS or not reads:
            raise BadRequest(404, "this is a proxy, not a web server; see /proxy.pac")
        self._answer(200, self._pac(), [("Content-Type", PAC_TYPE)])

    def _refuse(self, status: int, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        if self.over:
            return
        self.error = " ".join(text.split()).encode("ascii", "backslashreplace").decode()
        if self._client.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            plain = ("Content-Type", "text/plain; charset=utf-8")
            self._answer(status, f"{self.error}\n", [plain, *headers])
        else:
            self.is_broken = True

    def _answer(self, status: int, text: str, headers: Sequence[tuple[str, str]]) -> None:
        body = text.encode()
        common = [
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            # A web page could read a PAC file by running it as its own script.
            ("X-Content-Type-Options", "nosniff"),
            ("Connection", "close"),
        ]
        reason = HTTPStatus(status).phrase
        head = h11.Response(status_code=status, headers=[*headers, *common], reason=reason)
        self._for_client.append(self._client.send(head))
        if self._asked is None or self._asked.method != b"HEAD":
            self._for_client.append(self._client.send(h11.Data(body)))
        self._for_client.append(self._client.send(h11.EndOfMessage()))
        self.over = True
