"""What a client of the HTTP proxy asks for, and what it is answered: bytes in, bytes out.

There is one request to a connection: every answer says ``Connection: close``, and what a client
sends after its request is not read. So a request can't reach the destination of another one. After
CONNECT, and after a WebSocket's upgrade, the connection is a tunnel.

Both sides are parsed and written anew by h11, so that what one side could read otherwise than the
other (two lengths, folded lines) never gets through. See RFC 9110, RFC 9112 and, for the answers
that are the proxy's own, RFC 9209.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Sequence, Set
from enum import Enum
from http import HTTPStatus

import h11

from .protocol.socks import normal_host

# Of a request and of an answer, in bytes.
MAX_HEAD = 64 * 1024

PAC_PATHS = frozenset({b"/proxy.pac", b"/wpad.dat"})
PAC_TYPE = "application/x-ns-proxy-autoconfig"

# What a proxy keeps to itself, RFC 9110 section 7.6.1; what begins with proxy- comes on top.
# Via is not added: it keeps servers from compressing, and would tell them of the proxy.
_HOP_BY_HOP = frozenset({b"connection", b"keep-alive", b"te", b"trailer", b"upgrade"})
# A client that names one of these in Connection would change what the request is.
_NEVER_NAMED = frozenset({b"host", b"content-length", b"transfer-encoding"})

_AUTHENTICATE = ("Proxy-Authenticate", 'Basic realm="ssmnet", charset="UTF-8"')

# One strict pattern instead of a URL parser: what it lets through, everyone reads alike.
_HOST = rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,254})"
_AUTHORITY = re.compile(_HOST + rb":([0-9]{1,5})")
_URL = re.compile(rb"(?i:http)://" + _HOST + rb"(?::([0-9]{1,5}))?([/?][^#]*)?")

_UPGRADE = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
_ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"

_Message = h11.Request | h11.InformationalResponse | h11.Response


class Failure(Enum):
    """Why a client does not get its destination: the status, and the word of RFC 9209 for it."""

    REFUSED = 502, "connection_refused"
    NOT_FOUND = 502, "dns_error"
    FORBIDDEN = 403, "http_request_denied"
    TIMED_OUT = 504, "connection_timeout"
    UNAVAILABLE = 503, "destination_unavailable"
    TOO_MANY = 503, "connection_limit_reached"
    NOT_HTTP = 502, "http_protocol_error"
    CUT_OFF = 502, "connection_terminated"


class _BadRequest(Exception):
    """A request that is not let through."""

    def __init__(self, status: int, text: str, *headers: tuple[str, str]) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


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
            self._for_destination.append(self._far.send(_for_destination(self._asked)))
            self._read_client()

    def fail(self, failure: Failure, text: str) -> None:
        """Answer that the destination can't be had; ``text`` says why."""
        status, word = failure.value
        self._refuse(status, text, [("Proxy-Status", f"ssmnet; error={word}")])

    def receive_response(self, data: bytes) -> None:
        """Take what the destination sent, after ``connected`` only; b"" is its end."""
        if self.over or self.is_broken:
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
        except _BadRequest as error:
            self._refuse(error.status, str(error), error.headers)

    def _read_head(self, event: object) -> None:
        if not isinstance(event, h11.Request):
            return
        self._asked = event
        _check_head(event)
        if event.target.startswith(b"/"):
            self._serve(event.target.partition(b"?")[0])
            return
        if self._check_password is not None:
            credentials = _credentials(event)
            if credentials is None or not self._check_password(*credentials):
                raise _BadRequest(407, "the proxy wants a name and password", _AUTHENTICATE)
        self.destination = _destination(event)

    def _read_body(self) -> None:
        while not self.over:
            event = self._client.next_event()
            if isinstance(event, h11.Data):
                self._for_destination.append(self._far.send(event))
            elif isinstance(event, h11.EndOfMessage):
                # Trailers are for the proxy as much as for the destination; it may drop them.
                self._for_destination.append(self._far.send(h11.EndOfMessage()))
            else:
                return

    def _pass_on(self, event: object) -> bool:
        """Pass on one event of the destination's; whether there may be more."""
        if isinstance(event, h11.InformationalResponse):
            self._pass_on_informational(event)
        elif isinstance(event, h11.Response):
            self._for_client.append(self._client.send(_for_client(event)))
        elif isinstance(event, h11.Data):
            self._for_client.append(self._client.send(event))
        elif isinstance(event, h11.EndOfMessage):
            self._for_client.append(self._client.send(h11.EndOfMessage()))
            self.over = True
        else:
            return False
        return True

    def _pass_on_informational(self, event: h11.InformationalResponse) -> None:
        headers = _end_to_end(event)
        if event.status_code == 101:
            headers += _UPGRADE
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

    def _serve(self, path: bytes) -> None:
        """Answer a request to the proxy itself."""
        if self._pac is None or path not in PAC_PATHS:
            raise _BadRequest(404, "this is a proxy, not a web server; see /proxy.pac")
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


def _check_head(request: h11.Request) -> None:
    """Refuse what h11 lets through, and a destination could read otherwise."""
    size = len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)
    if size > MAX_HEAD:
        raise _BadRequest(431, "the head of the request is too long")
    if request.http_version not in (b"1.1", b"1.0"):
        raise _BadRequest(505, "the proxy speaks HTTP/1.1 and HTTP/1.0")
    if _values(request, b"transfer-encoding"):
        if _values(request, b"content-length"):
            raise _BadRequest(400, "bad request: Content-Length and Transfer-Encoding")
        if request.http_version == b"1.0":
            raise _BadRequest(400, "bad request: HTTP/1.0 has no Transfer-Encoding")


def _credentials(request: h11.Request) -> tuple[str, str] | None:
    values = _values(request, b"proxy-authorization")
    scheme, _, token = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    if scheme.lower() != b"basic":
        return None
    try:
        name, colon, password = b64decode(token.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (name, password) if colon else None


def _destination(request: h11.Request) -> tuple[str, int]:
    """Host and port that a request is for."""
    if request.method == b"CONNECT":
        match = _AUTHORITY.fullmatch(request.target)
        if match is None:
            raise _BadRequest(400, "bad request: CONNECT needs a host and a port")
        if _has_body(request):
            raise _BadRequest(400, "bad request: CONNECT has no body")
    else:
        match = _URL.fullmatch(request.target)
        if match is None:
            text = "bad request: the URL is not a plain http:// one; for https there is CONNECT"
            raise _BadRequest(400, text)
    host, port = normal_host(match[1]), int(match[2] or 80)
    if host is None or not 0 < port < 65536:
        raise _BadRequest(400, "bad request: there is no such host or port")
    return host, port


def _for_destination(request: h11.Request) -> h11.Request:
    """The request as the destination gets it."""
    _, _, rest = request.target.partition(b"://")
    host = re.split(rb"[/?]", rest, maxsplit=1)[0]
    path = rest[len(host) :] or (b"*" if request.method == b"OPTIONS" else b"/")
    if path.startswith(b"?"):
        path = b"/" + path
    drop = {b"host"} if request.http_version == b"1.1" else {b"host", b"expect"}
    headers = [(b"Host", host), *_end_to_end(request, drop)]
    headers += _UPGRADE if _is_websocket(request) else [(b"Connection", b"close")]
    return h11.Request(method=request.method, target=path, headers=headers)


def _for_client(response: h11.Response) -> h11.Response:
    """The answer as the client gets it; h11 chooses how its length is told, where it is not."""
    drop = {b"transfer-encoding"}
    if _values(response, b"transfer-encoding"):
        drop.add(b"content-length")
    headers = [*_end_to_end(response, drop), (b"Connection", b"close")]
    return h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)


def _is_websocket(request: h11.Request) -> bool:
    """Whether the connection is to become a WebSocket. Other upgrades are not asked for."""
    upgrade = [value.lower() for value in _values(request, b"upgrade")]
    return (
        request.method == b"GET"
        and upgrade == [b"websocket"]
        and b"upgrade" in _named(request)
        and not _has_body(request)
    )


def _has_body(request: h11.Request) -> bool:
    lengths = _values(request, b"content-length")
    return bool(_values(request, b"transfer-encoding")) or any(length != b"0" for length in lengths)


def _values(message: _Message, wanted: bytes) -> list[bytes]:
    return [value for name, value in message.headers if name == wanted]


def _named(message: _Message) -> set[bytes]:
    """What Connection names, in lower case."""
    tokens = b",".join(_values(message, b"connection")).lower().split(b",")
    return {token.strip() for token in tokens}


def _end_to_end(message: _Message, drop: Set[bytes] = frozenset()) -> list[tuple[bytes, bytes]]:
    """Headers that are not for the next hop alone, as they were written, without ``drop``."""
    drop = drop | _HOP_BY_HOP | (_named(message) - _NEVER_NAMED)
    return [
        written
        for (name, _), written in zip(message.headers, message.headers.raw_items(), strict=True)
        if name not in drop and not name.startswith(b"proxy-")
    ]
