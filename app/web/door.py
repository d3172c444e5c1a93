"""Which requests come in: the Host and the Origin that they name; and what every answer carries for browsers."""

import ipaddress
import re
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from app.errors import NotAllowedError
from app.settings import Settings, is_loopback
from app.web.errors import request_id

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: For answers that are no page: should a browser take one for a page all the same, nothing in it runs.
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class Door:
    """The rules of one site."""

    def __init__(self, settings: Settings) -> None:
        self._is_loopback = settings.is_loopback
        self._hosts = {settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.cors_origins}

    def check(self) -> None:
        """Raises NotAllowedError."""
        given = request.headers.get("X-Request-Id", "")
        if _REQUEST_ID.fullmatch(given):
            g.request_id = given
        self._check_host()
        if request.method not in SAFE or request.path == "/ws":
            self._check_origin()

    def finish(self, response: Response) -> Response:
        """Ids, and the browser's permissions."""
        response.headers["X-Request-Id"] = request_id()
        if "job_id" in g:
            response.headers["X-Job-Id"] = g.job_id
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        origin = request.headers.get("Origin")
        if origin and self._may_ask(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Expose-Headers"] = "X-Job-Id, X-Request-Id"
            response.headers.add("Vary", "Origin")
        return response

    def _check_host(self) -> None:
        host = _hostname(f"//{request.host}")
        if "*" in self._hosts or host in self._hosts or is_loopback(host):
            return
        # A name can be pointed here by anybody (DNS rebinding); an address that a client typed cannot.
        if not self._is_loopback and _is_address(host):
            return
        raise NotAllowedError("forbidden_host", f"The host '{host}' is not served here. Add it to ALLOWED_HOSTS.")

    def _check_origin(self) -> None:
        origin = request.headers.get("Origin")
        # What another port of this machine serves may ask too, but not in the name of whoever logged in to the console:
        # a cookie knows no ports.
        g.own = origin is None or origin.rstrip("/").lower() in {request.host_url.rstrip("/").lower(), *self._origins}
        if origin is None or g.own or self._may_ask(origin):
            return
        raise NotAllowedError("forbidden_origin", f"Pages of '{origin}' may not ask here. Add it to CORS_ORIGINS.")

    def _may_ask(self, origin: str) -> bool:
        if "*" in self._origins or origin.rstrip("/").lower() in self._origins:
            return True
        return self._is_loopback and is_loopback(_hostname(origin))


def register(app: Flask, settings: Settings) -> None:
    """Guards every request of the application."""
    door = Door(settings)
    app.before_request(door.check)
    app.after_request(door.finish)


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
