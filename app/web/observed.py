"""What each request leaves behind: counts for /metrics, and a line in the log. Never a prompt, never an answer."""

import time
from urllib.parse import quote

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from app.web.client import Client
from app.web.errors import request_id

log = structlog.get_logger(__name__)

#: What balancers and clients ask each second: counted, and not told.
PROBES = frozenset({"/", "/health/live", "/health/ready"})

#: Of one process without gunicorn; with it, the files that prometheus-client shares between processes are read.
REGISTRY = CollectorRegistry()
REQUESTS = Counter(
    "tokenyard_http_requests", "Requests that were answered.", ("method", "route", "status"), registry=REGISTRY
)
SECONDS = Histogram(
    "tokenyard_http_request_seconds",
    "From a request's arrival to the end of its answer, streams included.",
    ("method", "route"),
    buckets=(0.005, 0.02, 0.1, 0.5, 2, 10, 60, 600),
    registry=REGISTRY,
)
STREAMS = Gauge(
    "tokenyard_streams_open",
    "Answers that are being streamed, and sockets.",
    registry=REGISTRY,
    multiprocess_mode="livesum",
)


def register(app: Flask, *, audit: bool) -> None:
    """Observes every request to the end of its answer, also when its client leaves before."""

    @app.before_request
    def _begin() -> None:
        g.began = time.monotonic()
        if request.path == "/ws":
            STREAMS.inc()

    @app.after_request
    def _answered(response: Response) -> Response:
        if request.path == "/ws":
            # The socket has come and gone by now, and its response is never sent, so never closed.
            _Ended(response.status_code, streamed=True, audit=audit).note()
            return response
        streamed = response.is_streamed and request.method != "HEAD"
        if streamed:
            STREAMS.inc()
        response.call_on_close(_Ended(response.status_code, streamed=streamed, audit=audit).note)
        return response


class _Ended:
    """Taken while the request is at hand, noted when its answer has ended."""

    def __init__(self, status: int, *, streamed: bool, audit: bool) -> None:
        self._began = g.get("began", time.monotonic())
        # As it came: what stands decoded in it could be a terminal's escapes, or another line.
        self._method, self._path = request.method, quote(request.path)
        self._route = request.url_rule.rule if request.url_rule is not None else "none"
        who = g.get("identity")
        self._ids = {"request_id": request_id(), "job": g.get("job_id"), "model": g.get("model")}
        self._ids["key"] = who.tenant if who is not None else None
        self._client: Client | None = g.get("client")
        self._status, self._streamed, self._audit = status, streamed, audit

    def note(self) -> None:
        """Counts it, and writes its line."""
        seconds = time.monotonic() - self._began
        if self._streamed:
            STREAMS.dec()
        # Anybody can make up a method; each would be a series of its own.
        method = self._method if self._route != "none" else "any"
        REQUESTS.labels(method, self._route, str(self._status)).inc()
        SECONDS.labels(method, self._route).observe(seconds)
        if self._audit and self._path not in PROBES:
            told = {"method": self._method, "path": self._path, "route": self._route, "status": self._status}
            tokens = dict(zip(("tokens_in", "tokens_out"), self._client.tokens, strict=True)) if self._client else {}
            log.info("request", **told, seconds=round(seconds, 4), **tokens, **self._ids)
