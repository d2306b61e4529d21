"""Serves what runs here to Prometheus, as text over HTTP.

It is made anew for each request, from snapshots: nothing is counted twice, and nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from aiohttp import web
from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from ._version import __version__
from .acceptor import Acceptor
from .bind import LOOPBACK, is_loopback
from .errors import UsageError
from .snapshot import Snapshot, State

logger = logging.getLogger("ssmnet.metrics")
# Garbage that a client sends is its own affair, unless somebody looks for faults.
logger.addHandler(logging.NullHandler())

MAX_CLIENTS = 32
CLIENT_TIMEOUT = 10.0  # s for a connection, from its first byte to its last
CLOSE_TIMEOUT = 1.0  # s for what answers a client that is gone; 0 is none to aiohttp
MAX_CAUSES = 20  # of one service's errors; all others are one
PATH = "/metrics"

_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS = "application/openmetrics-text"
_LABELS = ("name", "kind", "destination", "target")
_CAUSE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:]+)(?::[0-9]{1,5})?")


def parse_address(text: str) -> tuple[tuple[str, ...], int]:
    """Read ``HOST:PORT``, ``[IPV6]:PORT`` or ``PORT``, which is one of loopback; 0 is a free one.

    Raises UsageError.
    """
    match = re.fullmatch(r"(?:(\[[^\[\]]+\]|[^\[\]:]+):)?([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise UsageError(f"--metrics {text!r} is not HOST:PORT, as 127.0.0.1:9464 or [::1]:9464")
    host = (match[1] or "localhost").strip("[]")
    return (LOOPBACK if host == "localhost" else (host,)), int(match[2])


class MetricsServer:
    """Answers ``GET /metrics``, and no one who was led here by a name that is not this machine's.

    Where it listens beyond loopback, anyone may ask: whoever starts it is to be warned.
    """

    def __init__(self, snapshots: Callable[[], Sequence[Snapshot]]) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Services(snapshots))
        self._acceptor = Acceptor(self._accept)
        self._http: _Http | None = None
        self._only_loopback = True

    @property
    def address(self) -> str:
        """The first address that it listens on."""
        return self._acceptor.address

    @property
    def place(self) -> str:
        """Address and port, as in a URL."""
        return self._acceptor.place

    @property
    def port(self) -> int | None:
        """The TCP port."""
        return self._acceptor.port

    async def listen(self, hosts: Sequence[str], port: int) -> None:
        """Listen on one port of all ``hosts``. Raises ListenError."""
        self._only_loopback = all(map(is_loopback, hosts))
        self._http = _Http(self._answer)
        await self._acceptor.listen_tcp(hosts, port)

    async def close(self) -> None:
        """Listen no more, and drop who is connected."""
        self._acceptor.close()
        if self._http is not None:
            self._http.drop()
            await self._http.shutdown(CLOSE_TIMEOUT)

    def _accept(self) -> asyncio.Protocol:
        assert self._http is not None  # noqa: S101 - it listens
        if len(self._http.connections) >= MAX_CLIENTS:
            return _Refused()
        return self._http()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        response = self._response(request)
        response.force_close()
        return response

    def _response(self, request: web.BaseRequest) -> web.Response:
        host = _HOST.fullmatch(request.headers.get("Host", ""))
        if self._only_loopback and not (host and is_loopback(host[1].strip("[]"))):
            # A page of the web may have its own name lead here, and read what comes.
            return web.Response(status=403, text="this is only for programs of this machine\n")
        if request.path != PATH:
            return web.Response(status=404, text=f"there is only {PATH}\n")
        if request.method != "GET":
            return web.Response(status=405, text="there is only GET\n", headers={"Allow": "GET"})
        if _OPENMETRICS in request.headers.get("Accept", ""):
            return self._page(openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST)
        return self._page(exposition.generate_latest, _TEXT)

    def _page(self, encode: Callable[[CollectorRegistry], bytes], kind: str) -> web.Response:
        return web.Response(body=encode(self._registry), headers={"Content-Type": kind})


class _Http(web.Server):
    """aiohttp's server, which alone would wait for ever for the rest of a request."""

    def __init__(self, answer: Callable[[web.BaseRequest], Awaitable[web.Response]]) -> None:
        super().__init__(answer, access_log=None, logger=logger)
        self._dropped = False
        self._deadlines: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """A client is there, for a while."""
        super().connection_made(handler, transport)
        loop = asyncio.get_running_loop()
        self._deadlines[handler] = loop.call_later(CLIENT_TIMEOUT, transport.abort)
        if self._dropped:
            transport.abort()  # it was accepted just before

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """It is gone."""
        self._deadlines.pop(handler).cancel()
        super().connection_lost(handler, exc)

    def drop(self) -> None:
        """Drop all clients, and those that come."""
        self._dropped = True
        for handler in self.connections:
            if handler.transport is not None:
                handler.transport.abort()


class _Refused(asyncio.Protocol):
    """A client too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Drop it."""
        assert isinstance(transport, asyncio.WriteTransport)  # noqa: S101 - for the type checker
        transport.abort()


class _Services(Collector):
    """Makes metrics of snapshots."""

    def __init__(self, snapshots: Callable[[], Sequence[Snapshot]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        build = GaugeMetricFamily("ssmnet_build_info", "Which ssmnet this is.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        snapshots = [(_labels(one), one) for one in self._snapshots()]
        for name, text, gauge in _GAUGES:
            family = GaugeMetricFamily(name, text, labels=_LABELS)
            for labels, one in snapshots:
                if (value := gauge(one)) is not None:
                    family.add_metric(labels, value)
            yield family
        for name, text, more, counts in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=[*_LABELS, *more])
            for labels, one in snapshots:
                for label, count in counts(one).items():
                    counter.add_metric([*labels, label] if more else labels, count)
            yield counter


_GAUGES: Sequence[tuple[str, str, Callable[[Snapshot], float | None]]] = (
    ("ssmnet_up", "Whether it can be used now.", lambda one: one.state is State.UP),
    ("ssmnet_sessions", "Sessions that are open.", lambda one: one.sessions),
    ("ssmnet_connections", "Connections that are open.", lambda one: one.connections),
    (
        "ssmnet_round_trip_seconds",
        "Time from a message to its acknowledgement, smoothed.",
        lambda one: one.round_trip_time,
    ),
)
# Name, text, labels of its own, and counts by these.
_COUNTERS: Sequence[tuple[str, str, Sequence[str], Callable[[Snapshot], dict[str, int]]]] = (
    (
        # Not ssmnet_connections_total: OpenMetrics takes that for another of ssmnet_connections.
        "ssmnet_connections_accepted",
        "Connections of local programs so far.",
        (),
        lambda one: {"": one.accepted},
    ),
    (
        "ssmnet_bytes",
        "Bytes that local programs have sent, and received.",
        ("direction",),
        lambda one: {"sent": one.sent, "received": one.received},
    ),
    (
        "ssmnet_retransmissions",
        "Messages that were sent again.",
        (),
        lambda one: {"": one.retransmissions},
    ),
    (
        "ssmnet_resumes",
        "Lost connections to AWS after which a session went on.",
        (),
        lambda one: {"": one.resumes},
    ),
    (
        "ssmnet_restarts",
        "Sessions started for some that were over.",
        (),
        lambda one: {"": one.restarts},
    ),
    ("ssmnet_errors", "Errors, by their class.", ("cause",), lambda one: causes(one.errors)),
)


def causes(errors: Mapping[str, int]) -> dict[str, int]:
    """Counts of errors under a bounded number of labels, each of which is a word.

    Prometheus keeps every label that it has ever seen. What has no place is under ``other``.
    """
    counts: Counter[str] = Counter()
    for cause in sorted(errors, key=errors.__getitem__, reverse=True):
        has_place = len(counts) < MAX_CAUSES and _CAUSE.fullmatch(cause)
        counts[cause if has_place else "other"] += errors[cause]
    return dict(counts)


def _labels(one: Snapshot) -> list[str]:
    labels = (one.name, one.kind, one.destination, one.target)
    # What came as bytes that are no UTF-8 cannot be sent as text.
    return [text.encode("utf-8", "replace").decode() for text in labels]
