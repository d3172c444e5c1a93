"""Who may ask: Host, Origin, API key, the size and form of bodies, and the ids that answers carry."""

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from flask import Flask, Response, g, request

from app.errors import InvalidRequestError, NotAllowedError
from app.settings import Settings
from app.web.errors import request_id

MAX_BODY = 2 * 1024 * 1024
MAX_FILE = 200 * 1024 * 1024
MAX_JOBS = 64 * 1024 * 1024
#: Many JSON objects, a line each.
NDJSON = "application/x-ndjson"
#: Answered without an API key: what a balancer and a client's probe ask, and the API's description, which is public
#: anyway: a browser can open it, and its page then asks for the key.
OPEN = frozenset({"/", "/health/live", "/health/ready", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/docs/", "/console/")

ALLOWED_HEADERS = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Guard:
    """The rules of one site."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._hosts = {"localhost", settings.host.lower(), *(host.lower() for host in settings.allowed_hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.cors_origins}
        self._key = settings.api_key.get_secret_value().encode() if settings.api_key else None

    def check(self) -> None:
        """Raises NotAllowedError, or InvalidRequestError for a body of the wrong form."""
        given = request.headers.get("X-Request-Id", "")
        if _REQUEST_ID.fullmatch(given):
            g.request_id = given
        self._check_host()
        if request.method not in _SAFE or request.path == "/ws":
            self._check_origin()
        self._check_key()
        # What leads nowhere is told so by the router, whatever its body.
        if request.routing_exception is None and request.method in ("POST", "PUT", "PATCH"):
            if _is_large():
                request.max_content_length = MAX_FILE if request.path == "/v1/files" else MAX_JOBS
            else:
                _check_body()

    def finish(self, response: Response) -> Response:
        """Ids, and the browser's permissions."""
        response.headers["X-Request-Id"] = request_id()
        if "job_id" in g:
            response.headers["X-Job-Id"] = g.job_id
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        origin = request.headers.get("Origin")
        if origin and self._is_listed(origin):
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Allow-Methods"] = "GET, POST, PUT, DELETE"
            response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
            response.headers["Access-Control-Expose-Headers"] = "X-Job-Id, X-Request-Id"
            response.headers.add("Vary", "Origin")
        return response

    def _check_host(self) -> None:
        host = _hostname(f"//{request.host}")
        if "*" in self._hosts or host in self._hosts or _is_loopback(host):
            return
        # A name can be pointed here by anybody (DNS rebinding); an address that a client typed cannot.
        if not self._settings.is_loopback and _is_address(host):
            return
        raise NotAllowedError("forbidden_host", f"The host '{host}' is not served here. Add it to ALLOWED_HOSTS.")

    def _check_origin(self) -> None:
        origin = request.headers.get("Origin")
        if origin is None or origin.rstrip("/") == request.host_url.rstrip("/") or self._is_listed(origin):
            return
        host = _hostname(origin)
        if self._settings.is_loopback and (host == "localhost" or _is_loopback(host)):
            return
        raise NotAllowedError("forbidden_origin", f"Pages of '{origin}' may not ask here. Add it to CORS_ORIGINS.")

    def _is_listed(self, origin: str) -> bool:
        return "*" in self._origins or origin.rstrip("/").lower() in self._origins

    def _check_key(self) -> None:
        if self._key is None or _is_open(request.path) or request.method == "OPTIONS":
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), self._key):
            raise NotAllowedError("unauthorized", "Send the API key as 'Authorization: Bearer <key>'.")


def register(app: Flask, settings: Settings) -> None:
    """Guards every request of the application."""
    guard = Guard(settings)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.before_request(guard.check)
    app.after_request(guard.finish)


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def _is_large() -> bool:
    """Whether the body is a file, or many jobs: it is read as it comes, and not as one JSON object."""
    return request.method == "POST" and (
        request.path == "/v1/files" or (request.path == "/jobs" and request.mimetype == NDJSON)
    )


def _check_body() -> None:
    if not request.content_length and not request.headers.get("Transfer-Encoding"):
        return  # some routes need no body; where one is needed, its model says so
    # Raises 400 and 415, with their reasons. Ollama asks for no content type, and its users' curl lines send none.
    body = request.get_json(force=request.path.startswith("/api/"))
    if not isinstance(body, dict):
        raise InvalidRequestError("The body must be a JSON object.")


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


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback
