"""Faults by HTTP, for tests in other processes and other languages.

``POST /faults/<name>`` with the arguments as a JSON object, or no body; authenticated by HTTP Basic
with the access key id and the secret access key. The names and arguments are those of Loopback's
methods. Answers 204, or 400, 401 or 404 and a line that says why.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

import msgspec
from aiohttp import web

from .faults import Faults
from .impairment import Impairment
from .policing import Policing
from .sigv4 import Credentials

PATH = "/faults/{name}"
_Body = TypeVar("_Body")


class _Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


class _FailNext(msgspec.Struct, forbid_unknown_fields=True):
    code: str
    message: str = ""
    times: int = 1
    action: str | None = None


class _CloseClients(msgspec.Struct, forbid_unknown_fields=True):
    code: int = 1000
    reason: str = "Bye"


class _BlackholeClients(msgspec.Struct, forbid_unknown_fields=True):
    seconds: float
    new: bool = False


class _ExpireTokens(msgspec.Struct, forbid_unknown_fields=True):
    also_next: int = 0


class _EndSessions(msgspec.Struct, forbid_unknown_fields=True):
    output: str = ""


class FaultsApi:
    """Lets the holder of ``credentials`` call ``faults``."""

    def __init__(self, faults: Faults, credentials: Credentials) -> None:
        pair = f"{credentials.access_key_id}:{credentials.secret_access_key}"
        self._expected = b64encode(pair.encode())
        self._calls = {
            "fail_next": _call(
                _FailNext, lambda a: faults.fail_next(a.code, a.message, a.times, a.action)
            ),
            "cut_clients": _call(_Nothing, lambda _: faults.cut_clients()),
            "close_clients": _call(_CloseClients, lambda a: faults.close_clients(a.code, a.reason)),
            "blackhole_clients": _call(
                _BlackholeClients, lambda a: faults.blackhole_clients(a.seconds, new=a.new)
            ),
            "impair": _call(Impairment, faults.impair),
            "police": _call(Policing, faults.police),
            "kill_agents": _call(_Nothing, lambda _: faults.kill_agents()),
            "expire_tokens": _call(_ExpireTokens, lambda a: faults.expire_tokens(a.also_next)),
            "end_sessions": _call(_EndSessions, lambda a: faults.end_sessions(a.output)),
        }

    async def handle(self, request: web.Request) -> web.Response:
        """The HTTP handler."""
        scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
        known = hmac.compare_digest(credentials.strip().encode(), self._expected)
        if scheme.lower() != "basic" or not known:
            return _refusal(HTTPStatus.UNAUTHORIZED, "the access key id and secret are needed")
        call = self._calls.get(request.match_info["name"])
        if call is None:
            names = ", ".join(self._calls)
            return _refusal(HTTPStatus.NOT_FOUND, f"there is no such fault, only {names}")
        try:
            call(await request.read() or b"{}")
        except (ValueError, msgspec.MsgspecError) as error:
            return _refusal(HTTPStatus.BAD_REQUEST, str(error))
        return web.Response(status=HTTPStatus.NO_CONTENT)


def _call(body: type[_Body], fault: Callable[[_Body], None]) -> Callable[[bytes], None]:
    decoder = msgspec.json.Decoder(body)
    return lambda data: fault(decoder.decode(data))


def _refusal(status: HTTPStatus, why: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Basic realm="faults"'}
    return web.Response(
        text=why + "\n",
        status=status,
        headers=headers if status is HTTPStatus.UNAUTHORIZED else None,
    )
